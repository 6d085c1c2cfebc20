-- Adds an answer; the hash expires with or without somebody who reads it.
-- KEYS 1 the answers (hash)  ARGV 1 instance  2 its answer  3 expiry, ms
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
