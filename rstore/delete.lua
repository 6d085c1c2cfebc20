-- Deletes what a channel has stored, and leaves what a reader needs to tell those who
-- come back: the empty stream, which goes on from its last ID, says up to where
-- entries were deleted (MAXDELETEDID) and counts from there (ENTRIESADDED), so that
-- what is trimmed later is told apart. It keeps its expiry.
-- KEYS: clock, stream.
-- Answer: as append.lua; the sixth is how many messages were deleted.
local epoch, mark, writer = state(KEYS[1])
local n = redis.call('XTRIM', KEYS[2], 'MAXLEN', 0)
if n > 0 then
  local info, last = redis.call('XINFO', 'STREAM', KEYS[2]), nil
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
  redis.call('XSETID', KEYS[2], last, 'ENTRIESADDED', 0, 'MAXDELETEDID', last)
end
return {'ok', epoch, mark, '', writer, n, 0, ''}
