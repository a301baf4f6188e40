-- Cancels every user's task of one name, in one partition: tombstone for all users, end of the open callbacks, a notice for
-- each user who had one.
--
-- KEYS  everybody's tombstone of that name, the partition's deadlines
-- ARGV  5 task, 6 by, 7 retention of the tombstone (ms), 8 the name of this cancellation, 9 what kind of party
--       it is by
-- Returns {at (ms), user, closed, user, closed, …}.
-- Invariant: as of cancel_task, for each user of the partition. Every open callback is in the deadline index.
local task, by, retention, name = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local before = redis.call('HMGET', KEYS[1], 'name', 'at', 'closed')
if before[1] == name then
  local again = cjson.decode(before[3])
  table.insert(again, 1, tonumber(before[2]))
  return again
end

local users, closed = {}, {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  local record = load(id)
  if record and record.task == task and not record.decision and not settle(record) then
    finish(record, 'cancelled', 'false', 'cancelled', cjson.encode(by), ARGV[9], '')
    if not closed[record.user] then
      users[#users + 1] = record.user
      closed[record.user] = 0
    end
    closed[record.user] = closed[record.user] + 1
  end
end

local result = {}
for _, user in ipairs(users) do
  result[#result + 1] = user
  result[#result + 1] = closed[user]
end
redis.call('HSET', KEYS[1], 'by', by, 'by_kind', ARGV[9], 'at', whole(NOW), 'name', name, 'closed',
  #result > 0 and cjson.encode(result) or '[]')
redis.call('PEXPIRE', KEYS[1], retention)
for _, user in ipairs(users) do
  local event = '{"type":"task_cancelled","user_id":' .. cjson.encode(user) .. ',"task_id":' .. cjson.encode(task)
    .. ',"timestamp":' .. seconds(NOW) .. ',"callbacks_closed":' .. closed[user] .. '}'
  tell(user, event)
  redis.pcall('PUBLISH', PREFIX .. ':topic:task:' .. task, event)
  redis.call('PUBLISH', PREFIX .. ':cancelled', event)
end
table.insert(result, 1, NOW)
return result
