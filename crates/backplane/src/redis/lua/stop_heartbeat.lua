-- Stops a heartbeat.
--
-- KEYS  the partition's index of heartbeats, record
-- ARGV  5 member of the index
-- Returns 1 if there was one, else 0.
redis.call('ZREM', KEYS[1], ARGV[5])
return redis.call('DEL', KEYS[2])
