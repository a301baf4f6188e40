-- Claims what is left in a partition's reply outbox.
--
-- KEYS  reply outbox
-- ARGV  5 most replies, 6 for how long a reply is left to whoever decided or claimed it (ms)
-- Returns {{id, list, decision}, …}.
-- Invariant: a reply stays in the outbox until it was pushed, or its record has ended; of nodes that sweep at the same time
-- one pushes it.
local claimed = {}
local late = whole(NOW - tonumber(ARGV[6]))
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', late, 'BYSCORE', 'LIMIT', 0, ARGV[5])) do
  local record = load(id)
  if record and record.decision and record.reply_to then
    redis.call('ZADD', KEYS[1], whole(NOW), id)
    claimed[#claimed + 1] = {id, record.reply_to, told_decision(record)}
  else
    redis.call('ZREM', KEYS[1], id)
  end
end
return claimed
