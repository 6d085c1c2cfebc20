//go:build linux

package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed/engine"
	"ssed/internal/redistest"
	"ssed/rsub"
	"ssed/sseproto"
)

// arrivals counts messages and tells when the last one of a round is there.
type arrivals struct {
	left atomic.Int64
	done chan struct{}
}

func newArrivals() *arrivals { return &arrivals{done: make(chan struct{}, 1)} }

func (a *arrivals) one() {
	if a.left.Add(-1) == 0 {
		a.done <- struct{}{}
	}
}

// countedLog is the log with a count of what came in.
type countedLog struct {
	*engine.Log
	*arrivals
}

func (c countedLog) Append(id sseproto.ID, channel, payload string) {
	c.Log.Append(id, channel, payload)
	c.one()
}

const (
	ingestMessages = 100_000
	ingestChannels = 1000
	ingestBytes    = 128
)

// flood is a connection that publishes without waiting for answers.
type flood struct {
	conn     net.Conn
	commands []byte
	arrivals int // of all its messages, over all instances
}

// newFlood prepares messages of size bytes, spread over channels.
func newFlood(b *testing.B, addr string, messages, channels, size int) *flood {
	b.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(b, err)
	b.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, "CLIENT REPLY OFF\r\n")
	require.NoError(b, err)
	f := &flood{conn: conn, arrivals: messages}
	for i := range messages {
		channel := fmt.Sprintf("channel-%d", i*7919%channels)
		f.commands = fmt.Appendf(f.commands, "*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%s\r\n$%d\r\n%0*d\r\n", len(channel), channel, size, size, i)
	}
	return f
}

// run publishes everything once and waits for its arrival. It returns the time
// and the CPU time of this process, which includes the writing.
func (f *flood) run(b *testing.B, a *arrivals) (wall, cpu time.Duration) {
	a.left.Store(int64(f.arrivals))
	start, used := time.Now(), processTime()
	if _, err := f.conn.Write(f.commands); err != nil {
		b.Fatal(err)
	}
	select {
	case <-a.done:
	case <-time.After(patience):
		b.Fatalf("%d of %d messages did not arrive", a.left.Load(), f.arrivals)
	}
	return time.Since(start), processTime() - used
}

// processTime is the CPU time of this process so far.
func processTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // can not fail for RUSAGE_SELF
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkIngest compares the way of messages from a real Redis into the log of an
// engine without subscribers with the least that rueidis can do, a PSUBSCRIBE
// whose callback counts. Rounds of both alternate; the ratio is of their
// messages per second.
func BenchmarkIngest(b *testing.B) {
	// Redis would cut a subscriber that is 32 MB behind.
	limit := []string{"--client-output-buffer-limit", "pubsub", "0", "0", "0"}
	own, other := redistest.Start(b, limit...), redistest.Start(b, limit...)
	toSsed := newFlood(b, own.Addr(), ingestMessages, ingestChannels, ingestBytes)
	toBare := newFlood(b, other.Addr(), ingestMessages, ingestChannels, ingestBytes)
	ssed, bare := newArrivals(), newArrivals()
	startFeed(b, own, ssed)
	startBare(b, other, bare)
	toSsed.run(b, ssed) // the first round fills channel directory and ring
	toBare.run(b, bare)

	var ssedWall, ssedCPU, bareWall, bareCPU time.Duration
	for b.Loop() {
		wall, cpu := toBare.run(b, bare)
		bareWall, bareCPU = bareWall+wall, bareCPU+cpu
		wall, cpu = toSsed.run(b, ssed)
		ssedWall, ssedCPU = ssedWall+wall, ssedCPU+cpu
	}
	n := float64(b.N * ingestMessages)
	b.ReportMetric(n/ssedWall.Seconds(), "ssed-msg/s")
	b.ReportMetric(n/bareWall.Seconds(), "bare-msg/s")
	b.ReportMetric(bareWall.Seconds()/ssedWall.Seconds(), "ratio")
	b.ReportMetric(float64(ssedCPU.Nanoseconds())/n, "ssed-cpu-ns/msg")
	b.ReportMetric(float64(bareCPU.Nanoseconds())/n, "bare-cpu-ns/msg")
}

// clientOption says how to reach a server.
func clientOption(b *testing.B, r *redistest.Server) rueidis.ClientOption {
	b.Helper()
	o, err := rueidis.ParseURL(r.URL())
	require.NoError(b, err)
	o.DisableCache, o.ForceSingleClient = true, true
	return o
}

// startFeed feeds an engine from Redis until the benchmark ends.
func startFeed(b *testing.B, r *redistest.Server, a *arrivals, options ...func(*rsub.Config)) *engine.Log {
	b.Helper()
	e := startEngine(b, engine.Config{})
	cfg := rsub.Config{
		Client: clientOption(b, r), Patterns: []string{"*"}, Prefix: "sse:stream:", Instance: "bench", Logger: discard(),
	}
	for _, option := range options {
		option(&cfg)
	}
	f, err := rsub.New(cfg, countedLog{e.Log(), a})
	require.NoError(b, err)
	runUntilEnd(b, f.Run)
	eventually(b, "the feed is synced", func() bool {
		ok, _ := f.State()
		return ok
	})
	return e.Log()
}

// startBare subscribes with nothing but rueidis.
func startBare(b *testing.B, r *redistest.Server, a *arrivals) {
	b.Helper()
	client, err := rueidis.NewClient(clientOption(b, r))
	require.NoError(b, err)
	runUntilEnd(b, func(ctx context.Context) error {
		defer client.Close()
		err := client.Receive(ctx, client.B().Psubscribe().Pattern("*").Build(), func(rueidis.PubSubMessage) { a.one() })
		if ctx.Err() != nil {
			return nil
		}
		return err
	})
	conn, err := net.Dial("tcp", r.Addr())
	require.NoError(b, err)
	defer conn.Close()
	answers := bufio.NewReader(conn)
	eventually(b, "the bare loop is subscribed", func() bool {
		_, err := io.WriteString(conn, "PUBSUB NUMPAT\r\n")
		require.NoError(b, err)
		line, err := answers.ReadString('\n')
		require.NoError(b, err)
		return line == ":1\r\n"
	})
}

// runUntilEnd runs f until the benchmark ends, and waits for it.
func runUntilEnd(b *testing.B, f func(ctx context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	b.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
}

// newBatchFlood is newFlood with perPublish messages in a batch.
func newBatchFlood(b *testing.B, addr, channel string, messages, channels, size, perPublish int) *flood {
	b.Helper()
	f := newFlood(b, addr, messages, channels, size)
	f.commands = f.commands[:0]
	for i := 0; i < messages; i += perPublish {
		var batch []byte
		for k := i; k < i+perPublish; k++ {
			batch = sseproto.AppendBatched(batch, fmt.Sprintf("channel-%d", k*7919%channels), fmt.Sprintf("%0*d", size, k))
		}
		f.commands = fmt.Appendf(f.commands, "*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(channel), channel, len(batch), batch)
	}
	return f
}

// redisTime is the CPU time of the thread of Redis that runs commands, so far.
func redisTime(b *testing.B, r *redistest.Server) (sum time.Duration) {
	b.Helper()
	reply, err := r.Do("INFO", "cpu")
	require.NoError(b, err)
	for line := range strings.Lines(reply.(string)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_sys_main_thread" || name == "used_cpu_user_main_thread" {
			seconds, err := strconv.ParseFloat(value, 64)
			require.NoError(b, err)
			sum += time.Duration(seconds * float64(time.Second))
		}
	}
	return sum
}

// BenchmarkIngestBatched is what a message costs Redis, and each of several instances,
// alone and with others in a PUBLISH. Rounds of all alternate. The instances are in this
// process, which also writes the messages.
func BenchmarkIngestBatched(b *testing.B) {
	for _, instances := range []int{1, 4, 16} {
		b.Run(fmt.Sprintf("instances=%d", instances), func(b *testing.B) { benchmarkBatches(b, instances) })
	}
}

func benchmarkBatches(b *testing.B, instances int) {
	const channel = "ssed:batch"
	perPublish := []int{1, 10, 100, 1000}
	var floods []*flood
	r := redistest.Start(b, "--client-output-buffer-limit", "pubsub", "0", "0", "0")
	messages := ingestMessages / instances
	for _, n := range perPublish {
		f := newFlood(b, r.Addr(), messages, ingestChannels, ingestBytes)
		if n > 1 {
			f = newBatchFlood(b, r.Addr(), channel, messages, ingestChannels, ingestBytes, n)
		}
		f.arrivals = messages * instances
		floods = append(floods, f)
	}
	a := newArrivals()
	for i := range instances {
		startFeed(b, r, a, func(c *rsub.Config) { c.BatchChannel, c.Instance = channel, fmt.Sprint("bench", i) })
	}
	floods[0].run(b, a) // the first round fills channel directory and ring
	redisCPU, ssedCPU := make([]time.Duration, len(floods)), make([]time.Duration, len(floods))
	for b.Loop() {
		for i, f := range floods {
			before := redisTime(b, r)
			_, cpu := f.run(b, a)
			redisCPU[i] += redisTime(b, r) - before
			ssedCPU[i] += cpu
		}
	}
	for i, n := range perPublish {
		b.ReportMetric(float64(redisCPU[i].Nanoseconds())/float64(b.N*messages), fmt.Sprintf("redis-ns/msg-%d", n))
		b.ReportMetric(float64(ssedCPU[i].Nanoseconds())/float64(b.N*messages*instances), fmt.Sprintf("ssed-ns/msg-%d", n))
	}
}
