-- Notes of the inbox, a list in Redis. What was published behind tick t is noted in one
-- element: "<t> <id>,<id>,… <key>". The message of its n-th id has the position t-n, and
-- the entry with that id stays in the stream <key> until the history is written up to
-- the last of them.
--
-- A note that was reclaimed has a question mark before its ids: the history may be
-- written beyond its positions by an instance that did not see what was published.
-- It has no_entry in the place of an id whose position is taken and whose entry is not
-- the note's business.

-- No entry of a stream has this ID.
local no_entry = '0-0'

-- Returns t (text), the ids, the key, and whether it was reclaimed.
local function parse_note(note)
  local t, mark, list, key = string.match(note, '^(%d+) (%??)(%S+) (.*)$')
  local ids = {}
  for id in string.gmatch(list, '[^,]+') do ids[#ids + 1] = id end
  return t, ids, key, mark ~= ''
end

local function make_note(t, ids, key, is_reclaimed)
  return table.concat({t, (is_reclaimed and '?' or '') .. table.concat(ids, ','), key}, ' ')
end

-- The position of the n-th message behind tick t.
local function position(t, n) return t .. '-' .. n end
