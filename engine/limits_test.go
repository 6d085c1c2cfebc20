package engine

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/wiretest"
	"ssed/sseproto"
)

// A stream that is over its age is closed within a sweep; the jitter
// keeps streams that began together from ending together.
func TestStreamsEndAtTheirMaximumAge(t *testing.T) {
	t.Parallel()
	s := serveEngine(t, Config{MaxAge: time.Second, Heartbeat: time.Second})
	const n = 20
	for range n {
		w := s.dial().Send(getStream("a"))
		require.Equal(t, 200, w.Answer(http.MethodGet).StatusCode)
	}
	eventually(t, func() bool { return s.Stats().Streams == 0 && s.Stats().Front.Streams == n }, "all have ended")
	require.EqualValues(t, n, s.Stats().Closed[CloseExpired])
}

// TestAnEndByAgeIsTheEndOfAnAnswer: it has its last chunk, so that no client takes it for an
// error, and a time of its own to come back. A proxy that keeps streams whose clients have
// gone is freed of them by it.
func TestAnEndByAgeIsTheEndOfAnAnswer(t *testing.T) {
	s := serveEngine(t, Config{MaxAge: time.Second, Heartbeat: time.Second, RetryMin: 3 * time.Second, RetryMax: 4 * time.Second})
	resp, err := http.Get("http://" + s.addr + "/sse/connect?channel_id=a")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, []string{"chunked"}, resp.TransferEncoding)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(string(body), "retry: 3"), "%q", body)
}

func TestHeartbeatAsAnEvent(t *testing.T) {
	t.Parallel()
	s := serveEngine(t, Config{Heartbeat: time.Second, HeartbeatEvent: "beat"})
	w := s.dial().Send(getStream("a"))
	w.Answer(http.MethodGet)
	w.RequireRetry(2*time.Second, 5*time.Second)
	for range 2 {
		for _, want := range []string{"event: beat\n", "data: \n", "\n"} {
			line, err := w.R.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, want, line)
		}
	}
}

// vanish makes a client's kernel drop all that comes for it, as if the machine or
// the network were gone: nothing is acknowledged any more.
func vanish(w *wiretest.Conn) {
	w.T.Helper()
	raw, err := w.Conn.(*net.TCPConn).SyscallConn()
	require.NoError(w.T, err)
	require.NoError(w.T, raw.Control(func(fd uintptr) { err = dropAll(int(fd)) }))
	require.NoError(w.T, err)
}

func TestVanishedPeersAreFound(t *testing.T) {
	t.Parallel()
	for name, heartbeat := range map[string]time.Duration{"by heartbeats": time.Second, "by probes": -1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serveEngine(t, Config{PeerTimeout: time.Second, Heartbeat: heartbeat})
			s.Log().OpenLocal()
			stays, gone := s.streamOf("a"), s.streamOf("a")
			vanish(gone.Conn)
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
	conn.Send(getStream("a"))
	conn.Answer(http.MethodGet)
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
			require.NoError(t, leave(client.Conn.Conn.(*net.TCPConn)))
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
