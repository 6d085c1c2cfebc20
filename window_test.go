package ssed_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
	"ssed/sseproto"
)

// TestFailoverLeavesTheWindowOfABusyChannelWhole: positions of the new primary run up to 2 s ahead
// of its clock. What is younger than the window is kept all the same.
func TestFailoverLeavesTheWindowOfABusyChannelWhole(t *testing.T) {
	const (
		window  = 5 * time.Minute
		key     = "sse:stream:busy"
		seeds   = 7500 // over a minute: a server trims 100 at once
		between = 8    // ms
	)
	do := func(s *redistest.Server, args ...string) any {
		t.Helper()
		answer, err := s.Do(args...)
		require.NoError(t, err)
		return answer
	}
	start := func(s *redistest.Server) (stop func() error) {
		cfg := onRedis(t, s)
		cfg.History.MaxLen, cfg.History.Window = 10, window
		gateway, stop := serve(t, cfg)
		awaitReady(gateway)
		return stop
	}
	now := func(s *redistest.Server) time.Time {
		answer := do(s, "TIME").([]any)
		sec, err := strconv.ParseInt(answer[0].(string), 10, 64)
		require.NoError(t, err)
		micros, err := strconv.ParseInt(answer[1].(string), 10, 64)
		require.NoError(t, err)
		return time.Unix(sec, micros*1000)
	}

	old := redistest.Start(t)
	require.NoError(t, start(old)()) // notes which server gives the order
	first := now(old).Add(-window).UnixMilli()
	do(old, "EVAL", "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], string.format('%.0f-1', ARGV[2] + i * ARGV[3]), 'data', 'old') end",
		"1", key, strconv.Itoa(seeds), strconv.FormatInt(first, 10), strconv.Itoa(between))
	promoted := redistest.Start(t, "--replicaof", strings.Replace(old.Addr(), ":", " ", 1))
	await(func() bool { n, _ := promoted.Do("XLEN", key); return n == int64(seeds) })
	do(promoted, "REPLICAOF", "NO", "ONE")
	old.Stop()

	start(promoted)
	do(promoted, "PUBLISH", "busy", "new")
	newest := func() string {
		entry := do(promoted, "XREVRANGE", key, "+", "-", "COUNT", "1").([]any)[0].([]any)
		return entry[0].(string)
	}
	last := time.UnixMilli(first + seeds*between)
	await(func() bool { id, _ := sseproto.ParseID(newest()); return time.UnixMilli(int64(id.Ms)).After(last) })
	oldest, err := sseproto.ParseID(do(promoted, "XRANGE", key, "-", "+", "COUNT", "1").([]any)[0].([]any)[0].(string))
	require.NoError(t, err)
	missing := time.UnixMilli(int64(oldest.Ms)).Sub(now(promoted).Add(-window))
	require.LessOrEqual(t, missing, time.Duration(0), "the window is too short by so much")
}
