-- Times out what is due in one partition.
--
-- KEYS  the partition's deadlines
-- ARGV  5 most callbacks
-- Returns {timed out, looked at}: as many looked at as asked for means that there may be more.
-- Invariant: any number of nodes may sweep at once; each callback is timed out by one of them.
local due = redis.call('ZRANGE', KEYS[1], '-inf', whole(NOW), 'BYSCORE', 'LIMIT', 0, ARGV[5])
local timed_out = 0
for _, id in ipairs(due) do
  local record = load(id)
  if record and not record.decision then
    -- The record's own deadline decides; an index that disagrees with it is put right.
    if settle(record) then
      timed_out = timed_out + 1
    else
      redis.call('ZADD', KEYS[1], whole(record.deadline), id)
    end
  else
    redis.call('ZREM', KEYS[1], id)
  end
end
return {timed_out, #due}
