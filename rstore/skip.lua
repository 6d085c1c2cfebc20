-- Offers to go on from a position above the watermark. When nobody moved the
-- watermark for the wait, the lowest offer wins: gap marker, watermark, lease.
-- It wins at once when everybody who is there has offered: nobody has more.
-- KEYS: clock, lease, gaps, notes of the inbox, rejected streams.
-- ARGV: epoch, expected watermark, offered position, instance, wait ms,
--       lease ttl ms, reason, most markers, how long an instance counts as
--       there (ms), how long after an outage it is known who is there (ms),
--       stream prefix, shortest ttl ms of a policy, policies (see retention), and of each
--       policy the most entries of a stream, with spaces between; the server that numbered
--       what follows the offered position, '' when it is not known.
-- Answer: as append.lua; for 'wait' the sixth is the ms left, else how many
--         messages of the stretch the inbox still had.
local epoch, mark, writer, servers, t = state(KEYS[1])
local holder = redis.call('GET', KEYS[2]) or ''
if epoch == '' or epoch ~= ARGV[1] then
  return {'epoch', epoch, mark, holder, writer, 0, 0, ''}
end
local names, there_since = enlist(KEYS[1], ARGV[4], tonumber(ARGV[9]))
local low, instance, wait = ARGV[3], ARGV[4], tonumber(ARGV[5])
if holder ~= '' and holder ~= instance then
  return {'held', epoch, mark, holder, writer, 0, 0, ''}
end
if mark ~= ARGV[2] then
  return {'stale', epoch, mark, holder, writer, 0, 0, ''}
end
if not belongs(servers, t, ARGV[15], low, low) then
  return {'server', epoch, mark, holder, writer, 0, 0, ''}
end

local now = now_ms()
local f = redis.call('HMGET', KEYS[1], 'offer', 'offer_by', 'offer_at', 'offer_mark', 'offered')
local offer, by, since, offered = f[1], f[2], tonumber(f[3] or ''), f[5] or ' '
if f[4] ~= mark or not since or now < since then
  offer, by, since, offered = low, instance, now, ' '
  redis.call('HSET', KEYS[1], 'offer', low, 'offer_by', instance, 'offer_at', now, 'offer_mark', mark)
elseif by == instance or less(low, offer) then
  offer, by = low, instance
  redis.call('HSET', KEYS[1], 'offer', low, 'offer_by', instance)
end
local function has_offered(name) return string.find(offered, ' ' .. name .. ' ', 1, true) end
if not has_offered(instance) then
  offered = offered .. instance .. ' '
  redis.call('HSET', KEYS[1], 'offered', offered)
end
-- Who wrote last has the most, and was too busy to say that it is there.
local all = now - there_since >= tonumber(ARGV[10]) and (writer == '' or writer == redis.call('HGET', KEYS[1], 'left') or has_offered(writer))
for _, name in ipairs(names) do
  all = all and has_offered(name)
end
-- The best bidder may be gone by now: the next one goes ahead a lease later.
if by ~= instance then wait = wait + tonumber(ARGV[6]) end
local left = since + wait - now
if left > 0 and not (all and by == instance) then
  return {'wait', epoch, mark, holder, writer, left, 0, ''}
end

local noted = retention(KEYS[1], mark, low, ARGV[12], ARGV[13])
local policies = ARGV[13] == '' and {{'*', tonumber(ARGV[12])}} or cjson.decode(ARGV[13])
local most = {}
for n in string.gmatch(ARGV[14], '%d+') do most[#most + 1] = n end

-- The marker first: should the rest fail, a marker too many is no loss.
add_marker(KEYS[1], KEYS[3], mark, low, ARGV[7], instance, tonumber(ARGV[8]))

-- What came through the inbox (inbox.lua of rsub) is there until the watermark has
-- passed it, and a note tells its position: into its stream with it. Nothing in a
-- stream lies beyond the watermark, so it goes to the end. A stream that refuses it (a
-- key of another type) is noted as append.lua does it, and the marker tells of that too.
local ahead = math.max(0, tonumber((string.match(low, '^%d+'))) - now)
local saved = 0
local function policy_of(channel)
  for i, p in ipairs(policies) do
    if i == #policies or match_glob(p[1], channel) then return p[2], most[i] end
  end
end
local function save(key, id, at)
  local entry = redis.pcall('XRANGE', key, id, id)[1]
  if not entry then return end -- withdrawn; or the key is no stream any more
  local f = {}
  for i = 1, #entry[2], 2 do f[entry[2][i]] = entry[2][i + 1] end
  local stream = ARGV[11] .. (f.channel or '')
  local ttl, length = policy_of(f.channel or '')
  if ttl == 0 then return end -- no history
  local function given(text) return text and text ~= '' and text or nil end
  local message = {'event_type', given(f.event_type) or 'message', 'data', f.data or ''}
  for _, name in ipairs({'id', 'retry'}) do
    if given(f[name]) then
      message[#message + 1] = name
      message[#message + 1] = f[name]
    end
  end
  local added = redis.pcall('XADD', stream, 'MAXLEN', '~', length, at, unpack(message))
  if type(added) == 'table' then return reject(KEYS[1], KEYS[5], stream, mark, at) end
  redis.pcall('PEXPIRE', stream, ttl + ahead) -- beyond the IDs in it, see append.lua
  saved = saved + 1
end
for i = 0, redis.call('LLEN', KEYS[4]) - 1 do
  local t, ids, key = parse_note(redis.call('LINDEX', KEYS[4], i))
  for n, id in ipairs(ids) do
    local at = position(t, n)
    if less(mark, at) and not less(low, at) then save(key, id, at) end
  end
end
redis.call('HSET', KEYS[1], 'watermark', low, 'writer', instance, unpack(noted))
redis.call('HDEL', KEYS[1], 'offer', 'offer_by', 'offer_at', 'offer_mark', 'offered')
redis.call('SET', KEYS[2], instance, 'PX', ARGV[6])
return {'ok', epoch, low, instance, writer, saved, 0, ''}
