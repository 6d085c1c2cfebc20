-- Says that an instance is there. With memory full too: then above all an operator
-- looks at the list. Returns the version of the list of who is kept out.
-- KEYS 1 the index (sorted set of names by expiry)  2 the key of the instance
--      3 the hash of revoke.lua  4 the owner key of the instance
-- ARGV 1 its name  2 how long this counts, ms  3 its report
--      4 the process  5 the time that it was told last, or ""  6 how it is set up
--      7 what owner keys begin with  8 prefix of the streams
--      9 all prefixes (sorted set by expiry)  10 how long keys of the prefix last, ms
--      11 "1" if the process has been listed before
--      12 JSON of the settings with which another value does harm, by name
-- Returns {"harm", name and owner key of an instance that has one otherwise} |
--         {"taken", when the other process last said that it is there, its owner key or ""} |
--         {"nested", the other prefix} |
--         {"ok", time, version, "1" if another process says that it is there under the
--          name, then name and owner key of each of the others}
-- An owner key is "<process> <since> <how it is set up>". Earlier versions have none.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(n) return string.format('%.0f', n) end

-- Whether the two must not run beside each other. One that does without harms nobody.
local function harms(owner, mine)
  local ok, id = pcall(cjson.decode, string.match(owner, '^%S+ %d+ (.*)$') or '')
  local theirs = ok and type(id) == 'table' and id.settings
  if type(theirs) ~= 'table' then return false end
  theirs.partitions = theirs.partitions or '1' -- versions before there were several
  for name, value in pairs(mine) do
    if type(theirs[name]) == 'string' and theirs[name] ~= '' and theirs[name] ~= value then return true end
  end
  return false
end

-- Before anything is written: others would count the instance as one of theirs, and share
-- their work with it.
if ARGV[11] ~= '1' then
  local mine = cjson.decode(ARGV[12])
  for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, 999)) do
    local other = name ~= ARGV[1] and redis.call('GET', ARGV[7] .. name)
    if other and harms(other, mine) then return {'harm', name, other} end
  end
end

local own, said = redis.call('GET', KEYS[4]), redis.call('GET', KEYS[2])
local process, since = string.match(own or '', '^(%S+) (%d+) ')
local at = string.match(said or '', '^%d+') or ''
if said and process ~= ARGV[4] and (own or at ~= ARGV[5]) then return {'taken', at, own or ''} end

-- Keys of one prefix must not be channels of another. Without the right to that key
-- nobody is told.
local function begins(long, short) return string.sub(long, 1, #short) == short end
local prefixes = redis.pcall('ZRANGE', ARGV[9], 0, -1)
if not prefixes.err then
  redis.pcall('ZREMRANGEBYSCORE', ARGV[9], '-inf', text(now))
  if ARGV[11] ~= '1' then
    for _, prefix in ipairs(redis.call('ZRANGE', ARGV[9], 0, -1)) do
      if prefix ~= ARGV[8] and (begins(prefix, ARGV[8]) or begins(ARGV[8], prefix)) then return {'nested', prefix} end
    end
  end
  redis.pcall('ZADD', ARGV[9], text(now + ARGV[10]), ARGV[8])
  local left = redis.pcall('PTTL', ARGV[9]) -- not a number without the right to it
  if type(left) ~= 'number' or left < tonumber(ARGV[10]) then redis.pcall('PEXPIRE', ARGV[9], ARGV[10]) end
end

local shared = process == ARGV[4] and at ~= '' and (tonumber(at) or 0) > (tonumber(ARGV[5]) or 0) and '1' or ''
if process ~= ARGV[4] then since = text(now) end
redis.call('SET', KEYS[4], ARGV[4] .. ' ' .. since .. ' ' .. ARGV[6], 'PX', ARGV[2])
redis.call('SET', KEYS[2], text(now) .. ' ' .. ARGV[3], 'PX', ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(now))
redis.call('ZADD', KEYS[1], text(now + ARGV[2]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local answer = {'ok', text(now), redis.call('HGET', KEYS[3], 'v') or '', shared}
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, 999)) do
  local other = name ~= ARGV[1] and redis.call('GET', ARGV[7] .. name)
  if other then
    answer[#answer + 1] = name
    answer[#answer + 1] = other
  end
end
return answer
