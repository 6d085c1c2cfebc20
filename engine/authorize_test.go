package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/front"
	"ssed/engine/internal/wiretest"
	"ssed/sseproto"
)

// authorizer is a function that decides.
type authorizer func(ctx context.Context, r *AuthRequest) (Grant, error)

func (f authorizer) Authorize(ctx context.Context, r *AuthRequest) (Grant, error) { return f(ctx, r) }

// grantAll grants what is asked for.
func grantAll(_ context.Context, r *AuthRequest) (Grant, error) {
	return Grant{Channels: r.Channels}, nil
}

func TestAuthorizerSeesTheRequest(t *testing.T) {
	type seen struct {
		channels      []string
		client        netip.Addr
		target, token string
	}
	asked := make(chan seen, 1)
	s := serveEngine(t, Config{TrustedProxies: networks("127.0.0.0/8"), Authorizer: authorizer(func(ctx context.Context, r *AuthRequest) (Grant, error) {
		deadline, ok := ctx.Deadline()
		if !ok || time.Until(deadline) > 5*time.Second {
			t.Error("no deadline")
		}
		asked <- seen{r.Channels, r.Client, string(r.Request.Target), string(r.Request.Header("Authorization"))}
		return Grant{Channels: r.Channels[:1]}, nil
	})})
	s.Log().OpenLocal()
	w := s.dial()
	for _, c := range []byte(getHealth + getStream("a&channel_id=b", "Authorization: Bearer x", "X-Forwarded-For: 192.0.2.1", "", "")) {
		w.Send(string([]byte{c}))
	}
	w.Whole()
	require.Equal(t, seen{[]string{"a", "b"}, ip("192.0.2.1"), "/sse/connect?channel_id=a&channel_id=b", "Bearer x"}, <-asked)
	require.Equal(t, "text/event-stream; charset=utf-8", w.Answer(http.MethodGet).Header.Get("Content-Type"))
	eventually(t, func() bool { return s.Stats().Streams == 1 }, "it is served")
	s.Log().Publish("b", sseproto.Message{Data: "not granted"})
	s.Log().Publish("a", sseproto.Message{Data: "granted"})
	for {
		line, err := w.R.ReadString('\n')
		require.NoError(t, err)
		require.NotContains(t, line, "not granted")
		if line == "data: granted\n" {
			return
		}
	}
}

func TestDenialBecomesTheAnswer(t *testing.T) {
	var denial atomic.Pointer[error]
	s := serveEngine(t, Config{
		CORSOrigins: []string{"https://app.example"}, RetryMin: time.Second, RetryMax: 2 * time.Second,
		Authorizer: authorizer(func(context.Context, *AuthRequest) (Grant, error) { return Grant{}, *denial.Load() }),
	})
	const origin = "Origin: https://app.example"
	f := func(err error, fields []string, status int, body string) http.Header {
		t.Helper()
		denial.Store(&err)
		w := s.dial().Send(getStream("a", append(fields, origin, "", "")...))
		gotStatus, header, gotBody := w.Whole()
		require.Equal(t, status, gotStatus)
		require.Equal(t, body, gotBody)
		require.Equal(t, "https://app.example", header.Get("Access-Control-Allow-Origin"), "the page can read why")
		w.RequireEnd()
		return header
	}
	header := f(&Denial{Status: 401, Body: "who are you?\n", Fields: []sseproto.Field{
		{Name: "WWW-Authenticate", Value: "Bearer\r\nX-Evil: 1"},
		{Name: "Content-Type", Value: "text/x"},
		{Name: "Content-Length", Value: "0"},
		{Name: "Transfer-Encoding", Value: "chunked"},
		{Name: "Connection", Value: "keep-alive"},
		{Name: "access-control-allow-origin", Value: "*"},
		{Name: "Set-Cookie", Value: "a=b"},
	}}, nil, 401, "who are you?\n")
	require.Equal(t, "BearerX-Evil: 1", header.Get("WWW-Authenticate"))
	require.Equal(t, "text/x", header.Get("Content-Type"))
	require.Equal(t, "a=b", header.Get("Set-Cookie"))
	require.Len(t, header.Values("Access-Control-Allow-Origin"), 1)
	f(&Denial{Status: 403, Body: "no\n"}, []string{asEventSource}, 403, "no\n") // ends an EventSource, as it should
	f(fmt.Errorf("wrapped: %w", &Denial{Status: 404, Body: "what?\n"}), nil, 404, "what?\n")
	require.EqualValues(t, 3, s.Stats().Front.Refused[front.RefuseDenied])
	header = f(&Denial{Status: 302, Fields: []sseproto.Field{{Name: "Location", Value: "/login"}}}, nil, 302, "")
	require.Equal(t, "/login", header.Get("Location"))

	const noDecision = "authorisation is not available\n"
	header = f(errors.New("a secret of the service"), nil, 503, noDecision)
	require.NotEmpty(t, header.Get("Retry-After"))
	f(&Denial{Status: 200, Body: "come in\n"}, nil, 503, noDecision)
	f(&Denial{Status: 1000}, nil, 503, noDecision)
	header = f(&Denial{Status: 503, Body: "later\n", Fields: []sseproto.Field{{Name: "Retry-After", Value: "77"}}}, nil, 503, "later\n")
	require.Equal(t, []string{"77"}, header.Values("Retry-After"))
	require.EqualValues(t, 4, s.Stats().Front.Refused[front.RefuseUndecided])

	w := s.dial().Send(getStream("a", asEventSource, origin, "", ""))
	resp := w.Answer(http.MethodGet)
	require.Equal(t, 200, resp.StatusCode, "a browser would never come back")
	require.Equal(t, "https://app.example", resp.Header.Get("Access-Control-Allow-Origin"))
	w.RequireRetry(time.Second, 2*time.Second)
	w.RequireEnd()
	require.Zero(t, s.Stats().Front.Streams)
	eventually(t, func() bool { return s.Stats().Connections == 0 }, "nothing is left")
}

func TestGrantOfNothingIsADenial(t *testing.T) {
	s := serveEngine(t, Config{Authorizer: authorizer(func(context.Context, *AuthRequest) (Grant, error) { return Grant{}, nil })})
	status, _, _ := s.dial().Send(getStream("a")).Whole()
	require.Equal(t, 403, status)
}

func TestOnlyStreamsAreAuthorised(t *testing.T) {
	s := serveEngine(t, Config{Authorizer: authorizer(func(ctx context.Context, r *AuthRequest) (Grant, error) {
		if string(r.Request.Header("Authorization")) == "" {
			return Grant{}, &Denial{Status: 401}
		}
		return grantAll(ctx, r)
	})})
	for _, path := range []string{"/health", "/ready"} {
		status, _, _ := s.dial().Send("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n").Whole()
		require.Equal(t, 200, status)
	}
	status, _, _ := s.dial().Send(getStream("")).Whole()
	require.Equal(t, 400, status, "there is nothing to decide")
	preflight := "OPTIONS /sse/connect?channel_id=a HTTP/1.1\r\nHost: a\r\nOrigin: https://a\r\nAccess-Control-Request-Method: GET\r\n\r\n"
	status, _, _ = s.dial().Send(preflight).Whole()
	require.Equal(t, 204, status, "browsers send preflights without credentials")
	for fields, want := range map[string]int{"": 401, "Authorization: x\r\n": 200} {
		w := s.dial().Send(strings.Replace(getStream("a"), "GET", "HEAD", 1)[:len(getStream("a"))-1] + fields + "\r\n")
		require.Equal(t, want, w.Answer(http.MethodHead).StatusCode)
		w.RequireEnd()
	}
}

func TestStreamEndsWhenItsGrantDoes(t *testing.T) {
	t.Parallel()
	expires := make(chan time.Time, 1)
	s := serveEngine(t, Config{Heartbeat: time.Second, MaxAge: time.Hour, Authorizer: authorizer(func(_ context.Context, r *AuthRequest) (Grant, error) {
		return Grant{Channels: r.Channels, Expires: <-expires}, nil
	})})
	end := time.Now().Add(3 * time.Second).Truncate(time.Second)
	expires <- end
	w := s.dial().Send(getStream("a"))
	require.Equal(t, 200, w.Answer(http.MethodGet).StatusCode)
	_, err := io.ReadAll(w.R)
	require.NoError(t, err)
	require.Greater(t, time.Now(), end.Add(-time.Second), "to the second, and not at once")
	w.RequireEnd() // the last chunk comes before it is counted
	require.EqualValues(t, 1, s.Stats().Closed[CloseExpired])
}

func TestDecisionHasATimeOfItsOwn(t *testing.T) {
	t.Parallel()
	s := serveEngine(t, Config{
		HandshakeTimeout: 500 * time.Millisecond, AuthTimeout: 4 * time.Second,
		Authorizer: authorizer(func(ctx context.Context, _ *AuthRequest) (Grant, error) {
			<-ctx.Done()
			return Grant{}, ctx.Err()
		}),
	})
	w := s.dial().Send(getStream("a"))
	s.dial().RequireEnd() // came later and its handshake is over
	require.EqualValues(t, 1, s.Stats().Front.Deciding)
	status, _, _ := w.Whole()
	require.Equal(t, 503, status)
	require.EqualValues(t, 1, s.Stats().Front.Refused[front.RefuseUndecided])
	eventually(t, func() bool { return s.Stats().Front.Deciding == 0 && s.Stats().Connections == 0 }, "nothing is left")
}

func TestPanicOfTheAuthorizerConcernsOneConnection(t *testing.T) {
	s := serveEngine(t, Config{Authorizer: authorizer(func(ctx context.Context, r *AuthRequest) (Grant, error) {
		if r.Channels[0] == "bad" {
			panic("as if by a bug")
		}
		return grantAll(ctx, r)
	})})
	status, _, _ := s.dial().Send(getStream("bad")).Whole()
	require.Equal(t, 503, status)
	require.Equal(t, 200, s.dial().Send(getStream("a")).Answer(http.MethodGet).StatusCode)
	require.EqualValues(t, 1, s.Stats().Front.Refused[front.RefusePanic])
}

// gate is an authorizer that holds everyone until it opens.
type gate struct {
	open    chan struct{}
	waiting atomic.Int64
}

func newGate() *gate { return &gate{open: make(chan struct{})} }

func (g *gate) Authorize(ctx context.Context, r *AuthRequest) (Grant, error) {
	g.waiting.Add(1)
	defer g.waiting.Add(-1)
	select {
	case <-g.open:
		return Grant{Channels: r.Channels}, nil
	case <-ctx.Done():
		return Grant{}, ctx.Err()
	}
}

// While their requests are decided, clients hang up, reset or send on. None of it
// costs memory, mixes up descriptors or stays behind.
func TestClientsThatLeaveDuringTheDecision(t *testing.T) {
	const n = 300
	g := newGate()
	s := serveEngine(t, Config{Authorizer: g, AuthTimeout: time.Minute})
	files := s.filesServing()
	conns := make([]*wiretest.Conn, n)
	for i := range conns {
		conns[i] = s.dial().Send(getStream("a"))
	}
	eventually(t, func() bool { return g.waiting.Load() == n }, "all are being decided")
	for i, w := range conns {
		switch tcp := w.Conn.(*net.TCPConn); i % 4 {
		case 0:
			require.NoError(t, w.Close())
		case 1:
			require.NoError(t, tcp.SetLinger(0))
			require.NoError(t, w.Close())
		case 2:
			require.NoError(t, tcp.CloseWrite())
		}
	}
	probe := s.dial().Send(getHealth)
	status, _, _ := probe.Whole()
	require.Equal(t, 200, status, "others are served meanwhile")
	require.NoError(t, probe.Close())
	require.EqualValues(t, n, s.Stats().Front.Deciding)
	close(g.open)
	for i, w := range conns {
		if i%4 == 3 {
			require.Equal(t, 200, w.Answer(http.MethodGet).StatusCode)
			require.NoError(t, w.Close())
		} else {
			_ = w.Close()
		}
	}
	eventually(t, func() bool { return s.Stats().Connections == 0 && openFiles(t) <= files }, "all descriptors are closed")
	require.Zero(t, s.Stats().Front.Handshakes)
	require.Zero(t, s.Stats().Front.Deciding)
}

// What a client sends while its request is decided stays in its socket: it is not
// read into memory.
func TestDataDuringTheDecisionIsNotRead(t *testing.T) {
	const clients = 8
	g := newGate()
	s := serveEngine(t, Config{Authorizer: g, AuthTimeout: time.Minute})
	var senders sync.WaitGroup
	conns := make([]*wiretest.Conn, clients)
	for i := range conns {
		conns[i] = s.dial().Send(getStream("a"))
	}
	eventually(t, func() bool { return g.waiting.Load() == clients }, "all are being decided")
	before := heapInUse()
	for _, w := range conns {
		senders.Go(func() {
			block := make([]byte, 1<<20)
			w.Send(string(block[:64<<10])) // the sockets have room for it, and a busy machine may begin no write in time
			require.NoError(t, w.SetWriteDeadline(time.Now().Add(300*time.Millisecond)))
			for sent := 0; sent < 64<<20; {
				n, err := w.Write(block)
				if sent += n; err != nil {
					return // the sockets are full
				}
			}
			t.Error("it was all taken")
		})
	}
	senders.Wait()
	grown := heapInUse() - before
	t.Logf("%d clients that sent until their sockets were full: %d KiB of memory more", clients, grown>>10)
	require.Less(t, grown, int64(clients*2<<20))
	close(g.open)
	eventually(t, func() bool { return s.Stats().Closed[CloseAbuse] == clients }, "they are closed for it: %v", s.Stats().Closed)
}

func TestDrainDuringTheDecision(t *testing.T) {
	g := newGate()
	s := serveEngine(t, Config{Authorizer: g, AuthTimeout: time.Minute, RetryMin: time.Second, RetryMax: 2 * time.Second})
	files := s.filesServing()
	browser := s.dial().Send(getStream("a", asEventSource, "", ""))
	program := s.dial().Send(getStream("a"))
	eventually(t, func() bool { return g.waiting.Load() == 2 }, "both are being decided")
	s.front.StopAccepting()
	close(g.open)
	require.Equal(t, 200, browser.Answer(http.MethodGet).StatusCode)
	browser.RequireRetry(time.Second, 2*time.Second)
	browser.RequireEnd()
	status, _, body := program.Whole()
	require.Equal(t, 503, status)
	require.Equal(t, "draining\n", body)
	require.NoError(t, browser.Close())
	require.NoError(t, program.Close())
	s.stop()
	require.Zero(t, s.Stats().Connections)
	require.LessOrEqual(t, openFiles(t), files)
}

func TestCloseDuringTheDecision(t *testing.T) {
	g := newGate()
	s := serveEngine(t, Config{Authorizer: g, AuthTimeout: time.Hour})
	files := s.filesServing()
	conns := make([]*wiretest.Conn, 50)
	for i := range conns {
		conns[i] = s.dial().Send(getStream("a"))
	}
	eventually(t, func() bool { return g.waiting.Load() == 50 }, "all are being decided")
	s.stop()
	for _, w := range conns {
		status, _, _ := w.Whole()
		require.Equal(t, 503, status)
		require.NoError(t, w.Close())
	}
	require.Zero(t, s.Stats().Connections)
	require.LessOrEqual(t, openFiles(t), files)
}

// The churn of descriptors once more, with decisions that take their time in between.
func TestDescriptorsDoNotMixUpUnderChurnWithDecisions(t *testing.T) {
	var turn atomic.Int64
	s := serveEngine(t, Config{
		TrustedProxies:   networks("127.0.0.0/8"),
		HandshakeTimeout: 50 * time.Millisecond, AuthTimeout: time.Second, MaxPerAddress: 10_000, ConnectRate: maxRate,
		Authorizer: authorizer(func(ctx context.Context, r *AuthRequest) (Grant, error) {
			switch turn.Add(1) % 4 {
			case 0:
				return Grant{}, &Denial{Status: 403, Body: "no\n"}
			case 1:
				return Grant{}, errors.New("no decision")
			case 2: // slow, and whatever else happens on the machine meanwhile
				wait, cancel := context.WithTimeout(ctx, time.Millisecond)
				defer cancel()
				<-wait.Done()
			}
			return grantAll(ctx, r)
		}),
	})
	files, before := s.filesServing(), s.Stats().Front.Accepted
	perWorker := 150
	if testing.Short() {
		perWorker = 100
	}
	s.churnAll(16, perWorker)
	eventually(t, func() bool { return s.Stats().Connections == 0 && openFiles(t) <= files }, "all descriptors are closed")
	eventually(t, func() bool { return s.Stats().Front.Addresses == 0 }, "all addresses are forgotten")
	stats := s.Stats().Front
	require.Zero(t, stats.Handshakes)
	require.EqualValues(t, 16*perWorker, stats.Accepted-before)
	require.Zero(t, stats.Refused[front.RefusePanic])
	require.NotZero(t, stats.Refused[front.RefuseDenied])
	require.NotZero(t, stats.Refused[front.RefuseUndecided])
	t.Logf("%d connections: %d streams, %d denied, %d undecided", stats.Accepted, stats.Streams, stats.Refused[front.RefuseDenied], stats.Refused[front.RefuseUndecided])
}
