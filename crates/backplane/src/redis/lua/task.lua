-- What is known of a user's task.
--
-- KEYS  the user's tombstone, everybody's tombstone of that name, the user's pending index
-- ARGV  5 user, 6 task
-- Returns {by ('' if it is not cancelled), what kind of party that is ('' if it is not known), at (ms), id, id, …}: its open
-- callbacks, oldest first.
local cancelled, owner = redis.call('HMGET', KEYS[1], 'by', 'by_kind', 'at'), ARGV[5]
if not cancelled[1] then
  -- Only producers cancel every user's task of a name.
  cancelled, owner = redis.call('HMGET', KEYS[2], 'by', 'by_kind', 'at'), nil
end
local kind = cancelled[1] and (cancelled[2] or kind_by_name(cancelled[1], owner))
local result = {cancelled[1] or '', kind or '', tonumber(cancelled[3] or 0)}
for _, record in ipairs(open_records(ARGV[5])) do
  if record.task == ARGV[6] then result[#result + 1] = record.id end
end
return result
