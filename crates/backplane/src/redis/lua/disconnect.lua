-- Tells the nodes of a user's connections to close them.
--
-- KEYS  the user's connections
-- ARGV  4 user (escaped), 5 the id of the only one to be closed (absent: all are)
-- Returns {more, closed}: with more, ask again.
local keys = of(ARGV[4])
if purge(keys) == 1 then return {1, 0} end
if ARGV[5] then
  for _, connection in ipairs(redis.call('ZRANGE', keys.connections, 0, -1)) do
    if connection:match('^[^:]*:(.*)$') == ARGV[5] then
      close(keys, {connection})
      return {0, 1}
    end
  end
  return {0, 0}
end
local connections = redis.call('ZRANGE', keys.connections, 0, MOST - 1)
close(keys, connections)
return {#connections == MOST and 1 or 0, #connections}
