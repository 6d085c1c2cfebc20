//go:build e2e

package e2e

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// helperFile is what pages may use in the place of a bare EventSource.
const helperFile = "../../clients/js/ssed.js"

func browserRunsTheHelper(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r, "--heartbeat", "1s")
	tryClient(t, r, newLink(t, in.public), b.subject("ssed.js in Chromium", "listenByHelper"))
}

// browserHelperNoticesSilence: the connection stands and nothing comes out of it, which
// an EventSource does not notice.
func browserHelperNoticesSilence(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r, "--heartbeat", "1s", "--heartbeat-event", "ping")
	l := newLink(t, in.public)
	p := b.open(t, servePages(t))
	p.run("listenByHelper", streamURL(l.host(), "a"), watchful)
	p.waitOpen()
	publish(t, r, "a", "1")
	p.want("1")
	beats := in.metric("ssed_stream_heartbeats_total")
	eventually(t, "more heartbeats than the helper would wait for", func() bool {
		return in.metric("ssed_stream_heartbeats_total") >= beats+5
	})
	require.Equal(t, 1, l.count(&l.streams), "heartbeats are no silence")

	l.swallow()
	publish(t, r, "a", "2")
	p.want("2")
	l.waitStreams(2)
	line, _ := l.lastGet()
	require.Contains(t, line, "last_event_id=")
	publish(t, r, "a", "3")
	p.want("3")
}

// oddProxy is a proxy in front of an instance that answers some requests, counted from
// one, in a way of its own.
type oddProxy struct {
	*httptest.Server
	requests atomic.Int32
}

func newOddProxy(t testing.TB, in *instance, odd map[int32]http.HandlerFunc) *oddProxy {
	t.Helper()
	target, err := url.Parse("http://" + in.public)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	proxy.ErrorLog = log.New(io.Discard, "", 0) // connections that the test cuts
	p := &oddProxy{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if answer, found := odd[p.requests.Add(1)]; found {
			answer(w, req)
			return
		}
		proxy.ServeHTTP(w, req)
	}))
	t.Cleanup(p.Close)
	t.Cleanup(p.CloseClientConnections)
	return p
}

func (p *oddProxy) stream() string { return streamURL(p.Listener.Addr().String(), "a") }

func answersNever(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }

func refuses(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }

// watchful are options with which the helper notices silence, sooner than pages would.
var watchful = map[string]any{"heartbeatEvent": "ping", "silence": 3000}

// browserHelperNoticesNoAnswer: a proxy takes the first request and says nothing.
func browserHelperNoticesNoAnswer(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r, "--heartbeat", "1s", "--heartbeat-event", "ping")
	proxy := newOddProxy(t, in, map[int32]http.HandlerFunc{1: answersNever})
	p := b.open(t, servePages(t))
	p.run("listenByHelper", proxy.stream(), watchful)
	p.waitOpen()
	publish(t, r, "a", "at last")
	p.want("at last")
}

func browserHelperNoticesNoAnswerToAReconnect(t *testing.T, b *browser) {
	tryReconnectWithoutAnswer(t, b.subject("ssed.js in Chromium", "listenByHelper", watchful))
}

func TestHelperNoticesNoAnswerToAReconnect(t *testing.T) {
	tryReconnectWithoutAnswer(t, subject{"ssed.js with npm eventsource", node("ssed.js", watchful)})
}

// tryReconnectWithoutAnswer: the connection breaks, the EventSource comes back by
// itself, and the proxy takes that request and says nothing.
func tryReconnectWithoutAnswer(t *testing.T, s subject) {
	t.Helper()
	r := redistest.Start(t)
	in := startReady(t, r, "--heartbeat", "1s", "--heartbeat-event", "ping")
	proxy := newOddProxy(t, in, map[int32]http.HandlerFunc{2: answersNever})
	var c collector
	s.start(t, proxy.stream(), c.show)
	in.waitStreams(1)
	publish(t, r, "a", "1")
	c.want(t, "1")
	proxy.CloseClientConnections()
	eventually(t, "the request that is not answered", func() bool { return proxy.requests.Load() >= 2 })
	publish(t, r, "a", "2")
	c.want(t, "2")
}

// browserHelperComesBackAfterRefusals: a proxy answers 503 twice.
func browserHelperComesBackAfterRefusals(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r)
	proxy := newOddProxy(t, in, map[int32]http.HandlerFunc{1: refuses, 2: refuses})
	p := b.open(t, servePages(t))
	p.run("listenByHelper", proxy.stream(), map[string]any{})
	p.waitOpen()
	require.Equal(t, 2, p.count("error", stateClosed))
	publish(t, r, "a", "at last")
	p.want("at last")
}

// TestHelperHasItsTypes: ssed.d.ts is what TypeScript makes of ssed.js, which it takes
// without a complaint.
func TestHelperHasItsTypes(t *testing.T) {
	const compiler = "clients/node_modules/typescript/bin/tsc"
	out := t.TempDir()
	said, err := exec.Command("node", script(t, "../"+compiler, compiler), "--allowJs", "--checkJs", "--strict",
		"--target", "es2022", "--module", "es2022", "--lib", "es2022,dom",
		"--declaration", "--emitDeclarationOnly", "--outDir", out, helperFile).CombinedOutput()
	require.NoError(t, err, "%s", said)
	made, err := os.ReadFile(filepath.Join(out, "ssed.d.ts"))
	require.NoError(t, err)
	shipped, err := os.ReadFile("../../clients/js/ssed.d.ts")
	require.NoError(t, err)
	require.Equal(t, string(made), string(shipped))
}
