-- What the verbs of numbered addresses share; put before each verb's own text, so that it is one script to Redis.
--
-- KEYS[1..2] are the same for all of them that are about one address: history (stream), numbering (hash); a verb that is about
-- several says which one it is on. What was left of the numbering before this one (stream) is named after them and nearly
-- always absent: among KEYS it would make Redis Cluster refuse every step while the slot moves (TRYAGAIN). ARGV[1] is a fresh epoch. The last of ARGV is the run of the server as the connection knows it ('': unknown), which
-- the lane adds.
--
-- A run is one life of one server as a master: it ends with its process, and with its being a replica. What a master has
-- acknowledged may be unknown to the next run (a crash before fsync, a failover before replication), and numbers that were
-- given would be given again. So a numbering belongs to the run under which it began: an epoch begins with the run's name.
-- Invariant: no position is given twice, whatever a Redis has lost.
local HISTORY, NUMBERING, BEFORE
local function on(history, numbering)
  HISTORY, NUMBERING, BEFORE = history, numbering, (numbering:gsub(':meta$', ':before'))
end
on(KEYS[1], KEYS[2])
local RUN, RUN_LENGTH = ARGV[#ARGV], 8

-- Raises now what Redis would raise after the first write: rights to topics may be narrower than those to all else.
local function demand_right_to(channel)
  if not redis.acl_check_cmd('PUBLISH', channel, '') then error({err = 'NOPERM no right to publish to this channel'}) end
end

-- The run of this server, as `run.rs` reads it from the same answer; '' where INFO is forbidden.
local function running()
  local info = redis.pcall('INFO', 'server', 'replication')
  if type(info) ~= 'string' then return '' end
  local process, replication = info:match('run_id:(%x%x%x%x%x%x%x%x)'), info:match('master_replid:(%x%x%x%x%x%x%x%x)')
  if not process or not replication then return '' end
  return bit.tohex(bit.bxor(tonumber(process, 16), tonumber(replication, 16)))
end

local function is_of_this_run(epoch)
  if RUN == '' or epoch:sub(1, RUN_LENGTH) == RUN then return true end
  -- The connection may be older than the run; only the server itself knows. Seldom, as INFO is as dear as the verb.
  local now = running()
  if now ~= '' then RUN = now end
  return epoch:sub(1, RUN_LENGTH) == RUN
end

-- Begins a numbering and puts aside what is left of `before`, if there was one; the new epoch, or nil when Redis refuses to
-- write. The HSET is first, because a full Redis refuses it; after a DEL it would let the rest pass.
local function begin(before, set)
  local epoch = RUN .. ARGV[1]:sub(#RUN + 1)
  local answer = set('HSET', NUMBERING, 'epoch', epoch, 'offset', 0, 'before', before or '')
  if type(answer) == 'table' and answer.err then return nil end
  redis.call('DEL', BEFORE)
  if before then
    -- Not RENAME: a command on two keys, of which one is missing, is refused while the slot moves. It is at most one history.
    for _, entry in ipairs(redis.call('XRANGE', HISTORY, '-', '+')) do
      redis.call('XADD', BEFORE, entry[1], unpack(entry[2]))
    end
    local ends = redis.call('PEXPIRETIME', HISTORY)
    if ends > 0 then redis.call('PEXPIREAT', BEFORE, string.format('%.0f', ends)) end
  end
  redis.call('DEL', HISTORY)
  return epoch
end

-- Epoch, newest offset (text) and epoch before, for whoever only reads; nil without numbering. A full Redis is read as it is.
local function current()
  local numbering = redis.call('HMGET', NUMBERING, 'epoch', 'offset', 'before')
  local epoch, offset, before = numbering[1], numbering[2], numbering[3] or ''
  if not epoch then return nil end
  if is_of_this_run(epoch) then return epoch, offset, before end
  local new = begin(epoch, redis.pcall)
  if new then return new, '0', epoch end
  return epoch, offset, before, 'refused'
end

-- Lets the numbering outlive the history, and every result that names a position of it.
local function outlive(numbering, ttl, retention)
  local clock = redis.call('TIME')
  local ends = clock[1] * 1000 + math.floor(clock[2] / 1000) + ttl + math.max(ttl, retention)
  if redis.call('PEXPIRETIME', numbering) < ends then redis.call('PEXPIREAT', numbering, string.format('%.0f', ends)) end
end
