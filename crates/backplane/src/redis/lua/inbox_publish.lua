-- Publishes what the oldest entries of the inbox say and deletes them, in one step: for a Redis that has the inbox and all
-- addresses. (In a cluster an entry is published under its own name, by publish.lua, and deleted afterwards.)
--
-- KEYS  as inbox.lua, then those of numbering.lua for each address with history, then results of idempotency keys
-- ARGV  1 a fresh epoch, 2 node, 3 how long the lease is renewed for (ms), 4 name of the stream, 5 ids of the entries with a space
--       between, 6 retention of results (ms), 7 addresses with history, for each of them channel, size of the history and
--       its ttl (ms), then the messages, and the run. A message is its channel, or the number of its address among those with
--       history, and its text; before that, if it has an idempotency key: '', which of KEYS its result is, digest of the message.
-- Returns how many of them, counted from the first, are done; or, when not even the first is, why: 'moved' when it is not the
-- oldest entry of that stream (any more) or the node does not hold the lease, 'conflict', or the error of Redis.
-- Invariant: an entry is published if and only if it leaves the stream, and the entries before it with it. So nothing is
-- published twice, whoever stood still with what in hand, and nothing leaves that was not published. Numbers are given as publish.lua gives them.
local retention = ARGV[6]
if not holds_lease(ARGV[2]) or (name_of_stream() or '') ~= ARGV[4] then return 'moved' end
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if not oldest or oldest[1] ~= ARGV[5]:match('^%S+') then return 'moved' end

-- The addresses with history, by their number, each as it is when it has been looked at.
local FIRST, WORDS = 8, 3
local numbered = {}
local function numbered_address(number)
  if numbered[number] then return numbered[number] end
  local at = FIRST + WORDS * (number - 1)
  demand_right_to(ARGV[at])
  on(KEYS[2 * number + 1], KEYS[2 * number + 2])
  local epoch, offset = unpack(redis.call('HMGET', NUMBERING, 'epoch', 'offset'))
  redis.call('XLEN', HISTORY)
  if not epoch or not is_of_this_run(epoch) then epoch, offset = begin(epoch, redis.call), '0' end
  numbered[number] = {
    history = HISTORY, numbering = NUMBERING, channel = ARGV[at], size = ARGV[at + 1], ttl = ARGV[at + 2],
    epoch = epoch, offset = tonumber(offset), before = tonumber(offset),
  }
  return numbered[number]
end

-- Publishes one message. A full Redis refuses what needs room only as long as the script has written nothing; so nothing is
-- written before this, and its result, if it has a key, is the first.
local function publish(to, message, result_key, digest)
  local number = tonumber(to)
  if not number then
    demand_right_to(to)
    if result_key then redis.call('SET', result_key, digest .. '|', 'PX', retention) end
    redis.call('PUBLISH', to, message)
    return
  end
  local address = numbered_address(number)
  local offset = string.format('%.0f', address.offset + 1)
  local position = address.epoch .. ':' .. offset
  if result_key then redis.call('SET', result_key, digest .. '|' .. position, 'PX', retention) end
  redis.call('XADD', address.history, offset .. '-0', 'm', message)
  address.offset = address.offset + 1
  redis.call('PUBLISH', address.channel, position .. ':' .. message)
end

local done, failure = 0, nil
local at, run_at = FIRST + WORDS * tonumber(ARGV[7]), #ARGV
while at < run_at do
  local result_key, digest, first = nil, nil, nil
  if ARGV[at] == '' then
    result_key, digest, at = KEYS[tonumber(ARGV[at + 1])], ARGV[at + 2], at + 3
    local fine, result = pcall(redis.call, 'GET', result_key)
    if not fine then failure = result break end
    -- <digest>|<position>
    first = result and result:match('^[^|]*')
  end
  if first and first ~= digest then failure = 'conflict' break end
  if not first then
    local fine, refused = pcall(publish, ARGV[at], ARGV[at + 1], result_key, digest)
    if not fine then
      -- A result says that its message was published.
      if result_key then redis.call('DEL', result_key) end
      failure = refused
      break
    end
  end
  done, at = done + 1, at + 2
end

for _, address in pairs(numbered) do
  if address.offset > address.before then
    redis.call('HSET', address.numbering, 'offset', string.format('%.0f', address.offset))
    redis.call('XTRIM', address.history, 'MAXLEN', '=', address.size)
    redis.call('PEXPIRE', address.history, address.ttl)
    outlive(address.numbering, address.ttl, retention)
  end
end
if done == 0 then
  if failure == 'conflict' then return failure end
  -- What was raised is Redis's error, or its text.
  return {err = type(failure) == 'table' and failure.err or tostring(failure)}
end

local ids, last = ARGV[5]:gmatch('%S+'), nil
if failure then
  for _ = 1, done do last = ids() end
else
  -- Two numbers of 64 bits have at most 41 characters.
  last = ARGV[5]:sub(-41):match('%S+$')
end
redis.call('XTRIM', KEYS[1], 'MINID', '=', last)
redis.call('XDEL', KEYS[1], last)
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return done
