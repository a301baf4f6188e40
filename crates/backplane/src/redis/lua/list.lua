-- A page of one partition's open callbacks, by deadline.
--
-- KEYS  the partition's deadlines
-- ARGV  5 deadline (ms) and 6 id after which the page begins (0 and '' for the first), 7 most records
-- Returns {now, more (1 or 0), record, record, …}.
-- Invariant: callbacks that stay open while somebody turns the pages are on exactly one of them.
local after, last, most = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local result = {NOW, 0}
local rank = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. whole(after))
while true do
  local found = redis.call('ZRANGE', KEYS[1], whole(rank), whole(rank + most - 1), 'WITHSCORES')
  if #found == 0 then return result end
  for at = 1, #found, 2 do
    local id, deadline = found[at], tonumber(found[at + 1])
    -- Redis orders equal scores by member. What is due is left to the sweep: it is not open any more.
    if (deadline > after or id > last) and deadline > NOW then
      local record = load(id, true)
      if record and not record.decision then
        if #result - 2 == most then
          result[2] = 1
          return result
        end
        result[#result + 1] = told(record)
      end
    end
  end
  rank = rank + #found / 2
end
