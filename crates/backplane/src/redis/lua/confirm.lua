-- Answers a callback.
--
-- KEYS  record
-- ARGV  5 id, 6 user ('' for a guest, who finds every callback), 7 by (JSON), 8 judged (1 or 0), 9 status, 10 proceed,
--       11 feedback, 12 choice, 13 data (JSON texts), 14 the answer's name,
--       15 connection ('' for none), 16 node, 17 1 if it cannot be taken before it is judged, whatever the question is
-- Returns {word, now, decision or record}: accepted, resolved, none, judge.
-- Invariant: whether the question is this user's is compared before anything else, so that another's id is answered as an
-- unknown one is, at the same cost. Only the addressed user decides, once; the winner's repeat (same person, same name, same answer) hears its own
-- decision.
local id, user, by, judged, name = ARGV[5], ARGV[6], ARGV[7], ARGV[8] == '1', ARGV[14]
local kind = user == '' and 'guest' or 'user'
local record = load(id)
if not record or (user ~= '' and user ~= record.user) then return {'none', NOW} end
settle(record)
local answer = {feedback = ARGV[11], choice = ARGV[12], data = ARGV[13], connection = ARGV[15], node = ARGV[16]}
if record.decision then
  local function without_time(text) return text:match('^(.*),"at":[%d.]+}$') end
  local status, proceed = ARGV[9], ARGV[10]
  -- What an answer to options means was judged the first time.
  if not record.plain and not judged then status, proceed = record.decision:match('"status":"(%l+)","proceed":(%l+)') end
  local same = record.answer == name
    and without_time(decision(id, status, proceed, 'user', by, answer)) == without_time(record.decision)
  return {same and 'accepted' or 'resolved', NOW, told_decision(record)}
end
if (not record.plain or ARGV[17] == '1') and not judged then
  record.message = redis.call('HGET', KEYS[1], 'message')
  return {'judge', NOW, told(record)}
end
finish(record, ARGV[9], ARGV[10], 'user', by, kind, name, answer)
return {'accepted', NOW, told_decision(record)}
