-- Moves an entry of the inbox to the dead letters.
--
-- KEYS  inbox, dead letters (both streams)
-- ARGV  1 id, 2 reason, 3 most dead letters, 4 how long they are kept after the last one (ms), 5 most fields of an entry that
--       are kept, 6 most bytes of a value that are kept
-- Returns 1, or 0 when the entry is not there (any more).
-- Invariant: an entry is in one of the two streams, once.
local id, reason, most, ttl, fields, bytes = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
if not entry then return 0 end
local kept = {'id', id, 'reason', reason}
for at = 1, math.min(#entry[2], 2 * fields) do kept[#kept + 1] = entry[2][at]:sub(1, bytes) end
-- A full Redis refuses this, and then nothing has happened.
redis.call('XADD', KEYS[2], 'MAXLEN', '~', most, '*', unpack(kept))
redis.call('PEXPIRE', KEYS[2], ttl)
redis.call('XDEL', KEYS[1], id)
return 1
