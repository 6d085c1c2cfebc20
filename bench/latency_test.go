//go:build linux

package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
	"ssed/loadtest/hist"
)

// BenchmarkPublishToSocket is the way of one message while nothing else goes on:
// PUBLISH to a real Redis, from there to the real program, and out of a client's
// socket.
func BenchmarkPublishToSocket(b *testing.B) {
	r := redistest.Start(b)
	s := startServer(b, "--redis-url", r.URL())
	require.NoError(b, s.AwaitReady(b.Context()))

	stream, err := net.Dial("tcp", s.addr.String())
	require.NoError(b, err)
	defer stream.Close()
	_, err = io.WriteString(stream, "GET /sse/connect?channel_id=room HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(b, err)
	events := bufio.NewReader(stream)
	for line := ""; line != "\r\n"; {
		line, err = events.ReadString('\n')
		require.NoError(b, err)
	}

	publisher, err := net.Dial("tcp", r.Addr())
	require.NoError(b, err)
	defer publisher.Close()
	answers := bufio.NewReader(publisher)
	payload := strings.Repeat("x", 128)
	publish := fmt.Appendf(nil, "*3\r\n$7\r\nPUBLISH\r\n$4\r\nroom\r\n$%d\r\n%s\r\n", len(payload), payload)
	send := func() {
		if _, err := publisher.Write(publish); err != nil {
			b.Fatal(err)
		}
		for line := []byte(nil); !bytes.HasPrefix(line, []byte("data: ")); {
			if line, err = events.ReadSlice('\n'); err != nil {
				b.Fatal(err)
			}
		}
	}
	var h hist.Histogram
	for b.Loop() {
		start := time.Now()
		send()
		h.Record(time.Since(start))
		if _, err := answers.ReadSlice('\n'); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(h.Quantile(0.5).Nanoseconds())/1e3, "p50-µs")
	b.ReportMetric(float64(h.Quantile(0.99).Nanoseconds())/1e3, "p99-µs")
}
