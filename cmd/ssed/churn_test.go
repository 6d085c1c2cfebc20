package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestChurnLeaksNothing: 5,000 connections come and go in the ways that clients
// have; then descriptors, goroutines and gauges are where they were.
func TestChurnLeaksNothing(t *testing.T) {
	t.Parallel()
	const rounds, atOnce = 10, 500
	in := start(t, "--handshake-timeout", "300ms")
	churn(t, in, atOnce) // pools and tables have their size now
	require.Positive(t, in.metric("ssed_stream_attached_total"))
	in.eventually("idle", func() bool { return in.metric("ssed_connections") == 0 })
	files, goroutines := in.openFiles(), in.metric("go_goroutines")
	for range rounds - 1 {
		churn(t, in, atOnce)
	}
	in.eventually("all gone", func() bool {
		return in.metric("ssed_connections") == 0 && in.metric("ssed_streams") == 0 &&
			in.openFiles() <= files+2 && in.metric("go_goroutines") <= goroutines+4
	})
	in.publish("a", "x")
	s := connect(t, in, "", "a")
	in.publish("a", "still serving")
	s.want("still serving")
}

// churn opens n connections at once, one way each.
func churn(t *testing.T, in *instance, n int) {
	t.Helper()
	ways := []func(*testing.T, *net.TCPConn){leaveOpenly, leaveWithReset, leaveHalfClosed, leaveInHead, askForHealth}
	var clients sync.WaitGroup
	for i := range n {
		c, err := net.Dial("tcp", strings.TrimPrefix(in.public, "http://"))
		require.NoError(t, err)
		clients.Go(func() {
			defer c.Close()
			ways[i%len(ways)](t, c.(*net.TCPConn))
		})
	}
	clients.Wait()
}

// beginStream sends a request and reads the head and the first line. On a busy machine some
// requests are not read within --handshake-timeout.
func beginStream(t *testing.T, c *net.TCPConn) {
	fmt.Fprintf(c, "GET /sse/connect?channel_id=a&channel_id=%s HTTP/1.1\r\nHost: x\r\n\r\n", c.LocalAddr())
	_ = c.SetReadDeadline(time.Now().Add(patience))
	lines := bufio.NewReader(c)
	for {
		line, err := lines.ReadString('\n')
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("neither served nor closed")
		}
		if err != nil || strings.HasPrefix(line, "retry:") {
			return
		}
	}
}

func leaveOpenly(t *testing.T, c *net.TCPConn) { beginStream(t, c) }

func leaveWithReset(t *testing.T, c *net.TCPConn) {
	beginStream(t, c)
	_ = c.SetLinger(0)
}

func leaveHalfClosed(t *testing.T, c *net.TCPConn) {
	beginStream(t, c)
	_ = c.CloseWrite()
	waitClosed(t, c)
}

// leaveInHead is cut by the handshake timeout.
func leaveInHead(t *testing.T, c *net.TCPConn) {
	fmt.Fprintf(c, "GET /sse/connect?channel_id=a HTTP/1.1\r\nHost:")
	waitClosed(t, c)
}

func askForHealth(t *testing.T, c *net.TCPConn) {
	fmt.Fprintf(c, "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	waitClosed(t, c)
}

func waitClosed(t *testing.T, c *net.TCPConn) {
	_ = c.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 512)
	for {
		_, err := c.Read(buf)
		if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
			t.Error("not closed by the server")
		}
		if err != nil {
			return
		}
	}
}
