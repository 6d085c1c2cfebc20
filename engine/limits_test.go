package engine

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"ssed/sseproto"
)

// limitLoopback makes addresses of this machine count like others.
func limitLoopback(f *front) { f.clients.limitsLoopback = true }

// dialFrom connects from another address of the loopback network.
func (s *served) dialFrom(source string) *wire {
	s.t.Helper()
	local := &net.TCPAddr{IP: net.ParseIP(source)}
	conn, err := (&net.Dialer{LocalAddr: local}).Dial(s.network, s.addr)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = conn.Close() })
	require.NoError(s.t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	return &wire{Conn: conn, t: s.t, r: bufio.NewReader(conn)}
}

// requireTooMany checks what a program is told at a limit of its address.
func requireTooMany(t *testing.T, w *wire, text string) {
	t.Helper()
	status, header, body := w.whole()
	require.Equal(t, http.StatusTooManyRequests, status)
	require.Equal(t, text+"\n", body)
	require.Equal(t, "*", header.Get("Access-Control-Allow-Origin"))
	after, err := strconv.Atoi(header.Get("Retry-After"))
	require.NoError(t, err)
	require.Positive(t, after)
}

func TestAddressAtItsLimitIsRefusedAndOthersAreNot(t *testing.T) {
	s := serveChanged(t, Config{MaxPerAddress: 3, RetryMin: time.Second, RetryMax: 2 * time.Second}, limitLoopback)
	open := make([]*wire, 3)
	for i := range open {
		open[i] = s.dialFrom("127.0.0.2").send(getStream("a"))
		require.Equal(t, 200, open[i].answer(http.MethodGet).StatusCode)
	}
	for range 20 {
		w := s.dialFrom("127.0.0.2").send(getStream("a", asEventSource))
		require.Equal(t, "text/event-stream", w.answer(http.MethodGet).Header.Get("Content-Type"))
		requireRetry(t, w, 4*time.Second, 8*time.Second)
		w.requireEnd()
		require.NoError(t, w.Close())
	}
	w := s.dialFrom("127.0.0.2").send(getStream("a"))
	requireTooMany(t, w, "too many connections from this address")
	status, _, _ := w.send(getHealth).whole()
	require.Equal(t, 200, status, "probes are answered at the limit")
	require.NoError(t, w.Close())
	require.EqualValues(t, 21, s.Stats().Front.Refused[RefuseAddress])

	other := s.dialFrom("127.0.0.3").send(getStream("a"))
	require.Equal(t, 200, other.answer(http.MethodGet).StatusCode)
	waiting := s.dialFrom("127.0.0.2")
	eventually(t, func() bool { return s.Stats().Connections == 5 }, "it is accepted, over the limit")
	require.NoError(t, open[0].Close())
	eventually(t, func() bool { return s.Stats().Streams == 3 }, "a place is free again")
	require.Equal(t, 200, waiting.send(getStream("a")).answer(http.MethodGet).StatusCode)
	requireTooMany(t, s.dialFrom("127.0.0.2").send(getStream("a")), "too many connections from this address")
}

// An address over its limit can't hold more than a few connections by sending
// nothing on them.
func TestIdleConnectionsOfOneAddressAreBounded(t *testing.T) {
	const limit = 5
	s := serveChanged(t, Config{MaxPerAddress: limit, HandshakeTimeout: time.Minute}, limitLoopback)
	idle := make([]*wire, 200)
	for i := range idle {
		idle[i] = s.dialFrom("127.0.0.2")
	}
	for _, w := range idle[limit+refusedPerAddress:] {
		require.Equal(t, "text/event-stream", w.answer(http.MethodGet).Header.Get("Content-Type"))
		requireRetry(t, w, 8*time.Second, 20*time.Second)
		w.requireEnd()
	}
	st := s.Stats()
	require.EqualValues(t, limit+refusedPerAddress, st.Connections)
	require.EqualValues(t, 200-limit-refusedPerAddress, st.Front.Refused[RefuseAddress])
	require.Equal(t, 1, st.Front.Addresses)
	require.Equal(t, 200, s.dialFrom("127.0.0.3").send(getStream("a")).answer(http.MethodGet).StatusCode)
	for _, w := range idle {
		require.NoError(t, w.Close())
	}
	eventually(t, func() bool { return s.Stats().Front.Addresses == 1 }, "the address is forgotten")
}

func TestConnectionsOfAnAddressAreRefusedAboveTheRate(t *testing.T) {
	s := serveChanged(t, Config{ConnectRate: 1, ConnectBurst: 5}, limitLoopback)
	for range 40 { // would take 35 s at the rate
		w := s.dialFrom("127.0.0.2").send(getStream("a"))
		w.answer(http.MethodGet)
		require.NoError(t, w.Close())
	}
	front := s.Stats().Front
	require.GreaterOrEqual(t, front.Streams, uint64(5))
	require.Less(t, front.Streams, uint64(40))
	require.EqualValues(t, 40, front.Streams+front.Refused[RefuseRate])
	require.Equal(t, 200, s.dialFrom("127.0.0.3").send(getStream("a")).answer(http.MethodGet).StatusCode)
}

func TestThisMachineIsNotLimited(t *testing.T) {
	s := serveEngine(t, Config{MaxPerAddress: 1, ConnectRate: 1, ConnectBurst: 1})
	for range 10 {
		require.Equal(t, 200, s.dial().send(getStream("a")).answer(http.MethodGet).StatusCode)
	}
	require.Zero(t, s.Stats().Front.Addresses)
}

func forwardedFor(client string) string {
	return strings.Replace(getStream("a"), "Host: a", "Host: a\r\nX-Forwarded-For: "+client, 1)
}

// Behind a proxy the clients are limited, not the proxy; what one of them is
// refused does not concern the next that comes by the same connection.
func TestLimitsFollowTheClientBehindATrustedProxy(t *testing.T) {
	s := serveEngine(t, Config{MaxPerAddress: 1, TrustedProxies: networks("127.0.0.0/8")})
	first := s.dial().send(forwardedFor("192.0.2.1"))
	require.Equal(t, 200, first.answer(http.MethodGet).StatusCode)

	shared := s.dial().send(forwardedFor("192.0.2.1"))
	requireTooMany(t, shared, "too many connections from this address")
	status, _, _ := shared.send(getHealth).whole()
	require.Equal(t, 200, status)
	shared.send(forwardedFor("192.0.2.2"))
	require.Equal(t, 200, shared.answer(http.MethodGet).StatusCode)
	require.Equal(t, 2, s.Stats().Front.Addresses)
	require.EqualValues(t, 1, s.Stats().Front.Refused[RefuseAddress])

	head := s.dial().send(strings.Replace(forwardedFor("192.0.2.3"), "GET", "HEAD", 1))
	require.Equal(t, 200, head.answer(http.MethodHead).StatusCode)
	head.requireEnd()
	require.NoError(t, first.Close())
	require.NoError(t, shared.Close())
	eventually(t, func() bool { return s.Stats().Front.Addresses == 0 }, "all addresses are forgotten")

	// Without trust the field says nothing.
	s = serveChanged(t, Config{MaxPerAddress: 1}, limitLoopback)
	require.Equal(t, 200, s.dial().send(forwardedFor("192.0.2.1")).answer(http.MethodGet).StatusCode)
	requireTooMany(t, s.dial().send(forwardedFor("192.0.2.2")), "too many connections from this address")
}

func TestProxyProtocol(t *testing.T) {
	s := serveEngine(t, Config{ProxyProtocol: true, TrustedProxies: networks("127.0.0.1/32", "10.0.0.0/8"), MaxPerAddress: 1})
	const v1 = "PROXY TCP4 192.0.2.1 10.0.0.1 4096 80\r\n"
	stream := func(w *wire) *http.Response { return w.answer(http.MethodGet) }

	byV1 := s.dial().send(v1 + getStream("a"))
	require.Equal(t, 200, stream(byV1).StatusCode)
	requireTooMany(t, s.dial().send(v1+getStream("a")), "too many connections from this address")

	byV2 := s.dial() // byte by byte, and another client
	for _, c := range []byte(proxyV2(1, 0x21, block6+"\x04\x00\x00") + getStream("a")) {
		byV2.send(string([]byte{c}))
	}
	require.Equal(t, 200, stream(byV2).StatusCode)
	require.Equal(t, 2, s.Stats().Front.Addresses)

	// The header names a proxy, which names its client in turn.
	chained := s.dial().send("PROXY TCP4 10.0.0.7 10.0.0.1 4096 80\r\n" + forwardedFor("192.0.2.9"))
	require.Equal(t, 200, stream(chained).StatusCode)
	require.Equal(t, 3, s.Stats().Front.Addresses)

	for _, local := range []string{"PROXY UNKNOWN\r\n", proxyV2(0, 0, ""), proxyV2(1, 0x31, strings.Repeat("\x00", 216))} {
		w := s.dial().send(local + getHealth + getHealth)
		for range 2 {
			status, _, _ := w.whole()
			require.Equal(t, 200, status, "the proxy itself asks")
		}
	}
	for _, bad := range []string{getHealth, "PROXY TCP4 nonsense\r\n" + getHealth, v1 + v1 + getHealth} {
		w := s.dial().send(bad)
		status, _, _ := w.whole()
		require.Equal(t, 400, status, "%q", bad)
		w.requireEnd()
	}
	require.EqualValues(t, 2, s.Stats().Front.Refused[RefuseProxy])
	require.EqualValues(t, 1, s.Stats().Front.Refused[RefuseProtocol])

	// From anyone else the header is bad HTTP, and plain requests are served.
	for _, header := range []string{v1, proxyV2(1, 0x11, block4)} {
		w := s.dialFrom("127.0.0.2").send(header + getHealth)
		status, _, _ := w.whole()
		require.Equal(t, 400, status)
		w.requireEnd()
	}
	status, _, _ := s.dialFrom("127.0.0.2").send(getHealth).whole()
	require.Equal(t, 200, status)
}

func TestProxyHeaderOfAnAddressFarOverItsLimit(t *testing.T) {
	s := serveEngine(t, Config{ProxyProtocol: true, TrustedProxies: networks("127.0.0.0/8"), MaxPerAddress: 1, HandshakeTimeout: time.Minute})
	const v1 = "PROXY TCP4 192.0.2.1 10.0.0.1 4096 80\r\n"
	for range 1 + refusedPerAddress {
		s.dial().send(v1)
	}
	eventually(t, func() bool { return s.Stats().Connections == 1+refusedPerAddress && s.Stats().Front.Addresses == 1 }, "all are read")
	eventually(t, func() bool {
		w := s.dial().send(v1 + getStream("a"))
		defer w.Close()
		return w.answer(http.MethodGet).StatusCode == http.StatusTooManyRequests
	}, "it is refused")
}

// A unix socket has no address to trust; the rights of its file say who can be a
// proxy there.
func TestProxiesOnUnixSockets(t *testing.T) {
	listen := []string{"unix:" + filepath.Join(t.TempDir(), "s")}
	s := serveEngine(t, Config{Listen: listen, TrustedProxies: networks("10.0.0.0/8"), MaxPerAddress: 1})
	require.Equal(t, 200, s.dial().send(forwardedFor("192.0.2.1")).answer(http.MethodGet).StatusCode)
	requireTooMany(t, s.dial().send(forwardedFor("192.0.2.1")), "too many connections from this address")
	for range 3 {
		require.Equal(t, 200, s.dial().send(getStream("a")).answer(http.MethodGet).StatusCode, "the proxy itself is not limited")
	}
	s.stop()
	s = serveEngine(t, Config{Listen: listen, TrustedProxies: networks("10.0.0.0/8"), MaxPerAddress: 1, ProxyProtocol: true})
	require.Equal(t, 200, s.dial().send(proxyV2(1, 0x11, block4)+getStream("a")).answer(http.MethodGet).StatusCode)
	requireTooMany(t, s.dial().send(proxyV2(1, 0x11, block4)+getStream("a")), "too many connections from this address")
	status, _, _ := s.dial().send(getHealth).whole()
	require.Equal(t, 400, status)
}

func TestMissingProxyHeaderTimesOut(t *testing.T) {
	s := serveEngine(t, Config{ProxyProtocol: true, TrustedProxies: networks("127.0.0.0/8"), HandshakeTimeout: 100 * time.Millisecond})
	s.dial().send("PROXY TC").requireEnd()
	s.dial().requireEnd()
	require.EqualValues(t, 2, s.Stats().Front.Refused[RefuseTimeout])
}

func TestWithoutProxyProtocolTheHeaderIsRefused(t *testing.T) {
	s := serveEngine(t, Config{TrustedProxies: networks("127.0.0.0/8")})
	status, _, _ := s.dial().send("PROXY TCP4 192.0.2.1 10.0.0.1 4096 80\r\n" + getHealth).whole()
	require.Equal(t, 400, status)
}

// A stream that is over its age is closed within a sweep; the jitter
// keeps streams that began together from ending together.
func TestStreamsEndAtTheirMaximumAge(t *testing.T) {
	s := serveEngine(t, Config{MaxAge: time.Second, Heartbeat: time.Second})
	const n = 20
	for range n {
		w := s.dial().send(getStream("a"))
		require.Equal(t, 200, w.answer(http.MethodGet).StatusCode)
	}
	eventually(t, func() bool { return s.Stats().Streams == 0 && s.Stats().Front.Streams == n }, "all have ended")
	require.EqualValues(t, n, s.Stats().Closed[CloseExpired])
}

func TestMaximumAgeIsJittered(t *testing.T) {
	f := &front{e: &Engine{cfg: Config{MaxAge: time.Hour}}}
	least, most := time.Hour, time.Duration(0)
	for range 1000 {
		age := time.Until(f.maxAge())
		least, most = min(least, age), max(most, age)
	}
	require.InDelta(t, 48, least.Minutes(), 1)
	require.InDelta(t, 60, most.Minutes(), 1)
	f.e.cfg.MaxAge = 0
	require.True(t, f.maxAge().IsZero())
}

func TestHeartbeatAsAnEvent(t *testing.T) {
	s := serveEngine(t, Config{Heartbeat: time.Second, HeartbeatEvent: "beat"})
	w := s.dial().send(getStream("a"))
	w.answer(http.MethodGet)
	requireRetry(t, w, 2*time.Second, 5*time.Second)
	for range 2 {
		for _, want := range []string{"event: beat\n", "data: \n", "\n"} {
			line, err := w.r.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, want, line)
		}
	}
}

func TestAcceptedSocketsGiveUpSilentPeers(t *testing.T) {
	f := func(timeout, heartbeat time.Duration, want map[int]int) {
		t.Helper()
		e, err := New(Config{Listen: []string{"127.0.0.1:0"}, PeerTimeout: timeout, Heartbeat: heartbeat})
		require.NoError(t, err)
		l := e.front.listeners[0]
		client, err := net.Dial("tcp", l.addr.String())
		require.NoError(t, err)
		defer client.Close()
		conn, err := l.Accept()
		require.NoError(t, err)
		fd := conn.(*accepted).fd
		for option, value := range want {
			level := unix.IPPROTO_TCP
			if option == unix.SO_KEEPALIVE {
				level = unix.SOL_SOCKET
			}
			got, err := unix.GetsockoptInt(fd, level, option)
			require.NoError(t, err)
			require.Equal(t, value, got, "option %d", option)
		}
		closeFd(fd)
		e.front.ended(&handshake{over: notRefused})
		e.front.close()
		e.discard()
	}
	// Heartbeats are answered or not: no probes.
	f(0, 0, map[int]int{unix.TCP_USER_TIMEOUT: 60_000, unix.SO_KEEPALIVE: 0})
	f(time.Minute, time.Minute, map[int]int{unix.TCP_USER_TIMEOUT: 60_000, unix.SO_KEEPALIVE: 0})
	// No heartbeats, or too rare ones.
	f(0, -1, map[int]int{
		unix.TCP_USER_TIMEOUT: 60_000, unix.SO_KEEPALIVE: 1, unix.TCP_KEEPIDLE: 30, unix.TCP_KEEPINTVL: 10, unix.TCP_KEEPCNT: 3,
	})
	f(time.Second, 2*time.Second, map[int]int{
		unix.TCP_USER_TIMEOUT: 1000, unix.SO_KEEPALIVE: 1, unix.TCP_KEEPIDLE: 1, unix.TCP_KEEPINTVL: 1,
	})
	f(-1, 0, map[int]int{unix.TCP_USER_TIMEOUT: 0, unix.SO_KEEPALIVE: 0})
}

// vanish makes a client's kernel drop all that comes for it, as if the machine or
// the network were gone: nothing is acknowledged any more.
func (w *wire) vanish() {
	w.t.Helper()
	raw, err := w.Conn.(*net.TCPConn).SyscallConn()
	require.NoError(w.t, err)
	dropAll := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	require.NoError(w.t, raw.Control(func(fd uintptr) {
		program := unix.SockFprog{Len: 1, Filter: &dropAll}
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	}))
	require.NoError(w.t, err)
}

func TestVanishedPeersAreFound(t *testing.T) {
	for name, heartbeat := range map[string]time.Duration{"by heartbeats": time.Second, "by probes": -1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serveEngine(t, Config{PeerTimeout: time.Second, Heartbeat: heartbeat})
			s.Log().OpenLocal()
			stays, gone := s.streamOf("a"), s.streamOf("a")
			gone.vanish()
			eventuallyLong(t, func() bool { return s.Stats().Streams == 1 }, "it is closed")
			require.EqualValues(t, 1, s.Stats().Closed[CloseError], "%v", s.Stats().Closed)
			s.Log().Publish("a", sseproto.Message{Data: "hello"})
			stays.expect("hello")
		})
	}
}

// A peer whose machine answers, but which takes nothing any more, is given up by
// the same timeout; other streams go on.
func TestPeerThatTakesNothingIsGivenUp(t *testing.T) {
	s := serveEngine(t, Config{PeerTimeout: time.Second})
	s.Log().OpenLocal()
	conn := s.dial()
	require.NoError(t, conn.Conn.(*net.TCPConn).SetReadBuffer(4<<10))
	conn.send(getStream("a"))
	conn.answer(http.MethodGet)
	eventually(t, func() bool { return s.Stats().Streams == 1 }, "it is served")
	payload := strings.Repeat("x", 256<<10)
	for i := 0; s.Stats().Blocked == 0; i++ {
		require.Less(t, i, 1000)
		s.Log().Publish("a", sseproto.Message{Data: payload})
		eventually(t, func() bool { return s.Stats().Writes > uint64(i) }, "it is written")
	}
	eventually(t, func() bool { return s.Stats().Streams == 0 }, "it is closed")
	require.EqualValues(t, 1, s.Stats().Closed[CloseError], "%v", s.Stats().Closed)
}

func TestEndsOfTheClientAreToldApart(t *testing.T) {
	f := func(name string, want CloseReason, leave func(*net.TCPConn) error) {
		t.Run(name, func(t *testing.T) {
			s := serveEngine(t, Config{})
			s.Log().OpenLocal()
			client := s.streamOf("a")
			require.NoError(t, leave(client.Conn.(*net.TCPConn)))
			eventually(t, func() bool { return s.Stats().Streams == 0 }, "it is closed")
			require.EqualValues(t, 1, s.Stats().Closed[want], "%v", s.Stats().Closed)
		})
	}
	f("closed", CloseClient, (*net.TCPConn).Close)
	f("half-closed", CloseClient, (*net.TCPConn).CloseWrite)
	f("reset", CloseError, func(c *net.TCPConn) error {
		require.NoError(t, c.SetLinger(0))
		return c.Close()
	})
}

func TestConfigProblemsAreNamedByField(t *testing.T) {
	f := func(cfg Config, field string) {
		t.Helper()
		err := cfg.Validate()
		require.Error(t, err)
		require.Regexp(t, "^engine: "+field+": [^\n]+$", err.Error())
	}
	f(Config{Listen: []string{}}, "Listen")
	for _, address := range []string{"8080", "", "unix:", "unix:" + strings.Repeat("a", 108), "host:http", "host:99999", "[::1", "::1:80"} {
		f(Config{Listen: []string{address}}, "Listen")
	}
	f(Config{CORSOrigins: []string{}}, "CORSOrigins")
	for _, origin := range []string{
		"", "null", "app.example", "https://app.example/", "https://App.example", "https://a:b@app.example", "https://app.example?x",
		"https://*.app.example/x", "https://app.example:443", "http://app.example:80", "https://", "https://:80", "app.example:80",
	} {
		f(Config{CORSOrigins: []string{origin}}, "CORSOrigins")
	}
	f(Config{CORSOrigins: []string{"*", "https://app.example"}}, "CORSOrigins")
	f(Config{SocketMode: 0o1777}, "SocketMode")
	f(Config{MaxPerAddress: -1}, "MaxPerAddress")
	f(Config{ConnectRate: -1}, "ConnectRate")
	f(Config{ConnectRate: 1, ConnectBurst: -1}, "ConnectBurst")
	f(Config{TrustedProxies: []netip.Prefix{{}}}, "TrustedProxies")
	f(Config{TrustedProxies: networks("::ffff:10.0.0.0/104")}, "TrustedProxies")
	f(Config{ProxyProtocol: true}, "ProxyProtocol")
	f(Config{PeerTimeout: time.Millisecond}, "PeerTimeout")
	f(Config{MaxAge: time.Millisecond}, "MaxAge")
	f(Config{MaxAge: -time.Hour}, "MaxAge")
	f(Config{AuthTimeout: -1}, "AuthTimeout")
	f(Config{HistoryWait: -1}, "HistoryWait")
	f(Config{HistoryReaders: -1}, "HistoryReaders")
	f(Config{HistoryReaders: 1 << 20}, "HistoryReaders")
	f(Config{SegmentBytes: -1}, "SegmentBytes")
	f(Config{SegmentBytes: minSegmentBytes - 1}, "SegmentBytes")
	f(Config{SegmentBytes: 1 << 20, RingBytes: 1 << 20}, "SegmentBytes")
	f(Config{BroadcastChannel: "a\x00"}, "BroadcastChannel")
	f(Config{BroadcastChannel: strings.Repeat("a", 256)}, "BroadcastChannel")
	for _, name := range []string{"a\nb", "a\rb", "gap", "message", "\xff", strings.Repeat("x", 65)} {
		f(Config{HeartbeatEvent: name}, "HeartbeatEvent")
	}
	require.NoError(t, Config{
		Listen:      []string{":0", "unix:/run/ssed.sock", "[::1]:8080", "unix:@ssed", "localhost:80"},
		CORSOrigins: []string{"https://app.example", "http://localhost:3000", "http://[::1]:3000", "capacitor://localhost"},
	}.Validate())
	err := Config{Listen: []string{"x"}, MaxAge: -1, ProxyProtocol: true}.Validate()
	require.Len(t, strings.Split(fmt.Sprint(err), "\n"), 3, "all at once")
}
