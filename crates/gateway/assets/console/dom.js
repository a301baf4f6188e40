// Builds elements. Data becomes text nodes and attributes, never markup, so nothing that a message says can run.

/** `element('p', {class: 'soft', on: {click}}, 'text', child)`; null children are left out. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'on') for (const [event, heard] of Object.entries(value)) made.addEventListener(event, heard);
    else if (name === 'data') Object.assign(made.dataset, value);
    else made.setAttribute(name, value === true ? '' : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** The element with this id; the page and its script are one piece, so a missing one is our mistake. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found;
}

/** A clock time, for people. */
export function clockTime(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
}

/** `4:59`, `1:02:03`, `3 d 4 h`: how long is left. */
export function timeLeft(seconds) {
  const s = Math.max(0, Math.ceil(seconds));
  if (s >= 172_800) return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
  const two = (n) => String(n).padStart(2, '0');
  const hours = Math.floor(s / 3600);
  const minutes = Math.floor((s % 3600) / 60);
  return hours > 0 ? `${hours}:${two(minutes)}:${two(s % 60)}` : `${minutes}:${two(s % 60)}`;
}

/** An object of plain values as a small table, anything else as JSON. */
export function facts(value) {
  if (value === null || value === undefined) return null;
  const isFlat = typeof value === 'object' && !Array.isArray(value)
    && Object.values(value).every((v) => v === null || typeof v !== 'object');
  if (!isFlat) return element('pre', { class: 'code', tabindex: '0' }, JSON.stringify(value, null, 2));
  const entries = Object.entries(value);
  if (entries.length === 0) return null;
  return element('dl', { class: 'facts' }, ...entries.map(([name, v]) =>
    element('div', {}, element('dt', {}, name), element('dd', {}, typeof v === 'number' ? v.toLocaleString() : String(v)))));
}
