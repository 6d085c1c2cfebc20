-- Adds a batch to the history and moves the watermark, or does nothing.
-- KEYS: clock, lease, rejected streams, gaps, then the stream of each message.
-- ARGV: epoch, expected watermark, new watermark, maxlen, ttl ms, instance,
--       lease ttl ms, most rejected streams, most markers, window ms, most entries of a
--       stream; shortest ttl ms of a policy, policies (see retention), maxlen, ttl ms,
--       window ms and most entries of those policies that messages here have, with spaces
--       between, and for each message which of them it has, 0 for what is said
--       before, '' when all have that; the server that numbered them, '' when it is not
--       known; then of each message head, data, and how many ms
--       its channel's message before it lies back, -1 when nobody knows.
--       A head is the id, or for few messages: id, retry ms, publisher's id and
--       event type with a space between two; retry and publisher's id may be empty.
-- Answer: status, epoch, watermark, holder, last writer, added, refused, error,
--         how many streams lost entries of the window to the most a stream may have.
local epoch, mark, writer, servers, t = state(KEYS[1])
local holder = redis.call('GET', KEYS[2]) or ''
if epoch == '' or epoch ~= ARGV[1] then
  return {'epoch', epoch, mark, holder, writer, 0, 0, '', 0}
end
if mark ~= ARGV[2] then
  return {'stale', epoch, mark, holder, writer, 0, 0, '', 0}
end
if not belongs(servers, t, ARGV[16], mark, ARGV[3]) then
  if holder == ARGV[6] then
    redis.call('DEL', KEYS[2])
    holder = ''
  end
  return {'server', epoch, mark, holder, writer, 0, 0, '', 0}
end

-- The watermark first: with memory full Redis refuses the first write of a
-- script and none after it. So either this fails and nothing is written, or
-- no XADD fails for memory.
local through, instance = ARGV[3], ARGV[6]
local noted = retention(KEYS[1], mark, through, ARGV[12], ARGV[13])
local moved = redis.pcall('HSET', KEYS[1], 'watermark', through, 'writer', instance, unpack(noted))
if type(moved) == 'table' then
  return {'failed', epoch, mark, holder, writer, 0, 0, moved.err, 0}
end

-- A key must outlive the IDs in it by the TTL, so that readers can judge
-- expiry by ID; IDs run ahead of the clock when it was set back.
local through_ms = tonumber((string.match(through, '^%d+')))
local ahead = math.max(0, through_ms - now_ms())

-- The window counts back from the clock. Each server that takes over leaves the IDs up to 2 s
-- ahead of it (takeOverRoom of rsub), so this is for five in a row. After a clock that was set back
-- they are ahead for long, and move by a millisecond with each tick: to count all of that would
-- keep every message until the clock has caught up.
local counted_ahead = math.min(ahead, 10000)

-- A stream keeps its newest messages, maxlen of them, and all that are younger than
-- the window, but never more than most: XADD sees to the latter. Redis trims whole
-- nodes, and none that holds what is to stay; LIMIT keeps a run short, the next one
-- goes on.
local function policy(maxlen, ttl, window, most)
  window = tonumber(window)
  return {
    maxlen = tonumber(maxlen), ttl = tonumber(ttl) + ahead, most = most,
    young = window > 0 and string.format('%.0f-0', math.max(0, through_ms - counted_ahead - window)) or through,
  }
end
local usual = policy(ARGV[4], ARGV[5], ARGV[10], ARGV[11])
local of_message = {} -- only what has another policy
if ARGV[15] ~= '' then
  local policies, n = {}, 0
  for maxlen, ttl, window, most in string.gmatch(ARGV[14], '(%d+) (%d+) (%d+) (%d+)') do
    policies[#policies + 1] = policy(maxlen, ttl, window, most)
  end
  for which in string.gmatch(ARGV[15], '%d+') do
    n = n + 1
    of_message[n] = policies[tonumber(which)]
  end
end

-- True when this stream cannot take the message, whatever else is well.
local function stream_rejects(err, key, id)
  if string.match(err, '^WRONGTYPE') then return true end
  if not string.match(err, '^ERR') then return false end
  local info = redis.pcall('XINFO', 'STREAM', key)
  if info.err then return false end
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return not less(info[i + 1], id) end
  end
  return false
end

local capped, failure = 0, ''
local function trim(key, p)
  local length = redis.call('XLEN', key)
  if length > p.maxlen then
    redis.call('XTRIM', key, 'MINID', '~', p.young, 'LIMIT', math.min(length - p.maxlen, 10000))
  end
  if length >= tonumber(p.most) then
    local oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
    if oldest and less(p.young, oldest[1]) then capped = capped + 1 end
  end
end

-- Adds one message. Fields that it has not are not there. The kind "gap" is no
-- publisher's: it stands for a message that was too large, and its data is the reason.
local function add(key, most, id, kind, data, prev, publisher, retry)
  if kind == 'gap' then
    return redis.pcall('XADD', key, 'MAXLEN', '~', most, id, 'gap', data, 'prev', prev)
  end
  local fields = {'event_type', kind, 'data', data}
  if publisher ~= '' then
    fields[5], fields[6] = 'id', publisher
  end
  if retry ~= '' then
    fields[#fields + 1] = 'retry'
    fields[#fields + 1] = retry
  end
  fields[#fields + 1] = 'prev'
  fields[#fields + 1] = prev
  return redis.pcall('XADD', key, 'MAXLEN', '~', most, id, unpack(fields))
end

-- What is left to do for each stream that got something.
local touched = {}
local function expire_and_trim()
  for key, p in pairs(touched) do
    local e = redis.pcall('PEXPIRE', key, p.ttl)
    if type(e) == 'table' then failure = e.err end
    local ok, why = pcall(trim, key, p) -- a right may be missing: what is written counts
    if not ok then failure = type(why) == 'table' and why.err or tostring(why) end
  end
end

local added, refused = 0, 0
local good = mark
for k = 5, #KEYS do
  local key, id, data, prev = KEYS[k], ARGV[3 * k + 2], ARGV[3 * k + 3], ARGV[3 * k + 4]
  local p = of_message[k - 4] or usual
  local r
  if string.find(id, ' ', 1, true) then
    local plain, retry, publisher, kind = string.match(id, '^(%S+) (%d*) ([^ ]*) (.*)$')
    id = plain
    r = add(key, p.most, id, kind, data, prev, publisher, retry)
  else
    r = redis.pcall('XADD', key, 'MAXLEN', '~', p.most, id, 'event_type', 'message', 'data', data, 'prev', prev)
  end
  if type(r) ~= 'table' then
    added = added + 1
    touched[key] = p
  elseif stream_rejects(r.err, key, id) then
    refused = refused + 1
    reject(KEYS[1], KEYS[3], key, mark, id)
  else
    redis.call('HSET', KEYS[1], 'watermark', good, unpack(retention(KEYS[1], through, good, ARGV[12], ARGV[13])))
    expire_and_trim()
    return {'failed', epoch, good, holder, writer, added, refused, r.err, capped}
  end
  good = id
end
expire_and_trim()

if refused > 0 and redis.call('HLEN', KEYS[3]) > tonumber(ARGV[8]) then
  add_marker(KEYS[1], KEYS[4], '0-0', through, 'unavailable', instance, tonumber(ARGV[9]))
  redis.call('DEL', KEYS[3])
  redis.call('HDEL', KEYS[1], 'holes_to')
end

if holder == instance then
  redis.call('PEXPIRE', KEYS[2], ARGV[7])
elseif holder == '' then
  redis.call('SET', KEYS[2], instance, 'PX', ARGV[7])
  holder = instance
end
return {'ok', epoch, through, holder, writer, added, refused, failure, capped}
