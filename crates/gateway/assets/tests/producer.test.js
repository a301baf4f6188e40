// The producer's loop: only a 200 is a confirmation, everything uncertain is repeated with the same key or id.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Producer, Refused } from '../console/producer.js';
import { describe, sentence } from '../console/decision.js';

const BODY = { user_id: 'alice', task_id: 't', step: 1, step_result: { message: 'Go on?', status: 'completed' } };
const DECIDED = { callback_id: '07-ab', status: 'confirmed', proceed: true, by: 'alice' };

/** A gateway that gives these replies in turn: `[status, body, headers]`, or 'cut'. */
function scripted(replies) {
  const calls = [];
  const slept = [];
  const producer = new Producer({
    base: 'http://h/prefix/',
    apiKey: () => 'k',
    random: () => 1,
    sleep: async (ms) => slept.push(ms),
    fetch: async (url, { method, headers, body }) => {
      calls.push({ method, path: `${url.pathname}${url.search}`, headers, body: body && JSON.parse(body) });
      const reply = replies.shift();
      assert.ok(reply, 'a call too many');
      if (reply === 'cut') throw new TypeError('network');
      const [status, json, retryAfter] = reply;
      return new Response(json === undefined ? null : JSON.stringify(json), { status, headers: retryAfter ? { 'Retry-After': retryAfter } : {} });
    },
  });
  return { producer, calls, slept };
}

test('a wait goes on over 202 with the id until the confirmation is there', async () => {
  const pending = { callback_id: '07-ab', status: 'pending', deadline: 1 };
  const { producer, calls, slept } = scripted([[202, pending, '1'], [202, pending], [200, DECIDED]]);
  assert.deepEqual(await producer.notify(BODY), DECIDED);
  assert.deepEqual(calls.map(({ method, path }) => `${method} ${path.split('?')[0]}`),
    ['POST /prefix/v1/notifications', 'GET /prefix/v1/callbacks/07-ab', 'GET /prefix/v1/callbacks/07-ab']);
  assert.ok(calls.every(({ path, headers }) => path.includes('?wait=') && headers.Authorization === 'Bearer k'));
  assert.deepEqual(slept, [1000, 0]);
});

test('503 and a cut connection repeat the question with the same key', async () => {
  const { producer, calls } = scripted([[503, {}, '2'], 'cut', [200, DECIDED]]);
  await producer.notify(BODY);
  const keys = calls.map(({ headers }) => headers['Idempotency-Key']);
  assert.equal(calls.length, 3);
  assert.ok(keys[0].length > 10 && keys.every((key) => key === keys[0]));
  assert.deepEqual(calls[2].body, BODY);
});

test('two questions have two keys', async () => {
  const { producer, calls } = scripted([[200, DECIDED], [200, DECIDED]]);
  await producer.notify(BODY);
  await producer.notify(BODY);
  assert.notEqual(calls[0].headers['Idempotency-Key'], calls[1].headers['Idempotency-Key']);
});

test('a refusal is not repeated and says what to do', async () => {
  for (const status of [400, 401, 403, 404, 409, 413, 422]) {
    const { producer, calls } = scripted([[status, { detail: 'because' }]]);
    await assert.rejects(producer.notify(BODY), (error) => error instanceof Refused && error.status === status && error.message.includes('because'));
    assert.equal(calls.length, 1);
  }
});

test('why the gateway takes no work is said in its own words', async () => {
  const away = 'Redis: Connection refused';
  const { producer, calls } = scripted([[200, { running: false, status: away }], [200, { running: true, status: 'ready' }], [401, { detail: 'no' }], [0, null]]);
  const said = [];
  for (let n = 0; n < 4; n += 1) said.push(await producer.trouble());
  assert.deepEqual(said, [away, null, null, null]);
  assert.equal(calls[0].path, '/prefix/v1/status');
});

test('what a node says while it is not ready is passed on', async () => {
  const detail = 'this node is not ready (Redis: Connection refused): try again';
  const { producer } = scripted([[503, { detail }], [200, DECIDED]]);
  const heard = [];
  await producer.notify(BODY, { onProgress: ({ said }) => heard.push(said) });
  assert.deepEqual(heard, [detail]);
});

test('hanging up ends the wait', async () => {
  const hangUp = new AbortController();
  const producer = new Producer({
    base: 'http://h/',
    fetch: (url, { signal }) => new Promise((resolve, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason));
    }),
  });
  const waiting = producer.notify(BODY, { signal: hangUp.signal });
  hangUp.abort();
  await assert.rejects(waiting, { name: 'AbortError' });
});

test('an address becomes its path, whatever characters its name has', async () => {
  const { producer, calls } = scripted([[200, {}], [200, {}], [200, {}]]);
  for (const address of ['broadcast', 'user:a/b?', 'topic:room:7#']) await producer.publish(address, { n: 1 });
  assert.deepEqual(calls.map(({ path }) => path),
    ['/prefix/v1/broadcast', '/prefix/v1/users/a%2Fb%3F/messages', '/prefix/v1/topics/room%3A7%23/messages']);
});

test('silence is never shown as consent', () => {
  assert.equal(describe({ status: 'timed_out', proceed: null, resolution: 'timeout', by: null }).proceed, 'no decision');
  assert.equal(describe({ status: 'timed_out', by: null }).proceed, '');
  for (const proceed of [null, undefined, 'true', 1]) assert.doesNotMatch(describe({ status: 'confirmed', proceed }).proceed, /goes on/);
  const byClock = sentence({ status: 'timed_out', proceed: true, resolution: 'timeout', by: null });
  assert.equal(byClock, 'Timed out without an answer · the task goes on');
});

test('a decision is one sentence with who, what and why', () => {
  assert.equal(sentence({ status: 'declined', proceed: false, by: 'bob', choice: 'later', feedback: 'tomorrow' }),
    'Declined by bob · the task does not go on · choice: later · “tomorrow”');
  assert.equal(sentence(null), 'Ended');
});
