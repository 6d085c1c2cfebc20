-- What Redis knows: epoch ('' without a clock), watermark, who moved it last.
local function state(clock)
  local f = redis.call('HMGET', clock, 'epoch', 'watermark', 'writer')
  return f[1] or '', f[2] or '0-0', f[3] or ''
end

local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- Adds a gap marker over (from, to]. One that the newest marker covers adds
-- nothing, so a request may be sent again. Returns how many were added.
-- The clock knows up to where there are markers: should the list be evicted or
-- deleted, readers tell the outages all the same, and the next marker brings one
-- back that covers them.
local function add_marker(clock, gaps, from, to, reason, instance, cap)
  local last = redis.call('LINDEX', gaps, -1)
  local reach = redis.call('HGET', clock, 'gaps_to')
  if last then
    local f, t = string.match(last, '^(%S+) (%S+)')
    if not less(from, f) and not less(t, to) then return 0 end
  elseif reach then
    redis.call('RPUSH', gaps, '0-0 ' .. reach .. ' outage ' .. instance .. ' ' .. now_ms())
  end
  redis.call('RPUSH', gaps, from .. ' ' .. to .. ' ' .. reason .. ' ' .. instance .. ' ' .. now_ms())
  if not reach or less(reach, to) then redis.call('HSET', clock, 'gaps_to', to) end
  while redis.call('LLEN', gaps) > cap do
    local af, at, rest = string.match(redis.call('LPOP', gaps), '^(%S+) (%S+) (.*)$')
    local bf, bt = string.match(redis.call('LPOP', gaps), '^(%S+) (%S+)')
    if less(bf, af) then af = bf end
    if less(at, bt) then at = bt end
    redis.call('LPUSH', gaps, af .. ' ' .. at .. ' ' .. rest)
  end
  return 1
end

-- Notes that a stream refused a message: from there on up to it something is missing.
-- The clock knows up to where there are such notes, should they be evicted or deleted.
local function reject(clock, rejected, stream, from, id)
  local old = redis.call('HGET', rejected, stream)
  redis.call('HSET', rejected, stream, (old and string.match(old, '^%S+') or from) .. ' ' .. id)
  local reach = redis.call('HGET', clock, 'holes_to')
  if not reach or less(reach, id) then redis.call('HSET', clock, 'holes_to', id) end
end

-- Returns the position below which a missing stream proves nothing, for a write
-- behind mark with this ttl: nil when it stays. It moves up to mark when what is
-- there was written with another ttl, or by an instance that does not note its ttl:
-- that one leaves horizon_mark behind the watermark.
local function new_horizon(clock, mark, ttl)
  local f = redis.call('HMGET', clock, 'ttl', 'horizon_mark', 'horizon')
  if f[1] == ttl and f[2] == mark and f[3] then return nil end
  return mark
end

-- Notes in the clock that an instance is there, and forgets who was not for the
-- time given. Returns the names, and since when there was always somebody: who
-- was there before an outage of Redis is known again only some time after it.
-- With memory full nothing is noted, which makes nobody wait less.
local function enlist(clock, instance, alive)
  local f = redis.call('HMGET', clock, 'there', 'there_since', 'left')
  if f[3] == instance then redis.pcall('HDEL', clock, 'left') end
  local now, since = now_ms(), tonumber(f[2] or '')
  local names, text, going = {instance}, {instance .. ' ' .. now}, false
  for name, at in string.gmatch(f[1] or '', '(%S+) (%d+)') do
    if math.abs(now - tonumber(at)) <= alive then
      going = true
      if name ~= instance then
        names[#names + 1] = name
        text[#text + 1] = name .. ' ' .. at
      end
    end
  end
  if f[1] == '' then going = true end -- all have left, each by delist: nobody can be missing
  if not going or not since or since > now then since = now end
  redis.pcall('HSET', clock, 'there', table.concat(text, ' '), 'there_since', since)
  return names, since
end

-- Notes in the clock that an instance has left, so that nobody waits for it, even if it
-- wrote last.
local function delist(clock, instance, writer)
  local text = {}
  for name, at in string.gmatch(redis.call('HGET', clock, 'there') or '', '(%S+) (%d+)') do
    if name ~= instance then text[#text + 1] = name .. ' ' .. at end
  end
  redis.pcall('HSET', clock, 'there', table.concat(text, ' '))
  if writer == instance then redis.pcall('HSET', clock, 'left', instance) end
end
