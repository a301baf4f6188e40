-- Cancels one user's task: tombstone, end of its open callbacks, notice.
--
-- KEYS  tombstone, the user's pending index, the partition's deadlines, the index of the tombstones that count for whom this
--       cancellation is by
-- ARGV  5 user, 6 task, 7 by, 8 retention of the tombstone (ms), 9 the name of this cancellation,
--       10 what kind of party it is by, 11 most tombstones that count, 12 member of that index
-- Returns {at (ms), callbacks closed}, or {'full'}.
-- Invariant: from here on no callback of this task asks anybody until the tombstone ends or is lifted; the repeat of
-- the same cancellation changes and tells nothing. A person can name any task, so a person's tombstones that closed nothing count,
-- and are limited; a refusal has written no tombstone.
local user, task, by, retention, name = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local before = redis.call('HMGET', KEYS[1], 'name', 'at', 'closed')
if before[1] == name then return {tonumber(before[2]), tonumber(before[3])} end
redis.call('ZCARD', KEYS[3])
local counting = redis.call('ZCOUNT', KEYS[4], '(' .. whole(NOW), '+inf')

local closing = {}
for _, record in ipairs(open_records(user)) do
  if record.task == task then closing[#closing + 1] = record end
end
local counts = ARGV[10] ~= 'producer' and #closing == 0
-- A task that is cancelled already needs no more room.
if counts and not before[1] and counting >= tonumber(ARGV[11]) then return {'full'} end

local closed = 0
for _, record in ipairs(closing) do
  finish(record, 'cancelled', 'false', 'cancelled', cjson.encode(by), ARGV[10], '')
  closed = closed + 1
end
redis.call('HSET', KEYS[1], 'by', by, 'by_kind', ARGV[10], 'at', whole(NOW), 'name', name, 'closed', closed)
redis.call('PEXPIRE', KEYS[1], retention)
if counts then
  local ends = NOW + tonumber(retention)
  redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', whole(NOW))
  redis.call('ZADD', KEYS[4], whole(ends), ARGV[12])
  keep_until(KEYS[4], ends)
end
local event = '{"type":"task_cancelled","user_id":' .. cjson.encode(user) .. ',"task_id":' .. cjson.encode(task)
  .. ',"timestamp":' .. seconds(NOW) .. ',"callbacks_closed":' .. closed .. '}'
tell(user, event)
-- A right to topics may be missing; where nobody can be told, nobody listens.
redis.pcall('PUBLISH', PREFIX .. ':topic:task:' .. task, event)
redis.call('PUBLISH', PREFIX .. ':cancelled', event)
return {NOW, closed}
