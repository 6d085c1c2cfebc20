//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"ssed/loadtest/report"
	"ssed/loadtest/target"
)

// TestMain lets the test program play the server and worker processes that the
// program starts from itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (strings.HasPrefix(os.Args[1], "serve-") || os.Args[1] == "worker") {
		main()
		return
	}
	// Children built with the race detector otherwise sleep a second when they end.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	var err error
	if files, err = os.MkdirTemp("", "ssed-loadtest-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// The goroutine is started by os/signal on first use and never ends.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("os/signal.loop"), goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(files)
		if left, err := children(); err != nil || left != "" {
			fmt.Fprintln(os.Stderr, "child processes are left:", left, err)
			code = 1
		}
		os.Exit(code)
	}))
}

// files is a directory that is there until all tests are over.
var files string

// execute runs the program and returns the report it wrote. No child is left.
func execute(t *testing.T, wantCode int, args ...string) (report.Report, string) {
	t.Helper()
	out, text := executeBeside(t, wantCode, args...)
	requireNoChildren(t)
	return out, text
}

// executeBeside is execute beside others, whose children are there meanwhile.
func executeBeside(t *testing.T, wantCode int, args ...string) (report.Report, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "report.json")
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), append(args, "--quiet", "--calm", "0s", "--json", file), &stdout, &stderr)
	require.Equal(t, wantCode, code, "stdout: %s\nstderr: %s", &stdout, &stderr)
	var out report.Report
	if text, err := os.ReadFile(file); err == nil {
		require.NoError(t, json.Unmarshal(text, &out))
	}
	return out, stdout.String() + stderr.String()
}

// requireNoChildren fails when a process that this one started is left.
func requireNoChildren(t *testing.T) {
	t.Helper()
	left, err := children()
	require.NoError(t, err)
	require.Empty(t, left, "child processes are left")
}

// children are the processes that this one has started.
func children() (pids string, err error) {
	lists, err := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		text, _ := os.ReadFile(list) // a thread may end meanwhile
		pids += string(text)
	}
	return strings.TrimSpace(pids), err
}

// brief is the limit of tests in which something does not come: on a busy machine all else does
// within it.
const brief = "5s"

func TestEachScenarioMeasuresFloorAndNaive(t *testing.T) {
	f := func(keys string, args ...string) {
		t.Run(args[0], func(t *testing.T) {
			out, text := execute(t, 0, append(args, "--with", "floor,naive", "--rounds", "1", "--window", "20")...)
			require.Len(t, out.Scenarios, 1)
			s := out.Scenarios[0]
			require.Equal(t, []string{"floor", "naive"}, s.Targets)
			require.Len(t, s.Runs, 2)
			for _, r := range s.Runs {
				require.Empty(t, r.Error)
				require.Zero(t, r.Counts.Wrong())
				for key := range strings.FieldsSeq(keys) {
					require.Positive(t, r.Values[key], "%s of %s", key, r.Target)
				}
			}
			for _, m := range s.Metrics {
				if s.Value("floor", m.Key).N > 0 {
					require.Contains(t, text, m.Label)
				}
			}
		})
	}
	f("connects_per_s connect_cpu_us connect_p99", "hold", "--conns", "100", "--settle", "1ms", "--idle", "50ms")
	f("deliveries_per_cpu_s deliveries_per_s complete_p50 p50 p99 max", "fanout", "--conns", "100", "--messages", "5")
	f("p50 p99 p999 deliveries_per_cpu_s send_lag_p99", "spread", "--channels", "10", "--members", "3", "--rate", "500", "--duration", "300ms")
	f("deliveries_per_cpu_s complete_p50", "burst", "--conns", "50", "--messages", "40", "--bursts", "2")
	f("cycles_per_s cycle_cpu_us connect_p99 p50", "churn", "--cycles", "300", "--residents", "5")
	f("all_p99 some_p99 p99_ratio full", "slow", "--conns", "40", "--bytes", "1000", "--rate", "500", "--duration", "240ms")
	f("plain_s plain_per_s plain_cpu_us", "resume", "--conns", "60")
	f("idle_p99 busy_p99 complete_p50 broadcasts", "mixed", "--conns", "60", "--every", "20ms", "--duration", "300ms")
}

func TestRoundsAreInterleavedAndRatiosTakenPerRound(t *testing.T) {
	out, text := execute(t, 0, "fanout", "--with", "floor,naive", "--rounds", "2", "--conns", "20", "--messages", "2")
	var order []string
	for _, r := range out.Scenarios[0].Runs {
		order = append(order, r.Target+strconv.Itoa(r.Round))
	}
	require.Equal(t, []string{"floor1", "naive1", "naive2", "floor2"}, order)
	require.Contains(t, text, "naive / floor")
}

func TestRunsWaitForTheSocketsOfTheOneBefore(t *testing.T) {
	calm := func(ctx context.Context, quiet target.Kernel, limit time.Duration) error {
		r := &runner{opts: &options{Calm: limit}, progress: newProgress(io.Discard, true), quiet: quiet}
		defer r.progress.close()
		return r.calm(ctx)
	}
	plenty, never := target.Kernel{Sockets: 1 << 40, TimeWaits: 1 << 40}, target.Kernel{Sockets: 1 << 40, TimeWaits: -1 << 40}
	require.NoError(t, calm(t.Context(), plenty, time.Hour), "nothing is left")
	require.NoError(t, calm(t.Context(), never, 10*time.Millisecond), "it does not wait for ever")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, calm(ctx, never, time.Hour), context.DeadlineExceeded)
	require.ErrorIs(t, calm(ctx, target.Kernel{Sockets: -1 << 40, TimeWaits: 1 << 40}, time.Hour), context.DeadlineExceeded)
}

func TestKernelMemoryIsThatOfConnections(t *testing.T) {
	require.EqualValues(t, 7, connectionCaches(map[string]int64{"TCP": 1, "filp": 2, "dentry": 4, "ext4_inode_cache": 1 << 30}))
	require.Zero(t, connectionCaches(nil))
}

func TestFloorBehindRedisIsAReferenceToo(t *testing.T) {
	out, text := execute(t, 0, "spread", "--with", "floor", "--redis", "--rounds", "1", "--channels", "10", "--members", "3", "--rate", "500", "--duration", "300ms")
	s := out.Scenarios[0]
	require.Equal(t, []string{"floor", "floor-redis"}, s.References)
	require.Contains(t, text, "floor-redis / floor")
	for _, r := range s.Runs {
		require.Empty(t, r.Error)
		require.EqualValues(t, 30*180/10, r.Counts.Delivered, "each of the 180 messages, warm-up included, goes to 3")
		require.Positive(t, r.Values["load_share"])
		_, onRedis := r.Values["redis_share"]
		require.Equal(t, r.Target == floorRedis, onRedis)
	}
	require.Positive(t, s.Value(floorRedis, "redis_share").Median)
}

func TestOtherLimitsThanTheServerAreNoted(t *testing.T) {
	f := func(before map[int]time.Duration, wall time.Duration) []string {
		run := &report.Run{Values: map[string]float64{}}
		m := meter{stage: &stage{run: run}, load: before, kernel: target.ReadThreads(softIRQ())}
		m.bottlenecks(target.CPU{Total: time.Hour}, wall)
		require.Positive(t, run.Values["load_share"])
		return run.Notes
	}
	require.Len(t, f(nil, time.Microsecond), 1, "this program ran for longer than that")
	require.Empty(t, f(nil, 1000*time.Hour))
}

func TestBusiestThreadIsFound(t *testing.T) {
	sum, most := spent(map[int]time.Duration{1: 10, 2: 20, 3: 5}, map[int]time.Duration{1: 11, 2: 27, 4: 3})
	require.Equal(t, time.Duration(1+7+3), sum)
	require.Equal(t, time.Duration(7), most)
}

func TestConnectionsAreSharedByWorkerProcesses(t *testing.T) {
	out, _ := execute(t, 0, "fanout", "--rounds", "1", "--conns", "31", "--messages", "3", "--procs", "3")
	require.EqualValues(t, 31*(3+warmBroadcasts), out.Scenarios[0].Runs[0].Counts.Delivered)
}

func TestConnectionsAreCutToTheLimits(t *testing.T) {
	out, text := execute(t, 0, "hold", "--rounds", "1", "--conns", "5000", "--max-conns", "40", "--settle", "1ms", "--idle", "1ms")
	require.Contains(t, text, "40 connections instead of 5000: --max-conns")
	require.Empty(t, out.Scenarios[0].Runs[0].Error)
}

func TestReportPageIsSelfContained(t *testing.T) {
	page := filepath.Join(t.TempDir(), "report.html")
	execute(t, 0, "fanout", "--with", "floor,naive", "--rounds", "1", "--conns", "20", "--messages", "3", "--html", page)
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	for _, want := range []string{"<!doctype html>", "<svg", "<polyline", "<rect", "floor", "naive", "deliveries per server CPU second", "99.9 %", "</html>"} {
		require.Contains(t, string(text), want)
	}
	for _, never := range []string{"src=", "<link", "@import", "url(", "<script", "NaN", "Inf"} {
		require.NotContains(t, string(text), never)
	}
}

func TestOtherHostsAreRefused(t *testing.T) {
	f := func(spec string) {
		t.Helper()
		_, text := execute(t, exitUsage, "hold", "--only", "--target", spec)
		require.Contains(t, text, "not a loopback address")
		require.Contains(t, text, "--i-own-this-host")
	}
	f("name=x;url=http://192.0.2.1/sse?c={channel}")
	f("name=x;url=http://[2001:db8::1]:80/sse?c={channel}")
	f("name=x;url=http://127.0.0.1/sse?c={channel};publish=redis://192.0.2.1:6379")
	f("name=x;url=http://0.0.0.0:1/sse?c={channel}")

	own := options{Only: true, With: []string{"floor"}, IOwnThisHost: true, Target: []string{"name=x;url=http://192.0.2.1/sse?c={channel}"}}
	list, err := own.servers()
	require.NoError(t, err)
	require.Len(t, list, 1)
}

func TestBadFlagsAreUsageErrors(t *testing.T) {
	f := func(want string, args ...string) {
		t.Helper()
		_, text := execute(t, exitUsage, args...)
		require.Contains(t, text, want)
	}
	f("--ssed-bin", "hold", "--with", "ssed")
	f("nothing to measure", "hold", "--only")
	f("must be one of", "hold", "--with", "nginx")
	f("two targets are called", "hold", "--target", "name=floor;url=http://127.0.0.1/{channel}")
	f("unknown key", "hold", "--target", "name=x;uri=http://127.0.0.1/")
	f("unexpected argument", "nonsense")
}

func TestServerThatCanNotBeReachedIsAFailedRun(t *testing.T) {
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, gone.Close())
	address := gone.Addr().String()
	out, text := execute(t, exitFaults, "hold", "--rounds", "1", "--settle", "1ms", "--idle", "1ms", "--conns", "10", "--target", "name=gone;url=http://"+address+"/?{channel}")
	require.Contains(t, text, "gone, round 1: 10 of 10 connections failed")
	require.Empty(t, out.Scenarios[0].Runs[0].Error, "the floor is measured all the same")
}

func TestInterruptEndsChildrenAndKeepsResults(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	var stdout bytes.Buffer
	// The word "idle" in the progress means that a server and connections stand.
	stderr := &trigger{word: "idle", act: interrupt}
	code := run(ctx, []string{"hold", "--conns", "50", "--settle", "1ms", "--idle", "1h"}, &stdout, stderr)
	require.Equal(t, exitFaults, code)
	require.Contains(t, stdout.String(), "HOLD")
	requireNoChildren(t)
}

func TestMaxTimeEndsARun(t *testing.T) {
	_, text := execute(t, exitFaults, "hold", "--conns", "10", "--idle", "1h", "--max-time", "300ms")
	require.Contains(t, text, "--max-time of 300ms is over")
}

// trigger acts when a word is written.
type trigger struct {
	word string
	act  func()
}

func (w *trigger) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte(w.word)) {
		w.act()
	}
	return len(b), nil
}

// memoryServer is an SSE server with a history, which can be told to misbehave.
type memoryServer struct {
	// deliver returns which events follow publication n, the newest last in log.
	deliver func(log []string) []string

	mu      sync.Mutex
	log     []string
	streams map[chan string]struct{}
}

func startMemoryServer(t *testing.T, deliver func(log []string) []string) (spec string) {
	m := &memoryServer{deliver: deliver, streams: map[chan string]struct{}{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stream/{channel}", m.stream)
	mux.HandleFunc("POST /send/{channel}", m.publish)
	s := httptest.NewServer(mux)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return "name=memory;url=" + s.URL + "/stream/{channel};publish=" + s.URL + "/send/{channel}"
}

func (m *memoryServer) stream(w http.ResponseWriter, r *http.Request) {
	queue := make(chan string, 1000)
	m.mu.Lock()
	if last, err := strconv.Atoi(r.Header.Get("Last-Event-ID")); err == nil {
		for _, event := range m.log[last:] {
			queue <- event
		}
	}
	m.streams[queue] = struct{}{}
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.streams, queue)
		m.mu.Unlock()
	}()
	control := http.NewResponseController(w)
	_ = control.Flush()
	for {
		select {
		case event := <-queue:
			_, _ = io.WriteString(w, event)
			_ = control.Flush()
		case <-r.Context().Done():
			return
		}
	}
}

func (m *memoryServer) publish(_ http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = append(m.log, fmt.Sprintf("id: %d\ndata: %s\n\n", len(m.log)+1, body))
	for queue := range m.streams {
		for _, event := range m.deliver(m.log) {
			queue <- event
		}
	}
}

func newest(log []string) []string { return log[len(log)-1:] }

func TestFaultyServersAreCaught(t *testing.T) {
	t.Parallel()
	// The warm-up sends 5 messages; then a burst of 20 follows 2 broadcasts.
	const first = warmMessages + warmBroadcasts + 5
	f := func(name string, at func(log []string) []string, check func(t *testing.T, r report.Run)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := startMemoryServer(t, func(log []string) []string {
				if len(log) == first || len(log) == first+1 {
					return at(log)
				}
				return newest(log)
			})
			out, text := executeBeside(t, exitFaults, "burst", "--only", "--rounds", "1", "--conns", "4", "--messages", "20",
				"--bursts", "1", "--limit", brief, "--target", spec)
			require.Contains(t, text, "lost, repeated, late or torn")
			check(t, out.Scenarios[0].Runs[0])
		})
	}
	f("loses two", func([]string) []string { return nil }, func(t *testing.T, r report.Run) {
		require.EqualValues(t, 4*2, r.Counts.Lost)
		require.EqualValues(t, 4*2, r.Counts.Wrong())
	})
	f("repeats two", func(log []string) []string { return append(newest(log), newest(log)...) }, func(t *testing.T, r report.Run) {
		require.EqualValues(t, 4*2, r.Counts.Duplicates)
		require.EqualValues(t, 4*2, r.Counts.Wrong())
	})
	f("swaps two", func(log []string) []string {
		if len(log) == first {
			return nil
		}
		return []string{log[first], log[first-1]}
	}, func(t *testing.T, r report.Run) {
		require.EqualValues(t, 4, r.Counts.Late)
		require.EqualValues(t, 4, r.Counts.Wrong())
	})
	f("tears two", func(log []string) []string {
		event := log[len(log)-1]
		return []string{event[:len(event)-9] + "\n\n"}
	}, func(t *testing.T, r report.Run) {
		require.EqualValues(t, 4*2, r.Counts.Torn)
		require.EqualValues(t, 4*2, r.Counts.Lost)
	})
}

// TestServerThatEndsIdleStreamsIsAFault: streams that are gone cost nothing.
func TestServerThatEndsIdleStreamsIsAFault(t *testing.T) {
	const idle = 20 * time.Millisecond
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		select {
		case <-time.After(idle):
		case <-r.Context().Done():
		}
	}))
	defer s.Close()
	defer s.CloseClientConnections()
	out, text := execute(t, exitFaults, "hold", "--only", "--rounds", "1", "--conns", "5", "--settle", "1ms", "--idle", "300ms",
		"--target", "name=hasty;url="+s.URL+"/{channel}")
	require.EqualValues(t, 5, out.Scenarios[0].Runs[0].Counts.Closed)
	require.Contains(t, text, "0 / 0 / 0 / 5 / 0")
}

// TestMissingMessagesLeaveNoFigures: the time of a step that never ended, and
// percentiles of nothing, would look good.
func TestMissingMessagesLeaveNoFigures(t *testing.T) {
	t.Parallel()
	f := func(lost int, delivered int, figures string, want string, args ...string) {
		t.Run(args[0]+" after "+strconv.Itoa(delivered), func(t *testing.T) {
			t.Parallel()
			spec := startMemoryServer(t, func(log []string) []string {
				if len(log) > delivered {
					return nil
				}
				return newest(log)
			})
			out, text := executeBeside(t, exitFaults, append(args, "--only", "--rounds", "1", "--limit", brief, "--target", spec)...)
			require.Contains(t, text, want)
			r := out.Scenarios[0].Runs[0]
			require.EqualValues(t, lost, r.Counts.Lost)
			for key := range strings.FieldsSeq(figures) {
				require.NotContains(t, r.Values, key)
			}
		})
	}
	f(4, warmMessages-1, "complete_p50 p50", "not everybody got", "fanout", "--conns", "4")
	f(4, warmMessages+1, "complete_p50 p50", "not everybody got", "fanout", "--conns", "4")
	f(4, warmMessages+warmBroadcasts+1, "complete_p50 p50", "not everybody got", "fanout", "--conns", "4")
	f(4*10, warmMessages+warmBroadcasts, "complete_p50 p50", "not everybody got", "burst", "--conns", "4", "--messages", "10")
	f(4*5+3*5, warmMessages+warmBroadcasts, "all_p99 some_p99 p99_ratio", "nothing arrived",
		"slow", "--conns", "4", "--every", "4", "--rate", "100", "--duration", "50ms")
	f(3*(2+10), warmMessages, "p50 p99 max", "nothing arrived",
		"spread", "--channels", "1", "--members", "3", "--rate", "200", "--duration", "50ms")
	f(4, warmMessages, "", "not everybody got", "mixed", "--conns", "4", "--members", "1", "--duration", "50ms")
}

// TestStoppedReadersHaveToMakeTheServerWait: as long as their sockets take what is
// sent, they are no load, and the run shows nothing.
func TestStoppedReadersHaveToMakeTheServerWait(t *testing.T) {
	_, text := execute(t, exitFaults, "slow", "--rounds", "1", "--conns", "20", "--bytes", "100", "--rate", "100", "--duration", "20ms")
	require.Contains(t, text, "no stopped reader had its socket full after 200 bytes")

	// 120 KB fill the sockets of who does not read, and fit into the others whole: the
	// floor ends a stream in whose socket a part of a message is left.
	out, _ := execute(t, 0, "slow", "--rounds", "1", "--conns", "20", "--bytes", "1000", "--rate", "500", "--duration", "240ms")
	require.EqualValues(t, 100, out.Scenarios[0].Runs[0].Values["full"])

	_, text = execute(t, exitFaults, "slow", "--rounds", "1", "--conns", "3", "--every", "4")
	require.Contains(t, text, "one in 4 can not stop")
}

func TestResumeCountsWhatWasMissed(t *testing.T) {
	spec := startMemoryServer(t, newest)
	out, _ := execute(t, 0, "resume", "--only", "--rounds", "1", "--conns", "30", "--missed", "7", "--target", spec)
	r := out.Scenarios[0].Runs[0]
	require.EqualValues(t, 30*(1+7), r.Counts.Delivered)
	require.Positive(t, r.Values["resume_s"])
	require.Positive(t, r.Values["resume_ratio"])
}

func TestResumeWithoutHistoryIsALoss(t *testing.T) {
	t.Parallel()
	// The floor gives ids and forgets: told to resume, it loses what was missed.
	floor, stop, err := startOwn("floor")
	require.NoError(t, err)
	defer stop()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{
		"resume", "--only", "--quiet", "--rounds", "1", "--conns", "10", "--missed", "3", "--limit", brief,
		"--target", "name=liar;url=" + floor.URL + ";publish=" + floor.Publish,
	}, &stdout, &stderr)
	require.Equal(t, exitFaults, code)
	require.Contains(t, stdout.String(), "30 / 0 / 0 / 0 / 0")
	require.Contains(t, stdout.String(), "not everybody got")
	require.NotContains(t, stdout.String(), "resume, all caught up")
}

func TestRedisReadsAreTakenFromCommandStats(t *testing.T) {
	require.Equal(t, 12, readCalls("cmdstat_xrange:calls=12,usec=88,usec_per_call=7.33"))
	require.Zero(t, readCalls("cmdstat_xadd:calls=12,usec=88"))
	require.Zero(t, readCalls("# Commandstats"))
	_, ok := redisReads("http://127.0.0.1/x")
	require.False(t, ok)
}

func TestQuotedArgumentsAreTakenBackByAShell(t *testing.T) {
	require.Equal(t, `fanout --target 'name=x;url=a'\''b'`, quoteArgs([]string{"fanout", "--target", "name=x;url=a'b"}))
}

func TestPollEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, poll(ctx, func() error { return os.ErrNotExist }), os.ErrNotExist)
}

func TestMillionStopsAtItsBoundsAndReachesAll(t *testing.T) {
	bin := buildSsed(t)
	out, printed := execute(t, 0, "million", "--ssed-bin", bin, "--max", "250", "--each", "100", "--rest", "10ms", "--heartbeat", "1s")
	r := out.Scenarios[0].Runs[0]
	require.EqualValues(t, 250, r.Values["connections"])
	require.EqualValues(t, 3, r.Values["servers"])
	require.EqualValues(t, 250, r.Counts.Delivered)
	require.Zero(t, r.Counts.Wrong())
	require.Contains(t, printed, "nothing held it back below --max")
	require.Contains(t, printed, "the broadcast reached 250 of 250 connections")

	_, printed = execute(t, exitFaults, "million", "--ssed-bin", bin, "--keep-free", "1000000000")
	require.Contains(t, printed, "stopped at 0: memory")
}

func TestHostileNeighboursAreMeasuredAtEachSizeAndSummarised(t *testing.T) {
	out, text := execute(t, 0, "hostile", "--with", "ssed,naive", "--only", "--ssed-bin", buildSsed(t), "--rounds", "1",
		"--duration", "500ms", "--neighbour", "connect storm", "--neighbour", "1,024 channels", "--sizes", "1,4")
	require.Len(t, out.Scenarios, 3)
	sum := out.Scenarios[0]
	require.Equal(t, "hostile", sum.Name)
	require.Contains(t, text, "connect storm: worst p99 beyond that alone")
	require.Len(t, sum.Runs, 2)
	for _, row := range out.Scenarios[1:] {
		for _, r := range row.Runs {
			if r.Target == "naive" && row.Name == "hostile: 1,024 channels" {
				require.Contains(t, r.Notes[0], "not measured")
				continue
			}
			for _, size := range []string{"1", "4"} {
				for _, figure := range []string{"p50_", "p99_", "max_", "cpu_", "input_"} {
					require.Positive(t, r.Values[figure+size], row.Name)
				}
			}
			require.Positive(t, r.Values["worst_max"])
			require.Equal(t, r.Values["worst_max"], sum.Value(r.Target, strings.TrimPrefix(row.Name, "hostile: ")+"worst_max").Median)
		}
	}
	require.EqualValues(t, 16, out.Scenarios[1].Value("ssed", "input_4").Median)
	_, text = execute(t, exitUsage, "hostile", "--neighbour", "friendly")
	require.Contains(t, text, `no neighbour "friendly"`)
}

// TestSizesAreMultiplesOfWhatTheNeighbourDoes: how much of it a busy machine gets done is
// another matter.
func TestSizesAreMultiplesOfWhatTheNeighbourDoes(t *testing.T) {
	for _, b := range hostileNeighbours {
		x := hostileRun{hostileRow: &hostileRow{besides: b}, stage: &stage{opts: &options{}, target: target.Target{URL: "http://127.0.0.1:1/sse?c={channel}"}}}
		one, err := x.spec(1)
		require.NoError(t, err)
		sixteen, err := x.spec(16)
		require.NoError(t, err)
		require.Equal(t, 16*one.Rate, sixteen.Rate, b.name)
		if b.scaled { // more messages to as many
			require.Equal(t, one.Count, sixteen.Count, b.name)
			continue
		}
		require.Equal(t, 16*one.Count, sixteen.Count, b.name)
		require.Positive(t, float64(one.Count)+one.Rate, b.name)
	}
}

func TestHostileSizesAndBurstCanBeChosen(t *testing.T) {
	for _, s := range (&all{}).scenarios() {
		if row, ok := s.(*hostileRow); ok {
			require.Equal(t, []int{1, 4, 16}, row.sizes, "where nobody chooses")
		}
	}
	out, _ := execute(t, 0, "hostile", "--with", "ssed", "--only", "--ssed-bin", buildSsed(t), "--rounds", "1",
		"--duration", "100ms", "--neighbour", "never reads, then silence", "--sizes", "1,3", "--burst", "500")
	row := out.Scenarios[1]
	require.Contains(t, row.Params, report.Param{Name: "messages before", Value: "500"})
	require.EqualValues(t, 150, row.Value("ssed", "input_3").Median)
	require.Positive(t, row.Value("ssed", "max_3").Median)
	require.NotContains(t, row.Runs[0].Values, "max_4")
	for _, sizes := range []string{"4,1", "0,1", "2,2"} {
		_, text := execute(t, exitUsage, "hostile", "--sizes", sizes)
		require.Contains(t, text, "not ascending")
	}
}

func TestCostGrowthIsThatOfOneUnitOfInput(t *testing.T) {
	f := func(want float64, known bool, points ...hostilePoint) {
		t.Helper()
		got, ok := costGrowth(points, leastCPU, func(p hostilePoint) float64 { return p.cpu })
		require.Equal(t, known, ok)
		require.InDelta(t, want, got, 1e-9)
	}
	f(1, true, hostilePoint{cpu: 0.05, input: 10}, hostilePoint{cpu: 0.2, input: 40}, hostilePoint{cpu: 0.8, input: 160})
	f(4, true, hostilePoint{cpu: 0.001, input: 10}, hostilePoint{cpu: 0.05, input: 40}, hostilePoint{cpu: 0.8, input: 160})
	f(0, false, hostilePoint{cpu: 0.001, input: 10}, hostilePoint{cpu: 0.001, input: 40}, hostilePoint{cpu: 0.8, input: 160})
}
