-- Publishes a message that has history, or an idempotency key, or both.
--
-- KEYS  1 and 2 of numbering.lua, and with an idempotency key its result
-- ARGV  1 a fresh epoch, 2 channel, 3 message, 4 size of the history (0: none), 5 ttl of the history (ms), 6 digest of the
--       message, 7 retention of the result (ms), and the run
-- Returns {word, position, receivers}: new, repeat, conflict. A position is <epoch>:<offset>, or '' without history.
-- Invariant: offsets of an epoch are given once, in order, and the stream id of a message is its offset. The numbering
-- outlives the history and every result that names a position of it. A repeat publishes nothing.
local channel, message, size, ttl, digest, retention = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])

demand_right_to(channel)
if KEYS[3] then
  -- <digest>|<position>
  local result = redis.call('GET', KEYS[3])
  if result then
    local first, position = result:match('^([^|]*)|(.*)$')
    if first ~= digest then return {'conflict', '', 0} end
    return {'repeat', position, 0}
  end
end

local position = ''
if size > 0 then
  local epoch = redis.call('HGET', KEYS[2], 'epoch')
  redis.call('XLEN', KEYS[1])
  -- A lost numbering is a new epoch too, and ids of the old one would stand in its way.
  if not epoch or not is_of_this_run(epoch) then epoch = begin(epoch, redis.call) end
  local offset = string.format('%.0f', redis.call('HINCRBY', KEYS[2], 'offset', 1))
  redis.call('XADD', KEYS[1], 'MAXLEN', '=', ARGV[4], offset .. '-0', 'm', message)
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
  outlive(KEYS[2], ttl, retention)
  position = epoch .. ':' .. offset
  message = position .. ':' .. message
end
if KEYS[3] then redis.call('SET', KEYS[3], digest .. '|' .. position, 'PX', ARGV[7]) end
return {'new', position, redis.call('PUBLISH', channel, message)}
