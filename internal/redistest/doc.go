// Package redistest runs private redis-server processes: on a port of 127.0.0.1
// of their own, in a directory of their own, without persistence unless asked
// for, and gone when the test or the caller is done. Start is for tests, Run for
// programs. REDIS_SERVER in the environment names another program, such as valkey-server.
// There is no mock: what tests see is what Redis does, so a missing
// redis-server is an error and never a skipped test.
package redistest
