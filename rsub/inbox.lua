-- The inbox: a stream to which backends XADD, and whose entries the ticks take into
-- the order, right behind themselves. What was published behind a tick is noted (see
-- notes.lua), and stays in the inbox until the history is written up to the last of it
-- (skip.lua of rstore puts that into the history whose stretch is given up). So an entry
-- that no note names was never published, and whoever calls this script when, how often
-- and with what: nothing is moved twice.
--
-- A server that takes over from another one, or starts again, may have forgotten the
-- newest ticks. Instances remember what came behind them and reclaim it: then it has a
-- note again. Until they had the time nothing is moved.

-- Joined behind ids.lua and notes.lua of redislua.

-- An inbox belongs to one prefix, which its owner key names for a minute after its last
-- leader. Without the right to that key it belongs to nobody, as before there was one.

-- Returns another prefix that the inbox belongs to, or ''.
local function other_owner(key, prefix)
  local owner = redis.pcall('GET', key .. ':owner')
  return type(owner) == 'string' and owner ~= prefix and owner or ''
end

local function keep_owner(key, prefix)
  local left = redis.pcall('PTTL', key .. ':owner')
  if type(left) == 'number' and left < 30000 then redis.pcall('SET', key .. ':owner', prefix, 'PX', 60000) end
end

-- Whether the history is written up to the position t-n.
local function is_written(watermark, t, n) return not less(watermark, position(t, n)) end

local function as_table(flat)
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end

-- Whether the history, which is written beyond this position, has its message or had
-- it: what is older than all that is left of a trimmed stream was trimmed.
local function is_in_history(stream, at)
  local found, info = redis.pcall('XRANGE', stream, at, at), redis.pcall('XINFO', 'STREAM', stream)
  if found.err or info.err then return false end -- no such key, or another type
  if found[1] then return true end
  local f = as_table(info)
  if not less(f['max-deleted-entry-id'], at) then return true end
  local first = f['first-entry']
  return f['entries-added'] > f.length and (not first or less(at, first[1]))
end

-- Calls visit for those of the ids, of what was published behind tick t, that are
-- entries of the inbox and no messages of the history. Returns the others.
local function each_missing(o, key, t, ids, visit)
  local others = {}
  for n, id in ipairs(ids) do
    local entry = id ~= no_entry and redis.call('XRANGE', key, id, id)[1]
    if entry then
      local fields = as_table(entry[2])
      local stream = o.streams .. (fields.channel or '')
      if is_in_history(stream, position(t, n)) then
        others[#others + 1] = id
      else
        visit(id, entry[2], stream)
      end
    end
  end
  return others
end

-- Deletes what the history has of these. What it lacks stays in the inbox as if it
-- had never been published. Returns how many were deleted.
local function settle(o, key, t, ids)
  local others = each_missing(o, key, t, ids, function() end)
  if #others > 0 then redis.call('XDEL', key, unpack(others)) end
  return #others
end

-- The streams that refused messages behind tick t (append.lua of rstore), or nil.
local function refusing(o, t, n)
  if redis.call('HLEN', o.holes) == 0 then return nil end
  local list, from, to = {}, position(t, n), position(t, 0)
  for stream, stretch in pairs(as_table(redis.call('HGETALL', o.holes))) do
    local low, high = string.match(stretch, '^(%S+) (%S+)')
    if less(low, from) and less(to, high) then list[stream] = true end
  end
  return next(list) and list
end

-- Puts an entry that cannot be delivered where somebody may look at it. Returns why
-- it could not be put there; then it stays where it is.
local function set_aside(o, key, id, fields, reason)
  local args = {'XADD', o.aside, 'MAXLEN', '~', o.aside_most, '*', 'inbox_id', id, 'reason', reason}
  for i = 1, math.min(#fields, 32) do args[#args + 1] = string.sub(fields[i], 1, 4096) end
  if #args % 2 ~= 0 then args[#args] = nil end
  local added = redis.pcall(unpack(args))
  if type(added) == 'table' then return added.err end
  redis.call('XDEL', key, id)
end

-- Forgets what is in the history, or refused by it. Returns the newest id that is
-- under way, and whether it was reclaimed.
local function acknowledge(o, report)
  while true do
    local note = redis.call('LINDEX', o.notes, 0)
    if not note then return nil end
    local t, ids, key, is_reclaimed = parse_note(note)
    if not is_written(o.watermark, t, #ids) then break end
    local streams = not is_reclaimed and refusing(o, t, #ids)
    if is_reclaimed then
      report.acknowledged = report.acknowledged + settle(o, key, t, ids)
    else
      local refused = #report.refused
      if streams then
        each_missing(o, key, t, ids, function(id, fields, stream)
          if not streams[stream] then return end
          -- To be moved again would be to be refused again: better nothing is moved.
          local failure = set_aside(o, key, id, fields, 'stream')
          if failure then error({err = failure}) end
          report.refused[#report.refused + 1] = 'stream'
        end)
      end
      redis.call('XDEL', key, unpack(ids))
      report.acknowledged = report.acknowledged + #ids + refused - #report.refused
    end
    redis.call('LPOP', o.notes)
  end
  local _, ids, _, is_reclaimed = parse_note(redis.call('LINDEX', o.notes, -1))
  local last = #ids
  while ids[last] == no_entry do last = last - 1 end
  return ids[last], is_reclaimed
end

-- Whether an entry stands before what was published, to be published again. It has
-- to wait until the history has what came behind it, and that for it.
local function is_left_behind(notes, key)
  local first, note = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1], redis.call('LINDEX', notes, 0)
  if not first or not note then return false end
  local _, ids = parse_note(note)
  for _, id in ipairs(ids) do
    if id ~= no_entry then return less(first[1], id) end
  end
  return false
end

-- Takes word of what was published behind ticks of which this server knows nothing:
-- a list of {t, ids}. What the history has is deleted, what it may still get is noted,
-- and what it lacks stays in the inbox as if it had never been published.
-- Returns the t of the newest note made, or 0.
local function reclaim(o, forgotten)
  if redis.call('EXISTS', o.key) == 0 then return 0 end
  local list, noted, newest = {}, {}, 0
  for i, note in ipairs(redis.call('LRANGE', o.notes, 0, -1)) do
    local t, ids = parse_note(note)
    list[i] = {t, note}
    for _, id in ipairs(ids) do noted[id] = true end
  end
  for _, lost in ipairs(forgotten) do
    local t, written, due, is_due = lost[1], {}, {}, false
    for n, id in ipairs(lost[2]) do
      written[n], due[n] = no_entry, no_entry
      if noted[id] then
        -- its position is that of the note
      elseif is_written(o.watermark, t, n) then
        written[n] = id
      elseif redis.call('XRANGE', o.key, id, id)[1] then
        due[n], noted[id], is_due = id, true, true
      end
    end
    settle(o, o.key, t, written)
    if is_due then
      local place = 1
      while list[place] and tonumber(list[place][1]) <= tonumber(t) do place = place + 1 end
      table.insert(list, place, {t, make_note(t, due, o.key, true)})
      newest = math.max(newest, tonumber(t))
    end
  end
  if newest == 0 then return 0 end
  redis.call('DEL', o.notes)
  for _, note in ipairs(list) do redis.call('RPUSH', o.notes, note[2]) end
  return newest
end

-- Calls visit for the entries behind an id until it returns false, with the bytes of
-- all fields. They are read a few at a time: how large they are is not known before.
local function each_entry(key, after, visit)
  local from, step = after and '(' .. after or '-', 1
  while true do
    local list, read = redis.call('XRANGE', key, from, '+', 'COUNT', step), 0
    for _, entry in ipairs(list) do
      local size = 0
      for _, text in ipairs(entry[2]) do size = size + #text end
      if not visit(entry[1], as_table(entry[2]), entry[2], size) then return end
      from, read = '(' .. entry[1], read + size
    end
    if #list < step then return end
    step = read < 65536 and math.min(2 * step, 16) or 1
  end
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

-- A length of a batch, see AppendBatched of sseproto.
local function uvarint(n)
  local bytes = ''
  while n >= 128 do
    bytes, n = bytes .. string.char(128 + n % 128), math.floor(n / 128)
  end
  return bytes .. string.char(n)
end

-- What to publish so that as few messages as possible carry these: batches of at most
-- 1 MiB on their channel. A message that is alone goes as it is, and so do all where there
-- is no such channel, or no right to it: their numbers are the same. With a shard channel
-- that is what the right is to, and checked already.
local function packed(messages, channel, shard)
  if channel == '' or shard == '' and not redis.acl_check_cmd('PUBLISH', channel, '') then return messages end
  local list, parts, size, first = {}, {}, 0, nil
  local function close()
    if #parts == 1 then list[#list + 1] = first
    elseif #parts > 1 then list[#list + 1] = {channel, table.concat(parts)} end
    parts, size = {}, 0
  end
  for _, m in ipairs(messages) do
    local part = uvarint(#m[1]) .. m[1] .. uvarint(#m[2]) .. m[2]
    if size + #part > 1048576 then close() end
    if #parts == 0 then first = m end
    parts[#parts + 1], size = part, size + #part
  end
  close()
  return list
end

local function given(text) return text and text ~= '' and text or nil end

-- What is published for an entry, or nil and why nothing can be.
local function payload_of(fields, envelope, most, shard)
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
  if shard == '' and not redis.acl_check_cmd('PUBLISH', fields.channel, '') then return nil, 'denied' end
  return payload
end

-- One look at the inbox by the leader of the ticks: what is in the history is
-- forgotten, what has a verdict is moved or set aside, and for what comes next one
-- is asked. Returns what to publish behind tick t, with its note written, and the
-- report.
--   o: notes, key, aside, holes (keys), streams (prefix), watermark, verdicts (by id:
--      '' or why not), t, most, bytes, batches, aside_most, payload_most (bounds),
--      envelope, may_move, control (channel of the ticks), shard (channel of messages)
local function serve_inbox(o)
  local report = {acknowledged = 0, refused = {}, asked = {}}
  if o.shard ~= '' and not redis.acl_check_cmd('SPUBLISH', o.shard, '') then
    error({err = 'NOPERM this user may not SPUBLISH on ' .. o.shard})
  end
  -- What nobody is there to number stays where it is.
  o.may_move = o.may_move and (not next(o.verdicts) or redis.call('PUBSUB', 'NUMSUB', o.control)[2] > 0)
  local newest, is_reclaimed = acknowledge(o, report)
  report.batches = newest and redis.call('LLEN', o.notes) or 0
  -- What was reclaimed may have to be moved again, in front of all that comes behind.
  if newest and o.may_move then o.may_move = not is_reclaimed and not is_left_behind(o.notes, o.key) end
  local asking, batch, ids, bytes, asked_bytes = not o.may_move or report.batches >= o.batches, {}, {}, 0, 0
  if asking and next(o.verdicts) then
    -- The verdicts hold until something can be moved: nothing needs to be read.
    report.kept, report.length = 1, redis.call('XLEN', o.key)
    return batch, report
  end
  each_entry(o.key, newest, function(id, fields, raw, size)
    local verdict = o.verdicts[id]
    asking = asking or not verdict or bytes > 0 and bytes + size > o.bytes
    if asking then
      report.asked[#report.asked + 1] = {
        id, string.sub(fields.channel or '', 1, 256), fields.data and '1' or '',
        string.sub(fields.event_type or '', 1, 256), string.sub(fields.id or '', 1, 256), string.sub(fields.retry or '', 1, 32),
      }
      asked_bytes = asked_bytes + size
      return #report.asked < o.most and asked_bytes < o.bytes
    end
    local payload
    if verdict == '' then payload, verdict = payload_of(fields, o.envelope, o.payload_most, o.shard) end
    bytes = bytes + size
    if payload then
      ids[#ids + 1] = id
      batch[#batch + 1] = {fields.channel, payload}
      return true
    end
    local failure = set_aside(o, o.key, id, raw, verdict)
    if failure then
      o.failure = failure
    else
      report.refused[#report.refused + 1] = verdict
    end
    return true
  end)
  if newest or #ids > 0 or #report.asked > 0 then
    report.length = redis.call('XLEN', o.key)
  end
  -- The note comes last: what fails before it leaves nothing that was not published.
  if #ids > 0 then
    report.batches = redis.call('RPUSH', o.notes, make_note(o.t, ids, o.key))
  end
  report.ids = table.concat(ids, ',')
  return batch, report
end

-- The report as the answer has it.
local function append_report(answer, report, moved)
  local function put(...)
    for _, word in ipairs({...}) do answer[#answer + 1] = tostring(word) end
  end
  put(report.failure or '', report.length or 0, report.batches or 0, moved, report.acknowledged or 0, report.kept or 0, #(report.refused or {}))
  put(unpack(report.refused or {}))
  for _, entry in ipairs(report.asked or {}) do put(unpack(entry)) end
end
