-- What the verbs of presence share; put before each verb's own text, so that it is one script to Redis.
--
-- KEYS  the topic's places (sorted set of <node>:<user> by the end of their lease, ms), its members (hash of user to how many
--       nodes hold a place for it)
-- ARGV  1 channel, 2 topic as JSON, 3 most expired places that one run gives up
--
-- Invariant: a user's number in the members is that of its places; joined is told when it becomes 1, left when it was. The
-- node's name in a place is escaped and holds no colon.
local CHANNEL, TOPIC, MOST = ARGV[1], ARGV[2], tonumber(ARGV[3])
local clock = redis.call('TIME')
local NOW = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- What another version wrote there is found before the first write.
redis.call('ZCARD', KEYS[1])
redis.call('HLEN', KEYS[2])
-- And that the topic's changes may be told: rights to topics may be narrower than those to all else.
if not redis.acl_check_cmd('PUBLISH', CHANNEL, '') then error({err = 'NOPERM no right to publish to this channel'}) end
local joined, left = 0, 0

local function whole(ms) return string.format('%.0f', ms) end

local function tell(word, user)
  redis.call('PUBLISH', CHANNEL, '{"type":"' .. word .. '","topic":' .. TOPIC .. ',"user_id":' .. cjson.encode(user)
    .. ',"timestamp":' .. string.format('%.3f', NOW / 1000) .. '}')
end

-- A user has a place less.
local function one_less(user)
  if redis.call('HINCRBY', KEYS[2], user, -1) > 0 then return end
  redis.call('HDEL', KEYS[2], user)
  tell('left', user)
  left = left + 1
end

-- Gives up what has expired, at most so much that others are not kept waiting. Whether there is more.
local function purge()
  local expired = redis.call('ZRANGE', KEYS[1], '-inf', whole(NOW), 'BYSCORE', 'LIMIT', 0, MOST)
  for _, place in ipairs(expired) do
    redis.call('ZREM', KEYS[1], place)
    one_less(place:match('^[^:]*:(.*)$'))
  end
  return #expired == MOST and 1 or 0
end
