-- Registers, renews and lets go connections of one node, whose users share a partition.
--
-- KEYS  the connections of one of the users
-- ARGV  4 most connections of a user (0: no limit), 5 how many to hold, 6… three for each of these: user (escaped),
--       connection, age (ms); then two for each that is let go: user (escaped), connection
-- Returns the connections that are to be closed.
-- Invariant: what was told to close stays so, and what is not registered any more comes back only as far as the limit admits.
local most, holds = tonumber(ARGV[4]), tonumber(ARGV[5])
local to_close, users = {}, {}
local function user(name)
  local keys = users[name]
  if not keys then
    keys = of(name)
    users[name] = keys
  end
  return keys
end
for at = 6, 5 + 3 * holds, 3 do user(ARGV[at]) end
for at = 6 + 3 * holds, #ARGV, 2 do user(ARGV[at]) end
for at = 6, 5 + 3 * holds, 3 do
  local keys, connection = user(ARGV[at]), ARGV[at + 1]
  if redis.call('SISMEMBER', keys.closing, connection) == 1 then
    to_close[#to_close + 1] = connection
  elseif most == 0 or redis.call('ZSCORE', keys.leases, connection) then
    hold(keys, connection, tonumber(ARGV[at + 2]))
  else
    purge(keys)
    if redis.call('ZCARD', keys.connections) < most then
      hold(keys, connection, tonumber(ARGV[at + 2]))
    else
      to_close[#to_close + 1] = connection
    end
  end
end
for at = 6 + 3 * holds, #ARGV, 2 do
  local keys, connection = user(ARGV[at]), ARGV[at + 1]
  redis.call('ZREM', keys.leases, connection)
  redis.call('ZREM', keys.connections, connection)
  redis.call('SREM', keys.closing, connection)
end
for _, keys in pairs(users) do purge(keys) end
return to_close
