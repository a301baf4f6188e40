-- The messages of an address after a position.
--
-- KEYS  as numbering.lua
-- ARGV  1 a fresh epoch, 2 epoch and 3 offset after which they begin, 4 most messages, and the run
-- Returns {epoch, offset of the newest, offset after which was read, epoch of the messages, {id, {field, message}}, …}; without
-- numbering {'', 0, offset, ''}. Messages of another epoch are what is left of the numbering that ARGV names, which another
-- run had begun: there may have been more.
-- Invariant: numbering and messages are of one moment.
local epoch, offset, before, refused = current()
if not epoch then return {'', 0, ARGV[3], ''} end
local from_beginning = ARGV[2] == '' and ARGV[3] == '0'
local after, of, stream, most = ARGV[3], epoch, KEYS[1], ARGV[4]
if before ~= '' and (ARGV[2] == before or from_beginning) then
  of, stream = before, BEFORE
elseif refused then
  -- What another run had begun still stands in its place.
  if ARGV[2] ~= epoch then most = 0 end
  epoch, offset = '', 0
elseif ARGV[2] ~= epoch and not from_beginning then
  -- Positions of another epoch mean nothing: then it is everything. The empty epoch is the beginning of any.
  after = '0'
end
local result = {epoch, tonumber(offset), after, of}
-- COUNT 0 is answered with nothing at all.
for _, entry in ipairs(redis.call('XRANGE', stream, '(' .. after .. '-0', '+', 'COUNT', most) or {}) do
  result[#result + 1] = entry
end
return result
