-- The inbox: a stream to which backends XADD, and whose entries the ticks take into
-- the order, right behind themselves. What was published behind tick t is noted in
-- one element of a list: "<t> <id>,<id>,… <key>". The message of its n-th id has the
-- position t-n, and that id stays in the inbox until the history is written up to
-- the last of them (skip.lua of rstore puts those into it whose stretch is given
-- up). So an entry that no note names was never published, and whoever calls this
-- script when, how often and with what: nothing is moved twice.
--
-- A server that takes over from another one, or starts again, may have forgotten the
-- newest ticks. Instances remember what came behind them and claim it: then it has a
-- note again. Until they had the time nothing is moved.

local function parse_note(note)
  local t, list, key = string.match(note, '^(%d+) (%S+) (.*)$')
  local ids = {}
  for id in string.gmatch(list, '[^,]+') do ids[#ids + 1] = id end
  return tonumber(t), ids, key
end

-- Whether the history is written up to the position t-n.
local function is_written(watermark, t, n)
  local ms, seq = string.match(watermark, '^(%d+)-(%d+)$')
  ms, seq = tonumber(ms), tonumber(seq)
  return ms > t or ms == t and seq >= n
end

local function as_note(t, ids, key) return table.concat({t, table.concat(ids, ','), key}, ' ') end

-- In the place of an id whose position is taken and whose entry is not the note's
-- business: no entry has it.
local none = '0-0'

-- Not exact beyond 53 bits, which only IDs have that were given by hand.
local function less(a, b)
  local am, as = string.match(a, '^(%d+)-(%d+)$')
  local bm, bs = string.match(b, '^(%d+)-(%d+)$')
  am, as, bm, bs = tonumber(am), tonumber(as), tonumber(bm), tonumber(bs)
  return am < bm or am == bm and as < bs
end

-- Forgets what is in the history. Returns how many, and the newest id that is not.
local function acknowledge(notes, watermark)
  local acknowledged = 0
  while true do
    local note = redis.call('LINDEX', notes, 0)
    if not note then return acknowledged, nil end
    local t, ids, key = parse_note(note)
    if not is_written(watermark, t, #ids) then break end
    redis.call('XDEL', key, unpack(ids))
    redis.call('LPOP', notes)
    acknowledged = acknowledged + #ids
  end
  local _, ids = parse_note(redis.call('LINDEX', notes, -1))
  local last = #ids
  while ids[last] == none do last = last - 1 end
  return acknowledged, ids[last]
end

-- Whether an entry stands before what was published, to be published again. It has
-- to wait until the history has what came behind it, and that for it.
local function is_left_behind(notes, key)
  local first, note = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1], redis.call('LINDEX', notes, 0)
  if not first or not note then return false end
  local _, ids = parse_note(note)
  for _, id in ipairs(ids) do
    if id ~= none then return less(first[1], id) end
  end
  return false
end

-- Takes word that the ids were published behind tick t, of which this server knows
-- nothing. What the history has is deleted, what it may still get is noted, and what
-- it will never get stays in the inbox as if it had never been published.
-- Returns whether a note was made.
local function claim(o, t, ids)
  local list, noted, place = redis.call('LRANGE', o.notes, 0, -1), {}, 1
  for i, note in ipairs(list) do
    local other, others = parse_note(note)
    if other <= t then place = i + 1 end
    for _, id in ipairs(others) do noted[id] = true end
  end
  local is_due = false
  for n, id in ipairs(ids) do
    local entry = not noted[id] and redis.call('XRANGE', o.key, id, id)[1]
    local due = entry and not is_written(o.watermark, t, n)
    is_due = is_due or due
    if entry and not due then
      local fields = {}
      for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
      local at = string.format('%.0f-%d', t, n)
      if redis.pcall('XRANGE', o.streams .. (fields.channel or ''), at, at)[1] then redis.call('XDEL', o.key, id) end
    end
    if not due then ids[n] = none end
  end
  if not is_due then return false end
  table.insert(list, place, as_note(string.format('%.0f', t), ids, o.key))
  redis.call('DEL', o.notes)
  redis.call('RPUSH', o.notes, unpack(list))
  return true
end

-- Calls visit for the entries behind an id until it returns false. They are read a
-- few at a time: how large they are is not known before.
local function each_entry(key, after, visit)
  local from, step = after and '(' .. after or '-', 1
  while true do
    local list = redis.call('XRANGE', key, from, '+', 'COUNT', step)
    for _, entry in ipairs(list) do
      local fields = {}
      for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
      if not visit(entry[1], fields, entry[2]) then return end
      from = '(' .. entry[1]
    end
    if #list < step then return end
    step = math.min(2 * step, 16)
  end
end

-- Puts an entry that cannot be delivered where somebody may look at it.
local function set_aside(key, aside, most, id, fields, reason)
  local args = {'XADD', aside, 'MAXLEN', '~', most, '*', 'inbox_id', id, 'reason', reason}
  for i = 1, math.min(#fields, 32) do args[#args + 1] = string.sub(fields[i], 1, 4096) end
  if #args % 2 ~= 0 then args[#args] = nil end
  redis.call(unpack(args))
  redis.call('XDEL', key, id)
end

-- Whether a text is UTF-8: nothing is left of its high bytes without what they
-- may form.
local function is_utf8(text)
  if not string.find(text, '[\128-\255]') then return true end
  for _, form in ipairs({
    '[\194-\223][\128-\191]', '\224[\160-\191][\128-\191]', '[\225-\236\238\239][\128-\191][\128-\191]',
    '\237[\128-\159][\128-\191]', '\240[\144-\191][\128-\191][\128-\191]',
    '[\241-\243][\128-\191][\128-\191][\128-\191]', '\244[\128-\143][\128-\191][\128-\191]',
  }) do
    text = string.gsub(text, form, ' ')
  end
  return not string.find(text, '[\128-\255]')
end

local function given(text) return text and text ~= '' and text or nil end

-- What is published for an entry, or nil and why nothing can be.
local function payload_of(fields, envelope, most)
  local event, id, retry = given(fields.event_type), given(fields.id), given(fields.retry)
  local typed = event or id or retry
  local payload = fields.data
  if envelope and (typed or string.find(payload, '^%s*{')) then
    if is_utf8(payload) then
      payload = cjson.encode({data = payload, event = event, id = id, retry = tonumber(retry)})
    elseif typed then
      return nil, 'utf8'
    end
  end
  if most > 0 and #payload > most then return nil, 'size' end
  if not redis.acl_check_cmd('PUBLISH', fields.channel, '') then return nil, 'denied' end
  return payload
end

-- One look at the inbox by the leader of the ticks: what is in the history is
-- forgotten, what has a verdict is moved or set aside, and for what comes next one
-- is asked. Returns what to publish behind tick t, with its note written, and the
-- report.
--   o: notes, key, aside (keys), watermark, verdicts (by id: '' or why not), t,
--      most, bytes, batches, aside_most, payload_most (bounds), envelope, may_move
local function serve_inbox(o)
  local report = {acknowledged = 0, refused = {}, asked = {}}
  local newest
  report.acknowledged, newest = acknowledge(o.notes, o.watermark)
  report.batches = newest and redis.call('LLEN', o.notes) or 0
  if newest and o.may_move then o.may_move = not is_left_behind(o.notes, o.key) end
  local asking, batch, ids, bytes, asked_bytes = not o.may_move or report.batches >= o.batches, {}, {}, 0, 0
  each_entry(o.key, newest, function(id, fields, raw)
    local verdict = o.verdicts[id]
    local size = #(fields.data or '')
    asking = asking or not verdict or #ids > 0 and bytes + size > o.bytes
    if asking then
      report.asked[#report.asked + 1] = {
        id, string.sub(fields.channel or '', 1, 256), fields.data and '1' or '',
        string.sub(fields.event_type or '', 1, 256), string.sub(fields.id or '', 1, 256), string.sub(fields.retry or '', 1, 32),
      }
      asked_bytes = asked_bytes + size
      return #report.asked < o.most and asked_bytes < o.bytes
    end
    local payload
    if verdict == '' then payload, verdict = payload_of(fields, o.envelope, o.payload_most) end
    if payload then
      ids[#ids + 1] = id
      batch[#batch + 1] = {fields.channel, payload}
      bytes = bytes + size
    else
      set_aside(o.key, o.aside, o.aside_most, id, raw, verdict)
      report.refused[#report.refused + 1] = verdict
    end
    return true
  end)
  if newest or #ids > 0 or #report.asked > 0 then
    report.length = redis.call('XLEN', o.key)
  end
  -- The note comes last: what fails before it leaves nothing that was not published.
  if #ids > 0 then
    report.batches = redis.call('RPUSH', o.notes, as_note(o.t, ids, o.key))
  end
  report.ids = table.concat(ids, ',')
  return batch, report
end

-- The report as the answer has it.
local function append_report(answer, report, moved)
  local function put(...)
    for _, word in ipairs({...}) do answer[#answer + 1] = tostring(word) end
  end
  put(report.failure or '', report.length or 0, report.batches or 0, moved, report.acknowledged or 0, #(report.refused or {}))
  put(unpack(report.refused or {}))
  for _, entry in ipairs(report.asked or {}) do put(unpack(entry)) end
end
