-- Publishes a tick, if the caller may, and keeps the clock.
-- KEYS 1 the clock (hash); with an inbox:
--      2 notes of the inbox  3 the inbox  4 where refused entries go
--      5 holes (hash): streams that refused messages
-- ARGV 1 mode: "lead" publishes if the caller leads or nobody does, "join"
--        publishes always, "leave" gives the lead up
--      2 caller  3 length of the lead, ms  4 greatest t that the caller saw
--      5 epoch, for a clock without one  6 fingerprint  7 its readable form
--      8 check  9 control channel  10 added to TIME, ms (fault injection)
--      11 how long after the end of the lead a fingerprint still counts, ms
--      with an inbox, whose bounds are:
--      12 messages and 13 bytes of a batch  14 batches  15 refused entries
--      16 bytes of a payload, 0 for any; and 17 "1": payloads are envelopes
--      18 prefix of the streams  19 how long after a change of the server nothing
--      is moved, ms  20 how many claims, which follow: t and ids of each; then id
--      and verdict of an entry, and so on
-- Returns {"tick", t, time, leader, node, claims, …} |
--         {"led", t, time, leader, node, claims} |
--         {"foreign", fingerprint, readable} | {"left"}
-- where claims is why the claims were not taken, or "".
-- For … of the leader with an inbox: failure, length, batches under way, moved,
-- acknowledged, 1 if the verdicts given are to be kept, how many were refused, why
-- each, then six words for each entry that wants a verdict: id, channel, "1" if it
-- has data, event_type, id, retry
local caller, lead = ARGV[2], tonumber(ARGV[3])
local f = redis.call('HMGET', KEYS[1], 't', 'epoch', 'watermark', 'fingerprint', 'fingerprint_text', 'leader', 'leader_until',
  'inbox_node', 'inbox_base', 'inbox_since')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[10])
local function text(n) return string.format('%.0f', n) end

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
local free = leader == caller or ends <= now
local node = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')

local function text_of(failure) return type(failure) == 'table' and failure.err or tostring(failure) end

local inbox
local unclaimed = ''
if #KEYS > 1 then
  local base, since = tonumber(f[9]) or 0, tonumber(f[10]) or 0
  if f[8] ~= node then
    base, since = stored, f[8] and now or 0
    redis.call('HSET', KEYS[1], 'inbox_node', node, 'inbox_base', text(base), 'inbox_since', text(since))
  end
  inbox = {
    notes = KEYS[2], key = KEYS[3], aside = KEYS[4], holes = KEYS[5], watermark = f[3] or '0-0', streams = ARGV[18],
    most = tonumber(ARGV[12]), bytes = tonumber(ARGV[13]), batches = tonumber(ARGV[14]),
    aside_most = ARGV[15], payload_most = tonumber(ARGV[16]), envelope = ARGV[17] == '1',
    may_move = math.abs(now - since) >= tonumber(ARGV[19]), verdicts = {},
  }
  local claims, claims_end = {}, 20 + 2 * tonumber(ARGV[20])
  for i = 21, claims_end, 2 do
    local claimed, ids = tonumber(ARGV[i]), {}
    for id in string.gmatch(ARGV[i + 1], '[^,]+') do ids[#ids + 1] = id end
    if claimed > base then claims[#claims + 1] = {claimed, ids} end -- else this server knows the tick, and all since
  end
  if #claims > 0 then
    local ok, noted = pcall(take_claims, inbox, claims)
    if not ok then unclaimed, noted = text_of(noted), 0 end
    if noted > stored then
      stored = noted
      redis.call('HSET', KEYS[1], 't', text(stored))
    end
  end
  for i = claims_end + 1, #ARGV, 2 do inbox.verdicts[ARGV[i]] = ARGV[i + 1] end
end

if ARGV[1] == 'lead' and not free then
  return {'led', text(stored), text(now), leader, node, unclaimed}
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

local answer = {'tick', t, text(now), leader, node, unclaimed}
local batch, report = {}, nil
if inbox and leader == caller then
  inbox.t, inbox.control = t, ARGV[9]
  local ok
  ok, batch, report = pcall(serve_inbox, inbox)
  if not ok then -- ticks go on whatever is wrong with the inbox
    inbox.failure, report, batch = batch, {}, {}
  end
  if inbox.failure then report.failure = text_of(inbox.failure) end
end

local words = {'tick', t, epoch, watermark, ARGV[6], node, ARGV[8], caller}
if #batch > 0 then words[#words + 1] = report.ids end
local failed = redis.pcall('PUBLISH', ARGV[9], table.concat(words, ' '))
if type(failed) == 'table' then
  if #batch > 0 then redis.call('RPOP', KEYS[2]) end
  return failed
end
for _, message in ipairs(batch) do redis.call('PUBLISH', message[1], message[2]) end
if report then append_report(answer, report, #batch) end
return answer
