-- The messages of an address after a position.
--
-- KEYS  history (stream), numbering (hash)
-- ARGV  1 epoch and 2 offset after which they begin, 3 most messages
-- Returns {epoch, offset of the newest, offset after which was read, {id, {field, message}}, …}; without
-- numbering {'', 0, offset}.
-- Invariant: numbering and messages are of one moment.
local numbering = redis.call('HMGET', KEYS[2], 'epoch', 'offset')
if not numbering[1] then return {'', 0, ARGV[2]} end
-- Positions of another epoch mean nothing: then it is everything. The empty epoch is the beginning of any.
local after = ARGV[2]
if ARGV[1] ~= numbering[1] and not (ARGV[1] == '' and ARGV[2] == '0') then after = '0' end
local result = {numbering[1], tonumber(numbering[2]), after}
-- COUNT 0 is answered with nothing at all.
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '(' .. after .. '-0', '+', 'COUNT', ARGV[3]) or {}) do
  result[#result + 1] = entry
end
return result
