-- Publishes a tick, if the caller may, and keeps the clock.
-- KEYS 1 the clock (hash); with an inbox:
--      2 notes of the inbox  3 the inbox  4 where refused entries go
--      5 holes (hash): streams that refused messages
-- ARGV 1 mode: "lead" publishes if the caller leads or nobody does, "join"
--        publishes always, "leave" gives the lead up
--      2 caller  3 length of the lead, ms  4 greatest t that the caller saw
--      5 epoch, for a clock without one  6 fingerprint  7 its readable form
--      8 check, - for none  9 control channel  10 added to TIME, ms (fault injection)
--      11 how long after the end of the lead a fingerprint still counts, ms
--      12 control channel of earlier versions, if it is another one, else ""
--      13 index of the instances  14 what their owner keys begin with
--      15 shard channel for all messages, or "": each on its own channel
--      16 in a cluster "1 <time>": tells of the links by which messages come from other
--      nodes; "0 <time>": does not; else "". The time is when the call is too late, 0: never
--      17 run_id of the server that made the t of 4, or ""  18 "1": a subscription of the
--      caller hangs on it  19 room that a server leaves the one before it, ms
--      with an inbox, whose bounds are:
--      20 messages and 21 bytes of a batch  22 batches  23 refused entries
--      24 bytes of a payload, 0 for any; and 25 "1": payloads are envelopes
--      26 prefix of the streams  27 how long after a change of the server nothing
--      is moved, ms  28 channel of batches, "" for none  29 how many reclaims, which
--      follow: t and ids of each; then id and verdict of an entry, and so on
-- Returns {"tick", t, time, leader, node, reclaims, epoch, owner, servers, …} |
--         {"led", t, time, leader, node, reclaims, epoch, owner, servers} |
--         {"foreign", fingerprint, readable} | {"late", time} | {"left"}
-- where reclaims is why the reclaims were not taken, or "", owner another prefix
-- that the inbox belongs to, or "", and servers what the clock says of the servers.
-- For … of the leader with an inbox: failure, length, batches under way, moved,
-- acknowledged, 1 if the verdicts given are to be kept, how many were refused, why
-- each, then six words for each entry that wants a verdict: id, channel, "1" if it
-- has data, event_type, id, retry
local caller, lead = ARGV[2], tonumber(ARGV[3])
local f = redis.call('HMGET', KEYS[1], 't', 'epoch', 'watermark', 'fingerprint', 'fingerprint_text', 'leader', 'leader_until',
  'inbox_node', 'inbox_base', 'inbox_since', 'evicted', 'evicted_node', 'inbox_leader', 'told_t', 'earlier_until', 'servers',
  'stray_until')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[10])
local function text(n) return string.format('%.0f', n) end

-- A node that was frozen and replaced takes up what it was asked before, and in a cluster
-- what it publishes comes to the others: entries of the inbox would come twice.
local due = tonumber(string.match(ARGV[16], '%d+$') or 0)
if due > 0 and now - ARGV[10] > due then return {'late', text(now)} end

-- Whether an instance is there that has no owner key, as earlier versions have none.
local function has_earlier(index, owners)
  for _, name in ipairs(redis.pcall('ZRANGE', index, 0, 999)) do
    if redis.pcall('EXISTS', owners .. name) == 0 then return true end
  end
  return false
end

-- What was spoiled by hand would stop every feed. Without a watermark the history
-- begins anew, behind a gap; with another epoch the order goes on.
local ms = string.match(f[3] or '0-0', '^(%d+)-%d+$')
if not ms or #ms > 15 then
  redis.call('HDEL', KEYS[1], 'watermark')
  f[3] = false
end
if f[2] and not string.match(f[2], '^%w+$') then f[2] = false end

local leader, ends = f[6] or '', tonumber(f[7]) or 0
if ends > now + 10 * lead then
  ends = 0 -- the clock was set back: nobody shall wait until it has caught up
end

if ARGV[1] == 'leave' then
  if leader == caller then
    -- Free at once. The fingerprint counts for two leads more: those of the fleet who
    -- stay find out that nobody leads only after one, and others could be quicker.
    redis.call('HSET', KEYS[1], 'leader_until', text(math.min(now, now + 2 * lead - tonumber(ARGV[11]))))
  end
  return {'left'}
end
if f[4] and f[4] ~= ARGV[6] and ends + tonumber(ARGV[11]) > now then
  return {'foreign', f[4], f[5] or ''}
end
local stored = tonumber(f[1]) or 0
if stored > 9e15 then stored = 0 end -- by hand: numbers of Lua end there
local info = redis.call('INFO', 'server', 'stats', 'replication')
local node, evicted = string.match(info, 'run_id:(%x+)'), string.match(info, 'evicted_keys:(%d+)') or '0'
local term = string.match(info, 'master_replid2:(%x+)')

local function text_of(failure) return type(failure) == 'table' and failure.err or tostring(failure) end

local inbox
local failed_reclaim, owner = '', ''
if #KEYS > 1 then owner = other_owner(KEYS[3], ARGV[26]) end
if #KEYS > 1 and owner == '' then
  local base, since = tonumber(f[9]) or 0, tonumber(f[10]) or 0
  if f[8] ~= node then
    base, since = stored, f[8] and now or 0
    redis.call('HSET', KEYS[1], 'inbox_node', node, 'inbox_base', text(base), 'inbox_since', text(since))
  end
  inbox = {
    notes = KEYS[2], key = KEYS[3], aside = KEYS[4], holes = KEYS[5], watermark = f[3] or '0-0', streams = ARGV[26],
    most = tonumber(ARGV[20]), bytes = tonumber(ARGV[21]), batches = tonumber(ARGV[22]),
    aside_most = ARGV[23], payload_most = tonumber(ARGV[24]), envelope = ARGV[25] == '1',
    may_move = math.abs(now - since) >= tonumber(ARGV[27]), verdicts = {},
  }
  inbox.shard = ARGV[15]
  local forgotten, reclaims_end = {}, 29 + 2 * tonumber(ARGV[29])
  for i = 30, reclaims_end, 2 do
    local at, ids = ARGV[i], {}
    for id in string.gmatch(ARGV[i + 1], '[^,]+') do ids[#ids + 1] = id end
    if tonumber(at) > base then forgotten[#forgotten + 1] = {at, ids} end -- else this server knows the tick, and all since
  end
  if #forgotten > 0 then
    local ok, noted = pcall(reclaim, inbox, forgotten)
    if not ok then failed_reclaim, noted = text_of(noted), 0 end
    if noted > stored then
      stored = noted
      redis.call('HSET', KEYS[1], 't', text(stored))
    end
  end
  for i = reclaims_end + 1, #ARGV, 2 do inbox.verdicts[ARGV[i]] = ARGV[i + 1] end
end

-- A leader without the inbox gives way to who has it, or entries would stay for ever.
local free = leader == caller or ends <= now or inbox and f[13] ~= leader
local epoch = f[2] or ARGV[5]
-- The servers that gave the order, oldest first, each with its first tick: "<run_id>:<t>", with
-- commas between. 0: from before this was noted. Who came before is known to earlier versions,
-- too, and to the caller where a server has no data.
local servers, seen = string.match(f[16] or '', '^%x+:%d+[%x:,]*$') or '', tonumber(ARGV[4])
local before = string.match(servers, '(%x+):%d+$') or string.match(f[12] or '', '^%x+$') or seen > stored and ARGV[17] or ''
local took_over = before ~= '' and before ~= node

-- Who hangs on another server, which has given out positions beyond ours, has commands that
-- lead to a former primary. It must not go on behind them: that is the room of the other one.
local is_former = before == node and seen > stored and ARGV[17] ~= node and ARGV[18] == '1'

if ARGV[1] == 'lead' and not free or is_former then
  return {'led', text(stored), text(now), leader, node, failed_reclaim, epoch, owner, servers}
end

-- What is published on another node comes by its link to this one. When that is cut, what
-- was under way is lost, and so is what is published there until there is a link again.
-- Nobody says so but these lists. Returns a hash of the links, '-' while one is missing, or
-- an error.
local function incoming_links()
  local list, nodes = redis.pcall('CLUSTER', 'LINKS'), redis.pcall('CLUSTER', 'NODES')
  if list.err then return nil, list.err end
  if type(nodes) == 'table' then return nil, nodes.err end
  local since, names = {}, {}
  for i, link in ipairs(list) do
    local l = as_table(link)
    if l.direction == 'from' then
      since[l.node] = true
      names[#names + 1] = l.node .. ' ' .. text(l['create-time'])
    end
  end
  for id, flags in string.gmatch(nodes, '(%x+) %S+ (%S+) [^\n]*') do
    -- One that has failed in the eyes of most, or is not quite known, publishes nothing.
    local silent = string.find(',' .. flags .. ',', ',fail,', 1, true) or string.find(flags, 'myself') or
      string.find(flags, 'handshake') or string.find(flags, 'noaddr')
    if not silent and not since[id] then return '-' end
  end
  table.sort(names)
  return redis.sha1hex(table.concat(names, ','))
end

local links
if string.sub(ARGV[16], 1, 1) == '1' then
  local failure
  links, failure = incoming_links()
  if not links then return redis.error_reply('NOLINKS ' .. failure) end -- nothing is written yet
  if links == '-' and inbox then inbox.may_move = false end -- its entries would not get the numbers of this tick
end

-- On the shard channel nothing comes by the bus, where backends publish to the primary. A primary
-- that was frozen, or cut off, and is replaced sends its replicas late what was published on it
-- before: to this node too. That would be numbered anew. While one is away, and for a minute after,
-- returns how many messages of any shard channel have come by the bus, else "". One that is away
-- is a primary that has failed and has no slots. CLUSTER NODES takes 0.05 ms, so it is asked where
-- another server gave the order before this one.
local function strays(servers)
  if not string.find(servers, ',', 1, true) then return '' end
  local nodes = redis.pcall('CLUSTER', 'NODES')
  if type(nodes) == 'table' then return '' end -- no right to
  local until_ms = tonumber(f[17]) or 0
  if until_ms > now + 60000 then until_ms = 0 end -- the clock was set back
  for flags, slots in string.gmatch(nodes, '%x+ %S+ (%S+) %S+ %d+ %d+ %d+ %S+([^\n]*)') do
    if string.find(flags, 'master', 1, true) and string.find(',' .. flags .. ',', ',fail[?,]') and not string.find(slots, '%d') then
      until_ms = now + 60000
      redis.call('HSET', KEYS[1], 'stray_until', text(until_ms))
      break
    end
  end
  if now >= until_ms then return '' end
  local info = redis.pcall('CLUSTER', 'INFO')
  if type(info) == 'table' then return '' end
  return string.match(info, 'messages_publishshard_received:(%d+)') or '0'
end

local watermark = f[3] or '0-0'
local written = tonumber(string.match(watermark, '^%d+')) or 0
local t = math.max(now, stored + 1, seen + 1, written + 1)
-- The server before this one may live on for a while, and instances that still hang on it go on
-- to number what comes there. Left that much room, all their IDs lie before the first tick of
-- this one: none is given twice, and who has one is told of the gap in front of that tick.
if took_over then t = math.max(t - 1, now) + tonumber(ARGV[19]) end
t = text(t)
if free then
  leader, ends = caller, now + lead
  redis.call('HSET', KEYS[1], 'leader', leader, 'leader_until', text(ends), 'inbox_leader', inbox and leader or '')
end
redis.call('HSET', KEYS[1], 't', t, 'servers_t', t, 'epoch', epoch, 'fingerprint', ARGV[6], 'fingerprint_text', ARGV[7])
if took_over or servers == '' then
  if took_over and servers == '' then servers = before .. ':0' end
  servers = servers .. (took_over and ',' .. node .. ':' .. t or node .. ':0')
  servers = string.match(servers, '%x+:%d+,%x+:%d+,%x+:%d+,%x+:%d+$') or servers -- four are enough
  redis.call('HSET', KEYS[1], 'servers', servers)
end

-- Up to the watermark the history may have been evicted, if the server has evicted
-- keys since the last tick. Of another server it is not known what it did before it
-- went away: then it counts that this one, with the same settings, would evict.
local function may_have_evicted()
  if f[12] == node then return f[11] ~= evicted end
  if evicted ~= '0' or (f[11] or '0') ~= '0' then return true end
  if not f[12] then return false end
  local memory = redis.call('INFO', 'memory')
  return string.match(memory, 'maxmemory:(%d+)') ~= '0' and string.match(memory, 'maxmemory_policy:(%S+)') ~= 'noeviction'
end
if f[12] ~= node or f[11] ~= evicted then
  if may_have_evicted() then redis.call('HSET', KEYS[1], 'evicted_to', watermark) end
  redis.call('HSET', KEYS[1], 'evicted', evicted, 'evicted_node', node)
end

-- Versions before this one know one control channel for all databases. While one of
-- them is there it is told there too: they tick without noting told_t, and have no
-- owner key. What is told twice is taken once.
local tells_earlier = false
if ARGV[12] ~= '' then
  local ends_at = tonumber(f[15]) or 0
  if f[14] ~= f[1] or has_earlier(ARGV[13], ARGV[14]) then ends_at = now + 10000 end
  tells_earlier = now < ends_at
  redis.call('HSET', KEYS[1], 'told_t', t, 'earlier_until', text(ends_at))
end

local answer = {'tick', t, text(now), leader, node, failed_reclaim, epoch, owner, servers}
local batch, report = {}, nil
if inbox and leader == caller then
  keep_owner(KEYS[3], ARGV[26])
  inbox.t, inbox.control = t, ARGV[9]
  local ok
  ok, batch, report = pcall(serve_inbox, inbox)
  if not ok then -- ticks go on whatever is wrong with the inbox
    inbox.failure, report, batch = batch, {}, {}
  end
  if inbox.failure then report.failure = text_of(inbox.failure) end
end

-- What the caller saw on another server says nothing about the order of this one. One that lives
-- on beyond its room has made ticks with the same t.
local check = ARGV[17] == node and ARGV[8] or '-'
local words = {'tick', t, epoch, watermark, ARGV[6], node, check, caller, #batch > 0 and report.ids or '', term or ''}
if ARGV[16] ~= '' then
  words[11], words[12] = links or '', string.match(info, 'master_replid:(%x+)')
end
if string.find(servers, ',', 1, true) then
  words[11], words[12], words[13] = words[11] or '', words[12] or '', servers
end
if string.sub(ARGV[16], 1, 1) == '0' then
  words[13], words[14] = words[13] or '', strays(servers)
end
local failed = redis.pcall('PUBLISH', ARGV[9], table.concat(words, ' '))
if type(failed) == 'table' then
  if #batch > 0 then redis.call('RPOP', KEYS[2]) end
  return failed
end
if tells_earlier then redis.pcall('PUBLISH', ARGV[12], table.concat(words, ' ')) end
for _, message in ipairs(#batch > 1 and packed(batch, ARGV[28], ARGV[15]) or batch) do
  if ARGV[15] ~= '' then
    redis.call('SPUBLISH', ARGV[15], message[1] .. '\n' .. message[2])
  else
    redis.call('PUBLISH', message[1], message[2])
  end
end
if report then append_report(answer, report, #batch) end
return answer
