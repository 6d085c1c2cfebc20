//go:build linux

package bench

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/loadtest/target"
)

// What an idle connection may cost in user memory: on a channel with others, and
// on one of its own.
const (
	maxIdleBytes = 256
	maxOwnBytes  = 512
	// maxSubjectBytes is what a subject of its own may cost on top, with its name.
	maxSubjectBytes = 64
)

// BenchmarkIdleConnectionMemory opens 10,000 connections to the real program and
// reads what its resident memory has grown by, as the kernel counts it. The time
// per operation says nothing: it is the wait for the server to give back what
// connecting took.
func BenchmarkIdleConnectionMemory(b *testing.B) {
	b.Run("channels=1", func(b *testing.B) { idleMemory(b, maxIdleBytes, func(int) int { return 1 }) })
	b.Run("channels=conns", func(b *testing.B) { idleMemory(b, maxOwnBytes, func(conns int) int { return conns }) })
	for _, streamsEach := range []int{0, 100, 1} {
		name, limit := fmt.Sprintf("subjects=conns/%d", streamsEach), maxIdleBytes+maxSubjectBytes
		if streamsEach == 0 {
			name, limit = "subjects=0", maxIdleBytes
		}
		b.Run("channels=1/"+name, func(b *testing.B) {
			service := namesSubjects(b, streamsEach)
			// Few connections to the service, all open from the first connects on: each has 24 KB.
			idleMemory(b, float64(limit), func(int) int { return 1 }, "--auth-url", service, "--auth-cache-ttl", "0", "--auth-concurrency", "16")
		})
	}
}

// namesSubjects is a service for --auth-url that admits everyone and gives so many a
// subject; 0: nobody. It returns its URL.
func namesSubjects(b *testing.B, streamsEach int) string {
	var asked atomic.Int64
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n := int(asked.Add(1)); streamsEach > 0 {
			w.Header().Set("X-SSE-Subject", fmt.Sprintf("user:%09d", n/streamsEach)) // 14 bytes
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	b.Cleanup(service.Close)
	return service.URL
}

// warmStorms times 200 connects are more than those after which the engine gives
// the memory of handshakes back (1,000). Else that garbage would be in the memory
// before, and be missing in the growth.
const warmStorms = 6

func idleMemory(b *testing.B, limit float64, channels func(conns int) int, args ...string) {
	conns := min(10_000, fileLimit()-500)
	for b.Loop() {
		s := startServer(b, args...)
		warm := connect(b, s.addr, "warm-", 200, 1, false)
		for range warmStorms - 1 {
			warm.Close()
			warm = connect(b, s.addr, "warm-", 200, 1, false)
		}
		before := settle(b, s.Pid())
		c := connect(b, s.addr, "idle-", conns, channels(conns), false)
		after := settle(b, s.Pid())
		perConn := func(bytes int64) float64 { return float64(bytes) / float64(conns) }
		b.ReportMetric(perConn(after.RSS-before.RSS), "B/conn")
		b.ReportMetric(perConn(after.Anonymous-before.Anonymous), "anon-B/conn")
		b.ReportMetric(float64(conns), "conns")
		if got := perConn(after.RSS - before.RSS); got > limit {
			b.Errorf("%.0f bytes of resident memory per idle connection, more than %.0f", got, limit)
		}
		c.Close()
		warm.Close()
	}
}

func resident(b *testing.B, pid int) target.Memory {
	b.Helper()
	m, err := target.ReadMemory([]int{pid})
	require.NoError(b, err)
	return m
}

// The engine looks every 5 s for memory to give back, and does so when the five
// seconds before were quiet: 10 s after the last connect at most, if the machine
// lets it run.
const (
	trimWait  = 12 * time.Second
	lookEvery = 500 * time.Millisecond
)

// settle follows the memory of a server through the next trim and returns the
// lowest figure.
func settle(b *testing.B, pid int) target.Memory {
	b.Helper()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	over := time.After(trimWait)
	low := resident(b, pid)
	for {
		select {
		case <-tick.C:
			if now := resident(b, pid); now.RSS < low.RSS {
				low = now
			}
		case <-over:
			return low
		}
	}
}
