-- Reads a callback; past its deadline it is timed out first.
--
-- KEYS  record
-- ARGV  5 id
-- Returns {word, now, record}: found, none.
local record = load(ARGV[5], true)
if not record then return {'none', NOW} end
settle(record)
return {'found', NOW, told(record)}
