-- Takes the next entries of the inbox: those that were taken before and are not done, or else new ones.
--
-- KEYS  inbox (stream), lease
-- ARGV  1 node, 2 how long the lease is renewed for (ms), 3 most entries, 4 longest entry (bytes), 5 most bytes
-- Returns {how many wait, id of the newest, {id, length, {field, value, …}}, …}, and {} to a node without the lease.
-- Invariant: only the holder of the lease takes entries, so a node that stood still past its lease cannot get between
-- the next holder and its entries. All holders are one consumer: what one left undone the next one finds pending, in the
-- order of the stream, and before anything new. An inbox that was empty for a minute is no key any more; not at once, because a
-- new stream of the same millisecond would give the id of an entry again, which is its idempotency key.
local GROUP, CONSUMER = 'countersign', 'holder'
local node, ttl, most, longest, budget = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
if redis.call('GET', KEYS[2]) ~= node then return {} end

-- One entry at a time: how long it is shows only when it is there.
local function take(after)
  return redis.pcall('XREADGROUP', 'GROUP', GROUP, CONSUMER, 'COUNT', 1, 'STREAMS', KEYS[1], after)
end

redis.call('PEXPIRE', KEYS[2], ttl)
if redis.call('EXISTS', KEYS[1]) == 0 then return {0, '0-0'} end
local pending = take('0')
if pending and pending.err then
  if not pending.err:find('^NOGROUP') then return pending end
  redis.call('XGROUP', 'CREATE', KEYS[1], GROUP, '0')
  pending = take('0')
end

local function add(entries, found)
  local id, fields = found[1], found[2]
  if not fields then
    -- Somebody has deleted it.
    redis.call('XACK', KEYS[1], GROUP, id)
    return 0
  end
  local length = 0
  for _, text in ipairs(fields) do length = length + #text end
  if length > longest then fields = {} end
  entries[#entries + 1] = {id, length, fields}
  return math.min(length, longest)
end

-- A stream without new entries is no stream in the answer.
local function first(answer) return answer and not answer.err and answer[1] and answer[1][2][1] end

local entries, bytes = {}, 0
local found = first(pending)
while found and #entries < most and bytes < budget do
  bytes = bytes + add(entries, found)
  found = first(take(found[1]))
end
if #entries == 0 then
  found = first(take('>'))
  while found do
    bytes = bytes + add(entries, found)
    if #entries >= most or bytes >= budget then break end
    found = first(take('>'))
  end
end

if redis.call('XLEN', KEYS[1]) == 0 then
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for at = 1, #info, 2 do
    local second = info[at] == 'last-generated-id' and tonumber(info[at + 1]:match('^%d+')) / 1000
    if second and redis.call('TIME')[1] - second > 60 then redis.call('DEL', KEYS[1]) end
  end
end

local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local result = {redis.call('XLEN', KEYS[1]), newest and newest[1] or '0-0'}
for _, entry in ipairs(entries) do result[#result + 1] = entry end
return result
