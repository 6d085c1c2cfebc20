-- Offers to go on from a position above the watermark. When nobody moved the
-- watermark for the wait, the lowest offer wins: gap marker, watermark, lease.
-- KEYS: clock, lease, gaps.
-- ARGV: epoch, expected watermark, offered position, instance, wait ms,
--       lease ttl ms, reason, most markers.
-- Answer: as append.lua; for 'wait' the sixth is the ms left.
local epoch, mark, writer = state(KEYS[1])
local holder = redis.call('GET', KEYS[2]) or ''
if epoch == '' or epoch ~= ARGV[1] then
  return {'epoch', epoch, mark, holder, writer, 0, 0, ''}
end
local low, instance, wait = ARGV[3], ARGV[4], tonumber(ARGV[5])
if holder ~= '' and holder ~= instance then
  return {'held', epoch, mark, holder, writer, 0, 0, ''}
end
if mark ~= ARGV[2] then
  return {'stale', epoch, mark, holder, writer, 0, 0, ''}
end

local now = now_ms()
local f = redis.call('HMGET', KEYS[1], 'offer', 'offer_by', 'offer_at', 'offer_mark')
local offer, by, since = f[1], f[2], tonumber(f[3] or '')
if f[4] ~= mark or not since or now < since then
  offer, by, since = low, instance, now
  redis.call('HSET', KEYS[1], 'offer', low, 'offer_by', instance, 'offer_at', now, 'offer_mark', mark)
elseif by == instance or less(low, offer) then
  offer, by = low, instance
  redis.call('HSET', KEYS[1], 'offer', low, 'offer_by', instance)
end
-- The best bidder may be gone by now: the next one goes ahead a lease later.
if by ~= instance then wait = wait + tonumber(ARGV[6]) end
local left = since + wait - now
if left > 0 then
  return {'wait', epoch, mark, holder, writer, left, 0, ''}
end

-- The marker first: should the rest fail, a marker too many is no loss.
add_marker(KEYS[3], mark, low, ARGV[7], instance, tonumber(ARGV[8]))
redis.call('HSET', KEYS[1], 'watermark', low, 'writer', instance)
redis.call('HDEL', KEYS[1], 'offer', 'offer_by', 'offer_at', 'offer_mark')
redis.call('SET', KEYS[2], instance, 'PX', ARGV[6])
return {'ok', epoch, low, instance, writer, 0, 0, ''}
