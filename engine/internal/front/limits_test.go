package front

import (
	"context"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/wiretest"
)

func TestAddressAtItsLimitIsRefusedAndOthersAreNot(t *testing.T) {
	s := serve(t, Config{limitsLoopback: true, MaxPerAddress: 3, RetryMin: time.Second, RetryMax: 2 * time.Second})
	open := make([]*wiretest.Conn, 3)
	for i := range open {
		open[i] = s.dialFrom("127.0.0.2").Send(getStream("a"))
		require.Equal(t, 200, open[i].Answer(http.MethodGet).StatusCode)
	}
	for range 20 {
		w := s.dialFrom("127.0.0.2").Send(getStream("a", asEventSource))
		require.Equal(t, "text/event-stream; charset=utf-8", w.Answer(http.MethodGet).Header.Get("Content-Type"))
		w.RequireRetry(4*time.Second, 8*time.Second)
		w.RequireEnd()
		require.NoError(t, w.Close())
	}
	w := s.dialFrom("127.0.0.2").Send(getStream("a"))
	w.RequireTooMany("too many connections from this address")
	status, _, _ := w.Send(getHealth).Whole()
	require.Equal(t, 200, status, "probes are answered at the limit")
	require.NoError(t, w.Close())
	require.EqualValues(t, 21, s.front.Stats().Refused[RefuseAddress])

	other := s.dialFrom("127.0.0.3").Send(getStream("a"))
	require.Equal(t, 200, other.Answer(http.MethodGet).StatusCode)
	waiting := s.dialFrom("127.0.0.2")
	eventually(t, func() bool { return s.conns.Load() == 5 }, "it is accepted, over the limit")
	require.NoError(t, open[0].Close())
	eventually(t, func() bool { return s.streams.Load() == 3 }, "a place is free again")
	require.Equal(t, 200, waiting.Send(getStream("a")).Answer(http.MethodGet).StatusCode)
	s.dialFrom("127.0.0.2").Send(getStream("a")).RequireTooMany("too many connections from this address")
}

func TestIdleConnectionsOfOneAddressAreBounded(t *testing.T) {
	const limit = 5
	s := serve(t, Config{limitsLoopback: true, MaxPerAddress: limit, HandshakeTimeout: time.Minute})
	idle := make([]*wiretest.Conn, 200)
	for i := range idle {
		idle[i] = s.dialFrom("127.0.0.2")
	}
	for _, w := range idle[limit+refusedPerAddress:] {
		require.Equal(t, "text/event-stream; charset=utf-8", w.Answer(http.MethodGet).Header.Get("Content-Type"))
		w.RequireRetry(8*time.Second, 20*time.Second)
		w.RequireEnd()
	}
	st := s.front.Stats()
	require.EqualValues(t, limit+refusedPerAddress, s.conns.Load())
	require.EqualValues(t, 200-limit-refusedPerAddress, st.Refused[RefuseAddress])
	require.Equal(t, 1, st.Addresses)
	require.Equal(t, 200, s.dialFrom("127.0.0.3").Send(getStream("a")).Answer(http.MethodGet).StatusCode)
	for _, w := range idle {
		require.NoError(t, w.Close())
	}
	eventually(t, func() bool { return s.front.Stats().Addresses == 1 }, "the address is forgotten")
}

func TestConnectionsOfAnAddressAreRefusedAboveTheRate(t *testing.T) {
	s := serve(t, Config{limitsLoopback: true, ConnectRate: 1, ConnectBurst: 5})
	for range 40 { // would take 35 s at the rate
		w := s.dialFrom("127.0.0.2").Send(getStream("a"))
		w.Answer(http.MethodGet)
		require.NoError(t, w.Close())
	}
	st := s.front.Stats()
	require.GreaterOrEqual(t, st.Streams, uint64(5))
	require.Less(t, st.Streams, uint64(40))
	require.EqualValues(t, 40, st.Streams+st.Refused[RefuseRate])
	require.Equal(t, 200, s.dialFrom("127.0.0.3").Send(getStream("a")).Answer(http.MethodGet).StatusCode)
}

func TestForwardedAddressOfAStrangerSaysNothing(t *testing.T) {
	s := serve(t, Config{limitsLoopback: true, MaxPerAddress: 1})
	require.Equal(t, 200, s.dialFrom("").Send(forwardedFor("192.0.2.1")).Answer(http.MethodGet).StatusCode)
	s.dialFrom("").Send(forwardedFor("192.0.2.2")).RequireTooMany("too many connections from this address")
}

func TestProxyHeaderOfAnAddressFarOverItsLimit(t *testing.T) {
	s := serve(t, Config{ProxyProtocol: true, TrustedProxies: networks("127.0.0.0/8"), MaxPerAddress: 1, HandshakeTimeout: time.Minute})
	const v1 = "PROXY TCP4 192.0.2.1 10.0.0.1 4096 80\r\n"
	for range 1 + refusedPerAddress {
		s.dialFrom("").Send(v1)
	}
	eventually(t, func() bool { return s.conns.Load() == 1+refusedPerAddress && s.front.Stats().Addresses == 1 }, "all are read")
	eventually(t, func() bool {
		w := s.dialFrom("").Send(v1 + getStream("a"))
		defer w.Close()
		return w.Answer(http.MethodGet).StatusCode == http.StatusTooManyRequests
	}, "it is refused")
}

func TestThisMachineIsNotLimited(t *testing.T) {
	s := serve(t, Config{MaxPerAddress: 1, ConnectRate: 1, ConnectBurst: 1})
	for range 10 {
		require.Equal(t, 200, s.dialFrom("").Send(getStream("a")).Answer(http.MethodGet).StatusCode)
	}
	require.Zero(t, s.front.Stats().Addresses)
}

// Behind a proxy the clients are limited, not the proxy; what one of them is
// refused does not concern the next that comes by the same connection.
func TestLimitsFollowTheClientBehindATrustedProxy(t *testing.T) {
	s := serve(t, Config{MaxPerAddress: 1, TrustedProxies: networks("127.0.0.0/8")})
	first := s.dialFrom("").Send(forwardedFor("192.0.2.1"))
	require.Equal(t, 200, first.Answer(http.MethodGet).StatusCode)

	shared := s.dialFrom("").Send(forwardedFor("192.0.2.1"))
	shared.RequireTooMany("too many connections from this address")
	status, _, _ := shared.Send(getHealth).Whole()
	require.Equal(t, 200, status)
	shared.Send(forwardedFor("192.0.2.2"))
	require.Equal(t, 200, shared.Answer(http.MethodGet).StatusCode)
	require.Equal(t, 2, s.front.Stats().Addresses)
	require.EqualValues(t, 1, s.front.Stats().Refused[RefuseAddress])

	head := s.dialFrom("").Send(strings.Replace(forwardedFor("192.0.2.3"), "GET", "HEAD", 1))
	require.Equal(t, 200, head.Answer(http.MethodHead).StatusCode)
	head.RequireEnd()
	require.NoError(t, first.Close())
	require.NoError(t, shared.Close())
	eventually(t, func() bool { return s.front.Stats().Addresses == 0 }, "all addresses are forgotten")
}

func TestProxyProtocol(t *testing.T) {
	s := serve(t, Config{ProxyProtocol: true, TrustedProxies: networks("127.0.0.1/32", "10.0.0.0/8"), MaxPerAddress: 1})
	const v1 = "PROXY TCP4 192.0.2.1 10.0.0.1 4096 80\r\n"
	stream := func(w *wiretest.Conn) *http.Response { return w.Answer(http.MethodGet) }

	byV1 := s.dialFrom("").Send(v1 + getStream("a"))
	require.Equal(t, 200, stream(byV1).StatusCode)
	s.dialFrom("").Send(v1 + getStream("a")).RequireTooMany("too many connections from this address")

	byV2 := s.dialFrom("") // byte by byte, and another client
	for _, c := range []byte(proxyV2(1, 0x21, block6+"\x04\x00\x00") + getStream("a")) {
		byV2.Send(string([]byte{c}))
	}
	require.Equal(t, 200, stream(byV2).StatusCode)
	require.Equal(t, 2, s.front.Stats().Addresses)

	for _, local := range []string{"PROXY UNKNOWN\r\n", proxyV2(0, 0, ""), proxyV2(1, 0x31, strings.Repeat("\x00", 216))} {
		w := s.dialFrom("").Send(local + getHealth + getHealth)
		for range 2 {
			status, _, _ := w.Whole()
			require.Equal(t, 200, status, "the proxy itself asks")
		}
	}
	for _, bad := range []string{getHealth, "PROXY TCP4 nonsense\r\n" + getHealth, v1 + v1 + getHealth} {
		w := s.dialFrom("").Send(bad)
		status, _, _ := w.Whole()
		require.Equal(t, 400, status, "%q", bad)
		w.RequireEnd()
	}
	require.EqualValues(t, 2, s.front.Stats().Refused[RefuseProxy])
	require.EqualValues(t, 1, s.front.Stats().Refused[RefuseProtocol])

	// From anyone else the header is bad HTTP, and plain requests are served.
	for _, header := range []string{v1, proxyV2(1, 0x11, block4)} {
		w := s.dialFrom("127.0.0.2").Send(header + getHealth)
		status, _, _ := w.Whole()
		require.Equal(t, 400, status)
		w.RequireEnd()
	}
	status, _, _ := s.dialFrom("127.0.0.2").Send(getHealth).Whole()
	require.Equal(t, 200, status)
}

// authorizerFunc is a function that decides.
type authorizerFunc func(*AuthRequest) (Grant, error)

func (f authorizerFunc) Authorize(_ context.Context, r *AuthRequest) (Grant, error) { return f(r) }

// TestProxyHeaderWinsOverForwardedFor: a proxy of TCP connections passes on what the
// client wrote, so with an unknown address, or that of another proxy, the client could
// choose its own.
func TestProxyHeaderWinsOverForwardedFor(t *testing.T) {
	clients := make(chan netip.Addr, 1)
	decide := authorizerFunc(func(r *AuthRequest) (Grant, error) {
		clients <- r.Client
		return Grant{Channels: r.Channels}, nil
	})
	s := serve(t, Config{ProxyProtocol: true, TrustedProxies: networks("127.0.0.1/32", "10.0.0.0/8"), Authorizer: decide})
	f := func(header, want string) {
		t.Helper()
		w := s.dialFrom("").Send(header + forwardedFor("192.0.2.9"))
		require.Equal(t, 200, w.Answer(http.MethodGet).StatusCode)
		require.Equal(t, netip.MustParseAddr(want), <-clients)
	}
	f("PROXY TCP4 192.0.2.1 10.0.0.1 4096 80\r\n", "192.0.2.1")
	f("PROXY TCP4 10.0.0.7 10.0.0.1 4096 80\r\n", "10.0.0.7")
	f("PROXY UNKNOWN\r\n", "127.0.0.1")
	f(proxyV2(1, 0x11, block4), "192.0.2.1")
	f(proxyV2(0, 0, ""), "127.0.0.1")
	f(proxyV2(1, 0, ""), "127.0.0.1")
	f(proxyV2(1, 0x31, strings.Repeat("\x00", 216)), "127.0.0.1")
}

// A unix socket has no address to trust; the rights of its file say who can be a
// proxy there.
func TestProxiesOnUnixSockets(t *testing.T) {
	at := func(name string) []string { return []string{"unix:" + filepath.Join(t.TempDir(), name)} }
	s := serve(t, Config{Listen: at("plain"), TrustedProxies: networks("10.0.0.0/8"), MaxPerAddress: 1})
	require.Equal(t, 200, s.dialFrom("").Send(forwardedFor("192.0.2.1")).Answer(http.MethodGet).StatusCode)
	s.dialFrom("").Send(forwardedFor("192.0.2.1")).RequireTooMany("too many connections from this address")
	for range 3 {
		require.Equal(t, 200, s.dialFrom("").Send(getStream("a")).Answer(http.MethodGet).StatusCode, "the proxy itself is not limited")
	}
	s = serve(t, Config{Listen: at("proxied"), TrustedProxies: networks("10.0.0.0/8"), MaxPerAddress: 1, ProxyProtocol: true})
	require.Equal(t, 200, s.dialFrom("").Send(proxyV2(1, 0x11, block4)+getStream("a")).Answer(http.MethodGet).StatusCode)
	s.dialFrom("").Send(proxyV2(1, 0x11, block4) + getStream("a")).RequireTooMany("too many connections from this address")
	status, _, _ := s.dialFrom("").Send(getHealth).Whole()
	require.Equal(t, 400, status)
}

func TestMissingProxyHeaderTimesOut(t *testing.T) {
	s := serve(t, Config{ProxyProtocol: true, TrustedProxies: networks("127.0.0.0/8"), HandshakeTimeout: 100 * time.Millisecond})
	s.dialFrom("").Send("PROXY TC").RequireEnd()
	s.dialFrom("").RequireEnd()
	eventually(t, func() bool { return s.front.Stats().Handshakes == 0 }, "all are closed")
	require.EqualValues(t, 2, s.front.Stats().Refused[RefuseTimeout])
}

func TestWithoutProxyProtocolTheHeaderIsRefused(t *testing.T) {
	s := serve(t, Config{TrustedProxies: networks("127.0.0.0/8")})
	status, _, _ := s.dialFrom("").Send("PROXY TCP4 192.0.2.1 10.0.0.1 4096 80\r\n" + getHealth).Whole()
	require.Equal(t, 400, status)
}
