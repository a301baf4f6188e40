-- Says that a node is there.
--
-- KEYS  the node's status, the index of nodes
-- ARGV  1 node id, 2 status, 3 ttl (ms)
-- Invariant: a node that stops announcing is gone from both after its ttl.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local ends = now + tonumber(ARGV[3])
redis.call('ZCARD', KEYS[2])
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now))
redis.call('ZADD', KEYS[2], string.format('%.0f', ends), ARGV[1])
if redis.call('PEXPIRETIME', KEYS[2]) < ends then redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', ends)) end
return 1
