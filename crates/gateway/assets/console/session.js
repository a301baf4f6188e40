// What one device knows: its open callbacks, its positions, its topics, the heartbeats it has heard.
// A pure machine: no DOM, no network, no clock. It is told what arrived and when (`now`, Unix seconds of this
// device), returns what changed, and hands out the actions to send. It can never show a callback that the
// gateway's list does not name, and never shows a message twice.

/** The newest ended callbacks are kept, so that a late copy of one is not shown as open again. */
export const MAX_ENDED = 200;
/** Tasks whose heartbeats are remembered; the one silent for longest leaves first. */
export const MAX_HEARTBEATS = 100;
/** Actions whose reply is awaited; the oldest is forgotten first. */
export const MAX_AWAITED = 1000;

const NOTHING_YET = Object.freeze({ epoch: '', offset: 0 });

const RESYNC = 4003;
const TOO_LONG = 1009;
const SHORTEN = 'Your answer is too long for the gateway: shorten it and answer again';

export class Session {
  /** `newId` mints the answer ids: unique among this user's devices, at most 64 bytes. */
  constructor({ userId = null, newId = () => crypto.randomUUID() } = {}) {
    this.userId = userId;
    this.connection = null;
    this.callbacks = new Map(); // callback id → {id, event, state, problem, decision}
    this.ended = new Map(); // callback id → decision (null: ended while nobody told us how)
    this.answers = new Map(); // callback id → the `confirm` action whose outcome is not known yet
    this.subscriptions = new Map(); // topic → {topic, state: 'asked' | 'confirmed', recovered}
    this.positions = new Map(); // address → {epoch, offset}
    this.heartbeats = new Map(); // user and task → {userId, taskId, message, at}
    this.lastCancellation = null;
    this.longest = null; // bytes of the longest message that the gateway takes, once it has refused one
    this.clockAhead = 0; // seconds by which the gateway's clock is ahead of this device's
    this.roundTrip = null; // seconds
    this.awaited = new Map(); // action id → {verb, subject, sentAt}
    this.newId = newId;
    this.lastActionId = 0;
  }

  /** The gateway's time, as far as this device can tell: deadlines are counted on this clock. */
  gatewayTime(now) {
    return now + this.clockAhead;
  }

  /** `?since=` values: where to resume the addresses that every connection hears from the start. */
  since() {
    const own = ['broadcast', ...(this.userId === null ? [] : [`user:${this.userId}`])];
    return own
      .filter((address) => this.positions.has(address))
      .map((address) => {
        const { epoch, offset } = this.positions.get(address);
        return `${address}@${epoch}:${offset}`;
      });
  }

  /** What to send once connected: topics again from where they were, and answers whose outcome is unknown. */
  greeting() {
    const topics = [...this.subscriptions.keys()].map((topic) => {
      const since = this.positions.get(topic);
      return since ? { topic, since } : topic;
    });
    const greeting = [];
    if (topics.length > 0) greeting.push(this.#action('subscribe', { topics }, topics));
    for (const id of this.answers.keys()) greeting.push(this.repeatAnswer(id));
    return greeting;
  }

  subscribe(topic) {
    if (!this.subscriptions.has(topic)) this.subscriptions.set(topic, { topic, state: 'asked', recovered: undefined });
    return this.#action('subscribe', { topic }, [topic]);
  }

  unsubscribe(topic) {
    this.subscriptions.delete(topic);
    this.positions.delete(topic);
    return this.#action('unsubscribe', { topic }, [topic]);
  }

  /** Answers a callback: with `proceed`, or with the `choice` of an option, which brings its own. The answer keeps one `answer_id` however often it is sent, so a repeat cannot lose to itself. */
  answer(callbackId, { proceed, feedback, choice }) {
    const fields = { callback_id: callbackId, answer_id: this.newId() };
    if (proceed !== undefined) fields.proceed = proceed;
    if (feedback) fields.feedback = feedback;
    if (choice !== undefined) fields.choice = choice;
    this.answers.set(callbackId, fields);
    const callback = this.callbacks.get(callbackId);
    if (callback) Object.assign(callback, { state: 'answering', problem: null });
    return this.repeatAnswer(callbackId);
  }

  /** The same answer again, or null when its outcome has become known. */
  repeatAnswer(callbackId) {
    const fields = this.answers.get(callbackId);
    return fields ? this.#action('confirm', fields, callbackId) : null;
  }

  cancel(taskId, userId) {
    return this.#action('cancel', userId ? { task_id: taskId, user_id: userId } : { task_id: taskId }, taskId);
  }

  ping(now) {
    const action = this.#action('ping', {}, null);
    this.awaited.get(action.id).sentAt = now;
    return action;
  }

  /** The connection is gone: nothing that was asked on it will be replied to. What is state stays. */
  disconnected(code) {
    this.connection = null;
    this.awaited.clear();
    for (const subscription of this.subscriptions.values()) subscription.state = 'asked';
    if (code === TOO_LONG) return this.#dropTooLong();
    if (code !== RESYNC) return [];
    // More was missed than the gateway replays: coming back with the same positions would end the same way.
    const missed = [...this.positions.keys()].map((topic) => ({ kind: 'gap', topic }));
    this.positions.clear();
    return missed;
  }

  /** Takes one event from the gateway and returns what changed, as `{kind, …}` in order. */
  receive(event, now) {
    if (event === null || typeof event !== 'object' || Array.isArray(event)) return [];
    const asked = this.#replyTo(event);
    switch (isGatewayWord(event) ? event.type : null) {
      case 'connected':
        return this.#connected(event);
      case 'task_step_result':
        return this.#opened(event);
      case 'open_callbacks':
        return this.#converge(event.callback_ids);
      case 'callback_resolved':
        return this.#end(event.callback_id, { status: event.status, by: event.by });
      case 'confirmation_accepted':
        return this.#accepted(event.callback_id);
      case 'confirmation_rejected':
        return this.#rejected(event);
      case 'subscription_confirmed':
        return this.#subscribed(event);
      case 'unsubscribed':
        return [{ kind: 'subscription', topic: event.topic }];
      case 'gap':
        this.#adopt(event.topic, event.position ?? NOTHING_YET);
        return [{ kind: 'gap', topic: event.topic }];
      case 'heartbeat':
        return this.#heartbeat(event);
      case 'task_cancelled':
        return this.#cancelled(event);
      case 'pong':
        return this.#pong(event, asked, now);
      case 'error':
        return this.#error(event, asked);
      case null:
        return this.#message(event);
      default:
        return [{ kind: 'reply', event }];
    }
  }

  #action(verb, fields, subject) {
    const id = `c${(this.lastActionId += 1)}`;
    this.awaited.set(id, { verb, subject, sentAt: null });
    if (this.awaited.size > MAX_AWAITED) forgetOldest(this.awaited);
    return { action: verb, id, ...fields };
  }

  #replyTo(event) {
    if (event.reply_to === undefined || event._meta !== undefined) return null;
    const asked = this.awaited.get(event.reply_to) ?? null;
    this.awaited.delete(event.reply_to);
    return asked;
  }

  #connected(event) {
    this.connection = {
      id: event.connection_id,
      nodeId: event.node_id,
      pingInterval: event.ping_interval,
    };
    this.userId = event.user_id ?? null;
    const missed = [];
    for (const [address, { epoch, offset, recovered }] of Object.entries(event.positions ?? {})) {
      // Recovered: the replay that follows moves our own position. Else what we had is worth nothing now.
      if (recovered === true) continue;
      this.#adopt(address, { epoch, offset });
      if (recovered === false) missed.push({ kind: 'gap', topic: address });
    }
    return [{ kind: 'connected' }, ...missed];
  }

  #opened(event) {
    const id = event.callback_id;
    if (this.ended.has(id)) return [];
    const known = this.callbacks.get(id);
    if (known) {
      known.event = event;
      return [{ kind: 'callback', id, isNew: false }];
    }
    const state = this.answers.has(id) ? 'answering' : 'open';
    this.callbacks.set(id, { id, event, state, problem: null, decision: null });
    return [{ kind: 'callback', id, isNew: true }];
  }

  #converge(ids) {
    const open = new Set(ids);
    const gone = [...this.callbacks.keys()].filter((id) => !open.has(id));
    return gone.flatMap((id) => this.#end(id, null));
  }

  #end(id, decision) {
    const callback = this.callbacks.get(id);
    this.callbacks.delete(id);
    if (decision !== null) this.answers.delete(id);
    const isNews = !this.ended.has(id) || (decision !== null && this.ended.get(id) === null);
    if (isNews) this.ended.set(id, decision);
    if (this.ended.size > MAX_ENDED) forgetOldest(this.ended);
    if (!callback && !isNews) return [];
    if (callback) Object.assign(callback, { state: 'ended', problem: null, decision });
    return [{ kind: 'ended', id, decision, event: callback?.event ?? null }];
  }

  #accepted(id) {
    this.answers.delete(id);
    const callback = this.callbacks.get(id);
    if (callback) callback.state = 'accepted';
    return [{ kind: 'answer', id, outcome: 'accepted' }];
  }

  #rejected({ callback_id: id, reason, decision, message }) {
    if (reason === 'unavailable') return [{ kind: 'repeat', id }];
    this.answers.delete(id);
    const rejection = { kind: 'answer', id, outcome: reason, decision: decision ?? null };
    if (reason === 'already_resolved' || reason === 'not_found') return [rejection, ...this.#end(id, decision ?? null)];
    this.#reopen(id, message ?? `The gateway refused the answer: ${reason}`);
    return [rejection];
  }

  // An answer that was too long would close the next connection too. When the gateway did not say how long a message may be,
  // it was the longest.
  #dropTooLong() {
    const lengths = [...this.answers].map(([id, fields]) => [id, byteLength({ action: 'confirm', id: 'c0', ...fields })]);
    const most = this.longest ?? Math.max(...lengths.map(([, length]) => length)) - 1;
    const dropped = lengths.filter(([, length]) => length > most).map(([id]) => id);
    for (const id of dropped) this.#reopen(id, SHORTEN);
    return dropped.map((id) => ({ kind: 'answer', id, outcome: 'too_long', decision: null }));
  }

  #reopen(id, problem) {
    this.answers.delete(id);
    const callback = this.callbacks.get(id);
    if (callback) Object.assign(callback, { state: 'open', problem });
  }

  #subscribed({ topic, position, recovered }) {
    const subscription = this.subscriptions.get(topic);
    if (!subscription) return [];
    Object.assign(subscription, { state: 'confirmed', recovered });
    if (recovered !== true && position) this.#adopt(topic, position);
    const changes = [{ kind: 'subscription', topic }];
    if (recovered === false) changes.push({ kind: 'gap', topic });
    return changes;
  }

  #heartbeat(event) {
    const key = taskKey(event.user_id, event.task_id);
    this.heartbeats.delete(key); // the newest last, so that the oldest is the first to be forgotten
    this.heartbeats.set(key, {
      userId: event.user_id,
      taskId: event.task_id,
      message: event.message,
      at: event.timestamp,
    });
    if (this.heartbeats.size > MAX_HEARTBEATS) forgetOldest(this.heartbeats);
    return [{ kind: 'heartbeat', key }];
  }

  // The user's own address and the task's topic both carry it: told once, however often it is heard.
  #cancelled(event) {
    const key = taskKey(event.user_id, event.task_id);
    this.heartbeats.delete(key);
    const cancellation = `${key}@${event.timestamp}`;
    if (cancellation === this.lastCancellation) return [];
    this.lastCancellation = cancellation;
    return [{ kind: 'task_cancelled', event }];
  }

  #pong(event, asked, now) {
    if (asked?.sentAt == null) return [{ kind: 'pong' }];
    this.roundTrip = Math.max(0, now - asked.sentAt);
    this.clockAhead = event.timestamp - (now + asked.sentAt) / 2;
    return [{ kind: 'pong' }];
  }

  #error(event, asked) {
    if (event.code === 'too_long' && typeof event.limit === 'number') this.longest = event.limit;
    if (asked?.verb === 'confirm') this.#reopen(asked.subject, event.message);
    if (asked?.verb === 'subscribe') for (const topic of asked.subject) this.subscriptions.delete(topic.topic ?? topic);
    return [{ kind: 'error', event, about: asked }];
  }

  #message(event) {
    const address = event._meta?.topic ?? (event.target_user_id ? `user:${event.target_user_id}` : null);
    const position = event._meta?.position;
    if (address !== null && position) {
      const known = this.positions.get(address);
      if (known && known.epoch === position.epoch && position.offset <= known.offset) return [];
      this.#adopt(address, position);
    }
    return [{ kind: 'message', address, event }];
  }

  #adopt(address, { epoch, offset }) {
    this.positions.set(address, { epoch, offset });
  }
}

const REPLIES = new Set([
  ...['connected', 'subscription_confirmed', 'unsubscribed', 'gap', 'pong', 'error', 'published', 'refreshed'],
  ...['confirmation_accepted', 'confirmation_rejected', 'presence', 'joined', 'left'],
]);
const NEWS = new Set(['task_step_result', 'callback_resolved', 'open_callbacks', 'heartbeat', 'task_cancelled']);

// A producer's object may carry any `type`, but the gateway marks it with `_meta`, which a producer can neither
// take away nor forge. So a reply is believed only without that mark, and news of callbacks and tasks only when it
// came unmarked or over a user's own address; what was heard on a shared topic is shown, never obeyed.
function isGatewayWord({ type, callback_id: callbackId, _meta: mark }) {
  if (type === 'task_step_result' && typeof callbackId !== 'string') return false;
  if (mark === undefined) return REPLIES.has(type) || NEWS.has(type);
  if (mark.position !== undefined || !NEWS.has(type)) return false;
  return String(mark.topic).startsWith('user:') || type === 'task_cancelled';
}

function byteLength(action) {
  return new TextEncoder().encode(JSON.stringify(action)).length;
}

function taskKey(userId, taskId) {
  return JSON.stringify([userId ?? null, taskId]);
}

function forgetOldest(map) {
  map.delete(map.keys().next().value);
}
