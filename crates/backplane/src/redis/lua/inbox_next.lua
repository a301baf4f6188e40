-- Tells the oldest entries of the inbox, or those after one that was told before. They stay where they are until they are done.
--
-- KEYS  as inbox.lua
-- ARGV  1 node, 2 how long the lease is renewed for (ms), 3 after which id ('' from the beginning), 4 most entries, 5 longest
--       entry (bytes), 6 most bytes, 7 a fresh name for the stream
-- Returns {how many wait, name of the stream, {id, {field, value, …}}, …}, and {} to a node without the lease. An entry that is
-- too long is {id, length, {beginning of a field, beginning of its value, …}}: who waits for its reply is told that it is refused.
-- Invariant: only the holder of the lease is told entries, in the order of the stream. An inbox that was empty for a minute is
-- no key any more; not at once, as it would be made and named again for every entry of a slow producer.
local node, ttl, after = ARGV[1], ARGV[2], ARGV[3]
local most, longest, budget = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if not holds_lease(node) then return {} end
redis.call('PEXPIRE', KEYS[2], ttl)

-- How many are read at once, as how long they are shows only when they are there: twice as many as before, while they would
-- fit if all were as long as the longest of those; at most 32, as the next may all be of a megabyte.
local MOST_AT_ONCE = 32
-- Of an entry that is too long.
local MOST_FIELDS, BEGINNING = 16, 1024
local result, told, bytes = {0, ''}, 0, 0
local from, at_once = after == '' and '-' or '(' .. after, 1
while told < most and bytes < budget do
  local count = math.min(at_once, most - told)
  local found, largest = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', count), 1
  for _, entry in ipairs(found) do
    local length = 0
    for _, text in ipairs(entry[2]) do length = length + #text end
    if length > longest then
      entry[3] = {}
      for at = 1, math.min(#entry[2], 2 * MOST_FIELDS) do entry[3][at] = entry[2][at]:sub(1, BEGINNING) end
      entry[2] = length
    end
    told = told + 1
    result[2 + told] = entry
    largest = math.max(largest, length)
    bytes = bytes + math.min(length, longest)
    if bytes >= budget then break end
  end
  if #found < count then break end
  from = '(' .. found[count][1]
  at_once = math.max(1, math.min(2 * at_once, MOST_AT_ONCE, math.floor((budget - bytes) / largest)))
end

local name = name_of_stream()
if told > 0 and not name then
  name = NAMED .. ARGV[7]
  -- Where a full Redis refuses this, nobody can add to the stream either, and it does without a name.
  local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], name, '0')
  if made.err then name = nil end
elseif told == 0 and after == '' and name then
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for at = 1, #info, 2 do
    local second = info[at] == 'last-generated-id' and tonumber(info[at + 1]:match('^%d+')) / 1000
    if second and redis.call('TIME')[1] - second > 60 then redis.call('DEL', KEYS[1]) end
  end
end

result[1], result[2] = redis.call('XLEN', KEYS[1]), name or ''
return result
