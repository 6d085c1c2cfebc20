-- What XINFO STREAM says, without the entries in it: length, entries-added,
-- max-deleted-entry-id, last-generated-id, the first ID and the field prev of that entry,
-- '' without one. '' when there is no stream.
-- In full it has one entry, else two.
local function state_of(key)
  local info = redis.pcall('XINFO', 'STREAM', key, 'FULL', 'COUNT', 1)
  if info.err then return '' end
  local f = {}
  for i = 1, #info, 2 do f[info[i]] = info[i + 1] end
  local first = f['entries'][1]
  local prev = ''
  for i = 1, first and #first[2] or 0, 2 do
    if first[2][i] == 'prev' then prev = first[2][i + 1] end
  end
  return {f['length'], f['entries-added'], f['max-deleted-entry-id'], f['last-generated-id'], first and first[1] or '', prev}
end
