-- Reads the entries of several streams, all together in the order of their IDs.
-- KEYS: the streams. ARGV: the positions after (exclusive) and up_to (inclusive), how many
-- bytes and how many entries are enough.
--
-- Returns through, and for each stream its state and its entries with
-- after < id <= through. There is nothing more up to through, and at least one entry
-- unless through is up_to. Both limits may be exceeded by what one step of each stream
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

local function size_of(entry)
  local n = 0
  for _, text in ipairs(entry[2]) do n = n + #text end
  return n
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
  s.fresh_bytes, s.fresh = 0, #page
  for _, entry in ipairs(page) do
    s.entries[#s.entries + 1] = entry
    s.fresh_bytes = s.fresh_bytes + size_of(entry)
  end
  if #page > 0 then s.last = page[#page][1] end
  s.bytes = s.bytes + s.fresh_bytes
  s.more = #page == s.step and s.last ~= up_to
  local fitting = math.floor(step_bytes / math.max(1, s.bytes / math.max(1, #s.entries)))
  s.step = math.max(1, math.min(2 * s.step, fitting, 512))
end

-- What XINFO STREAM says, without the entries in it: length, entries-added,
-- max-deleted-entry-id, last-generated-id, the first ID and the field prev of that entry,
-- '' without one. '' when there is no stream.
-- In full it has one entry, else two.
local function state_of(key)
  local info = redis.pcall('XINFO', 'STREAM', key, 'FULL', 'COUNT', 1)
  if info.err then return '' end
  local f = {}
  for i = 1, #info, 2 do f[info[i]] = info[i + 1] end
  local first = f['entries'][1]
  local prev = ''
  for i = 1, first and #first[2] or 0, 2 do
    if first[2][i] == 'prev' then prev = first[2][i + 1] end
  end
  return {f['length'], f['entries-added'], f['max-deleted-entry-id'], f['last-generated-id'], first and first[1] or '', prev}
end

local streams = {}
for i, key in ipairs(KEYS) do
  streams[i] = {key = key, last = after, entries = {}, bytes = 0, step = first_step}
  fetch(streams[i])
end

-- All streams are known up to where the one ends that is known least.
local through
local bytes, entries = 0, 0 -- of steps that lie before through
while true do
  local least
  for _, s in ipairs(streams) do
    if s.more and (not least or less(s.last, least.last)) then least = s end
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
  while #list > 0 and less(through, list[#list][1]) do list[#list] = nil end
  answer[i + 1] = {s.wrong and 'WRONGTYPE' or state_of(s.key), list}
end
return answer
