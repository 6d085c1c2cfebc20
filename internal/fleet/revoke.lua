-- Keeps a bearer out for a while, and forgets those whose time is over.
-- KEYS 1 hash: bearer -> until, ms of the clock of Redis; v -> changes with each change
-- ARGV 1 the bearer  2 for how long, ms  3 the most at a time
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(n) return string.format('%.0f', n) end
local ends, last, count, known = now + ARGV[2], 0, 0, false
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local name, till = all[i], tonumber(all[i + 1])
  if name == ARGV[1] then
    known, ends = true, math.max(ends, till)
  elseif name ~= 'v' and till <= now then
    redis.call('HDEL', KEYS[1], name)
  elseif name ~= 'v' then
    count, last = count + 1, math.max(last, till)
  end
end
if not known and count >= tonumber(ARGV[3]) then
  return redis.error_reply('TOOMANY are kept out')
end
redis.call('HSET', KEYS[1], ARGV[1], text(ends), 'v', time[1] .. '.' .. time[2])
redis.call('PEXPIRE', KEYS[1], text(math.max(last, ends) - now))
