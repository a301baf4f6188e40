// Close codes are advice, and a lost connection comes back.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Socket, advice, pause, socketUrl, subprotocols } from '../console/socket.js';

class FakeWebSocket {
  static made = [];

  constructor(url, protocols) {
    if (protocols.some((protocol) => protocol.includes(' '))) throw new SyntaxError('not a token');
    Object.assign(this, { url, protocols, readyState: 1, sent: [], isClosed: false });
    FakeWebSocket.made.push(this);
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.isClosed = true;
  }

  hear(event) {
    this.onmessage({ data: JSON.stringify(event) });
  }
}

const GREETING = { type: 'connected', ping_interval: 30 };

function open(t, { dial = () => ({ url: 'ws://x/ws', protocols: subprotocols('') }) } = {}) {
  t.mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  FakeWebSocket.made = [];
  const states = [];
  const probes = [];
  const socket = new Socket({
    dial, onState: (change) => states.push(change), onEvent: () => undefined, probe: () => probes.push(1), WebSocket: FakeWebSocket, random: () => 1,
  });
  socket.open();
  return { socket, states, probes, newest: () => FakeWebSocket.made.at(-1), count: () => FakeWebSocket.made.length };
}

test('codes below 4500 come back, those from 4500 on do not, and of the standard ones four do not', () => {
  for (const code of [4000, 4001, 4002, 4003, 4004, 4499, 1000, 1001, 1005, 1006, 1009, 1011, 1012, 1013]) {
    assert.equal(advice(code).comeBack, true, String(code));
  }
  for (const code of [4500, 4503, 4999, 1002, 1003, 1007, 1008]) assert.equal(advice(code).comeBack, false, String(code));
  assert.deepEqual([4004, 4500, 4001].map((code) => advice(code).needsToken), [true, true, false]);
});

test('the pause is drawn from nothing up to a doubled and limited ceiling', () => {
  assert.equal(pause(3, () => 0), 0);
  assert.deepEqual([0, 1, 2, 50].map((attempt) => pause(attempt, () => 1)), [500, 1000, 2000, 15_000]);
});

test('the address follows the page, also below a prefix and behind TLS', () => {
  assert.equal(socketUrl('http://h:1/'), 'ws://h:1/ws');
  assert.equal(socketUrl('https://h/gateway/', { userId: 'a b&c', since: ['broadcast@e:1', 'user:a b&c@:0'] }),
    'wss://h/gateway/ws?user_id=a+b%26c&since=broadcast%40e%3A1&since=user%3Aa+b%26c%40%3A0');
});

test('a token travels as a subprotocol', () => {
  assert.deepEqual(subprotocols('a.b.c'), ['countersign.v1', 'bearer.a.b.c']);
  assert.deepEqual(subprotocols(''), ['countersign.v1']);
});

test('a lost connection is dialled again after its pause, and the pauses grow', (t) => {
  const { states, newest, count } = open(t);
  newest().hear(GREETING);
  newest().onclose({ code: 1006, reason: '' });
  assert.equal(states.at(-1).state, 'waiting');
  t.mock.timers.tick(499);
  assert.equal(count(), 1);
  t.mock.timers.tick(1);
  assert.equal(count(), 2);
  newest().onclose({ code: 1006, reason: '' });
  t.mock.timers.tick(999);
  assert.equal(count(), 2);
  t.mock.timers.tick(1);
  assert.equal(count(), 3);
});

test('only a connection that lasted starts the pauses over', (t) => {
  const { states, newest } = open(t);
  for (const lasted of [0, 0, 6000]) {
    newest().hear(GREETING);
    t.mock.timers.tick(lasted);
    newest().onclose({ code: 1013, reason: 'Server connection limit reached' });
    t.mock.timers.tick(15_000);
  }
  assert.deepEqual(states.filter(({ state }) => state === 'waiting').map(({ attempt }) => attempt), [1, 2, 1]);
});

test('a final close stays closed, and an expired token waits for a new one', (t) => {
  for (const code of [4500, 4503, 1008, 4004]) {
    const { states, newest, count } = open(t);
    newest().onclose({ code, reason: '' });
    t.mock.timers.tick(60_000);
    assert.equal(states.at(-1).state, 'stopped', String(code));
    assert.equal(count(), 1);
    t.mock.timers.reset();
  }
});

test('silence is answered with a probe, and a silent probe with a new connection', (t) => {
  const { newest, probes, count } = open(t);
  const first = newest();
  first.hear(GREETING);
  t.mock.timers.tick(30_000);
  assert.equal(probes.length, 1);
  first.hear({ type: 'pong' });
  t.mock.timers.tick(30_000);
  assert.equal(probes.length, 2);
  t.mock.timers.tick(10_000);
  assert.equal(first.isClosed, true);
  t.mock.timers.tick(500);
  assert.equal(count(), 2);
});

test('a gateway that never says connected is given up', (t) => {
  const { states, newest } = open(t);
  t.mock.timers.tick(10_000);
  assert.equal(newest().isClosed, true);
  assert.equal(states.at(-1).state, 'waiting');
});

test('a token that no header can carry is refused before dialling', (t) => {
  const { states, count } = open(t, { dial: () => ({ url: 'ws://x', protocols: subprotocols('two words') }) });
  assert.deepEqual([states.at(-1).state, states.at(-1).needsToken, count()], ['stopped', true, 0]);
});

test('closing ends everything, and an abandoned socket is heard no more', (t) => {
  const { socket, states, newest, count } = open(t);
  const old = newest();
  socket.close();
  t.mock.timers.tick(60_000);
  assert.deepEqual([states.at(-1).state, count(), old.onclose, old.onmessage], ['idle', 1, null, null]);
  assert.equal(socket.send({ action: 'ping' }), false);
});
