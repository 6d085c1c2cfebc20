//go:build linux

package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
	"ssed/loadtest/hist"
)

// BenchmarkSlowReaders publishes 784 messages a second of 260 bytes to a channel, for 20 s
// with the real program, to readers that take 20 KB/s each, and as many that take all.
// Reported is how old the newest value is that a slow reader has, the worst of them at the end,
// and the p99 of the others: on the same channel, and on one of their own.
func BenchmarkSlowReaders(b *testing.B) {
	for _, slow := range []string{"none", "all", "latest", "close"} {
		b.Run("slow="+slow, func(b *testing.B) { slowReaders(b, slow) })
	}
}

const (
	slowRate    = 784
	slowBytes   = 260
	slowCount   = 20
	slowStretch = 20 * time.Second
)

func slowReaders(b *testing.B, slow string) {
	r := redistest.Start(b)
	args := []string{"--redis-url", r.URL()}
	if slow == "latest" || slow == "close" {
		args = append(args, "--policy", "price=slow:"+slow)
	}
	s := startServer(b, args...)
	require.NoError(b, s.AwaitReady(b.Context()))
	addr := s.addr

	var readers sync.WaitGroup
	var conns []net.Conn
	open := func(channel string) net.Conn {
		conn, err := net.Dial("tcp", addr.String())
		require.NoError(b, err)
		_, err = fmt.Fprintf(conn, "GET /sse/connect?channel_id=%s HTTP/1.0\r\nHost: x\r\n\r\n", channel)
		require.NoError(b, err)
		conns = append(conns, conn)
		return conn
	}
	var ages [slowCount]atomic.Int64
	var closed atomic.Int64
	if slow != "none" {
		for i := range ages {
			conn := open("price")
			readers.Go(func() {
				if readSlowly(conn, &ages[i]) != nil {
					closed.Add(1)
				}
			})
		}
	}
	var same, other lockedHistogram
	for range slowCount {
		for channel, h := range map[string]*lockedHistogram{"price": &same, "other": &other} {
			conn := open(channel)
			readers.Go(func() { readAll(conn, h) })
		}
	}
	for b.Loop() {
		publishPrices(b, r.Addr(), slowStretch)
	}
	worst := int64(0)
	for i := range ages {
		worst = max(worst, ages[i].Load())
	}
	lost := closed.Load()
	for _, conn := range conns {
		_ = conn.Close()
	}
	readers.Wait()
	if slow == "all" || slow == "latest" {
		b.ReportMetric(float64(worst)/1e6, "age-ms")
	}
	b.ReportMetric(float64(lost), "closed")
	b.ReportMetric(float64(same.h.Quantile(0.99).Nanoseconds())/1e3, "same-p99-µs")
	b.ReportMetric(float64(other.h.Quantile(0.99).Nanoseconds())/1e3, "other-p99-µs")
}

type lockedHistogram struct {
	mu sync.Mutex
	h  hist.Histogram
}

// stamped is when a line of data was published; 0: it is another line.
func stamped(line []byte) int64 {
	text, ok := bytes.CutPrefix(line, []byte("data: "))
	if !ok || len(text) < 19 {
		return 0
	}
	at, _ := strconv.ParseInt(string(text[:19]), 10, 64)
	return at
}

func readAll(conn net.Conn, h *lockedHistogram) {
	lines := bufio.NewReaderSize(conn, 64<<10)
	for {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return
		}
		if at := stamped(line); at > 0 {
			h.mu.Lock()
			h.h.Record(time.Duration(time.Now().UnixNano() - at))
			h.mu.Unlock()
		}
	}
}

// readSlowly takes 2 KB in a tenth of a second, and notes how old the newest value in it is.
// An error: the server has closed the stream.
func readSlowly(conn net.Conn, age *atomic.Int64) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	buf, rest := make([]byte, 2000), []byte(nil)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		rest = append(rest, buf[:n]...)
		for {
			line, behind, found := bytes.Cut(rest, []byte("\n"))
			if !found {
				break
			}
			rest = behind
			if at := stamped(line); at > 0 {
				age.Store(time.Now().UnixNano() - at)
			}
		}
		<-tick.C
	}
}

// publishPrices publishes for a while, one message in ten to the other channel too.
func publishPrices(b *testing.B, addr string, stretch time.Duration) {
	conn, err := net.Dial("tcp", addr)
	require.NoError(b, err)
	defer conn.Close()
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	pad := bytes.Repeat([]byte("x"), slowBytes-19)
	publish := func(channel string) {
		_, err := fmt.Fprintf(conn, "*3\r\n$7\r\nPUBLISH\r\n$5\r\n%s\r\n$%d\r\n%d%s\r\n", channel, slowBytes, time.Now().UnixNano(), pad)
		require.NoError(b, err)
	}
	tick := time.NewTicker(time.Second / slowRate)
	defer tick.Stop()
	began, sent := time.Now(), 0
	for elapsed := time.Duration(0); elapsed < stretch; elapsed = time.Since(began) {
		for due := int(elapsed.Seconds() * slowRate); sent < due; sent++ {
			publish("price")
			if sent%10 == 0 {
				publish("other")
			}
		}
		<-tick.C
	}
}
