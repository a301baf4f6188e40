-- Registers a connection that comes, if the limit admits it.
--
-- KEYS  the user's connections
-- ARGV  4 user (escaped), 5 connection, 6 most connections (0: no limit), 7 what one more does: replace or refuse
-- Returns {word, replaced}: admitted, refused, or more (connections of dead nodes are still counted: ask again).
-- Invariant: of any number that come at once, on any nodes, no more than the limit are registered.
local keys, connection, most = of(ARGV[4]), ARGV[5], tonumber(ARGV[6])
if purge(keys) == 1 then return {'more', 0} end
local replaced = {}
if most > 0 and not redis.call('ZSCORE', keys.leases, connection) then
  local count = redis.call('ZCARD', keys.connections)
  if count >= most then
    if ARGV[7] == 'refuse' then return {'refused', 0} end
    replaced = redis.call('ZRANGE', keys.connections, 0, math.min(count - most, MOST - 1))
    close(keys, replaced)
    if count - #replaced >= most then return {'more', 0} end
  end
end
hold(keys, connection, 0)
return {'admitted', #replaced}
