-- What the verbs of connections share; put before each verb's own text, so that it is one script to Redis.
--
-- ARGV  1 the partition's tag (cs:{p07}), 2 the prefix of channels (cs), 3 lease (ms). Every key is one of the tag's; a user's
--       are its connections (sorted set by the time of coming, ms), their leases (the same by the end of the lease) and those
--       that were told to close (set). A connection is <node>:<id> there, and the node's name is escaped and holds no colon.
--
-- Invariant: a connection has a lease as long as it is registered. One that was told to close is registered no more, and is
-- not registered again.
local TAG, PREFIX, LEASE = ARGV[1], ARGV[2], tonumber(ARGV[3])
local clock = redis.call('TIME')
local NOW = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- Connections of one user that one run closes, or forgets because their lease has ended.
local MOST = 500

local function whole(ms) return string.format('%.0f', ms) end

-- The keys of a user, whose name comes escaped; what another version wrote there is found before the first write.
local function of(user)
  local keys = {connections = TAG .. ':conns:' .. user, leases = TAG .. ':leases:' .. user, closing = TAG .. ':closing:' .. user}
  redis.call('ZCARD', keys.connections)
  redis.call('ZCARD', keys.leases)
  redis.call('SCARD', keys.closing)
  return keys
end

local function keep(key)
  local ends = NOW + 2 * LEASE
  if redis.call('PEXPIRETIME', key) < ends then redis.call('PEXPIREAT', key, whole(ends)) end
end

-- Forgets what has expired. Whether there is more.
local function purge(keys)
  local expired = redis.call('ZRANGE', keys.leases, '-inf', whole(NOW), 'BYSCORE', 'LIMIT', 0, MOST)
  if #expired > 0 then
    redis.call('ZREM', keys.leases, unpack(expired))
    redis.call('ZREM', keys.connections, unpack(expired))
  end
  return #expired == MOST and 1 or 0
end

local function hold(keys, connection, age)
  redis.call('ZADD', keys.leases, whole(NOW + LEASE), connection)
  redis.call('ZADD', keys.connections, 'NX', whole(NOW - age), connection)
  keep(keys.leases)
  keep(keys.connections)
end

-- Tells the nodes of these connections to close them. The order is a record too, because nobody may hear it.
local function close(keys, connections)
  if #connections == 0 then return end
  redis.call('SADD', keys.closing, unpack(connections))
  keep(keys.closing)
  redis.call('ZREM', keys.leases, unpack(connections))
  redis.call('ZREM', keys.connections, unpack(connections))
  for _, connection in ipairs(connections) do
    local node, id = connection:match('^([^:]*):(.*)$')
    node = node:gsub('%%(%x%x)', function(hex) return string.char(tonumber(hex, 16)) end)
    redis.call('PUBLISH', PREFIX .. ':node:' .. node, '{"type":"close","connection_id":' .. cjson.encode(id) .. '}')
  end
end
