-- Gives the lease of the inbox back.
--
-- KEYS  lease
-- ARGV  1 node
-- Invariant: nobody gives back what another node holds.
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
