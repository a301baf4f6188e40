// The page: wires the session, the socket and the producer to the elements. It decides nothing about the protocol;
// what it shows is what `Session` says.

import { byId, clockTime, element } from './dom.js';
import { Asks } from './asks.js';
import { Cards } from './cards.js';
import { Feed } from './feed.js';
import { Producer } from './producer.js';
import { Session } from './session.js';
import { Socket, socketUrl, subprotocols } from './socket.js';
import { sentence } from './decision.js';

const PAGE = new URL('.', window.location.href);
/** Pause before an answer is repeated that the backplane could not take. */
const REPEAT_ANSWER_MS = 1000;
const FIELDS_KEPT = ['user-id', 'token', 'api-key'];
const CONNECTED_AS = 'countersign.connected-as';

const now = () => Date.now() / 1000;
const announce = (text) => {
  byId('announcements').textContent = text;
};

let session = new Session();
let wanted = null; // {userId} while the person wants to be connected; userId is null for a guest
let retryAt = null;

const feed = new Feed();
const cards = new Cards({ onAnswer: (id, answer) => changeCallback(id, () => send(session.answer(id, answer))) });
const producer = new Producer({ base: PAGE, apiKey: () => byId('api-key').value.trim() });
const asks = new Asks({ producer, announce });
const socket = new Socket({
  dial: () => ({
    url: socketUrl(PAGE, { userId: token() ? null : wanted.userId, since: session.since() }),
    protocols: subprotocols(token()),
  }),
  onState: showState,
  onEvent: heard,
  probe: () => send(session.ping(now())),
});

// ---- connection ----

function token() {
  return byId('token').value.trim();
}

function connect(userId) {
  wanted = { userId };
  session = new Session({ userId });
  cards.clear();
  showTasks();
  showSubscriptions();
  remember(CONNECTED_AS, JSON.stringify(wanted));
  if (userId && byId('ask-user').dataset.edited === undefined) byId('ask-user').value = userId;
  socket.open();
}

function disconnect() {
  remember(CONNECTED_AS, null);
  socket.close();
  wanted = null;
  cards.clear();
}

function showState(change) {
  const { state } = change;
  retryAt = state === 'waiting' ? change.retryAt : null;
  if (state !== 'open' && state !== 'connecting') session.disconnected(change.code).forEach(show);
  const text = {
    idle: 'Not connected',
    connecting: change.attempt > 0 ? `Connecting again (${change.attempt})` : 'Connecting',
    open: 'Connected',
    waiting: 'Connection lost',
    stopped: 'Disconnected',
  }[state];
  const pill = byId('connection-state');
  pill.dataset.state = state;
  pill.textContent = text;
  pill.title = change.code ? `${change.meaning} (close code ${change.code})` : '';
  byId('reconnect-now').hidden = state !== 'waiting' && state !== 'stopped';
  const isAway = state === 'idle' || state === 'stopped';
  const focused = document.activeElement;
  const [shown, gone] = isAway ? ['connect-form', 'connected-as'] : ['connected-as', 'connect-form'];
  const followsFocus = byId(gone).contains(focused);
  byId(shown).hidden = false;
  byId(gone).hidden = true;
  if (followsFocus) byId(isAway ? 'user-id' : 'disconnect').focus();
  byId('who').textContent = wanted?.userId ?? (token() ? 'Signed in by token' : 'Guest');
  if (state !== 'open') byId('where').textContent = text.toLowerCase();
  for (const id of ['ping', 'subscribe', 'cancel']) byId(id).disabled = state !== 'open';
  byId('connection-note').hidden = state !== 'stopped';
  if (state === 'waiting' || state === 'stopped') closeNotice(change);
}

function closeNotice({ state, code, reason, meaning, needsToken }) {
  const said = reason && reason !== meaning ? `: ${reason}` : '';
  const next = state === 'waiting' ? 'coming back' : needsToken ? 'enter a new token under Credentials and connect again' : 'not coming back by itself';
  const told = `Closed with ${code}, ${meaning}${said}; ${next}`;
  feed.notice(told, { at: now(), tone: state === 'waiting' ? 'warn' : 'bad' });
  byId('connection-note').textContent = told;
  announce(`Disconnected: ${meaning}`);
  if (needsToken) byId('credentials').open = true;
  // Browsers do not say why an upgrade was refused.
  if (code === 1006) producer.trouble().then(tellTrouble);
}

function tellTrouble(trouble) {
  if (trouble !== null) feed.notice(`The gateway is not ready: ${trouble}`, { at: now(), tone: 'bad' });
}

function send(action) {
  const isSent = socket.send(action);
  if (isSent) feed.wire('out', action, now());
  return isSent;
}

// ---- what the gateway says ----

function heard(event) {
  feed.wire('in', event, now());
  for (const change of session.receive(event, now())) show(change);
}

function show(change) {
  const at = now();
  switch (change.kind) {
    case 'connected':
      return greeted();
    case 'callback': {
      const callback = session.callbacks.get(change.id);
      cards.show(callback);
      cards.tick(session.gatewayTime(at));
      if (change.isNew) announce(`Question from ${callback.event.task_id}: ${callback.event.message}`);
      return undefined;
    }
    case 'ended':
      cards.end(change.id, change.event, change.decision);
      if (change.event && change.decision) announce(`${change.event.task_id}: ${sentence(change.decision)}`);
      return undefined;
    case 'answer':
      return showAnswer(change, at);
    case 'repeat':
      setTimeout(() => send(session.repeatAnswer(change.id)), REPEAT_ANSWER_MS);
      return undefined;
    case 'message':
      return feed.message(change.address, change.event, at);
    case 'gap':
      return feed.notice(`Messages of ${change.topic} were missed and cannot be filled in`, { at, tone: 'warn' });
    case 'subscription':
      return showSubscriptions();
    case 'heartbeat':
      return showTasks();
    case 'task_cancelled': {
      const { task_id: task, user_id: user, callbacks_closed: closed } = change.event;
      feed.notice(`Task ${task} of ${user} was cancelled; ${closed ?? 0} open questions closed`, { at });
      byId('cancel-status').textContent = `Cancelled ${task}`;
      return showTasks();
    }
    case 'pong':
      return showRoundTrip();
    case 'error':
      return showError(change, at);
    default:
      return undefined;
  }
}

function greeted() {
  const { nodeId, id } = session.connection;
  byId('who').textContent = session.userId ?? 'Guest';
  byId('where').textContent = `on node ${nodeId}`;
  byId('where').title = `connection ${id}`;
  byId('cancel-user').hidden = session.userId !== null;
  byId('cancel-user').required = session.userId === null;
  feed.notice(`Connected to ${nodeId} as ${session.userId ?? 'a guest'}`, { at: now() });
  for (const action of session.greeting()) send(action);
  send(session.ping(now())); // measures the gateway's clock, on which deadlines are counted
  showSubscriptions();
}

function showAnswer({ id, outcome, decision }, at) {
  if (session.callbacks.has(id)) cards.show(session.callbacks.get(id));
  if (outcome === 'already_resolved') feed.notice(`Your answer came second. ${decision ? sentence(decision) : ''}`, { at, tone: 'warn' });
  if (outcome === 'not_found') feed.notice('Your answer found no such question: it has ended and is kept no longer', { at, tone: 'warn' });
}

function showError({ event, about }, at) {
  if (about?.verb === 'confirm' && session.callbacks.has(about.subject)) cards.show(session.callbacks.get(about.subject));
  if (about?.verb === 'cancel') byId('cancel-status').textContent = event.message;
  showSubscriptions();
  feed.notice(event.message, { at, tone: 'bad' });
}

function changeCallback(id, change) {
  const isSent = change();
  const callback = session.callbacks.get(id);
  if (callback) cards.show(callback);
  if (!isSent) announce('Not connected: the answer is sent when the connection is back.');
}

function showRoundTrip() {
  const ms = session.roundTrip * 1000;
  byId('round-trip').textContent = session.roundTrip === null ? '' : `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

function showSubscriptions() {
  byId('subscriptions').replaceChildren(...[...session.subscriptions.values()].map(({ topic, state }) =>
    element('li', { class: 'chip', data: { topic, state } }, topic,
      element('button', { type: 'button', 'aria-label': `Unsubscribe from ${topic}`, on: { click: () => unsubscribe(topic) } }, '×'))));
}

function unsubscribe(topic) {
  send(session.unsubscribe(topic));
  showSubscriptions();
  byId('subscribe-name').focus();
}

function showTasks() {
  const rows = [...session.heartbeats.values()].reverse().map(({ userId, taskId, message, at }) =>
    element('li', { data: { task: taskId } },
      element('span', { class: 'beat', 'aria-hidden': 'true' }),
      element('div', {}, element('strong', {}, taskId), element('span', { class: 'soft' }, ` ${message ?? ''} · ${clockTime(at)}`)),
      element('button', { type: 'button', class: 'quiet', on: { click: () => cancelTask(taskId, userId) } }, 'Cancel')));
  byId('tasks').replaceChildren(...rows);
}

function cancelTask(taskId, userId) {
  const isSent = send(session.cancel(taskId, session.userId === null ? userId : undefined));
  byId('cancel-status').textContent = isSent ? `Cancelling ${taskId}…` : 'Not connected';
}

// ---- forms ----

function onSubmit(id, submitted) {
  byId(id).addEventListener('submit', (event) => {
    event.preventDefault();
    submitted();
  });
}

onSubmit('connect-form', () => connect(byId('user-id').value.trim() || null));
byId('connect-guest').addEventListener('click', () => connect(null));
byId('disconnect').addEventListener('click', disconnect);
byId('reconnect-now').addEventListener('click', () => socket.open());
byId('ping').addEventListener('click', () => send(session.ping(now())));
window.addEventListener('online', () => socket.hurry());

onSubmit('credentials-form', () => undefined);

onSubmit('subscribe-form', () => {
  const topic = byId('subscribe-kind').value + byId('subscribe-name').value.trim();
  send(session.subscribe(topic));
  byId('subscribe-name').value = '';
  showSubscriptions();
});

onSubmit('cancel-form', () => cancelTask(byId('cancel-task').value.trim(), byId('cancel-user').value.trim()));

byId('ask-user').addEventListener('input', (event) => {
  event.target.dataset.edited = '';
});

onSubmit('ask-form', () => {
  const status = byId('ask-status');
  status.textContent = '';
  if (asks.isFull) {
    status.textContent = `This page holds at most ${asks.limit} waits: answer or stop one first.`;
    return;
  }
  let body;
  try {
    body = notification();
  } catch (error) {
    status.textContent = error.message;
    return;
  }
  asks.ask(body);
});

/** The form as the body of `POST /v1/notifications`. */
function notification() {
  const value = (id) => byId(id).value.trim();
  const options = value('ask-options').split('\n').map((line) => line.trim()).filter(Boolean).map((line, at) => {
    const stops = line.startsWith('!');
    return { id: `option-${at + 1}`, label: stops ? line.slice(1).trim() : line, proceed: !stops };
  });
  return {
    user_id: value('ask-user'),
    task_id: value('ask-task'),
    step: Number(value('ask-step')),
    step_result: {
      step: value('ask-step-name'),
      result: parseJson(value('ask-result')),
      completed: true,
      message: value('ask-message'),
      status: 'completed',
      error_code: null,
      error_message: null,
    },
    timeout: Number(value('ask-timeout')),
    on_timeout: value('ask-on-timeout'),
    ...(options.length > 0 ? { options } : {}),
  };
}

function parseJson(text) {
  if (text === '') return null;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`The result is not JSON: ${error.message}`);
  }
}

byId('publish-kind').addEventListener('change', showPublishName);

function showPublishName() {
  const isBroadcast = byId('publish-kind').value === 'broadcast';
  byId('publish-name-field').hidden = isBroadcast;
  byId('publish-name').required = !isBroadcast;
}

onSubmit('publish-form', async () => {
  const status = byId('publish-status');
  const kind = byId('publish-kind').value;
  const address = kind === 'broadcast' ? kind : `${kind}:${byId('publish-name').value.trim()}`;
  status.className = 'outcome';
  status.textContent = 'Publishing…';
  try {
    const { nodes, position } = await producer.publish(address, message(byId('publish-message').value.trim())) ?? {};
    const heardBy = nodes === undefined ? '' : `, heard by ${nodes} ${nodes === 1 ? 'node' : 'nodes'}`;
    status.textContent = `Published${heardBy}${position ? `, message ${position.offset}` : ''}`;
  } catch (error) {
    status.className = 'outcome bad';
    status.textContent = error.message;
  }
});

/** A JSON object as it is; any other text as the message of one. */
function message(text) {
  try {
    const value = JSON.parse(text);
    if (value !== null && typeof value === 'object' && !Array.isArray(value)) return value;
  } catch {
    // Plain text, then.
  }
  return { type: 'message', message: text };
}

for (const button of document.querySelectorAll('[data-show]')) {
  button.addEventListener('click', () => {
    document.body.dataset.view = button.dataset.show;
    for (const other of document.querySelectorAll('[data-show]')) other.setAttribute('aria-pressed', String(other === button));
  });
}

// ---- what outlives a reload, and the clock ----

function remember(key, value) {
  if (value === null || value === '') window.sessionStorage.removeItem(key);
  else window.sessionStorage.setItem(key, value);
}

for (const id of FIELDS_KEPT) {
  const kept = window.sessionStorage.getItem(`countersign.${id}`);
  if (kept !== null) byId(id).value = kept;
  byId(id).addEventListener('input', (event) => remember(`countersign.${id}`, event.target.value));
}

setInterval(() => {
  cards.tick(session.gatewayTime(now()));
  if (retryAt !== null) {
    const s = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
    byId('where').textContent = `coming back in ${s} s`;
  }
}, 500);

showPublishName();
const before = window.sessionStorage.getItem(CONNECTED_AS);
if (before !== null) connect(JSON.parse(before).userId);
