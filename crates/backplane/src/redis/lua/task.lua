-- What is known of a user's task.
--
-- KEYS  the user's tombstone, everybody's tombstone of that name, the user's pending index
-- ARGV  5 user, 6 task
-- Returns {by ('' if it is not cancelled), at (ms), id, id, …}: its open callbacks, oldest first.
local cancelled = redis.call('HMGET', KEYS[1], 'by', 'at')
if not cancelled[1] then cancelled = redis.call('HMGET', KEYS[2], 'by', 'at') end
local result = {cancelled[1] or '', tonumber(cancelled[2] or 0)}
for _, record in ipairs(open_records(ARGV[5])) do
  if record.task == ARGV[6] then result[#result + 1] = record.id end
end
return result
