// The backend's side: what a producer does over HTTP, done from this page. It shows the one loop that every caller
// of `notify` needs: repeat with the same key or id on 202, on 503 and on a cut connection, and believe only a 200.

/** The first wait is short, so that the callback's id is soon known and the question can be withdrawn. */
const FIRST_WAIT_S = 2;
/** How long the gateway holds each later one; under the idle limits of common proxies. */
const HELD_WAIT_S = 20;
const MAX_PAUSE_MS = 10_000;

/** The gateway said no, and repeating would not help. `status` is HTTP's. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.name = 'Refused';
    this.status = status;
  }
}

export class Producer {
  /** `base` is the page's URL; `apiKey` returns the key or nothing; `sleep` is `(ms, signal) → Promise`. */
  constructor({ base, apiKey = () => '', fetch = globalThis.fetch.bind(globalThis), sleep = pauseFor, random = Math.random }) {
    Object.assign(this, { base, apiKey, fetch, sleep, random });
  }

  /** Publishes one object to `broadcast`, `user:<id>` or `topic:<name>`; returns `{position?, nodes?}`. */
  async publish(address, message) {
    return this.#once('POST', publishPath(address), message);
  }

  /** Cancels a task: one user's, or everybody's of that name. */
  async cancelTask(taskId, userId) {
    return this.#once('POST', `v1/tasks/${encodeURIComponent(taskId)}/cancel`, userId ? { user_id: userId } : {});
  }

  /** Takes a question back; its callback ends `cancelled`. */
  async withdraw(callbackId) {
    return this.#once('DELETE', `v1/callbacks/${encodeURIComponent(callbackId)}`);
  }

  /**
   * Asks a user and returns the confirmation. `onProgress` hears `{state, callbackId, rounds}`.
   * Aborting `signal` ends this wait, never the callback.
   */
  async notify(body, { signal, onProgress = () => {}, key = crypto.randomUUID() } = {}) {
    let callbackId = null;
    let failures = 0;
    for (let rounds = 1; ; rounds += 1) {
      const reply = callbackId === null
        ? await this.#call('POST', `v1/notifications?wait=${FIRST_WAIT_S}`, { body, key, signal })
        : await this.#call('GET', `v1/callbacks/${encodeURIComponent(callbackId)}?wait=${HELD_WAIT_S}`, { signal });
      if (reply.status === 200) return reply.json;
      if (reply.status === 202) {
        failures = 0;
        callbackId = reply.json?.callback_id ?? callbackId;
        onProgress({ state: 'pending', callbackId, rounds });
        await this.sleep(reply.retryAfterMs ?? 0, signal);
      } else if (isUnknown(reply.status)) {
        onProgress({ state: 'unknown', callbackId, rounds, said: reply.json?.detail });
        const backoff = this.random() * Math.min(MAX_PAUSE_MS, 500 * 2 ** failures);
        failures += 1;
        await this.sleep(Math.max(reply.retryAfterMs ?? 0, backoff), signal);
      } else {
        throw refusal(reply);
      }
    }
  }

  /** Why the gateway takes no work, in its own words; null when it does, or cannot be asked. */
  async trouble() {
    const { json } = await this.#call('GET', 'v1/status', {});
    return json?.running === false && typeof json.status === 'string' ? json.status : null;
  }

  async #once(method, path, body) {
    const key = method === 'POST' ? crypto.randomUUID() : undefined;
    const reply = await this.#call(method, path, { body, key });
    if (reply.status >= 200 && reply.status < 300) return reply.json;
    throw refusal(reply);
  }

  // One request. Status 0 stands for a cut connection: whether the gateway acted is not known.
  async #call(method, path, { body, key, signal }) {
    const headers = {};
    if (body !== undefined) headers['Content-Type'] = 'application/json';
    if (key) headers['Idempotency-Key'] = key;
    const apiKey = this.apiKey();
    if (apiKey) headers.Authorization = `Bearer ${apiKey}`;
    try {
      const response = await this.fetch(new URL(path, this.base), {
        method,
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        signal,
        cache: 'no-store',
        credentials: 'omit',
      });
      const text = await response.text();
      return { status: response.status, json: parse(text), retryAfterMs: retryAfter(response) };
    } catch (error) {
      if (signal?.aborted) throw signal.reason ?? error;
      return { status: 0, json: null };
    }
  }
}

function publishPath(address) {
  if (address === 'broadcast') return 'v1/broadcast';
  const [kind, name] = split(address);
  const id = encodeURIComponent(name);
  return kind === 'user' ? `v1/users/${id}/messages` : `v1/topics/${id}/messages`;
}

function split(address) {
  const colon = address.indexOf(':');
  return [address.slice(0, colon), address.slice(colon + 1)];
}

/** Not an answer and not a refusal: the caller repeats with the same key or id. */
function isUnknown(status) {
  return status === 0 || status === 429 || status === 502 || status === 503 || status === 504;
}

function refusal({ status, json }) {
  const said = json?.detail ?? json?.message ?? json?.title;
  const ask = {
    0: 'The gateway did not answer. Is the node running?',
    401: 'This door is closed: enter an API key under Credentials.',
    403: 'This API key does not allow that.',
    404: 'Unknown, or kept no longer.',
    503: 'The gateway is not ready. Try again.',
  }[status];
  return new Refused(status, [ask, said].filter(Boolean).join(' ') || `The gateway answered ${status}.`);
}

function retryAfter(response) {
  const seconds = Number(response.headers.get('Retry-After') ?? Number.NaN);
  return Number.isFinite(seconds) ? Math.min(30, Math.max(0, seconds)) * 1000 : undefined;
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function pauseFor(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener('abort', () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}
