-- Finds where a stream of events starts in each of several streams of Redis. It returns IDs
-- and no entries: those are read afterwards, as many as fit.
-- KEYS: the streams. ARGV 1 what is asked:
--   "earliest": the first entry
--   "time":     the last entry of 2 <= id <= 3, which is one before the time, or of that time
--   "last":     an entry so many back from the position 2 (inclusive). 3 and 4: how many bytes
--               and entries of work are enough for one run. Then for each stream where to go on
--               (exclusive, "" at first), and how many entries are left to go back
-- Returns for each stream {id or "", rest}. Rest is, for "time", its state (see state.lua), or
-- "WRONGTYPE", and for "last" how many entries are left; 0: id is the one.
local mode = ARGV[1]

-- Returns the entries, none of a key of another type.
local function entries(...)
  local page = redis.pcall(...)
  if page.err then return {}, string.sub(page.err, 1, 9) == 'WRONGTYPE' end
  return page
end

-- A key of another type begins before all: whoever reads it is told that it is none.
local function first_of(key)
  local page, wrong = entries('XRANGE', key, '-', '+', 'COUNT', 1)
  return wrong and '0-1' or page[1] and page[1][1] or ''
end

-- A first step back, in entries, while nothing is known of their size.
local first_step = math.max(1, math.floor(32 / #KEYS))
local bytes, looked = tonumber(ARGV[3]) or 0, tonumber(ARGV[4]) or 0 -- what is left of one run

-- Goes back through a stream, as far as this run may.
local function go_back(key, from, left)
  local id = from
  if from == '' then
    local length = redis.pcall('XLEN', key)
    if type(length) == 'table' or length <= left then return {first_of(key), 0} end
    from = ARGV[2]
  else
    from = '(' .. from
  end
  local step = first_step
  while left > 0 and bytes > 0 and looked > 0 do
    step = math.min(step, left)
    local page = entries('XREVRANGE', key, from, '-', 'COUNT', step)
    local size = 0
    for i = 1, #page do
      local fields = page[i][2]
      for k = 2, #fields, 2 do size = size + #fields[k] end
    end
    bytes, looked = bytes - size, looked - #page
    if #page > 0 then
      id = page[#page][1]
      from = '(' .. id
    end
    left = left - #page
    if #page < step then left = 0 end
    step = math.max(1, math.min(4 * step, math.floor(step * 64 * 1024 / math.max(1, size)), 256))
  end
  return {id, left}
end

local answer = {}
for i, key in ipairs(KEYS) do
  if mode == 'earliest' then
    answer[i] = {first_of(key), 0}
  elseif mode == 'time' then
    local page, wrong = entries('XREVRANGE', key, ARGV[3], ARGV[2], 'COUNT', 1)
    answer[i] = {page[1] and page[1][1] or '', wrong and 'WRONGTYPE' or state_of(key)}
  else
    answer[i] = go_back(key, ARGV[3 + 2 * i], tonumber(ARGV[4 + 2 * i]))
  end
end
return answer
