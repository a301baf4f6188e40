-- Notes in a receipt that its message was delivered; only the first time counts.
--
-- KEYS  receipt
-- Returns 1 if that is new, else 0.
-- Invariant: a receipt that is gone does not come back.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
return redis.call('HSETNX', KEYS[1], 'delivered', whole(NOW))
