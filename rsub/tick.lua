#!lua flags=allow-oom
-- Publishes a tick, if the caller may, and keeps the clock.
-- KEYS 1 the clock (hash)
-- ARGV 1 mode: "lead" publishes if the caller leads or nobody does, "join"
--        publishes always, "leave" gives the lead up
--      2 caller  3 length of the lead, ms  4 greatest t that the caller saw
--      5 epoch, for a clock without one  6 fingerprint  7 its readable form
--      8 check  9 control channel  10 added to TIME, ms (fault injection)
--      11 how long after the end of the lead a fingerprint still counts, ms
-- Returns {"tick", t, time, leader, node} | {"led", t, time, leader, node} |
--         {"foreign", fingerprint, readable} | {"left"}
local caller, lead = ARGV[2], tonumber(ARGV[3])
local f = redis.call('HMGET', KEYS[1], 't', 'epoch', 'watermark', 'fingerprint', 'fingerprint_text', 'leader', 'leader_until')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[10])
local function text(n) return string.format('%.0f', n) end

local leader, ends = f[6] or '', tonumber(f[7]) or 0
if ends > now + 10 * lead then
  ends = 0 -- the clock was set back: nobody shall wait until it has caught up
end

if ARGV[1] == 'leave' then
  if leader == caller then
    redis.call('HSET', KEYS[1], 'leader_until', '0')
  end
  return {'left'}
end
if f[4] and f[4] ~= ARGV[6] and ends + tonumber(ARGV[11]) > now then
  return {'foreign', f[4], f[5] or ''}
end
local stored = tonumber(f[1]) or 0
local free = leader == caller or ends <= now
local node = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
if ARGV[1] == 'lead' and not free then
  return {'led', text(stored), text(now), leader, node}
end

local watermark = f[3] or '0-0'
local written = tonumber(string.match(watermark, '^%d+')) or 0
local t = text(math.max(now, stored + 1, tonumber(ARGV[4]) + 1, written + 1))
local epoch = f[2] or ARGV[5]
if free then
  leader, ends = caller, now + lead
  redis.call('HSET', KEYS[1], 'leader', leader, 'leader_until', text(ends))
end
redis.call('HSET', KEYS[1], 't', t, 'epoch', epoch, 'fingerprint', ARGV[6], 'fingerprint_text', ARGV[7])
redis.call('PUBLISH', ARGV[9], table.concat({'tick', t, epoch, watermark, ARGV[6], node, ARGV[8], caller}, ' '))
return {'tick', t, text(now), leader, node}
