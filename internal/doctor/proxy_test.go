package doctor

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/pipetest"
)

// gateway is a stream and what publishes on it, in place of ssed and a proxy together.
type gateway struct {
	held      int           // events that are held back until so many are there
	cut       int           // events, or heartbeats, after which the stream ends, when positive
	beat      time.Duration // heartbeats, when positive
	beatEvent string        // heartbeats are events of this type
	silent    bool          // no byte after the head
	headless  bool          // not even that
	full      bool          // it ends at once
	gzip      bool          // compressed, and flushed with each event
	late      time.Duration // from a message to its event
	loses     string        // a field of requests that does not come through
	holds     bool          // what was missed waits for the next event
	forgets   bool          // a gap instead of what was missed
	keeps     int           // messages until the stream of a client that has gone is closed
	fields    []string
	status    int
	gone      chan struct{} // closed with the test

	mu      sync.Mutex // guards what follows
	log     []string
	streams map[chan string]bool // which of them are there; false: the client has gone
}

func (g *gateway) publish(_ context.Context, data string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.log = append(g.log, data)
	for s := range g.streams {
		s <- data
	}
	return nil
}

// count counts the open streams.
func (g *gateway) count(context.Context) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.streams), nil
}

// join makes a stream, with what it has missed.
func (g *gateway) join(after string) (live chan string, missed []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	live = make(chan string, 100)
	g.streams[live] = true
	if i := slices.Index(g.log, after); i >= 0 {
		missed = slices.Clone(g.log[i+1:])
	}
	return live, missed
}

// leave waits until the stream of a client that has gone is closed.
func (g *gateway) leave(live chan string) {
	for range g.keeps {
		select {
		case <-live:
		case <-g.gone:
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.streams, live)
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Header.Del(g.loses)
	wait := func() {
		select {
		case <-r.Context().Done():
		case <-g.gone:
		}
	}
	if g.headless {
		wait()
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache, no-transform")
	for i := 0; i < len(g.fields); i += 2 {
		w.Header().Set(g.fields[i], g.fields[i+1])
	}
	w.WriteHeader(g.status)
	out := http.NewResponseController(w)
	if g.gzip {
		zip := gzip.NewWriter(w)
		w, out = zipped{w, zip}, http.NewResponseController(zipped{w, zip})
	}
	if g.status != http.StatusOK {
		return
	}
	live, missed := g.join(strings.TrimPrefix(r.Header.Get("Last-Event-ID"), "1-"))
	defer g.leave(live)
	if !g.silent {
		fmt.Fprint(w, "retry: 1000\n\n")
	}
	if !g.silent && r.Header.Get("Cache-Control") != "" && r.Header.Get("Pragma") != "" && r.Header.Get("Last-Event-ID") == "" {
		fmt.Fprint(w, "id: 1-start\n\n")
	}
	if len(missed) > 0 && g.forgets {
		fmt.Fprint(w, "event: gap\ndata: trimmed\n\n")
		missed = nil
	}
	if len(missed) > 0 && g.holds {
		_ = out.Flush()
	}
	for _, data := range missed {
		fmt.Fprintf(w, "id: 1-%s\ndata: %[1]s\n\n", data)
	}
	if len(missed) == 0 || !g.holds {
		_ = out.Flush()
	}
	if g.full {
		return
	}
	if g.silent {
		wait()
		return
	}
	g.stream(w, r, out, live)
}

// zipped compresses what is written.
type zipped struct {
	http.ResponseWriter
	zip *gzip.Writer
}

func (z zipped) Write(b []byte) (int, error) { return z.zip.Write(b) }

func (z zipped) FlushError() error {
	return errors.Join(z.zip.Flush(), http.NewResponseController(z.ResponseWriter).Flush())
}

func (g *gateway) stream(w io.Writer, r *http.Request, out *http.ResponseController, live <-chan string) {
	var beat <-chan time.Time
	if g.beat > 0 {
		ticker := time.NewTicker(g.beat)
		defer ticker.Stop()
		beat = ticker.C
	}
	for held, sent := 0, 0; ; {
		select {
		case data := <-live:
			time.Sleep(g.late) // in the time of the test
			fmt.Fprintf(w, "id: 1-%s\ndata: %[1]s\n\n", data)
			held++
			sent++
		case <-beat:
			if g.beatEvent != "" {
				fmt.Fprintf(w, "event: %s\ndata:\n\n", g.beatEvent)
			} else {
				fmt.Fprint(w, ":\n")
			}
			held = g.held
			sent++
		case <-r.Context().Done():
			return
		case <-g.gone:
			return
		}
		if held >= g.held {
			_ = out.Flush()
			held = 0
		}
		if sent == g.cut && g.cut > 0 {
			panic(http.ErrAbortHandler)
		}
	}
}

// through tries a gateway and returns what is said about the proxy. All waits are those
// of the doctor and the gateway, in a time of their own.
func through(t *testing.T, g *gateway, change ...func(*Proxy, *Config)) (all map[string]Result) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { all = tried(t, g, change...) })
	return all
}

func tried(t *testing.T, g *gateway, change ...func(*Proxy, *Config)) map[string]Result {
	t.Helper()
	if g.status == 0 {
		g.status = http.StatusOK
	}
	g.streams, g.gone = map[chan string]bool{}, make(chan struct{})
	defer close(g.gone)
	cfg := prepared()
	before := run(t, cfg)
	cfg.Proxy = &Proxy{
		URL: "http://127.0.0.1/sse/connect", dial: pipetest.Serve(t, g), Channel: "x", Publish: g.publish, Token: "t0ken", Streams: g.count, StartBlock: true,
		Pace: 20 * time.Millisecond, Patience: 500 * time.Millisecond,
	}
	for _, f := range change {
		f(cfg.Proxy, &cfg)
	}
	all := run(t, cfg)
	for check := range before {
		delete(all, check)
	}
	return all
}

func TestStreamThatPassesIsFine(t *testing.T) {
	all := through(t, &gateway{})
	require.Len(t, all, 9)
	require.Equal(t, Skip, all["proxy: quiet stream"].Status)
	delete(all, "proxy: quiet stream")
	for _, r := range all {
		require.Equal(t, OK, r.Status, "%v", r)
	}
	require.Contains(t, all["proxy: events"].Text, "10 messages, each at once")
	require.Contains(t, all["proxy: HTTP version"].Text, "HTTP/1.1")
	require.Contains(t, all["proxy: resume"].Text, "9 messages behind a Last-Event-ID")
	require.Contains(t, all["proxy: request fields"].Text, "the position of the beginning")
	require.Contains(t, all["proxy: clients that leave"].Text, "closed at once")
}

func TestEventsThatAreLateOneByOneAreFound(t *testing.T) {
	r := through(t, &gateway{late: 200 * time.Millisecond}, func(p *Proxy, _ *Config) { p.Pace = 250 * time.Millisecond })["proxy: events"]
	require.Equal(t, Warn, r.Status)
	require.Contains(t, r.Text, "200ms later than the network needs")
	require.Contains(t, r.Fix, "option http-no-delay")
}

func TestWhatAProxyDoesToResumesIsFound(t *testing.T) {
	f := func(g *gateway, text, fix string) {
		t.Helper()
		r := through(t, g)["proxy: resume"]
		require.Equal(t, Fail, r.Status, "%v", r)
		require.Contains(t, r.Text, text)
		require.Contains(t, r.Fix, fix)
	}
	f(&gateway{loses: "Last-Event-ID"}, "a resume starts at now", "last_event_id in the query")
	f(&gateway{holds: true}, "9 of 9 messages behind a Last-Event-ID did not come", "proxy_buffering off")
	f(&gateway{forgets: true}, "a gap came instead of the messages: trimmed", "--history off")
}

func TestFieldsThatDoNotComeThroughAreFound(t *testing.T) {
	for _, lost := range []string{"Pragma", "Cache-Control"} {
		r := through(t, &gateway{loses: lost})["proxy: request fields"]
		require.Equal(t, Warn, r.Status)
		require.Contains(t, r.Fix, "start=id")
	}
	r := through(t, &gateway{loses: "Pragma"}, func(p *Proxy, _ *Config) { p.StartBlock = false })["proxy: request fields"]
	require.Equal(t, Skip, r.Status)
	r = through(t, &gateway{fields: []string{"Cache-Control", "max-age=60"}})["proxy: head"]
	require.Equal(t, Warn, r.Status)
	require.Contains(t, r.Text, `Cache-Control is "max-age=60"`)
}

func TestStreamsOfClientsThatHaveGoneAreCounted(t *testing.T) {
	const check = "proxy: clients that leave"
	r := through(t, &gateway{keeps: 2})[check]
	require.Equal(t, OK, r.Status, "%v", r)
	require.Contains(t, r.Text, "here after 2 messages")
	r = through(t, &gateway{keeps: 1000})[check]
	require.Equal(t, Fail, r.Status, "%v", r)
	require.Contains(t, r.Text, "5 streams stay open")
	require.Contains(t, r.Fix, "--max-age 1h")
	r = through(t, &gateway{keeps: 1000}, func(p *Proxy, _ *Config) { p.MaxAge = time.Hour })[check]
	require.Equal(t, Warn, r.Status, "%v", r)
	require.Contains(t, r.Text, "--max-age 1h0m0s ends them")

	r = through(t, &gateway{}, func(p *Proxy, _ *Config) { p.Streams = nil })[check]
	require.Equal(t, Skip, r.Status)
	require.Contains(t, r.Text, "--admin-url")
	r = through(t, &gateway{}, func(p *Proxy, _ *Config) {
		p.Streams = func(context.Context) (int, error) { return 1, nil }
	})[check]
	require.Equal(t, Skip, r.Status)
	require.Contains(t, r.Text, "know 1 of 3 streams")
	r = through(t, &gateway{}, func(p *Proxy, _ *Config) {
		p.Streams = func(context.Context) (int, error) { return 0, errors.New("nobody listens") }
	})[check]
	require.Equal(t, Skip, r.Status)
	require.Contains(t, r.Text, "nobody listens")
}

func TestStreamsThatAreHeldBackAreFound(t *testing.T) {
	f := func(g *gateway, check, text, fix string) {
		t.Helper()
		r := through(t, g)[check]
		require.Equal(t, Fail, r.Status, "%v", r)
		require.Contains(t, r.Text, text)
		require.Contains(t, r.Fix, fix)
	}
	f(&gateway{headless: true}, "proxy: begin", "no head within 500ms", "proxy_buffering off")
	f(&gateway{silent: true}, "proxy: begin", "not a byte of the stream", "proxy_buffering off")
	f(&gateway{silent: true, fields: []string{"Server", "nginx/1.22"}}, "proxy: begin", "not a byte", "nginx: no proxy_ignore_headers")
	f(&gateway{held: 100}, "proxy: events", "none of 10 messages", "")
	f(&gateway{held: 4}, "proxy: events", "2 of 10 messages did not come", "")
	f(&gateway{held: 5}, "proxy: events", "came several at once", "")
	f(&gateway{held: 10, fields: []string{"X-Accel-Buffering", "no"}}, "proxy: events", "came several at once", "X-Accel-Buffering: no comes through")
}

func TestStreamThatIsCutIsFound(t *testing.T) {
	r := through(t, &gateway{cut: 3})["proxy: events"]
	require.Equal(t, Fail, r.Status)
	require.Contains(t, r.Text, "the stream was cut after 3 of 10 messages")
	require.Contains(t, r.Fix, "proxy_read_timeout 45 s")

	r = through(t, &gateway{full: true})["proxy: events"]
	require.Equal(t, Fail, r.Status)
	require.Contains(t, r.Fix, "GET /ready")

	r = through(t, &gateway{cut: 12, beat: 10 * time.Second}, func(p *Proxy, cfg *Config) {
		p.Time, cfg.Heartbeat = time.Minute, 10*time.Second
	})["proxy: quiet stream"]
	require.Equal(t, Fail, r.Status)
	require.Contains(t, r.Text, "it was cut after 20s")
	require.Contains(t, r.Fix, "timeout client")
}

func TestHeartbeatsOfAQuietStreamAreCounted(t *testing.T) {
	rest := func(beat time.Duration) func(*Proxy, *Config) {
		return func(p *Proxy, cfg *Config) { p.Time, cfg.Heartbeat = time.Second, beat }
	}
	r := through(t, &gateway{beat: 100 * time.Millisecond}, rest(100*time.Millisecond))["proxy: quiet stream"]
	require.Equal(t, OK, r.Status, r.Text)
	require.Regexp(t, `it stayed open for 1s, with \d+ heartbeats`, r.Text)
	r = through(t, &gateway{beat: 100 * time.Millisecond, beatEvent: "ping"}, rest(100*time.Millisecond), func(_ *Proxy, cfg *Config) {
		cfg.HeartbeatEvent = "ping"
	})["proxy: quiet stream"]
	require.Equal(t, OK, r.Status, r.Text)
	require.Regexp(t, `it stayed open for 1s, with \d+ heartbeats`, r.Text)
	r = through(t, &gateway{}, rest(100*time.Millisecond))["proxy: quiet stream"]
	require.Equal(t, Fail, r.Status, r.Text)
	require.Contains(t, r.Text, "0 of 8 heartbeats came")
	r = through(t, &gateway{}, rest(time.Minute))["proxy: quiet stream"]
	require.Equal(t, OK, r.Status)
	require.Contains(t, r.Text, "no heartbeat was due")
	r = through(t, &gateway{}, rest(-1))["proxy: quiet stream"]
	require.Equal(t, Skip, r.Status)
}

func TestAnswersThatAreNoStreamAreExplained(t *testing.T) {
	f := func(g *gateway, text, fix string) {
		t.Helper()
		all := through(t, g)
		require.Len(t, all, 1)
		require.Equal(t, Fail, all["proxy: begin"].Status)
		require.Contains(t, all["proxy: begin"].Text, text)
		require.Contains(t, all["proxy: begin"].Fix, fix)
	}
	f(&gateway{status: 502}, "502 Bad Gateway", "is ssed running")
	f(&gateway{status: 401}, "401 Unauthorized", "--token-file")
	f(&gateway{status: 404}, "404 Not Found", "--public-url")
	f(&gateway{status: 301, fields: []string{"Location", "/other"}}, "301 Moved", "--public-url")
	f(&gateway{fields: []string{"Content-Type", "text/html"}}, `"text/html", not an event stream`, "--public-url")
}

func TestProxyThatIsNotThereIsNamedWithoutItsURL(t *testing.T) {
	all := through(t, &gateway{}, func(p *Proxy, _ *Config) { p.URL, p.dial = "http://user:s3cret@127.0.0.1:1/", nil })
	require.Contains(t, all["proxy: begin"].Text, "connection refused")
	require.NotContains(t, all["proxy: begin"].Text, "s3cret")
}

func TestCompressionAndPublishingThatFailsAreNamed(t *testing.T) {
	all := through(t, &gateway{gzip: true, fields: []string{"Content-Encoding", "gzip"}})
	require.Equal(t, Warn, all["proxy: compression"].Status)
	require.Equal(t, OK, all["proxy: events"].Status, "%v", all)
	all = through(t, &gateway{fields: []string{"Content-Encoding", "gzip"}}) // it is not
	require.Equal(t, Fail, all["proxy: begin"].Status)
	require.Contains(t, all["proxy: begin"].Text, "ended before its first byte")
	all = through(t, &gateway{}, func(p *Proxy, _ *Config) {
		p.Publish = func(context.Context, string) error { return errors.New("no Redis") }
	})
	require.Equal(t, Fail, all["proxy: events"].Status)
	require.Contains(t, all["proxy: events"].Text, "no Redis")
}

func TestTokenAndChannelAreSent(t *testing.T) {
	var got *http.Request
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		w.WriteHeader(http.StatusForbidden)
	}))
	defer server.Close()
	through(t, &gateway{}, func(p *Proxy, _ *Config) { p.URL, p.Channel, p.dial = server.URL+"/a?key=b", "c d", nil })
	require.Equal(t, "Bearer t0ken", got.Header.Get("Authorization"))
	require.Equal(t, "text/event-stream", got.Header.Get("Accept"))
	require.Equal(t, "b", got.URL.Query().Get("key"))
	require.Equal(t, "c d", got.URL.Query().Get("channel_id"))

	through(t, &gateway{}, func(p *Proxy, _ *Config) {
		p.URL, p.Token, p.dial = strings.Replace(server.URL, "://", "://user:pass@", 1), "", nil
	})
	user, password, _ := got.BasicAuth()
	require.Equal(t, "user pass", user+" "+password, "as a browser does")
}

// TestCertificatesThatAreNotTrustedAreNamedWithTheFix: by the real library, whose errors
// tell the one from the other.
func TestCertificatesThatAreNotTrustedAreNamedWithTheFix(t *testing.T) {
	proxy := httptest.NewUnstartedServer(http.NotFoundHandler())
	proxy.Config.ErrorLog = log.New(io.Discard, "", 0)
	proxy.StartTLS()
	defer proxy.Close()
	f := func(host, text, fix string) {
		t.Helper()
		cfg := prepared()
		cfg.Proxy = &Proxy{URL: "https://" + host + proxy.Listener.Addr().String()[len("127.0.0.1"):] + "/sse/connect", Channel: "x"}
		r := run(t, cfg)["proxy: begin"]
		require.Equal(t, Fail, r.Status, "%v", r)
		require.Contains(t, r.Text, text)
		require.Contains(t, r.Fix, fix)
	}
	f("127.0.0.1", "unknown authority", "SSL_CERT_FILE=")
	f("localhost", "not localhost", "--public-url with a name that the certificate has")
}
