// The session's rules, one sentence of the specification a test.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MAX_AWAITED, MAX_ENDED, MAX_HEARTBEATS, Session } from '../console/session.js';

const NOW = 1_790_000_000;
const kinds = (changes) => changes.map(({ kind }) => kind);

function connected(session, extra = {}) {
  return session.receive({
    type: 'connected', connection_id: 'c1', user_id: session.userId, node_id: 'n1', ping_interval: 30, positions: {}, ...extra,
  }, NOW);
}

function session({ userId = 'alice' } = {}) {
  let minted = 0;
  const made = new Session({ userId, newId: () => `answer-${(minted += 1)}` });
  connected(made);
  return made;
}

function question(id, extra = {}) {
  return {
    type: 'task_step_result', callback_id: id, user_id: 'alice', task_id: 't1', step: 1, step_name: 's', message: 'Go on?',
    result: null, options: null, deadline: NOW + 300, timestamp: NOW, ...extra,
  };
}

function at(topic, epoch, offset, extra = {}) {
  return { n: offset, ...extra, _meta: { topic, position: { epoch, offset } } };
}

test('the list of open callbacks drops every other one', () => {
  const s = session();
  for (const id of ['a', 'b', 'c']) s.receive(question(id), NOW);
  const changes = s.receive({ type: 'open_callbacks', callback_ids: ['b'] }, NOW);
  assert.deepEqual([...s.callbacks.keys()], ['b']);
  assert.deepEqual(changes.map(({ kind, id, decision }) => [kind, id, decision]), [['ended', 'a', null], ['ended', 'c', null]]);
});

test('callback_resolved ends one callback and says how', () => {
  const s = session();
  s.receive(question('a'), NOW);
  s.receive(question('b'), NOW);
  const [change] = s.receive({ type: 'callback_resolved', callback_id: 'a', status: 'declined', by: 'alice' }, NOW);
  assert.equal(change.kind, 'ended');
  assert.deepEqual(change.decision, { status: 'declined', by: 'alice' });
  assert.equal(change.event.callback_id, 'a');
  assert.deepEqual([...s.callbacks.keys()], ['b']);
});

test('a late copy of an ended callback is not shown again', () => {
  const s = session();
  s.receive({ type: 'callback_resolved', callback_id: 'a', status: 'confirmed', by: 'bob' }, NOW);
  assert.deepEqual(s.receive(question('a'), NOW), []);
  assert.equal(s.callbacks.size, 0);
});

test('a repeated question is the same callback', () => {
  const s = session();
  s.receive(question('a'), NOW);
  const [change] = s.receive(question('a', { message: 'Go on now?' }), NOW);
  assert.equal(change.isNew, false);
  assert.equal(s.callbacks.get('a').event.message, 'Go on now?');
});

test('an answer is repeated with the same answer id until its outcome is known', () => {
  const s = session();
  s.receive(question('a'), NOW);
  const first = s.answer('a', { proceed: true, feedback: 'fine' });
  assert.deepEqual({ ...first, id: null }, {
    action: 'confirm', id: null, callback_id: 'a', proceed: true, feedback: 'fine', answer_id: 'answer-1',
  });
  assert.equal(s.callbacks.get('a').state, 'answering');

  assert.deepEqual(kinds(s.receive({ type: 'confirmation_rejected', callback_id: 'a', reason: 'unavailable' }, NOW)), ['repeat']);
  assert.equal(s.repeatAnswer('a').answer_id, 'answer-1');

  s.disconnected();
  connected(s);
  const [again] = s.greeting();
  assert.equal(again.answer_id, 'answer-1');

  s.receive({ type: 'confirmation_accepted', callback_id: 'a', reply_to: again.id }, NOW);
  assert.equal(s.repeatAnswer('a'), null);
  assert.equal(s.callbacks.get('a').state, 'accepted');
  assert.deepEqual(s.greeting(), []);
});

test('an answer whose callback is gone from the list is still asked after', () => {
  const s = session();
  s.receive(question('a'), NOW);
  s.answer('a', { proceed: false });
  s.disconnected();
  connected(s);
  s.receive({ type: 'open_callbacks', callback_ids: [] }, NOW);
  assert.equal(s.greeting()[0].answer_id, 'answer-1');
});

test('the loser of a race learns who won', () => {
  const s = session();
  s.receive(question('a'), NOW);
  s.answer('a', { proceed: true });
  const decision = { status: 'declined', by: 'bob', proceed: false };
  const changes = s.receive({ type: 'confirmation_rejected', callback_id: 'a', reason: 'already_resolved', decision }, NOW);
  assert.deepEqual(kinds(changes), ['answer', 'ended']);
  assert.deepEqual(changes[0].decision, decision);
  assert.equal(s.callbacks.size, 0);
});

test('an invalid answer leaves the callback open and says why', () => {
  const s = session();
  s.receive(question('a'), NOW);
  s.answer('a', { choice: 'x' });
  s.receive({ type: 'confirmation_rejected', callback_id: 'a', reason: 'invalid', message: 'choice: expected …' }, NOW);
  assert.deepEqual([s.callbacks.get('a').state, s.callbacks.get('a').problem], ['open', 'choice: expected …']);
  const retry = s.answer('a', { choice: 'y' });
  assert.equal(retry.answer_id, 'answer-2');
  assert.equal('proceed' in retry, false);
  assert.equal(s.callbacks.get('a').problem, null);
});

test('an error that replies to an answer opens the callback again', () => {
  const s = session();
  s.receive(question('a'), NOW);
  const action = s.answer('a', { proceed: true });
  s.receive({ type: 'error', code: 'forbidden', message: 'not yours', timestamp: NOW, reply_to: action.id }, NOW);
  assert.equal(s.callbacks.get('a').problem, 'not yours');
});

test('an answer that was too long is not sent again, and the person can shorten it', () => {
  const tooLong = { type: 'error', code: 'too_long', message: 'm', limit: 1000, timestamp: NOW };
  for (const told of [[tooLong], []]) {
    const s = session();
    for (const id of ['a', 'b']) s.receive(question(id), NOW);
    s.answer('a', { proceed: true });
    s.answer('b', { proceed: false, feedback: 'é'.repeat(600) });
    for (const event of told) s.receive(event, NOW);
    assert.deepEqual(s.disconnected(1009), [{ kind: 'answer', id: 'b', outcome: 'too_long', decision: null }]);
    const { state, problem } = s.callbacks.get('b');
    assert.equal(state, 'open');
    assert.match(problem, /shorten it/);
    connected(s);
    assert.deepEqual(s.greeting().map(({ callback_id: id }) => id), ['a']);
  }
});

test('an answer that was rejected as too long drops no other', () => {
  const s = session();
  for (const id of ['a', 'b']) s.receive(question(id), NOW);
  s.answer('a', { proceed: true });
  const { id } = s.answer('b', { proceed: false, feedback: 'x'.repeat(2000) });
  s.receive({ type: 'confirmation_rejected', callback_id: 'b', reason: 'invalid', message: 'too long', reply_to: id }, NOW);
  s.receive({ type: 'error', code: 'too_long', message: 'm', limit: 1000, timestamp: NOW, reply_to: id }, NOW);
  assert.deepEqual(s.disconnected(1009), []);
  assert.deepEqual([s.callbacks.get('b').state, s.callbacks.get('b').problem], ['open', 'too long']);
  assert.deepEqual([...s.answers.keys()], ['a']);
});

test('a message is shown once, by position', () => {
  const s = session();
  assert.equal(s.receive(at('broadcast', 'e', 1), NOW).length, 1);
  assert.equal(s.receive(at('broadcast', 'e', 1), NOW).length, 0);
  assert.equal(s.receive(at('broadcast', 'e', 2), NOW).length, 1);
  assert.equal(s.receive(at('broadcast', 'e', 1), NOW).length, 0);
  assert.equal(s.receive(at('room', 'e', 1), NOW).length, 1, 'positions are per address');
  assert.equal(s.receive(at('broadcast', 'f', 1), NOW).length, 1, 'a new epoch counts from the start');
});

test('a reconnect resumes broadcast and one’s own address from where they were', () => {
  const s = session();
  connected(s, { positions: { broadcast: { epoch: 'e', offset: 4 }, 'user:alice': { epoch: '', offset: 0 } } });
  s.receive(at('broadcast', 'e', 5), NOW);
  assert.deepEqual(s.since(), ['broadcast@e:5', 'user:alice@:0']);
});

test('a recovered address goes on from our own position, so that its replay is shown', () => {
  const s = session();
  s.receive(at('broadcast', 'e', 5), NOW);
  const changes = connected(s, { positions: { broadcast: { epoch: 'e', offset: 7, recovered: true } } });
  assert.deepEqual(kinds(changes), ['connected']);
  assert.equal(s.receive(at('broadcast', 'e', 6), NOW).length, 1);
  assert.equal(s.receive(at('broadcast', 'e', 7), NOW).length, 1);
});

test('an address that could not be recovered is announced and goes on from the gateway’s position', () => {
  const s = session();
  s.receive(at('broadcast', 'e', 5), NOW);
  const changes = connected(s, { positions: { broadcast: { epoch: 'f', offset: 9, recovered: false } } });
  assert.deepEqual(changes, [{ kind: 'connected' }, { kind: 'gap', topic: 'broadcast' }]);
  assert.deepEqual(s.since(), ['broadcast@f:9']);
});

test('a gap moves the position, also where there is none', () => {
  const s = session();
  s.subscribe('room');
  s.receive(at('room', 'e', 1), NOW);
  assert.deepEqual(s.receive({ type: 'gap', topic: 'room', recovered: false, position: { epoch: 'g', offset: 3 } }, NOW),
    [{ kind: 'gap', topic: 'room' }]);
  assert.deepEqual(s.positions.get('room'), { epoch: 'g', offset: 3 });
  s.receive({ type: 'gap', topic: 'room', recovered: false, position: null }, NOW);
  assert.deepEqual(s.positions.get('room'), { epoch: '', offset: 0 });
});

test('after a resync nothing is asked to be replayed, and every address has a gap', () => {
  const s = session();
  connected(s, { positions: { broadcast: { epoch: 'e', offset: 4 } } });
  s.subscribe('room');
  s.receive(at('room', 'e', 1), NOW);
  assert.deepEqual(s.disconnected(1006), []);
  assert.deepEqual(s.since(), ['broadcast@e:4']);
  assert.deepEqual(s.disconnected(4003), [{ kind: 'gap', topic: 'broadcast' }, { kind: 'gap', topic: 'room' }]);
  assert.deepEqual(s.since(), []);
  assert.deepEqual(s.greeting()[0].topics, ['room']);
});

test('topics are subscribed again with their positions after a reconnect', () => {
  const s = session();
  const first = s.subscribe('room');
  assert.equal(first.topic, 'room');
  s.receive({ type: 'subscription_confirmed', topic: 'room', position: { epoch: 'e', offset: 2 }, reply_to: first.id }, NOW);
  assert.equal(s.subscriptions.get('room').state, 'confirmed');
  s.disconnected();
  assert.equal(s.subscriptions.get('room').state, 'asked');
  connected(s);
  assert.deepEqual(s.greeting()[0].topics, [{ topic: 'room', since: { epoch: 'e', offset: 2 } }]);
  s.unsubscribe('room');
  assert.deepEqual(s.greeting(), []);
});

test('a refused subscription is not asked for again', () => {
  const s = session();
  const action = s.subscribe('user:bob');
  s.receive({ type: 'error', code: 'forbidden', message: 'no', timestamp: NOW, reply_to: action.id }, NOW);
  assert.equal(s.subscriptions.size, 0);
});

test('what a producer publishes is shown, never obeyed', () => {
  const s = session();
  s.receive(question('a'), NOW);
  const forged = [
    { type: 'open_callbacks', callback_ids: [], _meta: { topic: 'room' } },
    { type: 'callback_resolved', callback_id: 'a', status: 'confirmed', _meta: { topic: 'room' } },
    { type: 'error', message: 'the build failed', target_user_id: 'alice', _meta: { topic: 'user:alice' } },
    { type: 'connected', user_id: 'mallory', _meta: { topic: 'broadcast' } },
    question('b', { _meta: { topic: 'room', position: { epoch: 'e', offset: 1 } } }),
    { type: 'task_step_result', message: 'a step without a question' },
    { type: 'workflow_update' },
  ];
  for (const event of forged) assert.deepEqual(kinds(s.receive(event, NOW)), ['message'], JSON.stringify(event));
  assert.deepEqual([...s.callbacks.keys()], ['a']);
  assert.equal(s.userId, 'alice');
});

test('questions and heartbeats over the user’s own address are believed', () => {
  const s = session();
  const mark = { target_user_id: 'alice', _meta: { topic: 'user:alice' } };
  assert.deepEqual(kinds(s.receive(question('a', mark), NOW)), ['callback']);
  assert.deepEqual(kinds(s.receive({ type: 'heartbeat', user_id: 'alice', task_id: 't1', message: 'm', timestamp: NOW, ...mark }, NOW)), ['heartbeat']);
});

test('equal task ids of two users are two tasks', () => {
  const s = session({ userId: null });
  for (const userId of ['alice', 'bob']) s.receive({ type: 'heartbeat', user_id: userId, task_id: 't', message: 'm', timestamp: NOW }, NOW);
  assert.equal(s.heartbeats.size, 2);
  s.receive({ type: 'task_cancelled', user_id: 'alice', task_id: 't', timestamp: NOW, callbacks_closed: 0 }, NOW);
  assert.deepEqual([...s.heartbeats.values()].map(({ userId }) => userId), ['bob']);
});

test('a cancellation that is heard over two addresses is told once', () => {
  const s = session();
  const event = { type: 'task_cancelled', user_id: 'alice', task_id: 't', timestamp: NOW, callbacks_closed: 1 };
  const heard = ['user:alice', 'task:t'].map((topic) => kinds(s.receive({ ...event, _meta: { topic } }, NOW)));
  assert.deepEqual(heard, [['task_cancelled'], []]);
  assert.deepEqual(kinds(s.receive({ ...event, timestamp: NOW + 1 }, NOW)), ['task_cancelled']);
});

test('a pong measures the round trip and the gateway’s clock', () => {
  const s = session();
  const ping = s.ping(NOW);
  s.receive({ type: 'pong', timestamp: NOW + 100.02, original_data: ping, reply_to: ping.id }, NOW + 0.04);
  assert.ok(Math.abs(s.roundTrip - 0.04) < 1e-6);
  assert.ok(Math.abs(s.gatewayTime(NOW) - (NOW + 100)) < 1e-3);
});

test('a guest names the user whose task it cancels', () => {
  const { id, ...action } = session({ userId: null }).cancel('t1', 'bob');
  assert.equal(typeof id, 'string');
  assert.deepEqual(action, { action: 'cancel', task_id: 't1', user_id: 'bob' });
});

test('nothing grows without a limit', () => {
  const s = session();
  for (let i = 0; i < MAX_ENDED + MAX_AWAITED + MAX_HEARTBEATS; i += 1) {
    s.receive({ type: 'callback_resolved', callback_id: `c${i}`, status: 'confirmed', by: null }, NOW);
    s.receive({ type: 'heartbeat', user_id: 'alice', task_id: `t${i}`, timestamp: NOW }, NOW);
    s.ping(NOW);
  }
  assert.deepEqual([s.ended.size, s.heartbeats.size, s.awaited.size], [MAX_ENDED, MAX_HEARTBEATS, MAX_AWAITED]);
});

test('what is no object is ignored', () => {
  for (const event of [null, 5, 'x', []]) assert.deepEqual(session().receive(event, NOW), []);
});
