-- Offers to go on from a position above the watermark. When nobody moved the
-- watermark for the wait, the lowest offer wins: gap marker, watermark, lease.
-- It wins at once when everybody who is there has offered: nobody has more.
-- KEYS: clock, lease, gaps.
-- ARGV: epoch, expected watermark, offered position, instance, wait ms,
--       lease ttl ms, reason, most markers, how long an instance counts as
--       there (ms), how long after an outage it is known who is there (ms).
-- Answer: as append.lua; for 'wait' the sixth is the ms left.
local epoch, mark, writer = state(KEYS[1])
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
local all = now - there_since >= tonumber(ARGV[10]) and (writer == '' or has_offered(writer))
for _, name in ipairs(names) do
  all = all and has_offered(name)
end
-- The best bidder may be gone by now: the next one goes ahead a lease later.
if by ~= instance then wait = wait + tonumber(ARGV[6]) end
local left = since + wait - now
if left > 0 and not (all and by == instance) then
  return {'wait', epoch, mark, holder, writer, left, 0, ''}
end

-- The marker first: should the rest fail, a marker too many is no loss.
add_marker(KEYS[3], mark, low, ARGV[7], instance, tonumber(ARGV[8]))
redis.call('HSET', KEYS[1], 'watermark', low, 'writer', instance)
redis.call('HDEL', KEYS[1], 'offer', 'offer_by', 'offer_at', 'offer_mark', 'offered')
redis.call('SET', KEYS[2], instance, 'PX', ARGV[6])
return {'ok', epoch, low, instance, writer, 0, 0, ''}
