-- Who is in a topic, after what has expired there was given up.
--
-- ARGV  4 most users
-- Returns {more, count, user, …}: with more, what has expired is still among them; ask again. While nothing changes, so many
-- of a greater number are the same ones each time.
local more = purge()
local most, users, seen, cursor = tonumber(ARGV[4]), {}, {}, '0'
repeat
  local page = redis.call('HSCAN', KEYS[2], cursor, 'COUNT', most + 1)
  cursor = page[1]
  for at = 1, #page[2], 2 do
    local user = page[2][at]
    if #users < most and not seen[user] then
      seen[user] = true
      users[#users + 1] = user
    end
  end
until cursor == '0' or #users >= most
return {more, redis.call('HLEN', KEYS[2]), users}
