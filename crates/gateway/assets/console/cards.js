// The open callbacks as cards, and what became of the last ones. A card never takes the focus when it appears;
// when the card that has the focus ends, the focus goes to the list instead of nowhere.

import { byId, clockTime, element, facts, timeLeft } from './dom.js';
import { describe } from './decision.js';

/** Ended callbacks that stay visible. */
const MAX_DECIDED = 5;
/** From here on the countdown asks for attention. */
const HURRY_S = 30;

export class Cards {
  /** `onAnswer(callbackId, {proceed | choice, feedback})` is called once per click. */
  constructor({ onAnswer }) {
    this.onAnswer = onAnswer;
    this.list = byId('callbacks');
    this.cards = new Map(); // callback id → Card
  }

  show(callback) {
    const known = this.cards.get(callback.id);
    if (known) return known.update(callback);
    const card = new Card(callback, this.onAnswer);
    this.cards.set(callback.id, card);
    this.list.append(card.root);
    return this.#count();
  }

  /** The callback has ended; `decision` is null when only its absence from the list told us. */
  end(id, event, decision) {
    const card = this.cards.get(id);
    if (card) {
      if (card.root.contains(document.activeElement)) this.list.focus();
      card.root.remove();
      this.cards.delete(id);
    }
    if (event) this.#remember(event, decision);
    this.#count();
  }

  clear() {
    for (const card of this.cards.values()) card.root.remove();
    this.cards.clear();
    byId('decided').replaceChildren();
    byId('decided-block').hidden = true;
    this.#count();
  }

  /** `now` is the gateway's time: its clock decides. */
  tick(now) {
    for (const card of this.cards.values()) card.tick(now);
  }

  #remember(event, decision) {
    const list = byId('decided');
    const { verdict, tone, proceed, by } = describe(decision);
    const how = decision === null ? 'while this device was away' : [by, decision.at ? clockTime(decision.at) : ''].filter(Boolean).join(' · ');
    list.prepend(element('li', { data: { callbackId: event.callback_id } },
      element('span', { class: `stamp ${tone}` }, verdict),
      element('div', {},
        element('p', {}, event.message ?? event.step_name ?? event.callback_id),
        element('p', { class: 'soft small' }, [event.task_id, how, decision === null ? '' : proceed].filter(Boolean).join(' · ')))));
    while (list.children.length > MAX_DECIDED) list.lastElementChild.remove();
    byId('decided-block').hidden = false;
  }

  #count() {
    const open = this.cards.size;
    byId('callback-count').textContent = String(open);
    byId('no-callbacks').hidden = open > 0;
    byId('badge').textContent = String(open);
    byId('badge').hidden = open === 0;
    document.title = open > 0 ? `(${open}) Countersign console` : 'Countersign console';
  }
}

class Card {
  constructor(callback, onAnswer) {
    const { id, event } = callback;
    this.event = event;
    this.state = callback.state;
    const feedbackId = `feedback-${id}`;
    this.feedback = element('textarea', { id: feedbackId, class: 'feedback', rows: '1', placeholder: 'A word to the task, if you like' });
    this.left = element('span', { class: 'left' });
    this.bar = element('div', { class: 'bar', 'aria-hidden': 'true' });
    this.note = element('p', { class: 'outcome', role: 'status' });
    this.actions = element('div', { class: 'row actions' }, ...this.#buttons(event, (answer) =>
      onAnswer(id, { ...answer, feedback: this.feedback.value.trim() })));
    const title = `question-${id}`;
    this.root = element('article', { class: 'callback', data: { callbackId: id }, 'aria-labelledby': title },
      element('div', { class: 'callback-head' },
        element('span', { class: 'step' }, `${event.task_id ?? 'task'} · step ${event.step ?? '?'}`),
        element('span', { class: 'soft' }, event.step_name ?? ''),
        event.deadline ? element('span', { class: 'timer', role: 'timer', 'aria-label': 'Time left' }, this.left) : null),
      this.bar,
      element('p', { class: 'callback-message', id: title }, event.message ?? ''),
      event.error_message || event.error_code
        ? element('p', { class: 'callback-error' }, [event.error_code, event.error_message].filter(Boolean).join(': '))
        : null,
      facts(event.result),
      element('label', { for: feedbackId }, 'Feedback'),
      this.feedback,
      this.actions,
      this.note);
    this.update(callback);
  }

  update({ event, state, problem }) {
    this.event = event;
    this.state = state;
    this.root.dataset.state = state;
    const isBusy = state !== 'open';
    this.feedback.readOnly = isBusy;
    for (const button of this.actions.querySelectorAll('button')) button.disabled = isBusy;
    this.note.classList.toggle('bad', problem !== null);
    this.note.textContent = problem ?? { answering: 'Sending your answer…', accepted: 'Your answer was accepted.' }[state] ?? '';
  }

  tick(now) {
    const { deadline, timestamp } = this.event;
    if (!deadline) return;
    const left = deadline - now;
    const text = left > 0 ? timeLeft(left) : 'deadline passed';
    if (this.left.textContent !== text) this.left.textContent = text;
    this.root.classList.toggle('hurry', left <= HURRY_S);
    const share = Math.min(1, Math.max(0, left / Math.max(1, deadline - timestamp)));
    this.bar.style.setProperty('--left', String(share));
  }

  // Options replace yes and no: each brings its own `proceed`.
  #buttons({ options }, answer) {
    if (!Array.isArray(options) || options.length === 0) {
      return [
        element('button', { type: 'button', class: 'primary proceed', on: { click: () => answer({ proceed: true }) } }, 'Proceed'),
        element('button', { type: 'button', class: 'decline', on: { click: () => answer({ proceed: false }) } }, 'Do not proceed'),
      ];
    }
    return options.map((option) => element('button', {
      type: 'button',
      class: option.proceed === false ? 'option decline' : 'option go',
      data: { choice: option.id },
      on: { click: () => answer({ choice: option.id }) },
    }, String(option.label ?? option.id)));
  }
}
