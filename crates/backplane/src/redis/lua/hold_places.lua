-- Takes, renews and gives up places of one node in a topic, and gives up what has expired there.
--
-- ARGV  4 lease (ms), 5 node (escaped), 6 how many users to hold a place for, 7… these users, then those to let go
-- Returns {more, joined, left}: with more, another run finds more that has expired.
-- Invariant: what is renewed is renewed before anything expires, so a late renewal that nobody was told of changes nothing.
-- The keys outlive the last lease by another one, so that whoever looks after the topic tells who has left.
local lease, node, holds = tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
for at = 7, 6 + holds do
  if redis.call('ZADD', KEYS[1], whole(NOW + lease), node .. ':' .. ARGV[at]) == 1
    and redis.call('HINCRBY', KEYS[2], ARGV[at], 1) == 1 then
    tell('joined', ARGV[at])
    joined = joined + 1
  end
end
for at = 7 + holds, #ARGV do
  if redis.call('ZREM', KEYS[1], node .. ':' .. ARGV[at]) == 1 then one_less(ARGV[at]) end
end
local more = purge()
if holds > 0 then
  local ends = NOW + 2 * lease
  for at = 1, 2 do
    if redis.call('PEXPIRETIME', KEYS[at]) < ends then redis.call('PEXPIREAT', KEYS[at], whole(ends)) end
  end
end
return {more, joined, left}
