-- Ends a callback as cancelled by the producer.
--
-- KEYS  record
-- ARGV  5 id, 6 the name of this withdrawal
-- Returns {word, now, decision}: closed, resolved, none.
-- Invariant: a decision that was taken stays; the repeat of the same withdrawal hears that it closed.
local record = load(ARGV[5])
if not record then return {'none', NOW} end
settle(record)
if record.decision then
  return {record.answer == ARGV[6] and 'closed' or 'resolved', NOW, told_decision(record)}
end
finish(record, 'cancelled', 'false', 'cancelled', '"producer"', 'producer', ARGV[6])
return {'closed', NOW, told_decision(record)}
