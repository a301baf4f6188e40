-- Acknowledges and deletes entries of the inbox.
--
-- KEYS  inbox
-- ARGV  ids, at most some thousands
-- Invariant: what is acknowledged is not in the stream any more, and the other way round.
redis.call('XACK', KEYS[1], 'countersign', unpack(ARGV))
return redis.call('XDEL', KEYS[1], unpack(ARGV))
