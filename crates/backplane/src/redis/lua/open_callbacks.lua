-- A user's open callbacks, oldest first; those past their deadline are timed out first.
--
-- KEYS  the user's pending index
-- ARGV  5 user, 6 1 if they are shown to a device of the user's
-- Returns {now, record, record, …}.
local result = {NOW}
for _, record in ipairs(open_records(ARGV[5], true)) do
  if ARGV[6] == '1' then delivered(record) end
  result[#result + 1] = told(record)
end
return result
