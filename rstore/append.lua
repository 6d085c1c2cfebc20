-- Adds a batch to the history and moves the watermark, or does nothing.
-- KEYS: clock, lease, rejected streams, gaps, then the stream of each message.
-- ARGV: epoch, expected watermark, new watermark, maxlen, ttl ms, instance,
--       lease ttl ms, most rejected streams, most markers, window ms, most entries of a
--       stream, then of each message head, data, and how many ms its channel's
--       message before it lies back, -1 when nobody knows.
--       A head is the id, or for few messages: id, retry ms, publisher's id and
--       event type with a space between two; retry and publisher's id may be empty.
-- Answer: status, epoch, watermark, holder, last writer, added, refused, error,
--         how many streams lost entries of the window to the most a stream may have.
local epoch, mark, writer = state(KEYS[1])
local holder = redis.call('GET', KEYS[2]) or ''
if epoch == '' or epoch ~= ARGV[1] then
  return {'epoch', epoch, mark, holder, writer, 0, 0, '', 0}
end
if mark ~= ARGV[2] then
  return {'stale', epoch, mark, holder, writer, 0, 0, '', 0}
end

-- The watermark first: with memory full Redis refuses the first write of a
-- script and none after it. So either this fails and nothing is written, or
-- no XADD fails for memory.
local through, instance = ARGV[3], ARGV[6]
local noted = {'watermark', through, 'writer', instance, 'horizon_mark', through}
local horizon = new_horizon(KEYS[1], mark, ARGV[5])
if horizon then
  for _, word in ipairs({'horizon', horizon, 'ttl', ARGV[5]}) do noted[#noted + 1] = word end
end
local moved = redis.pcall('HSET', KEYS[1], unpack(noted))
if type(moved) == 'table' then
  return {'failed', epoch, mark, holder, writer, 0, 0, moved.err, 0}
end

-- A key must outlive the IDs in it by the TTL, so that readers can judge
-- expiry by ID; IDs run ahead of the clock when it was set back.
local ttl = tonumber(ARGV[5])
local ahead = tonumber(string.match(through, '^%d+')) - now_ms()
if ahead > 0 then ttl = ttl + ahead end

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

-- A stream keeps its newest messages, maxlen of them, and all that are younger than
-- the window, but never more than most: XADD sees to the latter. Redis trims whole
-- nodes, and none that holds what is to stay; LIMIT keeps a run short, the next one
-- goes on.
local maxlen, most = tonumber(ARGV[4]), tonumber(ARGV[11])
local young = string.match(through, '^%d+') - tonumber(ARGV[10])
young = tonumber(ARGV[10]) > 0 and string.format('%.0f-0', math.max(0, young)) or through
local capped, failure = 0, ''
local function trim(key)
  local length = redis.call('XLEN', key)
  if length > maxlen then
    redis.call('XTRIM', key, 'MINID', '~', young, 'LIMIT', math.min(length - maxlen, 10000))
  end
  if length >= most then
    local oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
    if oldest and less(young, oldest[1]) then capped = capped + 1 end
  end
end

-- Adds one message. Fields that it has not are not there. The kind "gap" is no
-- publisher's: it stands for a message that was too large, and its data is the reason.
local function add(key, id, kind, data, prev, publisher, retry)
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
local function settle()
  for key in pairs(touched) do
    local e = redis.pcall('PEXPIRE', key, ttl)
    if type(e) == 'table' then failure = e.err end
    local ok, why = pcall(trim, key) -- a right may be missing: what is written counts
    if not ok then failure = type(why) == 'table' and why.err or tostring(why) end
  end
end

local added, refused = 0, 0
local good = mark
for k = 5, #KEYS do
  local key, id, data, prev = KEYS[k], ARGV[3 * k - 3], ARGV[3 * k - 2], ARGV[3 * k - 1]
  local r
  if string.find(id, ' ', 1, true) then
    local plain, retry, publisher, kind = string.match(id, '^(%S+) (%d*) ([^ ]*) (.*)$')
    id = plain
    r = add(key, id, kind, data, prev, publisher, retry)
  else
    r = redis.pcall('XADD', key, 'MAXLEN', '~', most, id, 'event_type', 'message', 'data', data, 'prev', prev)
  end
  if type(r) ~= 'table' then
    added = added + 1
    touched[key] = true
  elseif stream_rejects(r.err, key, id) then
    refused = refused + 1
    reject(KEYS[1], KEYS[3], key, mark, id)
  else
    redis.call('HSET', KEYS[1], 'watermark', good, 'horizon_mark', good)
    settle()
    return {'failed', epoch, good, holder, writer, added, refused, r.err, capped}
  end
  good = id
end
settle()

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
