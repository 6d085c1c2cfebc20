-- Adds a gap marker; the watermark stays.
-- KEYS: clock, lease, gaps.
-- ARGV: from, to, reason, instance, most markers.
-- Answer: as append.lua; the sixth is how many markers were added.
local epoch, mark, writer = state(KEYS[1])
local n = add_marker(KEYS[1], KEYS[3], ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]))
return {'ok', epoch, mark, '', writer, n, 0, ''}
