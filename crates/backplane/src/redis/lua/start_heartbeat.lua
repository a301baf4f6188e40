-- Starts a heartbeat, or replaces the one of the same task.
--
-- KEYS  the partition's index of heartbeats, record
-- ARGV  5 member of the index (<user>:<task>, escaped), 6 user, 7 interval (ms), 8 ttl (ms), 9 head of the message
-- Returns the end (ms).
-- Invariant: a heartbeat that is started again with the same interval keeps its time; else a worker that renews it more
-- often than it beats would never be heard.
local member, user, interval, ttl, head = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9]
local before = redis.call('HGET', KEYS[2], 'interval')
local moment = redis.call('ZSCORE', KEYS[1], member)
if not (moment and before == interval) then moment = whole(NOW + tonumber(interval)) end
local ends = NOW + ttl
redis.call('HSET', KEYS[2], 'user', user, 'interval', interval, 'ends', whole(ends), 'head', head)
redis.call('PEXPIREAT', KEYS[2], whole(ends))
redis.call('ZADD', KEYS[1], moment, member)
keep_until(KEYS[1], ends + MARGIN)
return ends
