-- Reads the entries of several streams, all together in the order of their IDs.
-- KEYS: the streams. ARGV: the positions after (exclusive) and up_to (inclusive), how many
-- bytes and how many entries are enough; then, if it is not the same for all, after for each
-- stream.
--
-- Returns through, and for each stream its state and its entries with
-- after < id <= through. There is nothing more up to through, and at least one entry
-- unless through is up_to. State: see state.lua. Both limits may be exceeded by what one step of each stream
-- brings.
--
-- The merge is done here because a client that did it would have to fetch the first
-- entry of every stream to know which comes next: with 32 channels of large messages
-- most of what it fetches it could not use.
local after, up_to = ARGV[1], ARGV[2]
local enough_bytes, enough_entries = tonumber(ARGV[3]), tonumber(ARGV[4])

-- A first step, in entries: most histories are whole with it, and all streams together
-- bring no more than so many entries of unknown size.
local first_step = math.max(1, math.floor(32 / #KEYS))
-- What a later step may bring of one stream: steps grow while entries are small.
local step_bytes = enough_bytes / 2 / #KEYS

-- An ID as text that sorts as the ID does. Taking IDs apart is most of what this script
-- costs, so each stream has that of its last one at hand.
local function sortable(id)
  local dash = string.find(id, '-', 1, true)
  local seq = string.sub(id, dash + 1)
  return string.rep('0', 21 - dash) .. string.sub(id, 1, dash) .. string.rep('0', 20 - #seq) .. seq
end

-- Takes the next step of a stream.
local function fetch(s)
  local page = redis.pcall('XRANGE', s.key, '(' .. s.last, up_to, 'COUNT', s.step)
  if page.err then
    s.wrong = string.sub(page.err, 1, 9) == 'WRONGTYPE'
    s.failed = not s.wrong and page.err
    s.more = false
    return
  end
  local entries, fresh, bytes = s.entries, #page, 0
  local had = #entries
  for i = 1, fresh do
    local entry = page[i]
    entries[had + i] = entry
    local fields = entry[2]
    for k = 2, #fields, 2 do bytes = bytes + #fields[k] end
  end
  s.fresh_bytes, s.fresh = bytes, fresh
  s.bytes = s.bytes + bytes
  s.more = fresh == s.step
  if s.more then
    s.last = page[fresh][1]
    s.sort = sortable(s.last)
    s.more = s.last ~= up_to
    local fitting = math.floor(step_bytes * #entries / math.max(1, s.bytes))
    s.step = math.max(1, math.min(4 * s.step, fitting, 512))
  end
end

local streams = {}
for i, key in ipairs(KEYS) do
  streams[i] = {key = key, last = ARGV[4 + i] or after, entries = {}, bytes = 0, step = first_step}
  fetch(streams[i])
end

-- All streams are known up to where the one ends that is known least.
local through
local bytes, entries = 0, 0 -- of steps that lie before through
while true do
  local least
  for i = 1, #streams do
    local s = streams[i]
    if s.more and (not least or s.sort < least.sort) then least = s end
  end
  through = least and least.last or up_to
  if not least then break end
  bytes, entries = bytes + least.fresh_bytes, entries + least.fresh
  if bytes >= enough_bytes or entries >= enough_entries then break end
  fetch(least)
end

local answer = {through}
for i, s in ipairs(streams) do
  if s.failed then return redis.error_reply(s.failed) end
  local list = s.entries
  if through ~= up_to then
    local n = #list
    while n > 0 and less(through, list[n][1]) do
      list[n] = nil
      n = n - 1
    end
  end
  answer[i + 1] = {s.wrong and 'WRONGTYPE' or state_of(s.key), list}
end
return answer
