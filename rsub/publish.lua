-- Publishes messages, one right behind the other, behind a notice that tells whose
-- they are. It never writes and yet must not have the flag no-writes: without it a
-- replica refuses to run it, and publishes nothing that the primary would not see.
-- KEYS 1 the clock: in a cluster its node is the one that the feeds hang on
-- ARGV 1 control channel  2 caller  3 number of the parcel, "" for no notice
--      4 shard channel for all, or "": each message on its own channel
--      5 channel  6 payload, and so on
-- Returns how many subscriptions got each.
if ARGV[3] ~= '' then
  local node = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  redis.call('PUBLISH', ARGV[1], table.concat({'sent', ARGV[2], ARGV[3], node}, ' '))
end
local receivers = {}
for i = 5, #ARGV, 2 do
  if ARGV[4] ~= '' then
    receivers[#receivers + 1] = redis.call('SPUBLISH', ARGV[4], ARGV[i] .. '\n' .. ARGV[i + 1])
  else
    receivers[#receivers + 1] = redis.call('PUBLISH', ARGV[i], ARGV[i + 1])
  end
end
return receivers
