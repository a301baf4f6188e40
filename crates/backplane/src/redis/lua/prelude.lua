-- What the verbs of callbacks share; put before each verb's own text, so that it is one script to Redis.
--
-- ARGV[1..4] are the same for all of them: the partition's tag (cs:{p07}), the prefix of channels (cs), 1 if guests hear
-- too, and how long an ended record is kept, in ms. Every key is one of the tag's.
--
-- Invariant: Redis does not roll back, so a verb reads all that it may stumble over (types, existence, deadline, limits)
-- before its first write. Redis TIME is asked once, first: one run of a script has one now.
local TAG, PREFIX, GUESTS, RETENTION = ARGV[1], ARGV[2], ARGV[3] == '1', tonumber(ARGV[4])
local clock = redis.call('TIME')
local NOW = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- How long a record that nobody looked at outlives the moment when it could have been forgotten: an hour.
local MARGIN = 3600000
local DEADLINES = TAG .. ':deadlines'
local REPLIES = TAG .. ':replies'

-- A user-supplied name as a part of a key: the same function as `escape` of keys.rs.
local function escape(name)
  return (name:gsub('[^A-Za-z0-9._~@-]', function(char) return string.format('%%%02X', char:byte()) end))
end

local function record_key(id) return TAG .. ':cb:' .. id end
local function pending_key(user) return TAG .. ':open:' .. escape(user) end
local function result_key(user, key) return TAG .. ':idem:' .. escape(user) .. ':' .. escape(key) end

-- Milliseconds as the decimal text of a whole number, and as seconds.
local function whole(ms) return string.format('%.0f', ms) end
local function seconds(ms) return string.format('%.3f', ms / 1000) end

-- Puts the end of a key's life off to `at` (ms), and never brings it forward.
local function keep_until(key, at)
  if redis.call('PEXPIRETIME', key) < at then redis.call('PEXPIREAT', key, whole(at)) end
end

-- A record, or nil. Its message only if asked for: it may be a megabyte. What does not change is one field, because every
-- field costs Redis some 70 bytes: terms, user, task, key ('' for none), the node that asked, and how long after asking it
-- was first delivered (ms, '' for not yet) in lines, as none of them holds a line end. The answer is the person's connection,
-- its node, and the answer's name, in lines too; the name is the last, as it may hold anything.
local function load(id, with_message)
  local f = redis.call('HMGET', record_key(id), 'about', 'decision', 'answer', 'reply_to', 'by_kind')
  if not f[1] then return nil end
  local terms, user, task, key, via, delivered =
    f[1]:match('^([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)$')
  local asked, deadline, on_timeout, plain = (terms or ''):match('^(%d+) (%d+) (%l+) ([01])$')
  if not asked then error({err = 'UNREADABLE the record of a callback is of another version'}) end
  local connection, node, name = (f[3] or ''):match('^([^\n]*)\n([^\n]*)\n(.*)$')
  local record = {
    id = id, user = user, task = task, terms = terms, key = key ~= '' and key, via = via, delivered = delivered,
    decision = f[2], answer = name or '', connection = connection or '', node = node or '', asked = tonumber(asked),
    deadline = tonumber(deadline), on_timeout = on_timeout, plain = plain == '1', reply_to = f[4],
    by_kind = f[5],
  }
  if with_message then record.message = redis.call('HGET', record_key(id), 'message') end
  return record
end

-- What does not change of a record, but for its first delivery.
local function about(record)
  return table.concat({record.terms, record.user, record.task, record.key or '', record.via, record.delivered}, '\n')
end

-- Notes that a node with a connection of the user has the question; only the first time counts. A full Redis refuses the
-- note, and the question is shown all the same.
local function delivered(record)
  if record.delivered ~= '' then return end
  record.delivered = whole(math.max(NOW - record.asked, 0))
  redis.pcall('HSET', record_key(record.id), 'about', about(record))
end

-- A user may be called as those are who have no name, so what kind of party a `by` names is a fact of its own. It is kept
-- in a field `by_kind` only where the name does not say it. Records of 0.1 have no such field; for them it is what is
-- certain, or nil.
local NAMELESS = {producer = true, guest = true}
local function nameless(by) return NAMELESS[by:match('^"(%l+)"$')] end

-- Of somebody who did something to what is `owner`'s: only the owner, a guest and a producer may.
local function kind_by_name(name, owner)
  if not NAMELESS[name] then return 'user' end
  if name ~= owner then return name end
end

-- The kind of who ended a record, as JSON.
local function by_kind(record)
  local kind = record.by_kind
  if not kind then
    -- The last of such texts is the decision's own; the person's data may hold others.
    local resolution, by = record.decision:match('^.*,"resolution":"(%l+)","by":(.+),"at":[%d.]+}$')
    if not by or by == 'null' then return 'null' end
    local name = nameless(by) and by:sub(2, -2) or ''
    kind = kind_by_name(name, record.user)
    if kind == nil and resolution == 'user' then
      -- No producer answers; and an answer's name begins with the kind of who gave it, unless the gateway named it.
      kind = name == 'producer' and 'user' or ({u = 'user', g = 'guest'})[record.answer:match('^(%l):')]
    elseif kind == nil and name == 'producer' and record.answer ~= '' then
      -- A withdrawal has a name, and a cancelled task's end has none.
      kind = 'producer'
    end
  end
  return kind and '"' .. kind .. '"' or 'null'
end

-- The decision of a record as others are told it. What is kept has no kind: 0.1 compares that text.
local function told_decision(record)
  if not record.decision then return '' end
  return record.decision:sub(1, -2) .. ',"by_kind":' .. by_kind(record) .. '}'
end

-- A record as the caller reads it.
local function told(record)
  return {
    record.id, record.user, record.task, record.terms, record.message or '', told_decision(record), record.via,
    record.delivered, record.connection or '', record.node or '',
  }
end

-- The text of a decision. `answer` holds the person's feedback, choice and data as JSON texts.
local function decision(id, status, proceed, resolution, by, answer)
  return '{"callback_id":"' .. id .. '","status":"' .. status .. '","proceed":' .. proceed
    .. ',"feedback":' .. (answer and answer.feedback or 'null') .. ',"choice":' .. (answer and answer.choice or 'null')
    .. ',"data":' .. (answer and answer.data or 'null') .. ',"resolution":"' .. resolution .. '","by":' .. by
    .. ',"at":' .. seconds(NOW) .. '}'
end

-- Tells a user's connections, and the guests; how many nodes have heard.
local function tell(user, event)
  local heard = redis.call('PUBLISH', PREFIX .. ':user:' .. user, event)
  if GUESTS then heard = heard + redis.call('PUBLISH', PREFIX .. ':guests', event) end
  return heard
end

-- Puts the decision of a record that has a reply list into the reply outbox, from which it is pushed at least once: by
-- whoever ran this script, to whom it is told, or by a sweep.
local owed = {}
local function owe(record)
  if not record.reply_to then return end
  redis.call('ZADD', REPLIES, whole(NOW), record.id)
  keep_until(REPLIES, NOW + RETENTION)
  owed[#owed + 1] = {record.id, record.reply_to, told_decision(record)}
end

-- What a verb returns: as it is, or {'replies', as it is, {{id, list, decision}, …}} when it has put some into the outbox.
local function with_replies(result)
  if #owed == 0 then return result end
  return {'replies', result, owed}
end

-- Ends an open record, for ever: everything that ends a callback goes through here. `by` is JSON, and `kind` what
-- kind of party it names (nil for a timeout); `name` is what the winner may call its answer when it repeats it, or ''. `answer`
-- has the person's connection and its node, too.
local function finish(record, status, proceed, resolution, by, kind, name, answer)
  local pending = pending_key(record.user)
  redis.call('ZSCORE', pending, record.id)
  redis.call('ZSCORE', DEADLINES, record.id)
  if record.reply_to then redis.call('ZSCORE', REPLIES, record.id) end
  record.decision = decision(record.id, status, proceed, resolution, by, answer)
  record.answer, record.connection, record.node = name, answer and answer.connection or '', answer and answer.node or ''
  local kept = table.concat({record.connection, record.node, name}, '\n')
  local fields = {'decision', record.decision, 'answer', kept}
  if nameless(by) then
    record.by_kind = kind
    fields[5], fields[6] = 'by_kind', kind
  end
  redis.call('HSET', record_key(record.id), unpack(fields))
  redis.call('PEXPIRE', record_key(record.id), RETENTION)
  if record.key then redis.call('PEXPIRE', result_key(record.user, record.key), RETENTION) end
  redis.call('ZREM', pending, record.id)
  redis.call('ZREM', DEADLINES, record.id)
  owe(record)
  redis.call('PUBLISH', PREFIX .. ':answer:' .. record.id, told_decision(record))
  tell(record.user, '{"type":"callback_resolved","callback_id":"' .. record.id .. '","status":"' .. status
    .. '","by":' .. by .. ',"by_kind":' .. by_kind(record) .. '}')
end

-- Times out a record that is open past its deadline. Whether it did.
local ON_TIMEOUT = {proceed = 'true', decline = 'false', fail = 'null'}
local function settle(record)
  if record.decision or NOW < record.deadline then return false end
  finish(record, 'timed_out', ON_TIMEOUT[record.on_timeout] or 'null', 'timeout', 'null', nil, '')
  return true
end

-- The same where nobody waits for the decision: a full Redis takes none, at the first write, and what is due is not open.
local function settle_if_possible(record)
  local done, result = pcall(settle, record)
  if done then return result end
  if (type(result) == 'table' and result.err or tostring(result)):find('OOM', 1, true) then return true end
  error(result)
end

-- The user's open records in the order of asking. What is due is timed out first, and what has no record any more is
-- forgotten.
local function open_records(user, with_message)
  local pending, open = pending_key(user), {}
  for _, id in ipairs(redis.call('ZRANGE', pending, 0, -1)) do
    local record = load(id, with_message)
    if not record or record.decision then
      redis.call('ZREM', pending, id)
      redis.call('ZREM', DEADLINES, id)
    elseif not settle_if_possible(record) then
      open[#open + 1] = record
    end
  end
  return open
end
