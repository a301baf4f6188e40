-- Acknowledges a message.
--
-- KEYS  receipt
-- ARGV  5 id, 6 user ('' for a guest, who finds every receipt), 7 by, 8 connection, 9 most acknowledgements of one message
-- Returns 1, or 0 if there is no such receipt of this user's.
-- Invariant: a connection acknowledges once; its repeat changes and tells nothing. Whoever hears of an acknowledgement can
-- read it.
local id, user, by, field, most = ARGV[5], ARGV[6], ARGV[7], 'ack:' .. ARGV[8], tonumber(ARGV[9])
local owner = redis.call('HGET', KEYS[1], 'user')
if not owner or (user ~= '' and user ~= owner) then return 0 end
-- A user may be called as guests are; then what kind of party it was is a field of its own.
local kind = owner == 'guest' and (user == '' and 'guest' or 'user')
-- Beside acknowledgements a receipt has at most three fields, so this counts them well enough for a limit, and in order.
local turn = redis.call('HLEN', KEYS[1])
if turn >= most * (kind and 2 or 1) + 3 or redis.call('HEXISTS', KEYS[1], field) == 1 then return 1 end
redis.call('HSETNX', KEYS[1], 'delivered', whole(NOW))
redis.call('HSET', KEYS[1], field, turn .. '|' .. whole(NOW) .. '|' .. by)
if kind then redis.call('HSET', KEYS[1], 'kind:' .. ARGV[8], kind) end
redis.call('PUBLISH', PREFIX .. ':ack:' .. id, '{"message_id":"' .. id .. '"}')
return 1
