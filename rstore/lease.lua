-- Takes, renews or gives up the lease, and tells the truth.
-- KEYS: clock, lease.
-- ARGV: 'take', 'free', 'leave' or 'look', instance, how long it counts as there (ms),
--       then for take: epoch, watermark that the instance's log covers, lease
--       ttl ms, the server that numbered what follows, '' when it is not known; for free and leave: control channel.
-- Answer: as append.lua.
local epoch, mark, writer, servers, t = state(KEYS[1])
local holder = redis.call('GET', KEYS[2]) or ''
local instance = ARGV[2]
if epoch ~= '' then
  if ARGV[1] == 'leave' then
    delist(KEYS[1], instance, writer)
  else
    enlist(KEYS[1], instance, tonumber(ARGV[3]))
  end
end
if ARGV[1] == 'free' or ARGV[1] == 'leave' then
  if holder == instance then
    redis.call('DEL', KEYS[2])
    redis.call('PUBLISH', ARGV[4], 'free ' .. instance)
    holder = ''
  end
  return {'ok', epoch, mark, holder, writer, 0, 0, ''}
end
if ARGV[1] == 'look' then
  return {'ok', epoch, mark, holder, writer, 0, 0, ''}
end
if epoch == '' or epoch ~= ARGV[4] then
  return {'epoch', epoch, mark, holder, writer, 0, 0, ''}
end
if holder ~= '' and holder ~= instance then
  return {'held', epoch, mark, holder, writer, 0, 0, ''}
end
if mark ~= ARGV[5] then
  return {'stale', epoch, mark, holder, writer, 0, 0, ''}
end
if not belongs(servers, t, ARGV[7], mark, mark) then
  return {'server', epoch, mark, holder, writer, 0, 0, ''}
end
redis.call('SET', KEYS[2], instance, 'PX', ARGV[6])
return {'ok', epoch, mark, instance, writer, 0, 0, ''}
