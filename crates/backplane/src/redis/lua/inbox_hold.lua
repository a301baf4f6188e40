-- Takes the lease of the inbox, or renews it.
--
-- KEYS  lease
-- ARGV  1 node, 2 how long it holds (ms)
-- Returns 1 if the node holds it now, or else 0.
-- Invariant: one node holds it at a time, and only the holder renews it.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
