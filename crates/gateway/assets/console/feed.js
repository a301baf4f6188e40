// The stream of messages, newest first. Bursts are drawn together, and only the newest are kept, so that a busy
// topic costs the page a bounded amount of work and memory.

import { byId, clockTime, element } from './dom.js';

/** Messages that stay on the page. */
const MAX_SHOWN = 200;
/** A background tab gets no animation frames: draw after this long at the latest. */
const DRAW_AFTER_MS = 250;
/** JSON shown of one message; the rest is in the network panel. */
const MAX_CHARS = 20_000;

export class Feed {
  constructor() {
    this.list = byId('feed');
    this.waiting = [];
    this.skipped = 0;
    this.isScheduled = false;
    byId('clear-feed').addEventListener('click', () => this.clear());
    byId('show-wire').addEventListener('change', (event) => {
      this.showsWire = event.target.checked;
    });
    this.showsWire = byId('show-wire').checked;
  }

  /** A producer's message. */
  message(address, event, at) {
    const { _meta: mark, ...body } = event;
    delete body.target_user_id;
    this.#add({ kind: 'message', label: address ?? 'message', text: summary(body), json: event, at, position: mark?.position });
  }

  /** Something that the page or the gateway says about itself; `tone` is 'warn', 'bad' or nothing. */
  notice(text, { at, tone = '' }) {
    this.#add({ kind: `notice ${tone}`.trim(), label: 'gateway', text, at });
  }

  /** A frame as it went over the wire, shown only on demand. */
  wire(direction, frame, at) {
    if (!this.showsWire) return;
    const word = direction === 'out' ? frame.action : frame.type;
    this.#add({ kind: `wire ${direction}`, label: direction === 'out' ? 'sent' : 'heard', text: String(word ?? 'message'), json: frame, at });
  }

  clear() {
    this.waiting = [];
    this.skipped = 0;
    this.list.replaceChildren();
    byId('no-messages').hidden = false;
  }

  #add(entry) {
    this.waiting.push(entry);
    if (this.waiting.length > MAX_SHOWN) {
      this.waiting.shift();
      this.skipped += 1;
    }
    if (this.isScheduled) return;
    this.isScheduled = true;
    const draw = () => {
      cancelAnimationFrame(frame);
      clearTimeout(timer);
      this.#draw();
    };
    const frame = requestAnimationFrame(draw);
    const timer = setTimeout(draw, DRAW_AFTER_MS);
  }

  #draw() {
    this.isScheduled = false;
    const rows = this.waiting.map(row);
    if (this.skipped > 0) rows.unshift(row({ kind: 'notice', label: 'page', text: `${this.skipped} messages arrived too fast to show`, at: Date.now() / 1000 }));
    this.waiting = [];
    this.skipped = 0;
    this.list.prepend(...rows.reverse());
    while (this.list.children.length > MAX_SHOWN) this.list.lastElementChild.remove();
    byId('no-messages').hidden = this.list.children.length > 0;
  }
}

function row({ kind, label, text, json, at, position }) {
  const head = [
    element('time', {}, clockTime(at)),
    element('span', { class: 'address' }, label),
    element('span', { class: 'text' }, text),
  ];
  if (!json) return element('li', { class: kind }, element('div', { class: 'line' }, ...head));
  if (position) head.push(element('span', { class: 'position', title: `epoch ${position.epoch}` }, `#${position.offset}`));
  const details = element('details', {}, element('summary', { class: 'line' }, ...head));
  // Most messages are never opened: their JSON is laid out when they are.
  details.addEventListener('toggle', () => {
    const full = JSON.stringify(json, null, 2);
    const cut = full.length > MAX_CHARS ? `${full.slice(0, MAX_CHARS)}\n… ${full.length - MAX_CHARS} more characters` : full;
    details.append(element('pre', { class: 'code' }, cut));
  }, { once: true });
  return element('li', { class: kind }, details);
}

/** The line that stands for a message: what it says if it says something, else its fields. */
function summary(body) {
  const { type, ...rest } = body;
  const said = [body.message, body.text, body.title, body.status].find((part) => typeof part === 'string' && part !== '');
  const text = said ?? JSON.stringify(said === undefined && type === undefined ? body : rest);
  return shorten(typeof type === 'string' && type !== 'message' ? `${type}: ${text}` : text);
}

function shorten(text) {
  return text.length > 300 ? `${text.slice(0, 299)}…` : text;
}
