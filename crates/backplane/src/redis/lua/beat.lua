-- Sends the heartbeats that are due in one partition.
--
-- KEYS  the partition's index of heartbeats
-- ARGV  5 most heartbeats
-- Returns {sent, looked at}: as many looked at as asked for means that there may be more.
-- Invariant: any number of nodes may sweep at once; each beat is sent by one of them. Its next moment is written before it is
-- sent (a full Redis refuses the one and would allow the other), and lies in the future: whoever comes late sends one message,
-- not those that were missed. At its end, and while its task is cancelled, a heartbeat says nothing.
local due = redis.call('ZRANGE', KEYS[1], '-inf', whole(NOW), 'BYSCORE', 'LIMIT', 0, ARGV[5], 'WITHSCORES')
local sent = 0
for at = 1, #due, 2 do
  local member, moment = due[at], tonumber(due[at + 1])
  -- The member is <user>:<task> as in the key of the user's tombstone, and escaped names hold no colon.
  local key = TAG .. ':beat:' .. member
  local beat = redis.call('HMGET', key, 'user', 'interval', 'ends', 'head')
  local interval, ends = tonumber(beat[2] or 0), tonumber(beat[3] or 0)
  if not beat[1] or NOW >= ends then
    redis.call('ZREM', KEYS[1], member)
    redis.call('DEL', key)
  else
    local cancelled = redis.call('EXISTS', TAG .. ':task:' .. member, TAG .. ':tasks:' .. member:match(':(.*)$')) > 0
    redis.call('ZADD', KEYS[1], whole(moment + interval * (math.floor((NOW - moment) / interval) + 1)), member)
    if not cancelled then
      redis.call('PUBLISH', PREFIX .. ':user:' .. beat[1], beat[4] .. ',"timestamp":' .. seconds(NOW) .. '}')
      sent = sent + 1
    end
  end
end
return {sent, #due / 2}
