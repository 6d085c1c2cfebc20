-- What Redis knows: epoch ('' without a clock), watermark, who moved it last, and for belongs
-- the servers that gave the order, '' when the last tick did not note them (earlier versions do
-- not), and that tick.
local function state(clock)
  local f = redis.call('HMGET', clock, 'epoch', 'watermark', 'writer', 'servers', 't', 'servers_t')
  return f[1] or '', f[2] or '0-0', f[3] or '', f[5] == f[6] and f[4] or '', f[5] or '0'
end

-- Whether what a server numbered behind a position, up to another one, belongs into this history.
-- That of a server that was replaced does up to the first tick of the next one, see tick.lua of
-- rsub: it may live on, and an instance that hangs on it takes for complete what lacks all that is
-- published on its successor. One that came back has several terms, the present one too: the
-- last one that began before counts. The present one may have begun sooner than it is noted, as
-- soon as the one before it, by ticks of an earlier version. What lies beyond the last tick here
-- is of a server that has replaced this one. Who does not tell the server is of an earlier version.
local function belongs(servers, t, server, after, through)
  if server == '' or servers == '' then return true end
  local in_term, next_from, newest, newest_from, before_from
  for name, from in string.gmatch(servers, '(%x+):(%d+)') do
    newest, newest_from, before_from = name, from, newest_from or '0'
    if name ~= server then
      if in_term then in_term, next_from = false, from end
    elseif in_term == nil or not less(after, from .. '-0') then
      in_term, next_from = true, nil
    end
  end
  if in_term or newest == server and not less(after, before_from .. '-0') then return true end
  if not next_from and newest_from ~= '0' then next_from = newest_from end -- forgotten: long ago
  if next_from then return less(through, next_from .. '-0') end
  return not less(t .. '-0', through)
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

-- Without a glob's special characters: what every channel that it matches begins with.
local function literal_start(glob)
  return string.match(glob, '^[^*?%[\\]*')
end

-- Of two globs the one that matches fewer channels, as far as their starts tell; nil when
-- no channel matches both. '*' stands for all.
local function narrower(a, b)
  local x, y = literal_start(a), literal_start(b)
  local n = math.min(#x, #y)
  if string.sub(x, 1, n) ~= string.sub(y, 1, n) then return nil end
  return #x > #y and a or b
end

-- Raises the two floors of a glob: below the first a missing stream proves nothing, below
-- the second messages were not kept. A list of triples.
local function raise_floor(floors, glob, absent, unkept)
  for _, f in ipairs(floors) do
    if f[1] == glob then
      if less(f[2], absent) then f[2] = absent end
      if less(f[3], unkept) then f[3] = unkept end
      return
    end
  end
  floors[#floors + 1] = {glob, absent, unkept}
end

-- What a change of policies does to the floors. A policy is {glob, ttl in ms}, 0 for no
-- history; the first that matches a channel counts, the last one matches all. Where channels
-- of an old policy come under one that keeps them for longer, their streams may have
-- expired already; where the old one kept nothing, all up to mark is missing.
local function change_policies(floors, old, new, mark)
  local taken = {} -- globs before the old one: it has none of their channels
  for _, was in ipairs(old) do
    for _, is in ipairs(new) do
      local glob = not taken[is[1]] and narrower(was[1], is[1])
      if glob and is[2] > was[2] then
        raise_floor(floors, glob, mark, was[2] == 0 and mark or '0-0')
      end
      if is[1] == was[1] then break end -- no channel of the old one is left for the next
    end
    taken[was[1]] = true
  end
end

-- most_floors: beyond them all channels have one. Nobody has so many policies in his life.
local most_floors = 256

-- Returns what the clock has to note with a write behind mark up to through: pairs of field
-- and value. Ttl is the shortest that an own policy has, policies all of them as JSON,
-- '' when there is one for all channels.
--
-- Horizon is the position below which a missing stream proves nothing. It moves up to mark when what is
-- there was written with another ttl, or by an instance that does not note its ttl:
-- that one leaves horizon_mark behind the watermark. With policies that is for readers
-- of earlier versions; others read policies and policy_floors, if policies_mark says
-- that the last writer noted them. A clock that had policies once keeps these fields: where
-- one kept nothing readers have to know that.
local function retention(clock, mark, through, ttl, policies)
  local f = redis.call('HMGET', clock, 'ttl', 'horizon_mark', 'horizon', 'policies', 'policies_mark', 'policy_floors')
  local noted = {'horizon_mark', through}
  local function note(field, value)
    noted[#noted + 1] = field
    noted[#noted + 1] = value
  end
  local is_known = f[1] and f[2] == mark and f[3]
  if not is_known or f[1] ~= ttl then
    note('horizon', mark)
    note('ttl', ttl)
  end
  if not f[4] and policies == '' then return noted end
  if policies == '' then policies = '[["*",' .. ttl .. ']]' end
  note('policies_mark', through)
  if f[4] == policies and f[5] == mark then return noted end

  local old, floors
  if f[4] and f[5] == mark then
    old, floors = cjson.decode(f[4]), cjson.decode(f[6])
  elseif is_known and not f[4] then
    old, floors = {{'*', tonumber(f[1])}}, {{'*', f[3], '0-0'}}
  else
    -- Somebody else wrote meanwhile: nothing is known of what is there.
    old, floors = {}, {{'*', mark, f[4] and mark or '0-0'}}
  end
  change_policies(floors, old, cjson.decode(policies), mark)
  if #floors > most_floors then floors = {{'*', mark, mark}} end
  note('policies', policies)
  note('policy_floors', cjson.encode(floors))
  return noted
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
