-- What the verbs share that take entries of the inbox and publish them; put before each verb's own text, so that it is one
-- script to Redis.
--
-- KEYS[1] inbox (stream), KEYS[2] lease.
--
-- What is in the stream is not done, and what is done is not in it: there is no other note of how far the inbox is read. A
-- consumer group carries nothing but the name of this stream: a stream that was deleted and begun anew has another one, so
-- that no entry is taken for one of the same id in a stream before.
local NAMED = 'countersign:'

-- The name of the stream; nil while it has none, or is not there.
local function name_of_stream()
  if redis.call('EXISTS', KEYS[1]) == 0 then return nil end
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    if group[2]:sub(1, #NAMED) == NAMED then return group[2] end
  end
end

local function holds_lease(node) return redis.call('GET', KEYS[2]) == node end
