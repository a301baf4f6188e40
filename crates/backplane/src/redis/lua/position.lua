-- Where an address is now.
--
-- KEYS  as numbering.lua
-- ARGV  1 a fresh epoch, and the run
-- Returns {epoch, offset of the newest}; without numbering {}.
local epoch, offset = current()
if not epoch then return {} end
return {epoch, offset}
