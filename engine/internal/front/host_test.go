package front

import (
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/sock"
	"ssed/engine/internal/wiretest"
	"ssed/sseproto"
)

// host stands in for the engine: it sends the head of each stream, and closes it when
// its client leaves or at the end of the test.
type host struct {
	t       testing.TB
	front   *Front
	conns   atomic.Int64
	streams atomic.Int64

	notReady atomic.Bool
	network  string
	addr     string

	mu      sync.Mutex
	open    map[net.Conn]bool // guarded by mu
	serving sync.WaitGroup
}

// serve runs a front until the test ends.
func serve(t testing.TB, cfg Config) *host {
	t.Helper()
	h := listenOnly(t, cfg)
	require.NoError(t, h.front.Serve())
	return h
}

// listenOnly makes a front that does not serve yet. What cfg leaves out is what
// engine.Config has as defaults, but for the address.
func listenOnly(t testing.TB, cfg Config) *host {
	t.Helper()
	h := &host{t: t, open: make(map[net.Conn]bool)}
	f, err := New(withDefaults(cfg), Host{
		Ready:       func() (bool, string) { return !h.notReady.Load(), "no feed" },
		Standing:    func() Standing { return Standing{} },
		Clock:       func() uint64 { return 1_790_000_000_000 },
		Attach:      h.attach,
		Connections: &h.conns,
	})
	require.NoError(t, err)
	h.front, h.network, h.addr = f, f.Addrs()[0].Network(), f.Addrs()[0].String()
	t.Cleanup(func() {
		f.Close()
		h.mu.Lock()
		for conn := range h.open {
			_ = conn.SetReadDeadline(time.Unix(1, 0))
		}
		h.mu.Unlock()
		h.serving.Wait()
		require.Zero(t, h.conns.Load(), "connections left open")
	})
	return h
}

func withDefaults(cfg Config) Config {
	fill := func(field *time.Duration, value time.Duration) {
		if *field == 0 {
			*field = value
		}
	}
	fill(&cfg.HandshakeTimeout, 5*time.Second)
	fill(&cfg.AuthTimeout, 5*time.Second)
	fill(&cfg.RetryMin, 2*time.Second)
	fill(&cfg.RetryMax, 5*time.Second)
	fill(&cfg.PeerTimeout, time.Minute)
	fill(&cfg.Heartbeat, 15*time.Second)
	if cfg.Listen == nil {
		cfg.Listen = []string{"127.0.0.1:0"}
	}
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = sock.FileLimit() / 2
	}
	cfg.MaxChannels = max(cfg.MaxChannels, 32)
	cfg.MaxHeadBytes = max(cfg.MaxHeadBytes, sseproto.DefaultMaxHeadBytes)
	cfg.CORSOrigins = []string{"*"}
	cfg.Logger = slog.New(slog.DiscardHandler)
	return cfg
}

func (h *host) attach(s *Stream) {
	h.streams.Add(1)
	file := os.NewFile(uintptr(s.FD), "stream")
	conn, err := net.FileConn(file)
	_ = file.Close()
	if err != nil {
		h.t.Errorf("a stream that is no socket: %v", err)
		return
	}
	h.mu.Lock()
	h.open[conn] = true
	h.mu.Unlock()
	h.serving.Go(func() {
		_, _ = conn.Write(s.Head)
		_, _ = io.Copy(io.Discard, conn)
		h.mu.Lock()
		delete(h.open, conn)
		h.mu.Unlock()
		_ = conn.Close()
		h.streams.Add(-1)
		h.conns.Add(-1)
		h.front.Release(s.Peer, s.Subject)
	})
}

func (h *host) dialFrom(source string) *wiretest.Conn {
	h.t.Helper()
	return wiretest.Dial(h.t, h.network, h.addr, source)
}

// What clients send, and how tests wait.
const (
	getHealth     = wiretest.GetHealth
	asEventSource = wiretest.AsEventSource
)

var (
	getStream    = wiretest.GetStream
	forwardedFor = wiretest.ForwardedFor
	eventually   = wiretest.Eventually
)
