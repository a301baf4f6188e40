-- A user's connections, oldest first.
--
-- KEYS  the user's connections
-- ARGV  4 user (escaped), 5 most connections
-- Returns {more, count, connection, since (ms), …}: with more, those of dead nodes are still among them; ask again.
local keys = of(ARGV[4])
local more = purge(keys)
local count = redis.call('ZCARD', keys.connections)
return {more, count, redis.call('ZRANGE', keys.connections, 0, ARGV[5] - 1, 'WITHSCORES')}
