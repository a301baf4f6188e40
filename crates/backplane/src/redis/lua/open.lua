-- Opens a callback: record, pending index, deadline index, idempotency result and publication.
--
-- KEYS  record, the user's pending index, the partition's deadlines, the user's task tombstone, everybody's task
--       tombstone of that name, and (with an idempotency key) its result
-- ARGV  5 id, 6 user, 7 task, 8 head of the message, 9 timeout (ms), 10 on_timeout, 11 plain (1 or 0), 12 most open
--       callbacks of one user, 13 idempotency key ('' for none), 14 digest of the body, 15 reply list ('' for none), 16 node
-- Returns {word, now, record or number}: new, old (the id or the key came before), conflict, full.
-- Invariant: what a person sees is already recorded, indexed and due; a refusal has written nothing.
local id, user, task, head, timeout, on_timeout, plain, most, key, digest =
  ARGV[5], ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9]), ARGV[10], ARGV[11], tonumber(ARGV[12]), ARGV[13], ARGV[14]
local keyed = key ~= ''
local reply_to = ARGV[15] ~= '' and ARGV[15]
-- However long the digest is, 128 bits of it tell bodies apart.
digest = redis.sha1hex(digest):sub(1, 32)

local function old(record)
  settle(record)
  return {'old', NOW, told(record)}
end

local before = load(id, true)
if before then return old(before) end
if keyed then
  -- <id>|<digest>, and an id has 35 characters.
  local result = redis.call('GET', KEYS[6])
  if result then
    if result:sub(37) ~= digest then return {'conflict', NOW} end
    before = load(result:sub(1, 35), true)
    if before then return old(before) end
  end
end

local tombstone, owner = redis.call('HMGET', KEYS[4], 'by', 'by_kind'), user
if not tombstone[1] then
  -- Only producers cancel every user's task of a name.
  tombstone, owner = redis.call('HMGET', KEYS[5], 'by', 'by_kind'), nil
end
local open = redis.call('ZCARD', KEYS[2])
redis.call('ZCARD', KEYS[3])
if reply_to then redis.call('ZCARD', REPLIES) end

local deadline = NOW + timeout
local record = {
  id = id, user = user, task = task, key = keyed and key, via = ARGV[16], delivered = '', asked = NOW,
  terms = whole(NOW) .. ' ' .. whole(deadline) .. ' ' .. on_timeout .. ' ' .. plain,
  reply_to = reply_to, message = head .. ',"deadline":' .. seconds(deadline) .. ',"timestamp":' .. seconds(NOW) .. '}',
}

local function write(ends)
  redis.call('HSET', KEYS[1], 'about', about(record), 'message', record.message)
  if reply_to then redis.call('HSET', KEYS[1], 'reply_to', reply_to) end
  if keyed then redis.call('SET', KEYS[6], id .. '|' .. digest, 'PXAT', whole(ends)) end
  redis.call('PEXPIREAT', KEYS[1], whole(ends))
end

if tombstone[1] then
  local by = cjson.encode(tombstone[1])
  record.decision, record.answer = decision(id, 'cancelled', 'false', 'cancelled', by), ''
  record.by_kind = tombstone[2] or kind_by_name(tombstone[1], owner)
  write(NOW + RETENTION)
  if nameless(by) and record.by_kind then redis.call('HSET', KEYS[1], 'by_kind', record.by_kind) end
  redis.call('HSET', KEYS[1], 'decision', record.decision, 'answer', '')
  owe(record)
  return {'new', NOW, told(record)}
end

if open >= most then
  open = #open_records(user)
  if open >= most then return {'full', NOW, open} end
end

-- The pending index is ordered by the time of asking; two of one millisecond, or of a clock that went back, keep their
-- order by thousandths.
local newest = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')[2]
local turn = math.max(NOW, newest and tonumber(newest) + 0.001 or 0)
local ends = deadline + RETENTION + MARGIN
write(ends)
redis.call('ZADD', KEYS[2], string.format('%.3f', turn), id)
redis.call('ZADD', KEYS[3], whole(deadline), id)
keep_until(KEYS[2], ends)
keep_until(KEYS[3], ends)
if tell(user, record.message) > 0 then delivered(record) end
return {'new', NOW, told(record)}
