-- Opens the receipt of a message that wants to be acknowledged, or finds the one that the same id or key opened before.
--
-- KEYS  receipt, and (with an idempotency key) its result
-- ARGV  5 id, 6 user, 7 retention (ms), 8 digest of the message ('' without a key)
-- Returns {word, id, fields and values of the receipt}: new, old, conflict.
local id, user, retention = ARGV[5], ARGV[6], ARGV[7]
-- However long the digest is, 128 bits of it tell messages apart.
local digest = redis.sha1hex(ARGV[8]):sub(1, 32)

local before = redis.call('HGETALL', KEYS[1])
if #before > 0 then return {'old', id, before} end
if KEYS[2] then
  -- <id>|<digest>, and an id has 35 characters.
  local result = redis.call('GET', KEYS[2])
  if result then
    if result:sub(37) ~= digest then return {'conflict', id, {}} end
    local first = result:sub(1, 35)
    before = redis.call('HGETALL', TAG .. ':receipt:' .. first)
    if #before > 0 then return {'old', first, before} end
  end
end

redis.call('HSET', KEYS[1], 'user', user, 'queued', whole(NOW))
redis.call('PEXPIRE', KEYS[1], retention)
if KEYS[2] then redis.call('SET', KEYS[2], id .. '|' .. digest, 'PX', retention) end
return {'new', id, redis.call('HGETALL', KEYS[1])}
