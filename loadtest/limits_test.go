//go:build linux

package main

import (
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"ssed/internal/redistest"
	"ssed/internal/ssedtest"
	"ssed/loadtest/report"
	"ssed/loadtest/swarm"
	"ssed/loadtest/target"
)

// builtSsed is the program that is measured, built when it is first asked for.
var builtSsed = sync.OnceValues(func() (path string, err error) {
	path = filepath.Join(files, "ssed")
	return path, ssedtest.Build(path)
})

func buildSsed(t *testing.T) (path string) {
	t.Helper()
	path, err := builtSsed()
	require.NoError(t, err)
	return path
}

// limitFiles lowers the limit of open files until the end of the test.
func limitFiles(t *testing.T, n uint64) {
	t.Helper()
	var before unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &before))
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: before.Max}))
	t.Cleanup(func() { require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &before)) })
}

func TestConnectionsAreSharedByAsManyProcessesAsTheFileLimitAsks(t *testing.T) {
	const limit = ownFiles + 200
	limitFiles(t, limit)
	f := func(procs, conns, want int, notes ...string) {
		t.Helper()
		s := &stage{opts: &options{Procs: procs, MaxConns: 1 << 20}, run: &report.Run{}}
		require.NoError(t, s.prepare(conns, 128))
		require.Equal(t, want, s.processes(conns))
		require.Equal(t, notes, s.run.Notes)
	}
	f(0, 1, 1)
	f(0, 200, 1)
	f(0, 201, 2, "2 client processes: each may open 328 files")
	f(0, 1000, 5, "5 client processes: each may open 328 files")
	f(3, 200, 3)
	f(3, 1000, 5, "5 client processes: each may open 328 files")

	limitFiles(t, ownFiles)
	s := &stage{opts: &options{MaxConns: 10}, run: &report.Run{}}
	require.ErrorContains(t, s.prepare(1, 128), "ulimit -n")
}

func TestServerIsAskedForNoMoreThanItsFileLimit(t *testing.T) {
	limitFiles(t, reserve+500)
	f := func(pids, conns, want int, notes ...string) {
		t.Helper()
		server := target.Target{PIDs: slices.Repeat([]int{os.Getpid()}, pids)}
		s := &stage{opts: &options{MaxConns: 1 << 20}, run: &report.Run{}, target: server}
		require.NoError(t, s.prepare(conns, 128))
		require.Equal(t, want, s.conns)
		require.Equal(t, notes, s.run.Notes)
	}
	f(1, 500, 500)
	f(1, 501, 500, "500 connections instead of 501: the server's limit of open files")
	f(2, 1300, 1300)
	f(0, 9999, 9999) // not known
}

func TestConnectionsComeFromSeveralAddresses(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		mu.Lock()
		seen[host]++
		mu.Unlock()
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	defer s.Close()
	f := func(procs, sources int, want ...string) {
		t.Helper()
		mu.Lock()
		clear(seen)
		mu.Unlock()
		st := &stage{
			opts:   &options{Procs: procs, Sources: sources, MaxConns: 40, Window: 8, Limit: 10 * time.Second},
			target: target.Target{URL: s.URL + "/{channel}"}, run: &report.Run{}, progress: newProgress(io.Discard, true),
		}
		defer st.progress.close()
		defer st.close()
		require.NoError(t, st.prepare(40, 128))
		c, err := st.crew(st.prefix(), here, swarm.Group{Count: 40, Channels: 1})
		require.NoError(t, err)
		_, err = st.open(t.Context(), c, 0, swarm.OpenSpec{}, "connecting")
		require.NoError(t, err)
		mu.Lock()
		defer mu.Unlock()
		require.ElementsMatch(t, want, slices.Collect(maps.Keys(seen)))
		for _, n := range seen {
			require.GreaterOrEqual(t, n, 40/len(want), "each has its share")
		}
	}
	f(1, 0, "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5")
	f(1, 2, "127.0.0.2", "127.0.0.3")
	f(3, 3, "127.0.0.2", "127.0.0.3", "127.0.0.4")
}

// TestStallMakesAllMessagesLateThatWereDueInIt: a sender that waited for the server
// would have seen one late message per member.
func TestStallMakesAllMessagesLateThatWereDueInIt(t *testing.T) {
	const (
		stall = 200 * time.Millisecond
		rate  = 100
		sent  = 60
		begin = warmMessages + sent/5 + 10
	)
	spec := startMemoryServer(t, func(log []string) []string {
		if len(log) == begin {
			<-time.After(stall) // the stall itself: the sender's schedule goes on meanwhile
		}
		return newest(log)
	})
	out, _ := execute(t, 0, "spread", "--only", "--rounds", "1", "--channels", "1", "--members", "2",
		"--rate", "100", "--duration", "600ms", "--target", spec)
	r := out.Scenarios[0].Runs[0]
	latency := r.Latency["all deliveries"]
	require.EqualValues(t, 2*sent, latency.Count())
	require.GreaterOrEqual(t, latency.Max(), stall)
	// Twenty of the sixty were due meanwhile, one every 10 ms: fifteen of them are late
	// by more than 50 ms, and five by more than 150 ms.
	late := float64(stall.Milliseconds()) * rate / 1000
	require.GreaterOrEqual(t, latency.Quantile(1-0.75*late/sent+0.01), 50*time.Millisecond)
	require.GreaterOrEqual(t, latency.Quantile(1-0.25*late/sent+0.01), 150*time.Millisecond)
}

func TestResumeOfSsedOnRedisIsReadFromMemory(t *testing.T) {
	out, _ := execute(t, 0, "resume", "--only", "--with", "ssed", "--redis", "--ssed-bin", buildSsed(t), "--rounds", "1", "--conns", "30", "--missed", "7",
		// On a busy machine a tick comes late; a link that is cut for it is read back from Redis.
		"--ssed-arg=--probe-timeout=1m")
	r := out.Scenarios[0].Runs[0]
	require.Equal(t, []string{"ssed"}, out.Scenarios[0].Targets)
	require.EqualValues(t, 30*(1+7), r.Counts.Delivered)
	require.Positive(t, r.Values["resume_s"])
	require.Contains(t, r.Values, "redis_reads")
	require.Zero(t, r.Values["redis_reads"])
}

func TestRedisCountsTheReadsOfTheHistory(t *testing.T) {
	r := redistest.Start(t)
	reads := func() int {
		t.Helper()
		n, ok := redisReads(r.URL())
		require.True(t, ok)
		return n
	}
	require.Zero(t, reads())
	for _, command := range []string{"XADD s 1-1 k v", "XRANGE s - +", "XREVRANGE s + -", "XREAD STREAMS s 0", "XLEN s", "XRANGE s - +"} {
		_, err := r.Do(strings.Fields(command)...)
		require.NoError(t, err)
	}
	require.Equal(t, 4, reads())
}
