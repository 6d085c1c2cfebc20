//go:build linux

package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
	"ssed/loadtest/hist"
)

// The histories of BenchmarkHostileResumes: 200 MiB, and the little one of a neighbour.
const (
	largeChannels = 32
	largeEach     = 100
	largeBytes    = 64 << 10
	smallEach     = 10
	givenBack     = 8 << 20 // what may be left of the memory in which ssed has grown
	hostileAddr   = "127.0.0.1"
	lawfulAddr    = "127.0.0.2"
)

// BenchmarkHostileResumes is what a lawful resume of ten messages takes beside clients
// that ask for 200 MiB of history each, or that ask for history and leave, 300 times a
// second. Reported too is what Redis sends for each byte that clients get, and how far
// the memory of ssed grows, and after how long it is given back, which must not be more
// than a minute. The process is new, so that nothing comes from its ring.
func BenchmarkHostileResumes(b *testing.B) {
	for _, clients := range []int{1, 6} {
		b.Run(fmt.Sprint("large=", clients), func(b *testing.B) {
			w := newResumeWorld(b)
			w.measure(b, func(ctx context.Context) (got int64) {
				var mu sync.Mutex
				var reading sync.WaitGroup
				for range clients {
					reading.Go(func() {
						n, err := w.resume(ctx, hostileAddr, "0-0", largeNames(), largeChannels*largeEach, largeBytes)
						if err != nil {
							b.Logf("a client of large histories ended after %d bytes: %v", n, err)
						}
						mu.Lock()
						defer mu.Unlock()
						got += n
					})
				}
				reading.Wait()
				return got
			})
		})
	}
	b.Run("abandoned=300/s", func(b *testing.B) {
		w := newResumeWorld(b)
		w.measure(b, func(context.Context) (got int64) {
			var mu sync.Mutex
			tick := time.NewTicker(time.Second / 300)
			defer tick.Stop()
			var leaving sync.WaitGroup
			for i := range 300 * 10 {
				<-tick.C
				leaving.Go(func() {
					conn, err := net.Dial("tcp", w.addr.String())
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.WriteString(conn, resumeRequest(fmt.Sprint("1-1/", i), largeNames()))
					_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
					n, _ := conn.Read(make([]byte, 4<<10))
					mu.Lock()
					got += int64(n)
					mu.Unlock()
					_ = conn.Close()
				})
			}
			leaving.Wait()
			return got
		})
	})
}

func largeNames() []string {
	names := make([]string, largeChannels)
	for i := range names {
		names[i] = fmt.Sprint("large-", i)
	}
	return names
}

// resumeWorld is a Redis with the histories, and a process that begins behind them.
type resumeWorld struct {
	*server
	redis *redistest.Server
}

func newResumeWorld(b *testing.B) *resumeWorld {
	b.Helper()
	r := redistest.Start(b)
	writer := startServer(b, "--redis-url", r.URL())
	require.NoError(b, writer.AwaitReady(b.Context()))
	publish := func(channel, payload string) {
		_, err := r.Do("PUBLISH", channel, payload)
		require.NoError(b, err)
	}
	payload := strings.Repeat("x", largeBytes)
	for i := range largeEach {
		for _, name := range largeNames() {
			publish(name, payload)
		}
		if i < smallEach {
			publish("small", strconv.Itoa(i))
		}
		eventually(b, "the history is written", func() bool {
			n, err := r.Do("XLEN", "sse:stream:"+largeNames()[largeChannels-1])
			return err == nil && n == int64(i+1)
		})
	}
	s := startServer(b, "--redis-url", r.URL())
	require.NoError(b, s.AwaitReady(b.Context()))
	return &resumeWorld{s, r}
}

// measure resumes as a neighbour until hostile has returned, which tells how many bytes
// its clients got.
func (w *resumeWorld) measure(b *testing.B, hostile func(context.Context) int64) {
	ctx, cancel := context.WithTimeout(b.Context(), 5*patience)
	defer cancel()
	var lawful hist.Histogram
	failed := 0
	resume := func() {
		start := time.Now()
		if _, err := w.resume(ctx, lawfulAddr, "1-1", []string{"small"}, smallEach, 1); err != nil {
			require.NoError(b, ctx.Err())
			failed++
			return
		}
		lawful.Record(time.Since(start))
	}
	for b.Loop() {
		for range 20 {
			resume() // what it takes alone
		}
		alone := lawful.Quantile(0.5)
		lawful = hist.Histogram{}
		before, sent := w.resident(b, "VmRSS"), w.sentBytes(b)
		require.NoError(b, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", w.Pid()), []byte("5"), 0))
		done := make(chan int64)
		start := time.Now()
		go func() { done <- hostile(ctx) }()
		got := int64(-1)
		for got < 0 {
			resume()
			select {
			case got = <-done:
			case <-time.After(10 * time.Millisecond):
			}
		}
		took := time.Since(start)
		sent = w.sentBytes(b) - sent
		peak := w.resident(b, "VmHWM")
		ended := time.Now()
		eventually(b, "the memory is given back", func() bool { return w.resident(b, "VmRSS")-before < givenBack })
		b.ReportMetric(time.Since(ended).Seconds(), "given-back-s")
		b.ReportMetric(float64(sent)/(1<<20), "redis-MiB")
		b.ReportMetric(float64(got)/(1<<20), "clients-MiB")
		b.ReportMetric(float64(peak-before)/(1<<20), "grown-MiB")
		b.ReportMetric(took.Seconds(), "s")
		b.ReportMetric(float64(failed), "lawful-failed")
		b.ReportMetric(float64(alone.Microseconds())/1e3, "alone-p50-ms")
		b.ReportMetric(float64(lawful.Quantile(0.5).Microseconds())/1e3, "lawful-p50-ms")
		b.ReportMetric(float64(lawful.Quantile(0.99).Microseconds())/1e3, "lawful-p99-ms")
		b.ReportMetric(float64(lawful.Max().Microseconds())/1e3, "lawful-max-ms")
	}
}

func resumeRequest(id string, channels []string) string {
	return "GET /sse/connect?channel_id=" + strings.Join(channels, "&channel_id=") + " HTTP/1.1\r\nHost: x\r\nLast-Event-ID: " + id + "\r\n\r\n"
}

// resume reads n messages of at least least bytes behind an ID and leaves. It returns
// how many bytes came.
func (w *resumeWorld) resume(ctx context.Context, from, id string, channels []string, n, least int) (got int64, err error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.Dial("tcp", w.addr.String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err := io.WriteString(conn, resumeRequest(id, channels)); err != nil {
		return 0, err
	}
	isGap := false
	for r := bufio.NewReaderSize(conn, 2*largeBytes); n > 0; {
		line, err := r.ReadSlice('\n')
		got += int64(len(line))
		if err != nil {
			return got, errors.Join(err, ctx.Err())
		}
		switch text := string(line[:min(len(line), 16)]); {
		case strings.HasPrefix(text, "event: gap"):
			isGap = true
		case text == "\n":
			isGap = false
		case strings.HasPrefix(text, "data: ") && !isGap && len(line) >= least:
			n--
		}
	}
	return got, nil
}

// resident is a line of /proc/PID/status, in bytes.
func (w *resumeWorld) resident(b *testing.B, name string) int64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.Pid()))
	require.NoError(b, err)
	_, rest, _ := strings.Cut(string(status), name+":")
	n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	require.NoError(b, err)
	return n << 10
}

// sentBytes is what Redis has sent to its clients.
func (w *resumeWorld) sentBytes(b *testing.B) int64 {
	b.Helper()
	info, err := w.redis.Do("INFO", "stats")
	require.NoError(b, err)
	_, rest, _ := strings.Cut(info.(string), "total_net_output_bytes:")
	n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	require.NoError(b, err)
	return n
}
