-- Tells which commands the user of this connection cannot run. Nothing is run and no key is touched.
--
-- ARGV  1 the commands, each ended by a line end, and each of its words by a tabulator
-- Returns 'old' from a server that cannot say (redis.acl_check_cmd came with Redis 7.0); else {number of the command, why, …},
-- counted from 1, for those that cannot be run: 'unknown' to the server, or 'forbidden' to the user.
-- Invariant: an answer without entries means that no script fails in its middle for want of a command or a right.
if not redis.acl_check_cmd then return 'old' end
local missing, number = {}, 1
for command in ARGV[1]:gmatch('([^\n]*)\n') do
  local words = {}
  for word in command:gmatch('([^\t]*)\t') do words[#words + 1] = word end
  local known, allowed = pcall(redis.acl_check_cmd, unpack(words))
  if not (known and allowed) then
    missing[#missing + 1] = tostring(number)
    missing[#missing + 1] = known and 'forbidden' or 'unknown'
  end
  number = number + 1
end
return missing
