-- Lists who is kept out: bearer, until and for how long still, ms.
-- KEYS 1 the hash of revoke.lua
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(n) return string.format('%.0f', n) end
local all, list = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
  local left = all[i] ~= 'v' and tonumber(all[i + 1]) - now or 0
  if left > 0 then
    list[#list + 1], list[#list + 2], list[#list + 3] = all[i], all[i + 1], text(left)
  end
end
return list
