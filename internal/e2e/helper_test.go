//go:build e2e

package e2e

import (
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
	p.run("listenByHelper", streamURL(l.host(), "a"), map[string]any{"heartbeatEvent": "ping", "silence": 3000})
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

// browserHelperNoticesNoAnswer: a proxy takes the first request and says nothing.
func browserHelperNoticesNoAnswer(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r, "--heartbeat", "1s", "--heartbeat-event", "ping")
	target, err := url.Parse("http://" + in.public)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if requests.Add(1) == 1 {
			<-req.Context().Done()
			return
		}
		proxy.ServeHTTP(w, req)
	}))
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	p := b.open(t, servePages(t))
	p.run("listenByHelper", streamURL(server.Listener.Addr().String(), "a"), map[string]any{"heartbeatEvent": "ping", "silence": 3000})
	p.waitOpen()
	publish(t, r, "a", "at last")
	p.want("at last")
}

// browserHelperComesBackAfterRefusals: a proxy answers 503 twice.
func browserHelperComesBackAfterRefusals(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r)
	target, err := url.Parse("http://" + in.public)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if requests.Add(1) <= 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		proxy.ServeHTTP(w, req)
	}))
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	p := b.open(t, servePages(t))
	p.run("listenByHelper", streamURL(server.Listener.Addr().String(), "a"), map[string]any{})
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
