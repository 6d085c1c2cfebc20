package auth

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ssed/engine"
	"ssed/sseproto"
)

// service answers forward auth and remembers what it was asked.
type service struct {
	*httptest.Server
	asked  atomic.Int64
	last   atomic.Pointer[http.Request]
	answer http.HandlerFunc // set before the first request
}

func newService(t testing.TB, answer http.HandlerFunc) *service {
	t.Helper()
	s := &service{answer: answer}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		s.last.Store(r)
		if s.answer != nil {
			s.answer(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// uncached asks s each time.
func (s *service) uncached(t testing.TB, change ...func(*Config)) *Access {
	t.Helper()
	cfg := Config{URL: s.URL + "/check?from=ssed", CacheTTL: -1}
	for _, c := range change {
		c(&cfg)
	}
	return open(t, cfg)
}

func TestServiceSeesTheRequest(t *testing.T) {
	s := newService(t, nil)
	a := s.uncached(t)
	target := "/sse/connect?channel_id=news%3Asport&last_event_id=5-1"
	r := asking(t, target,
		"Authorization: Bearer abc", "Cookie: a=b", "Cookie: c=d", "Origin: https://app.example.com", "User-Agent: tester/1",
		"Accept: text/event-stream", "Last-Event-ID: 7-1", "X-Custom: one", "X-Custom: two", "Referer: https://app.example.com/x")
	require.Equal(t, []string{"news:sport"}, admitted(t, a, r).Channels)

	got := s.last.Load()
	require.Equal(t, http.MethodGet, got.Method)
	require.Equal(t, "/check?from=ssed", got.RequestURI)
	require.Equal(t, strings.TrimPrefix(s.URL, "http://"), got.Host)
	require.Zero(t, got.ContentLength)
	want := http.Header{
		"Authorization": {"Bearer abc"}, "Cookie": {"a=b", "c=d"}, "Origin": {"https://app.example.com"}, "User-Agent": {"tester/1"},
		"Accept": {"text/event-stream"}, "Last-Event-Id": {"7-1"}, "X-Custom": {"one", "two"}, "Referer": {"https://app.example.com/x"},
		"X-Original-Uri": {target}, "X-Forwarded-Uri": {target}, "X-Original-Method": {"GET"}, "X-Forwarded-Method": {"GET"},
		"X-Forwarded-For": {"192.0.2.7"}, "X-Forwarded-Host": {"sse.example.com"}, "X-Forwarded-Proto": {"http"},
		"X-Sse-Channels": {"news:sport"},
	}
	require.Equal(t, want, got.Header)
}

func TestServiceSeesNothingThatTheClientMadeUp(t *testing.T) {
	s := newService(t, nil)
	a := s.uncached(t)
	r := asking(t, "http://other.example.com/sse/connect?channel_id=a",
		"X-Forwarded-For: 127.0.0.1", "x_forwarded_for: 127.0.0.1", "X-Forwarded-Host: admin", "X-Forwarded-User: root", "X-Original-URL: /x",
		"X-Original-URI: /public", "x-original_method: POST", "Forwarded: for=127.0.0.1", "X-Real-IP: 127.0.0.1", "X-SSE-Channels: *",
		"X-Forwarded-Proto: gopher", "If-None-Match: *", "If-Modified-Since: x", "Range: bytes=0-1", "Accept-Encoding: gzip",
		"Connection: close, X-Hop", "X-Hop: 1", "Keep-Alive: 5", "TE: trailers", "Upgrade: websocket", "Proxy-Authorization: Basic x",
		"Content-Length: 0", "Kept: yes")
	admitted(t, a, r)
	require.Equal(t, http.Header{
		"Kept":           {"yes"},
		"X-Original-Uri": {"/sse/connect?channel_id=a"}, "X-Forwarded-Uri": {"/sse/connect?channel_id=a"},
		"X-Original-Method": {"GET"}, "X-Forwarded-Method": {"GET"},
		"X-Forwarded-For": {"192.0.2.7"}, "X-Forwarded-Host": {"other.example.com"}, "X-Forwarded-Proto": {"http"},
		"X-Sse-Channels": {"a"},
	}, s.last.Load().Header)

	// "Connection: Authorization" leaves the service without it, and so the client outside.
	admitted(t, a, asking(t, "/sse/connect?channel_id=a", "Connection: authorization, x-forwarded-for", "Authorization: Bearer x"))
	require.Empty(t, s.last.Load().Header.Get("Authorization"))
	require.Equal(t, "192.0.2.7", s.last.Load().Header.Get("X-Forwarded-For"))

	admitted(t, a, asking(t, "/sse/connect?channel_id=a", "X-Forwarded-Proto: HTTPS"))
	require.Equal(t, "https", s.last.Load().Header.Get("X-Forwarded-Proto"))
}

func TestServiceSeesTheClientsAddress(t *testing.T) {
	s := newService(t, nil)
	a := s.uncached(t)
	f := func(addr netip.Addr, want []string) {
		t.Helper()
		r := asking(t, "/sse/connect?channel_id=a")
		r.Client = addr
		admitted(t, a, r)
		require.Equal(t, want, s.last.Load().Header["X-Forwarded-For"])
	}
	f(netip.MustParseAddr("2001:db8::1"), []string{"2001:db8::1"})
	f(netip.MustParseAddr("::ffff:192.0.2.1"), []string{"192.0.2.1"})
	f(netip.MustParseAddr("fe80::1%eth0"), []string{"fe80::1"})
	f(netip.Addr{}, nil)
}

func TestServiceNarrowsChannels(t *testing.T) {
	const all = "channel_id=user:42&channel_id=news:a&channel_id=news:b&channel_id=x,y"
	f := func(query string, fields, want []string) {
		t.Helper()
		s := newService(t, func(w http.ResponseWriter, _ *http.Request) {
			for _, value := range fields {
				w.Header().Add("X-SSE-Channels", value)
			}
			w.WriteHeader(http.StatusNoContent)
		})
		a := s.uncached(t)
		r := asking(t, "/sse/connect?"+query)
		if want == nil {
			refused(t, a, r, http.StatusForbidden, RefusedChannels)
			return
		}
		require.Equal(t, want, admitted(t, a, r).Channels)
	}
	f(all, nil, []string{"user:42", "news:a", "news:b", "x,y"})
	f(all, []string{"*"}, []string{"user:42", "news:a", "news:b", "x,y"})
	f(all, []string{"news:*"}, []string{"news:a", "news:b"})
	f(all, []string{"news:b , user:42,,other"}, []string{"user:42", "news:b"})
	f(all, []string{"news:b", "user:4?"}, []string{"user:42", "news:b"})
	f(all, []string{"x%2Cy"}, []string{"x,y"})
	f(all, []string{"x%2cy"}, []string{"x,y"})
	f(all, []string{"x,y"}, nil)
	f(all, []string{""}, nil)
	f(all, []string{" , "}, nil)
	f(all, []string{"user:1"}, nil)
	f("channel_id=a*&channel_id=ab", []string{"a%2A"}, []string{"a*"})
	f("channel_id=a*&channel_id=ab", []string{"a*"}, []string{"a*", "ab"})
	f("channel_id=100%25", []string{"100%"}, []string{"100%"})
	f("channel_id=100%25", []string{"100%25"}, []string{"100%"})
	f("channel_id=100%25&channel_id=%25zz", []string{"%zz"}, []string{"%zz"})
}

// A service that sends back what it was asked grants that and nothing else, whatever
// is in the names.
func TestChannelsThatTheServiceSendsBackAreThose(t *testing.T) {
	s := newService(t, func(w http.ResponseWriter, r *http.Request) {
		first, _, _ := strings.Cut(r.Header.Get("X-SSE-Channels"), ",")
		w.Header().Set("X-SSE-Channels", first)
	})
	a := s.uncached(t)
	for _, name := range []string{"user:42", "*", "a,b", "?", `\`, `[a-z]`, "%2A", "é", "a b", " ", "\xff\x01", "a%", "+", "a;b/c"} {
		r := asking(t, "/sse/connect?channel_id="+url.QueryEscape(name)+"&channel_id=user:420&channel_id=a&channel_id=x")
		require.Equal(t, []string{name}, admitted(t, a, r).Channels)
	}
}

func TestAnswersOfTheServiceArePassedOn(t *testing.T) {
	f := func(status int, body string, want engine.Denial, why Reason) {
		t.Helper()
		s := newService(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://login.example.com/")
			w.Header().Add("WWW-Authenticate", `Bearer realm="x"`)
			w.Header().Add("WWW-Authenticate", "Basic")
			w.Header().Set("Retry-After", "7")
			w.Header().Set("Set-Cookie", "a=b")
			w.Header().Set("X-SSE-Channels", "*")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		})
		d := refused(t, s.uncached(t), asking(t, forNews), status, why)
		require.Equal(t, want, *d)
		require.EqualValues(t, 1, s.asked.Load(), "a redirect is not followed")
	}
	fields := []sseproto.Field{
		{Name: "WWW-Authenticate", Value: `Bearer realm="x"`},
		{Name: "WWW-Authenticate", Value: "Basic"},
		{Name: "Retry-After", Value: "7"},
	}
	long := strings.Repeat("x", maxDenialBytes)
	f(401, "who are you?", engine.Denial{Status: 401, Body: "who are you?", Fields: fields}, RefusedService)
	f(403, long, engine.Denial{Status: 403, Body: long, Fields: fields}, RefusedService)
	f(403, long+"x", engine.Denial{Status: 403, Body: "forbidden\n", Fields: fields}, RefusedService)
	f(429, "", engine.Denial{Status: 429, Body: "too many requests\n", Fields: fields}, RefusedService)
	f(500, "panic: in line 3", engine.Denial{Status: 500, Body: "internal server error\n", Fields: fields}, RefusedService)
	f(503, "maintenance", engine.Denial{Status: 503, Body: "service unavailable\n", Fields: fields}, RefusedService)
	moved := append(append([]sseproto.Field(nil), fields...), sseproto.Field{Name: "Location", Value: "https://login.example.com/"})
	f(302, "", engine.Denial{Status: 302, Body: "found\n", Fields: moved}, RefusedService)
	f(307, "there", engine.Denial{Status: 307, Body: "there", Fields: moved}, RefusedService)
}

func TestAnswersThatMakeNoSenseAreNoGrant(t *testing.T) {
	for _, status := range []int{304, 600, 999} {
		s := newService(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		refused(t, s.uncached(t), asking(t, forNews), http.StatusBadGateway, RefusedFailure)
	}
}

func TestHugeBodyIsNotRead(t *testing.T) {
	f := func(status int) {
		t.Helper()
		var wrote atomic.Int64
		ended := make(chan struct{})
		s := newService(t, func(w http.ResponseWriter, _ *http.Request) {
			defer close(ended)
			w.WriteHeader(status)
			block := make([]byte, 64<<10)
			for {
				n, err := w.Write(block)
				wrote.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
		a := s.uncached(t, func(cfg *Config) { cfg.Timeout = maxTimeout })
		if status == http.StatusOK {
			admitted(t, a, asking(t, forNews))
		} else {
			require.Equal(t, "forbidden\n", refused(t, a, asking(t, forNews), status, RefusedService).Body)
		}
		<-ended // the connection was closed
	}
	f(http.StatusOK)
	f(http.StatusForbidden)
}

func TestServiceThatDoesNotAnswerMeansRetryLater(t *testing.T) {
	const timeout = 100 * time.Millisecond
	f := func(answer http.HandlerFunc) {
		t.Helper()
		s := newService(t, answer)
		a := s.uncached(t, func(cfg *Config) { cfg.Timeout = timeout })
		d := refused(t, a, asking(t, forNews), http.StatusServiceUnavailable, RefusedFailure)
		require.Equal(t, retrySoon, field(d, "Retry-After"))
	}
	f(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	f(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	f(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_, _ = conn.Write([]byte("SSH-2.0-OpenSSH\r\n"))
			_ = conn.Close()
		}
	})
	f(func(w http.ResponseWriter, _ *http.Request) { // a head without an end
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\n"))
		for {
			if _, err := conn.Write([]byte("X-A: " + strings.Repeat("a", 1000) + "\r\n")); err != nil {
				return
			}
		}
	})
}

func TestServiceThatComesBackIsAskedAgain(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := listener.Addr().String()
	require.NoError(t, listener.Close())
	a := open(t, Config{URL: "http://" + addr})
	refused(t, a, asking(t, forNews), http.StatusServiceUnavailable, RefusedFailure)

	listener, err = net.Listen("tcp", addr)
	require.NoError(t, err)
	s := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(listener) })
	defer wg.Wait()
	defer s.Close()
	admitted(t, a, asking(t, forNews))
}

func TestClientThatLeavesEndsTheQuestion(t *testing.T) {
	ended := make(chan struct{})
	asked := make(chan struct{})
	s := newService(t, func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
		close(ended)
	})
	a := s.uncached(t, func(cfg *Config) { cfg.Timeout = maxTimeout })
	ctx, leave := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	r := asking(t, forNews)
	wg.Go(func() { assert.Equal(t, http.StatusServiceUnavailable, outcome(ctx, a, r)) })
	<-asked
	leave()
	<-ended
	wg.Wait()
}

// from is r as another client sends it.
func from(r *engine.AuthRequest, client string) *engine.AuthRequest {
	other := *r
	other.Client = netip.MustParseAddr(client)
	return &other
}

// held is a service that answers when it is let.
type held struct {
	*service
	came         chan string // the address of whom it is asked about
	let          chan struct{}
	inside, most atomic.Int64
}

func newHeld(t *testing.T) *held {
	h := &held{came: make(chan string, 10_000), let: make(chan struct{})}
	h.service = newService(t, func(_ http.ResponseWriter, r *http.Request) {
		now := h.inside.Add(1)
		for m := h.most.Load(); now > m && !h.most.CompareAndSwap(m, now); m = h.most.Load() {
		}
		h.came <- r.Header.Get("X-Forwarded-For")
		<-h.let
		h.inside.Add(-1)
	})
	return h
}

func TestQuestionsAreBoundedAndSoIsTheQueue(t *testing.T) {
	const concurrency = 3
	s := newHeld(t)
	a := s.uncached(t, func(cfg *Config) { cfg.Concurrency, cfg.Timeout = concurrency, maxTimeout })
	gate := a.chain.(*forward).gate
	require.Equal(t, queueFactor*concurrency, gate.maxWaiting)

	var wg sync.WaitGroup
	r := from(asking(t, forNews), "127.0.0.1")
	for range concurrency * (1 + queueFactor) {
		wg.Go(func() { assert.Equal(t, http.StatusOK, outcome(t.Context(), a, r)) })
	}
	eventually(t, func() bool { return s.inside.Load() == concurrency && gate.waitingNow() == gate.maxWaiting })
	refused(t, a, r, http.StatusServiceUnavailable, RefusedQueue)
	ctx, leave := context.WithCancel(t.Context())
	leave()
	refusedIn(t, ctx, a, r, http.StatusServiceUnavailable, RefusedQueue)
	close(s.let)
	wg.Wait()
	require.EqualValues(t, concurrency, s.most.Load())
	require.Zero(t, gate.waitingNow())
	admitted(t, a, asking(t, forNews))
	require.Empty(t, gate.lines)
}

// One client with ever other cookies takes neither all requests to the service nor the
// whole queue: who comes from another address is asked about at once.
func TestOneClientDoesNotStarveOthers(t *testing.T) {
	const concurrency, flood, others = 8, 1300, 3
	s := newHeld(t)
	a := s.uncached(t, func(cfg *Config) { cfg.Concurrency, cfg.Timeout = concurrency, maxTimeout })
	gate := a.chain.(*forward).gate

	ctx, end := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(s.let)
	defer end()
	for n := range flood {
		r := asking(t, forNews, fmt.Sprintf("Cookie: session=%d", n))
		wg.Go(func() { outcome(ctx, a, r) })
	}
	for range concurrency / 2 {
		require.Equal(t, clientAddr.String(), <-s.came)
	}
	eventually(t, func() bool { return gate.waitingNow() == gate.maxWaiting })
	// None of the flood's questions is answered, and yet:
	for n := range others {
		r := from(asking(t, forNews), fmt.Sprintf("198.51.100.%d", n))
		wg.Go(func() { outcome(ctx, a, r) })
		require.Equal(t, r.Client.String(), <-s.came)
	}
	require.EqualValues(t, concurrency/2+others, s.inside.Load())

	// Whoever waits beside the flood has every second turn.
	for n := range 10 {
		r := from(asking(t, forNews, fmt.Sprintf("Cookie: other=%d", n)), "203.0.113.1")
		wg.Go(func() { outcome(ctx, a, r) })
	}
	eventually(t, func() bool { return gate.waitingOf("203.0.113.1") == 9 })
	require.Equal(t, "203.0.113.1", <-s.came)
	require.Equal(t, gate.maxWaiting, gate.waitingNow(), "the newest of the flood made room")
}

func (g *gate) waitingNow() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting
}

func (g *gate) waitingOf(client string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l := g.lines[lineOf(netip.MustParseAddr(client))]; l != nil {
		return l.waiting.Len()
	}
	return 0
}

func TestWaitingCountsAgainstTheTimeout(t *testing.T) {
	s := newHeld(t)
	a := s.uncached(t, func(cfg *Config) { cfg.Concurrency, cfg.Timeout = 1, 50*time.Millisecond })
	leave, err := a.chain.(*forward).gate.enter(t.Context(), clientAddr)
	require.NoError(t, err)
	refused(t, a, asking(t, forNews), http.StatusServiceUnavailable, RefusedQueue)
	leave()
	close(s.let)
}

func TestGrantsAreRemembered(t *testing.T) {
	s := newService(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-SSE-Channels", "news:*") })
	a := open(t, Config{URL: s.URL, CacheTTL: time.Hour})
	ask := func(target string, lines ...string) int64 {
		t.Helper()
		before := s.asked.Load()
		require.Equal(t, []string{"news:sport"}, admitted(t, a, asking(t, target, lines...)).Channels)
		return s.asked.Load() - before
	}
	require.EqualValues(t, 1, ask(forNews, "Authorization: Bearer a"))
	require.EqualValues(t, 0, ask(forNews, "Authorization: Bearer a"))
	require.EqualValues(t, 1, a.Stats().Cached)
	require.EqualValues(t, 1, a.Stats().Asked)

	// A reconnect is the same request.
	require.EqualValues(t, 0, ask(forNews, "Authorization: Bearer a", "Last-Event-ID: 5-1"))
	require.EqualValues(t, 0, ask(forNews+"&last_event_id=5-1", "Authorization: Bearer a", "Cache-Control: no-cache"))
	require.EqualValues(t, 0, ask(forNews+"&lastEventId=5-2", "Authorization: Bearer a", "traceparent: 00-1"))

	// Whatever a service might look at makes another.
	for _, line := range []string{
		"Authorization: Bearer b", "Cookie: a=b", "Origin: https://x.example.com", "User-Agent: other", "X-Api-Key: 1", "X-Forwarded-Proto: https",
	} {
		require.EqualValues(t, 1, ask(forNews, line), line)
		require.EqualValues(t, 0, ask(forNews, line), line)
	}
	require.EqualValues(t, 1, ask(forNews+"&token=x", "Authorization: Bearer a"))
	require.EqualValues(t, 1, ask(forNews+"&channel_id=user:43", "Authorization: Bearer a"))
	require.EqualValues(t, 1, ask("/sse/connect?channel_id=news:sport", "Authorization: Bearer a"))

	r := asking(t, forNews, "Authorization: Bearer a")
	r.Client = netip.MustParseAddr("192.0.2.8")
	before := s.asked.Load()
	admitted(t, a, r)
	require.EqualValues(t, 1, s.asked.Load()-before)
}

// A denial is remembered for a moment, what is about the service or the moment is not.
func TestDenialsAreRemembered(t *testing.T) {
	var status atomic.Int64
	s := newService(t, func(w http.ResponseWriter, _ *http.Request) {
		if status.Load() == 0 {
			w.Header().Set("X-SSE-Channels", "other")
			return
		}
		w.Header().Set("WWW-Authenticate", "Basic")
		w.WriteHeader(int(status.Load()))
	})
	a := open(t, Config{URL: s.URL, CacheTTL: time.Hour})
	forward := a.chain.(*forward)
	require.Equal(t, denialTTL, forward.denials.ttl)
	forward.denials.ttl = time.Hour // no clock decides this test
	asked := func(code int, why Reason, line string) int64 {
		t.Helper()
		before := s.asked.Load()
		refused(t, a, asking(t, forNews, line), code, why)
		return s.asked.Load() - before
	}
	for _, code := range []int{500, 503, 408, 425, 429} {
		status.Store(int64(code))
		require.EqualValues(t, 1, asked(code, RefusedService, "Cookie: a=b"), code)
		require.EqualValues(t, 1, asked(code, RefusedService, "Cookie: a=b"), code)
	}
	for _, code := range []int{401, 403, 302} {
		status.Store(int64(code))
		line := fmt.Sprintf("Cookie: a=%d", code)
		require.EqualValues(t, 1, asked(code, RefusedService, line), code)
		require.EqualValues(t, 0, asked(code, RefusedService, line), code)
		require.Equal(t, "Basic", field(refused(t, a, asking(t, forNews, line), code, RefusedService), "WWW-Authenticate"))
	}
	status.Store(0)
	require.EqualValues(t, 1, asked(403, RefusedChannels, "Cookie: none"))
	require.EqualValues(t, 0, asked(403, RefusedChannels, "Cookie: none"))

	status.Store(200)
	admitted(t, a, asking(t, "/sse/connect?channel_id=other"))
	status.Store(403)
	admitted(t, a, asking(t, "/sse/connect?channel_id=other"))
}

// Denials take no room from grants.
func TestDenialsDoNotPushGrantsOut(t *testing.T) {
	s := newService(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Cookie") != "session=good" {
			w.WriteHeader(http.StatusForbidden)
		}
	})
	a := open(t, Config{URL: s.URL, CacheTTL: time.Hour})
	a.chain.(*forward).grants.most, a.chain.(*forward).denials.most = 3, 3
	admitted(t, a, asking(t, forNews, "Cookie: session=good"))
	for n := range 5 {
		refused(t, a, asking(t, forNews, fmt.Sprintf("Cookie: session=%d", n)), 403, RefusedService)
	}
	before := s.asked.Load()
	admitted(t, a, asking(t, forNews, "Cookie: session=good"))
	require.Equal(t, before, s.asked.Load())
}

func TestServiceTellsTheSubjectAndTheEnd(t *testing.T) {
	type said struct{ subject, expires []string }
	answered := func(says said, change ...func(*Config)) *Access {
		s := newService(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["X-Sse-Subject"], w.Header()["X-Sse-Expires"] = says.subject, says.expires
		})
		return s.uncached(t, change...)
	}
	r := asking(t, forNews)
	end := time.Now().Add(time.Hour).Unix()
	f := func(says said, want engine.Grant) {
		t.Helper()
		want.Channels = r.Channels
		require.Equal(t, want, admitted(t, answered(says), r))
	}
	text := strconv.FormatInt(end, 10)
	f(said{}, engine.Grant{})
	f(said{subject: []string{"user:42"}}, engine.Grant{Subject: "user:42"})
	f(said{subject: []string{"J%C3%B6rg, 100%"}}, engine.Grant{Subject: "Jörg, 100%"})
	f(said{expires: []string{text}}, engine.Grant{Expires: time.Unix(end, 0)})
	f(said{subject: []string{"a"}, expires: []string{text}}, engine.Grant{Subject: "a", Expires: time.Unix(end, 0)})

	bad := func(says said) {
		t.Helper()
		refused(t, answered(says), r, http.StatusBadGateway, RefusedFailure)
	}
	bad(said{subject: []string{"a", "b"}})
	bad(said{subject: []string{"a%0Ab"}})
	bad(said{subject: []string{"%FF"}})
	bad(said{subject: []string{strings.Repeat("a", 256)}})
	bad(said{expires: []string{text, text}})
	bad(said{expires: []string{"tomorrow"}})
	bad(said{expires: []string{"-1"}})
	bad(said{expires: []string{"253402300800"}})
	bad(said{expires: []string{""}})
	refused(t, answered(said{expires: []string{"1000000000"}}), r, http.StatusUnauthorized, RefusedExpired)

	needsEnd := func(cfg *Config) { cfg.RequireExp = true }
	refused(t, answered(said{}, needsEnd), r, http.StatusBadGateway, RefusedFailure)
	admitted(t, answered(said{expires: []string{text}}, needsEnd), r)
}

// What the environment says of proxies is for others, unless it is asked for.
func TestProxyOfTheEnvironmentOnlyOnRequest(t *testing.T) {
	for _, wanted := range []bool{false, true} {
		client := newClient(&Config{ProxyFromEnvironment: wanted}, 1)
		require.Equal(t, wanted, client.Transport.(*http.Transport).Proxy != nil)
	}
}

func TestManyClientsAreDecidedAtOnce(t *testing.T) {
	s := newService(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer 3" {
			w.WriteHeader(http.StatusForbidden)
		}
	})
	a := open(t, Config{URL: s.URL, Concurrency: 16, Timeout: maxTimeout})
	var wg sync.WaitGroup
	for i := range 200 {
		r := asking(t, forNews, fmt.Sprintf("Authorization: Bearer %d", i%7))
		want := http.StatusOK
		if i%7 == 3 {
			want = http.StatusForbidden
		}
		wg.Go(func() { assert.Equal(t, want, outcome(t.Context(), a, r)) })
	}
	wg.Wait()
	stats := a.Stats()
	require.EqualValues(t, 200, stats.Granted+stats.Refused[RefusedService])
}

// What was granted before somebody was put out does not let them in again.
func TestForgottenGrantsAreAskedForAgain(t *testing.T) {
	var status atomic.Int64
	came, let := make(chan struct{}, 10), make(chan struct{}, 10)
	s := newService(t, func(w http.ResponseWriter, _ *http.Request) {
		code := int(status.Load()) // decided, and on its way
		came <- struct{}{}
		<-let
		w.WriteHeader(code)
	})
	a := open(t, Config{URL: s.URL, CacheTTL: time.Hour})
	r := asking(t, forNews)
	status.Store(200)
	let <- struct{}{}
	admitted(t, a, r)
	<-came
	admitted(t, a, r) // remembered
	status.Store(403)
	a.Forget()
	let <- struct{}{}
	refused(t, a, r, 403, RefusedService)
	<-came

	status.Store(200)
	other := asking(t, "/sse/connect?channel_id=news:other")
	var wg sync.WaitGroup
	wg.Go(func() { assert.Equal(t, http.StatusOK, outcome(t.Context(), a, other)) })
	<-came
	status.Store(403)
	a.Forget() // while the answer is on its way
	let <- struct{}{}
	wg.Wait()
	let <- struct{}{}
	refused(t, a, other, 403, RefusedService)
}
