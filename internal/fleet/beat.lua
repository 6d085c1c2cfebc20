-- Says that an instance is there. With memory full too: then above all an operator
-- looks at the list. Returns the version of the list of who is kept out.
-- KEYS 1 the index (sorted set of names by expiry)  2 the key of the instance
--      3 the hash of revoke.lua
-- ARGV 1 its name  2 how long this counts, ms  3 its report
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(n) return string.format('%.0f', n) end
redis.call('SET', KEYS[2], text(now) .. ' ' .. ARGV[3], 'PX', ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(now))
redis.call('ZADD', KEYS[1], text(now + ARGV[2]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('HGET', KEYS[3], 'v')
