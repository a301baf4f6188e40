// One WebSocket that comes back. It owns the connection, the back-off and the proof of life; it knows nothing of
// callbacks or of the page. Whether it comes back is decided by the close code alone, in the bands of `advice`.

/** The longest pause between two attempts, and the one that the first attempt is drawn from. */
const MAX_PAUSE_MS = 15_000;
const FIRST_PAUSE_MS = 500;
/** A connection that lived this long was a success: the next failure starts from the first pause again. */
const STABLE_MS = 5_000;
/** Longest wait for `connected` after dialling, and for any sign of life after a probe. */
const PATIENCE_MS = 10_000;

const FINAL_STANDARD_CODES = new Set([1002, 1003, 1007, 1008]);
const MEANINGS = {
  1001: 'the node is going away',
  1006: 'the connection was lost',
  1009: 'a message was too long',
  1012: 'the node is restarting',
  1013: 'the gateway is full',
  4001: 'this device read too slowly',
  4002: 'this device did not answer pings',
  4003: 'too much was missed to replay',
  4004: 'the token has expired',
  4500: 'the token was refused',
  4503: 'replaced or disconnected by the gateway',
};

/** What a close code advises: come back or not, whether a new token is needed first, and what it means. */
export function advice(code) {
  const comeBack = code >= 4000 && code <= 4999 ? code < 4500 : !FINAL_STANDARD_CODES.has(code);
  return {
    comeBack,
    needsToken: code === 4004 || code === 4500,
    meaning: MEANINGS[code] ?? (comeBack ? 'the connection was closed' : 'the gateway closed the connection for good'),
  };
}

/** Full jitter: anywhere between nothing and the doubled pause, so that a restarted node is not stormed. */
export function pause(attempt, random = Math.random) {
  return random() * Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** attempt);
}

/** The page's own place as a WebSocket address, also when the page is nested under a prefix. */
export function socketUrl(pageUrl, { userId, since = [] } = {}) {
  const url = new URL('ws', pageUrl);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  url.hash = '';
  if (userId) url.searchParams.append('user_id', userId);
  for (const position of since) url.searchParams.append('since', position);
  return url.href;
}

/** The subprotocols to offer; a token travels here because browsers can set no header and URLs are logged. */
export function subprotocols(token) {
  return token ? ['countersign.v1', `bearer.${token}`] : ['countersign.v1'];
}

export class Socket {
  /**
   * `dial` returns `{url, protocols}` for each attempt; `onState` hears `{state, …}`; `onEvent` each parsed event;
   * `probe` sends something that the gateway replies to.
   */
  constructor({ dial, onState, onEvent, probe, WebSocket = globalThis.WebSocket, random = Math.random }) {
    Object.assign(this, { dial, onState, onEvent, probe, WebSocket, random });
    this.socket = null;
    this.attempt = 0;
    this.greetedAt = null;
    this.retryTimer = null;
    this.lifeTimer = null;
  }

  /** Connects, and keeps connecting until `close` or a final close code. */
  open() {
    this.#abandon();
    this.onState({ state: 'connecting', attempt: this.attempt });
    let socket;
    try {
      const { url, protocols } = this.dial();
      socket = new this.WebSocket(url, protocols);
    } catch {
      // The constructor refuses only what a subprotocol cannot carry: a token with spaces or control characters.
      this.onState({ state: 'stopped', code: 4500, ...advice(4500), meaning: 'the token has characters that no token has' });
      return;
    }
    this.socket = socket;
    socket.onmessage = ({ data }) => this.#received(data);
    socket.onclose = ({ code, reason }) => this.#closed(code, reason);
    this.#expectLife(PATIENCE_MS, () => this.#closed(1006, ''));
  }

  /** Closes for good: no attempt follows. */
  close() {
    this.#abandon();
    this.attempt = 0;
    this.onState({ state: 'idle' });
  }

  /** Tries again now instead of when the pause ends. */
  hurry() {
    if (this.retryTimer !== null) this.open();
  }

  /** Sends one action; false when there is no connection to send it on. */
  send(action) {
    if (action === null || this.socket?.readyState !== 1) return false;
    this.socket.send(JSON.stringify(action));
    return true;
  }

  #received(data) {
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      return; // The gateway sends JSON only; a frame that is none is not worth a connection.
    }
    if (event?.type === 'connected' && this.greetedAt === null) {
      this.greetedAt = Date.now();
      this.quietMs = Math.max(1, Number(event.ping_interval) || 30) * 1000;
      this.onState({ state: 'open' });
    }
    if (this.greetedAt !== null) this.#watch();
    this.onEvent(event);
  }

  // Browsers do not show the gateway's ping frames, so a dead path looks like silence: ask, then give up.
  #watch() {
    this.#expectLife(this.quietMs, () => {
      this.probe();
      this.#expectLife(PATIENCE_MS, () => this.#closed(1006, ''));
    });
  }

  #expectLife(ms, otherwise) {
    clearTimeout(this.lifeTimer);
    this.lifeTimer = setTimeout(otherwise, ms);
  }

  #closed(code, reason) {
    const wasStable = this.greetedAt !== null && Date.now() - this.greetedAt >= STABLE_MS;
    if (wasStable) this.attempt = 0;
    this.#abandon();
    const counsel = { code, reason, ...advice(code) };
    if (!counsel.comeBack || counsel.needsToken) {
      this.attempt = 0;
      this.onState({ state: 'stopped', ...counsel });
      return;
    }
    const pauseMs = pause(this.attempt, this.random);
    this.attempt += 1;
    this.retryTimer = setTimeout(() => this.open(), pauseMs);
    this.onState({ state: 'waiting', attempt: this.attempt, retryAt: Date.now() + pauseMs, ...counsel });
  }

  #abandon() {
    clearTimeout(this.retryTimer);
    clearTimeout(this.lifeTimer);
    this.retryTimer = null;
    this.greetedAt = null;
    const socket = this.socket;
    this.socket = null;
    if (!socket) return;
    socket.onmessage = null;
    socket.onclose = null;
    socket.close(1000);
  }
}
