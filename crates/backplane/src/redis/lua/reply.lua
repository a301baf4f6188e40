-- Pushes a decision to a reply list.
--
-- KEYS  list
-- ARGV  1 decision, 2 how long the list is kept from now on (ms)
-- Invariant: a list that nobody pops ends on its own.
local length = redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return length
