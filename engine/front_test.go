package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ssed/engine/internal/front"
	"ssed/engine/internal/sock"
	"ssed/engine/internal/wiretest"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// What clients send, and how tests wait.
const (
	getHealth     = wiretest.GetHealth
	asEventSource = wiretest.AsEventSource
)

var (
	getStream  = wiretest.GetStream
	openFiles  = wiretest.OpenFiles
	eventually = wiretest.Eventually
)

func ip(text string) netip.Addr { return netip.MustParseAddr(text) }

func networks(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range list {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// served is an engine that runs, with its first address.
type served struct {
	*Engine
	t       testing.TB
	network string
	addr    string
	stop    func() // ends it and waits; safe to call again
}

func serveEngine(t testing.TB, cfg Config) *served {
	t.Helper()
	if cfg.Listen == nil {
		cfg.Listen = []string{"127.0.0.1:0"}
	}
	if cfg.Drain == 0 {
		cfg.Drain = time.Millisecond
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	e, err := New(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	s := &served{Engine: e, t: t, network: e.Addrs()[0].Network(), addr: e.Addrs()[0].String()}
	s.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(s.stop)
	return s
}

func (s *served) dial() *wiretest.Conn {
	s.t.Helper()
	return wiretest.Dial(s.t, s.network, s.addr, "")
}

// filesServing is how many descriptors are open once somebody was served: netpoll opens what
// it keeps with the first, while Run is on its way.
func (s *served) filesServing() int {
	s.t.Helper()
	eventually(s.t, func() bool { // on a busy machine a short HandshakeTimeout may be over first
		first, err := net.Dial(s.network, s.addr)
		if err != nil {
			return false
		}
		defer first.Close()
		_, _ = io.WriteString(first, getHealth)
		_, err = http.ReadResponse(bufio.NewReader(first), nil)
		return err == nil
	}, "it serves")
	eventually(s.t, func() bool { return s.Stats().Connections == 0 }, "nobody is there")
	return openFiles(s.t)
}

func TestPlainEndpoints(t *testing.T) {
	ready := atomic.Bool{}
	s := serveEngine(t, Config{Ready: func() (bool, string) { return ready.Load(), "no feed yet" }})
	f := func(request string, status int, body string) http.Header {
		t.Helper()
		gotStatus, header, gotBody := s.dial().Send(request + " HTTP/1.1\r\nHost: a\r\n\r\n").Whole()
		require.Equal(t, status, gotStatus, request)
		require.Equal(t, body, gotBody, request)
		require.Equal(t, "*", header.Get("Access-Control-Allow-Origin"), "%s: errors can be read by pages too", request)
		require.NotEmpty(t, header.Get("Date"), request)
		return header
	}
	f("GET /health", 200, "ok\n")
	f("GET /ready", 503, "no feed yet\n")
	ready.Store(true)
	f("GET /ready", 200, "ready\n")
	f("GET /", 404, "no such path: try /sse/connect?channel_id=NAME\n")
	f("GET /sse/connect/", 404, "no such path: try /sse/connect?channel_id=NAME\n")
	f("GET http://elsewhere/health", 200, "ok\n")
	require.Equal(t, "GET, HEAD, OPTIONS", f("DELETE /ready", 405, "method not allowed\n").Get("Allow"))
	require.Equal(t, "GET, HEAD, POST, OPTIONS", f("PUT /sse/connect?channel_id=a", 405, "method not allowed\n").Get("Allow"))
	f("BREW /health", 501, "method not implemented\n")
	f("GET /sse/connect", 400, "channel_id is missing: try /sse/connect?channel_id=NAME\n")
	f("GET /sse/connect?channel_id=%zz", 400, "malformed percent escape in the parameters\n")
	f("GET /sse/connect?channel_id="+strings.Repeat("a", 256), 400, "channel_id is empty, too long or has a NUL\n")
	f("GET /sse/connect?channel_id=a&since=x", 400, "since is not earliest, a duration as 10m, a Unix time in seconds or milliseconds, or a time as 2026-11-30T10:00:00Z\n")
	f("GET /sse/connect?channel_id=a&last=101", 400, "last is not a number from 1 to 100\n")
	f("GET /sse/connect?channel_id=a&last=5&since=1h", 400, "since and last are both given: use one of them\n")
	f("OPTIONS *", 204, "")
	require.EqualValues(t, 0, s.Stats().Front.Streams)
}

func TestHeadIsAnsweredWithoutABody(t *testing.T) {
	s := serveEngine(t, Config{})
	w := s.dial().Send(strings.Replace(getHealth, "GET", "HEAD", 1) + getHealth)
	resp := w.Answer(http.MethodHead)
	require.EqualValues(t, 3, resp.ContentLength)
	status, _, body := w.Whole()
	require.Equal(t, 200, status)
	require.Equal(t, "ok\n", body)

	w = s.dial().Send(strings.Replace(getStream("a"), "GET", "HEAD", 1))
	require.Equal(t, "text/event-stream; charset=utf-8", w.Answer(http.MethodHead).Header.Get("Content-Type"))
	w.RequireEnd()
}

func TestStreamHead(t *testing.T) {
	f := func(unchunked bool, version string, transferEncoding []string) {
		t.Helper()
		s := serveEngine(t, Config{RetryMin: 2 * time.Second, RetryMax: 3 * time.Second, Unchunked: unchunked})
		w := s.dial().Send(strings.Replace(getStream("a"), "HTTP/1.1", version, 1))
		resp := w.Answer(http.MethodGet)
		require.Equal(t, 200, resp.StatusCode)
		require.Equal(t, "text/event-stream; charset=utf-8", resp.Header.Get("Content-Type"))
		require.Equal(t, "no-cache, no-transform", resp.Header.Get("Cache-Control"))
		require.Equal(t, "no", resp.Header.Get("X-Accel-Buffering"))
		require.Equal(t, "*", resp.Header.Get("Access-Control-Allow-Origin"))
		require.True(t, resp.Close)
		require.Equal(t, transferEncoding, resp.TransferEncoding)
		w.RequireRetry(2*time.Second, 3*time.Second)
	}
	f(false, "HTTP/1.1", []string{"chunked"})
	f(false, "HTTP/1.0", nil)
	f(true, "HTTP/1.1", nil)
	f(true, "HTTP/1.0", nil)
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	s := serveEngine(t, Config{})
	const n = 500 // more than one chunk of input and several writes of answers
	w := s.dial()
	var all strings.Builder
	for i := range n {
		if i%2 == 0 {
			all.WriteString(getHealth)
		} else {
			all.WriteString("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")
		}
	}
	all.WriteString(getStream("a"))
	go func() { _, _ = io.WriteString(w, all.String()) }()
	for i := range n {
		status, _, _ := w.Whole()
		require.Equal(t, []int{200, 404}[i%2], status)
	}
	require.Equal(t, "text/event-stream; charset=utf-8", w.Answer(http.MethodGet).Header.Get("Content-Type"))
}

func TestConnectionCloseIsHonoured(t *testing.T) {
	s := serveEngine(t, Config{})
	for _, request := range []string{
		"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
		"GET /health HTTP/1.0\r\n\r\n",
	} {
		w := s.dial().Send(request)
		status, _, _ := w.Whole()
		require.Equal(t, 200, status)
		w.RequireEnd()
	}
	w := s.dial().Send("GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + getHealth)
	for range 2 {
		_, header, _ := w.Whole()
		require.Equal(t, "keep-alive", header.Get("Connection"))
	}
}

// A client that sends first and reads later gets the answer whole: the server reads
// on for a while instead of resetting the connection.
func TestRefusedBodyDoesNotTakeTheAnswerAway(t *testing.T) {
	s := serveEngine(t, Config{})
	w := s.dial()
	w.Send("POST /sse/connect HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576\r\n\r\n")
	w.Send(strings.Repeat("GET /health HTTP/1.1\r\nHost: a\r\n\r\n", 1<<20/len(getHealth)))
	status, _, _ := w.Whole()
	require.Equal(t, 413, status)
	w.RequireEnd()
	require.NoError(t, w.Close())
	eventually(t, func() bool { return s.Stats().Connections == 0 }, "the lingering connection ends with its peer")
	require.EqualValues(t, [6]uint64{4: 1}, s.Stats().Front.Answered, "the body was not taken for requests")
}

func TestEndlessBodyIsCut(t *testing.T) {
	s := serveEngine(t, Config{HandshakeTimeout: time.Minute})
	w := s.dial().Send("POST /sse/connect HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
	block := make([]byte, 64<<10)
	sent := 0
	for sent < 100<<20 {
		n, err := w.Write(block)
		sent += n
		if err != nil {
			break
		}
	}
	require.Less(t, sent, 100<<20)
}

func TestSlowSenderIsCut(t *testing.T) {
	t.Parallel()
	s := serveEngine(t, Config{HandshakeTimeout: 200 * time.Millisecond})
	w := s.dial()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.RequireEnd()
	}()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	request := getStream("a", "X-Filler: "+strings.Repeat("x", 10_000))
	for i := 0; ; i++ {
		select {
		case <-ended:
			eventually(t, func() bool { return s.Stats().Connections == 0 }, "it is closed")
			require.EqualValues(t, 1, s.Stats().Front.Refused[front.RefuseTimeout])
			return
		case <-tick.C:
			_, _ = w.Write([]byte{request[i]})
		}
	}
}

func TestIdleHandshakesAreDroppedAtTheDeadline(t *testing.T) {
	const n = 500
	s := serveEngine(t, Config{HandshakeTimeout: 300 * time.Millisecond})
	files, late := s.filesServing(), s.Stats().Front.Refused[front.RefuseTimeout]
	idle := make([]*wiretest.Conn, n)
	for i := range idle {
		idle[i] = s.dial()
		if i%2 == 0 {
			idle[i].Send("GET /sse/connect?channel_id=a HTTP/1.1\r\nHo")
		}
	}
	for _, w := range idle {
		w.RequireEnd()
		_ = w.Close()
	}
	eventually(t, func() bool { return s.Stats().Connections == 0 && openFiles(t) <= files }, "all descriptors are closed")
	require.EqualValues(t, n, s.Stats().Front.Refused[front.RefuseTimeout]-late)
	require.EqualValues(t, 0, s.Stats().Front.Handshakes)
}

// bareClients opens connections that cost this process a descriptor and nothing
// else, and sends text on each.
func (s *served) bareClients(n int, text string) (closeAll func()) {
	s.t.Helper()
	at, err := netip.ParseAddrPort(s.addr)
	require.NoError(s.t, err)
	fds := make([]int, n)
	for i := range fds {
		fds[i], err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|sockCloexec, 0)
		require.NoError(s.t, err)
		require.NoError(s.t, unix.Connect(fds[i], &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}))
		_, err = unix.Write(fds[i], []byte(text))
		require.NoError(s.t, err)
	}
	return func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}
}

// heapInUse is the memory held, without what earlier tests left in pools: those are
// emptied by the second collection.
func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// cpuTime is what this process has used of the processors so far. Other processes make a
// test late, and do not count in it.
func cpuTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // can not fail for RUSAGE_SELF
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestHalfOpenHeadsCostFewKilobytesAndDelayNobody(t *testing.T) {
	n := min(2000, sock.FileLimit()/4)
	const perHandshake = 8 << 10 // measured: 4.2 KB
	s := serveEngine(t, Config{HandshakeTimeout: time.Minute})
	probes := func() time.Duration {
		used := cpuTime()
		s.probe(100)
		return cpuTime() - used
	}
	alone := probes()
	before := heapInUse()
	closeAll := s.bareClients(n, strings.TrimSuffix(getStream("a", "User-Agent: "+strings.Repeat("x", 400)), "\r\n"))
	eventually(t, func() bool { return s.Stats().Front.Handshakes == int64(n) }, "all are accepted")
	require.Less(t, heapInUse()-before, int64(n*perHandshake))
	require.Less(t, probes(), 10*alone, "of the processor")
	closeAll()
	eventually(t, func() bool { return s.Stats().Connections == 0 }, "all are gone")
}

func TestIdleConnectionAfterAnAnswerIsClosedButNotCounted(t *testing.T) {
	s := serveEngine(t, Config{HandshakeTimeout: time.Second})
	w := s.dial().Send(getHealth)
	w.Whole()
	w.RequireEnd()
	half := s.dial().Send(getHealth + "GET /hea")
	half.Whole()
	half.RequireEnd()
	eventually(t, func() bool { return s.Stats().Connections == 0 }, "both are closed")
	require.EqualValues(t, 1, s.Stats().Front.Refused[front.RefuseTimeout])
}

func TestStreamOutlivesTheDeadline(t *testing.T) {
	s := serveEngine(t, Config{HandshakeTimeout: time.Second})
	stream := s.dial().Send(getStream("a"))
	stream.Answer(http.MethodGet)
	s.dial().RequireEnd() // came later and is over
	require.EqualValues(t, 1, s.Stats().Streams)
}

func TestFullServerRefusesStreamsAndRecovers(t *testing.T) {
	s := serveEngine(t, Config{MaxConnections: 4, RetryMin: time.Second, RetryMax: 2 * time.Second})
	open := make([]*wiretest.Conn, 4)
	for i := range open {
		open[i] = s.dial().Send(getStream("a"))
		open[i].Answer(http.MethodGet)
	}
	for range 100 {
		w := s.dial().Send(getStream("a", asEventSource))
		resp := w.Answer(http.MethodGet)
		require.Equal(t, 200, resp.StatusCode, "a browser would not come back after an error")
		require.Equal(t, "text/event-stream; charset=utf-8", resp.Header.Get("Content-Type"))
		w.RequireRetry(4*time.Second, 8*time.Second)
		w.RequireEnd()
	}
	w := s.dial().Send(getStream("a"))
	status, header, body := w.Whole()
	require.Equal(t, 503, status)
	require.Equal(t, "too many connections\n", body)
	after, err := strconv.Atoi(header.Get("Retry-After"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, after, 4)
	require.NoError(t, w.Close())
	w = s.dial().Send(getHealth)
	status, _, _ = w.Whole()
	require.Equal(t, 200, status, "probes are answered at the limit")
	require.NoError(t, w.Close())
	require.EqualValues(t, 101, s.Stats().Front.Refused[front.RefuseFull])

	require.NoError(t, open[0].Close())
	eventually(t, func() bool {
		w := s.dial().Send(getStream("a"))
		defer w.Close()
		return w.Answer(http.MethodGet).StatusCode == 200
	}, "a place is free again")
}

func TestConnectionsWithoutARequestCannotFillTheQueue(t *testing.T) {
	t.Parallel()
	s := serveEngine(t, Config{MaxConnections: 2, HandshakeTimeout: time.Minute})
	idle := make([]*wiretest.Conn, 2+front.RefusalSlots)
	for i := range idle {
		idle[i] = s.dial()
	}
	eventually(t, func() bool { return s.Stats().Connections == 2+front.RefusalSlots }, "the idle ones are accepted")
	for range 10 { // each is left a moment for its request
		w := s.dial()
		require.Equal(t, "text/event-stream; charset=utf-8", w.Answer(http.MethodGet).Header.Get("Content-Type"))
		w.RequireRetry(8*time.Second, 20*time.Second)
		w.RequireEnd()
	}
	require.EqualValues(t, 2+front.RefusalSlots, s.Stats().Connections)
	for _, w := range idle {
		require.NoError(t, w.Close())
	}
	eventually(t, func() bool { return s.Stats().Connections == 0 }, "the idle ones are gone")
	require.Equal(t, 200, s.dial().Send(getStream("a")).Answer(http.MethodGet).StatusCode)
}

// outOfFilesEnv makes a second process of the test the server that is out of files.
const outOfFilesEnv = "SSED_TEST_OUT_OF_FILES"

func serveOutOfFiles(t *testing.T) {
	s := serveEngine(t, Config{MaxConnections: 40, RetryMin: time.Second, RetryMax: time.Second, HandshakeTimeout: time.Minute})
	var unlimited unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &unlimited))
	limit := unix.Rlimit{Cur: uint64(openFiles(t) + 10), Max: unlimited.Max}
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	fmt.Println("address", s.addr)
	_, _ = io.Copy(io.Discard, os.Stdin)
	st := s.Stats().Front
	require.NotZero(t, st.Refused[front.RefuseFiles])
	// Four for a refused one: one that fails, one in the place of the spare file, and two
	// more that find nothing. For others one, and two at the end of a burst.
	fmt.Println("accepts", st.Accepts, "accepted", st.Accepted, "refused", st.Refused[front.RefuseFiles])
	require.LessOrEqual(t, st.Accepts, 4*(st.Accepted+st.Refused[front.RefuseFiles]))
}

func TestOutOfFilesStillAnswers(t *testing.T) {
	if os.Getenv(outOfFilesEnv) != "" {
		serveOutOfFiles(t)
		return
	}
	server := exec.Command(os.Args[0], "-test.run=^TestOutOfFilesStillAnswers$", "-test.v")
	server.Env = append(os.Environ(), outOfFilesEnv+"=1")
	stdin, err := server.StdinPipe()
	require.NoError(t, err)
	stdout, err := server.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, server.Start())
	output := bufio.NewScanner(stdout)
	s := &served{t: t, network: "tcp"}
	for s.addr == "" && output.Scan() {
		_, s.addr, _ = strings.Cut(output.Text(), "address ")
	}
	var open []*wiretest.Conn
	refused := 0
	for range 60 {
		w := s.dial().Send(getStream("a", asEventSource))
		w.Answer(http.MethodGet)
		line, err := w.R.ReadString('\n')
		require.NoError(t, err)
		if line == "retry: 4000\n" {
			refused++
		}
		open = append(open, w)
	}
	require.Greater(t, refused, 40)
	for _, w := range open {
		_ = w.Close()
	}
	eventually(t, func() bool {
		w := s.dial().Send(getHealth)
		defer w.Close()
		return w.Answer(http.MethodGet).StatusCode == 200
	}, "files are free again")
	require.NoError(t, stdin.Close())
	for output.Scan() {
		t.Log(output.Text())
	}
	require.NoError(t, server.Wait())
}

func TestNotReadyAsksEventSourcesToComeAgain(t *testing.T) {
	s := serveEngine(t, Config{Ready: func() (bool, string) { return false, "redis is away" }})
	w := s.dial().Send(getStream("a", "Accept: text/html, Text/Event-Stream;q=0.9"))
	require.Equal(t, "text/event-stream; charset=utf-8", w.Answer(http.MethodGet).Header.Get("Content-Type"))
	w.RequireRetry(2*time.Second, 5*time.Second)
	w.RequireEnd()
	status, header, body := s.dial().Send(getStream("a", "Accept: */*")).Whole()
	require.Equal(t, 503, status)
	require.NotEmpty(t, header.Get("Retry-After"))
	require.Equal(t, "redis is away\n", body)
	require.EqualValues(t, 2, s.Stats().Front.Refused[front.RefuseNotReady])
}

func TestStoppedFrontAnswersWhatIsOpenAndAcceptsNoMore(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "unix:" + filepath.Join(t.TempDir(), "s")} {
		s := serveEngine(t, Config{Listen: []string{listen}})
		probe, half := s.dial().Send(getHealth), s.dial().Send("GET /sse/connect?channel_id=a HTTP/1.1\r\n")
		status, _, _ := probe.Whole()
		require.Equal(t, 200, status)
		eventually(t, func() bool { return s.Stats().Connections == 2 }, "both are accepted")

		s.front.StopAccepting()
		_, err := net.Dial(s.network, s.addr)
		require.Error(t, err)
		status, _, body := probe.Send("GET /ready HTTP/1.1\r\nHost: a\r\n\r\n").Whole()
		require.Equal(t, 503, status)
		require.Equal(t, "draining\n", body)
		probe.RequireEnd()
		half.Send("Host: a\r\n" + asEventSource + "\r\n\r\n")
		half.Answer(http.MethodGet)
		half.RequireRetry(2*time.Second, 5*time.Second)
		half.RequireEnd()
		require.EqualValues(t, 1, s.Stats().Front.Refused[front.RefuseDraining])
	}
}

func TestCloseEndsHandshakesAndLeavesNoFile(t *testing.T) {
	serveEngine(t, Config{}).stop() // opens what a process opens once: epoll and eventfd, of Go and of netpoll
	before := openFiles(t)
	s := serveEngine(t, Config{Listen: []string{"127.0.0.1:0", "127.0.0.1:0"}})
	idle := make([]*wiretest.Conn, 50)
	for i := range idle {
		idle[i] = s.dial().Send("GET /")
	}
	eventually(t, func() bool { return s.Stats().Connections == 50 }, "all are accepted")
	s.stop()
	for _, w := range idle {
		w.RequireEnd()
		require.NoError(t, w.Close())
	}
	eventually(t, func() bool { return openFiles(t) <= before }, "no file is left")
	require.Zero(t, s.Stats().Connections)
}

func TestOneProcessRunsSeveralEnginesOneAfterAnother(t *testing.T) {
	for range 20 {
		s := serveEngine(t, Config{})
		require.Equal(t, 200, s.dial().Send(getStream("a")).Answer(http.MethodGet).StatusCode)
		s.stop()
	}
}

func TestClientThatDoesNotReadItsAnswersIsCut(t *testing.T) {
	s := serveEngine(t, Config{HandshakeTimeout: time.Minute})
	w := s.dial()
	eventually(t, func() bool { return s.Stats().Connections == 1 }, "it is accepted")
	const block = 500 // at a time, as many as are answered
	for sent := uint64(0); ; sent += block {
		if _, err := io.WriteString(w, strings.Repeat(getHealth, block)); err != nil {
			require.False(t, errors.Is(err, os.ErrDeadlineExceeded), "it was left to send")
			break
		}
		eventually(t, func() bool {
			st := s.Stats()
			return st.Front.Answered[2] >= sent+block || st.Connections == 0
		}, "they are answered")
	}
	eventually(t, func() bool { return s.Stats().Connections == 0 }, "it is closed")
	require.EqualValues(t, 1, s.Stats().Front.Refused[front.RefuseUnread])
}

func TestPanicConcernsOneConnection(t *testing.T) {
	panics := atomic.Bool{}
	panics.Store(true)
	s := serveEngine(t, Config{Ready: func() (bool, string) {
		if panics.Load() {
			panic("as if by a bug")
		}
		return true, ""
	}})
	s.dial().Send(getStream("a")).RequireEnd()
	panics.Store(false)
	require.Equal(t, 200, s.dial().Send(getStream("a")).Answer(http.MethodGet).StatusCode)
	require.EqualValues(t, 1, s.Stats().Front.Refused[front.RefusePanic])
}

func TestHalfClosedClientGetsItsAnswer(t *testing.T) {
	s := serveEngine(t, Config{})
	for range 200 {
		w := s.dial().Send(getHealth)
		require.NoError(t, w.Conn.(*net.TCPConn).CloseWrite())
		status, _, _ := w.Whole()
		require.Equal(t, 200, status)
		w.RequireEnd()
	}
	eventually(t, func() bool { return s.Stats().Connections == 0 }, "nothing is left")
}

// Descriptors are closed and their numbers given out again all the time, while
// netpoll, shards and clients let go of them in any order. Each client must get
// the answer to its own request or none.
func TestDescriptorsDoNotMixUpUnderChurn(t *testing.T) {
	s := serveEngine(t, Config{HandshakeTimeout: 50 * time.Millisecond})
	files, before := s.filesServing(), s.Stats().Front.Accepted
	perWorker := 200
	if testing.Short() {
		perWorker = 100
	}
	require.Greater(t, s.churnAll(16, perWorker), int64(perWorker), "most clients that stay are served")
	eventually(t, func() bool { return s.Stats().Connections == 0 && openFiles(t) <= files }, "all descriptors are closed")
	stats := s.Stats().Front
	require.Zero(t, stats.Handshakes)
	require.EqualValues(t, 16*perWorker, stats.Accepted-before)
	require.Zero(t, stats.Refused[front.RefusePanic])
}

// churnAll runs clients side by side and returns how many were served. All are accepted
// then: some had left before that, and nothing else tells that they are still to come.
func (s *served) churnAll(workers, perWorker int) int64 {
	s.t.Helper()
	all := s.Stats().Front.Accepted + uint64(workers*perWorker)
	var answered atomic.Int64
	var running sync.WaitGroup
	for worker := range workers {
		running.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(worker), 1))
			for i := range perWorker {
				if s.churn(rng, fmt.Sprintf("tag-%d-%d", worker, i)) {
					answered.Add(1)
				}
			}
		})
	}
	running.Wait()
	eventually(s.t, func() bool { return s.Stats().Front.Accepted >= all }, "all are accepted")
	return answered.Load()
}

// churn connects once, leaves at a random moment, and reports whether it was served.
func (s *served) churn(rng *rand.Rand, tag string) bool {
	conn, err := net.Dial(s.network, s.addr)
	if err != nil {
		s.t.Errorf("dial: %v", err)
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	request := getStream("a", "Last-Event-ID: "+tag, "X-Forwarded-For: 192.0.2.1") // counted where the server trusts us
	cut := rng.IntN(len(request))
	switch rng.IntN(5) {
	case 0: // leaves in the middle of its request
		_, _ = io.WriteString(conn, request[:cut])
		return false
	case 1: // resets in the middle of the hand-over
		_ = conn.(*net.TCPConn).SetLinger(0)
		_, _ = io.WriteString(conn, request)
		return false
	case 2: // sends all and half-closes
		_, _ = io.WriteString(conn, request)
		_ = conn.(*net.TCPConn).CloseWrite()
	case 3: // in two pieces
		_, _ = io.WriteString(conn, request[:cut])
		_, _ = io.WriteString(conn, request[cut:])
	default: // a plain request before, on the same connection
		_, _ = io.WriteString(conn, getHealth+request)
	}
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return false
		}
		if strings.HasPrefix(line, "data: ") {
			if !strings.Contains(line, `"requested":"`+tag+`"`) {
				s.t.Errorf("the client %s got %q", tag, line)
			}
			return true
		}
	}
}

func TestCORS(t *testing.T) {
	t.Parallel()
	const origin = "https://app.example"
	f := func(cfg Config, sent, allowed string, credentials, vary bool) {
		t.Helper()
		s := serveEngine(t, cfg)
		for _, request := range []string{getHealth, "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", getStream("a"), getStream("")} {
			if sent != "" {
				request = strings.Replace(request, "Host: a", "Host: a\r\nOrigin: "+sent, 1)
			}
			header := s.dial().Send(request).Answer(http.MethodGet).Header
			require.Equal(t, allowed, header.Get("Access-Control-Allow-Origin"), request)
			require.Equal(t, credentials, header.Get("Access-Control-Allow-Credentials") == "true", request)
			require.Equal(t, vary, header.Get("Vary") == "Origin", request)
		}
		s.stop()
	}
	list := []string{origin, "https://other.example"}
	f(Config{}, "", "*", false, false)
	f(Config{}, origin, "*", false, false)
	f(Config{CORSOrigins: list}, "", "", false, true)
	f(Config{CORSOrigins: list}, origin, origin, false, true)
	f(Config{CORSOrigins: list}, "https://other.example", "https://other.example", false, true)
	f(Config{CORSOrigins: list}, "https://app.example.evil", "", false, true)
	f(Config{CORSOrigins: list, CORSCredentials: true}, origin, origin, true, true)
	f(Config{CORSOrigins: list, CORSCredentials: true}, "null", "", false, true)
	f(Config{CORSCredentials: true}, origin, origin, true, true)
	f(Config{CORSCredentials: true}, "", "", false, true)
}

func TestPreflightAllowsWhatIsAsked(t *testing.T) {
	s := serveEngine(t, Config{CORSOrigins: []string{"https://app.example"}})
	preflight := func(origin, headers string) http.Header {
		request := "OPTIONS /sse/connect?channel_id=a HTTP/1.1\r\nHost: a\r\nOrigin: " + origin +
			"\r\nAccess-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: " + headers + "\r\n\r\n"
		status, header, _ := s.dial().Send(request).Whole()
		require.Equal(t, 204, status)
		return header
	}
	header := preflight("https://app.example", "last-event-id,x-mine")
	require.Equal(t, "last-event-id,x-mine", header.Get("Access-Control-Allow-Headers"))
	require.Equal(t, "GET, HEAD, POST", header.Get("Access-Control-Allow-Methods"))
	require.Equal(t, "86400", header.Get("Access-Control-Max-Age"))
	header = preflight("https://app.example", strings.Repeat("x", 5000))
	require.Equal(t, "Last-Event-ID, Cache-Control, Authorization, Content-Type", header.Get("Access-Control-Allow-Headers"))
	header = preflight("https://evil.example", "last-event-id")
	require.Empty(t, header.Get("Access-Control-Allow-Origin"))
	require.Empty(t, header.Get("Access-Control-Allow-Headers"))
}

func TestSeveralListeners(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ssed.sock")
	s := serveEngine(t, Config{Listen: []string{"127.0.0.1:0", "unix:" + path, "[::1]:0"}})
	for _, addr := range s.Addrs() {
		s.network, s.addr = addr.Network(), addr.String()
		require.Equal(t, 200, s.dial().Send(getStream("a")).Answer(http.MethodGet).StatusCode)
	}
	s.stop()
	require.NoFileExists(t, path)
}

func TestUnixSocketHasThePermissionsOfItsMode(t *testing.T) {
	permissions := func(path string) fs.FileMode {
		info, err := os.Stat(path)
		require.NoError(t, err)
		return info.Mode().Perm()
	}
	for _, mode := range []fs.FileMode{0o600, 0o660, 0o666} { // more and less than the usual umask leaves
		path := filepath.Join(t.TempDir(), "ssed.sock")
		s := serveEngine(t, Config{Listen: []string{"unix:" + path, "unix:@" + path}, SocketMode: mode})
		require.Equal(t, mode, permissions(path))
		s.stop()
	}
}

func TestUnixSocketLeftBehindIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ssed.sock")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	stale.SetUnlinkOnClose(false)
	cfg := Config{Listen: []string{"unix:" + path}}
	_, err = New(cfg)
	require.ErrorIs(t, err, unix.EADDRINUSE)
	require.NoError(t, stale.Close())
	require.Equal(t, 200, serveEngine(t, cfg).dial().Send(getHealth).Answer(http.MethodGet).StatusCode)

	file := filepath.Join(t.TempDir(), "precious")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	_, err = New(Config{Listen: []string{"unix:" + file}})
	require.ErrorIs(t, err, os.ErrExist)
	require.FileExists(t, file)
}

func TestReusePortSharesAnAddress(t *testing.T) {
	first := serveEngine(t, Config{ReusePort: true})
	second := serveEngine(t, Config{ReusePort: true, Listen: []string{first.addr}})
	require.Equal(t, first.addr, second.addr)
	_, err := New(Config{Listen: []string{first.addr}})
	require.ErrorIs(t, err, unix.EADDRINUSE)
}
