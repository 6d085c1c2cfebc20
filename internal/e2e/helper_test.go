//go:build e2e

package e2e

import (
	"bytes"
	"compress/gzip"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/chromedp/cdproto/network"
	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// helperFile is what pages may use in the place of a bare EventSource.
const helperFile = "../../clients/js/ssed.js"

// browserIsToldTheChannels: by tell=channel, with ssed.js and without.
func browserIsToldTheChannels(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r, "--heartbeat", "1s", "--envelope", "json")
	channels := []string{"news", "gap", "error", "50%", "two\nlines", "message"}
	send := func() {
		for _, channel := range channels {
			publish(t, r, channel, "x")
		}
		publish(t, r, "news", `{"event":"order.paid","data":"y"}`)
	}
	own := b.open(t, servePages(t))
	own.run("listenTold", "http://"+in.public+"/sse/connect", channels)
	own.waitOpen()
	send()
	own.want("for news: x", "%67ap on gap: x", "%65rror on error: x", "50%25 on 50%: x", "two%0Alines on two\nlines: x",
		"message on message: x", "order.paid on undefined: y")

	native := b.open(t, servePages(t))
	query := []string{"tell", "channel"}
	for _, channel := range channels[1:] {
		query = append(query, "channel_id", channel)
	}
	native.run("listenNative", streamURL(in.public, "news", query...), []string{"news", "%67ap", "%65rror", "50%25", "two%0Alines", "message", "order.paid"})
	native.waitOpen()
	send()
	native.want("news: x", "%67ap: x", "%65rror: x", "50%25: x", "two%0Alines: x", "message: x", "order.paid: y")
}

// browserHelperNoticesSilence: the connection stands and nothing comes out of it, which
// an EventSource does not notice. Heartbeats are comments here, and events in the tests below.
func browserHelperNoticesSilence(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r, "--heartbeat", "1s")
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
	pick     func(*http.Request) http.HandlerFunc // set before requests come; nil, or nil from it: none
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
		answer := odd[p.requests.Add(1)]
		if p.pick != nil {
			answer = p.pick(req)
		}
		if answer != nil {
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

// refuses answers as a proxy, so that a page of another origin may see the status.
func refuses(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.WriteHeader(status)
	}
}

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
	tryReconnectWithoutAnswer(t, subject{name: "ssed.js in Node", start: nodeHelper(watchful)})
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
	proxy := newOddProxy(t, in, map[int32]http.HandlerFunc{1: refuses(503), 2: refuses(503)})
	p := b.open(t, servePages(t))
	p.run("listenByHelper", proxy.stream(), map[string]any{})
	p.waitOpen()
	require.Equal(t, 2, p.count("error", stateClosed))
	publish(t, r, "a", "at last")
	p.want("at last")
}

// browserHelperAsksForATokenAgain: each connection has the token of its time, the one after
// a 401 too.
func browserHelperAsksForATokenAgain(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r)
	proxy := newOddProxy(t, in, map[int32]http.HandlerFunc{})
	proxy.pick = func(req *http.Request) http.HandlerFunc {
		if req.Method == http.MethodGet && req.Header.Get("Authorization") == "Bearer token-1" {
			return refuses(http.StatusUnauthorized)
		}
		return nil
	}
	p := b.open(t, servePages(t))
	p.run("listenWithTokens", proxy.stream())
	p.waitOpen()
	require.Equal(t, 1, p.count("error", stateClosed))
	publish(t, r, "a", "with a fresh token")
	p.want("with a fresh token")
}

// browserHelperResumesBehindAServiceWorker: Chromium sends no Last-Event-ID for the
// reconnects of an EventSource whose page has a worker that passes requests on. The
// helper has the position in the query.
func browserHelperResumesBehindAServiceWorker(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r)
	l := newLink(t, in.public)
	p := b.open(t, servePages(t))
	p.run("installWorker", "/worker.js")
	eventually(t, "the worker", func() bool { return p.count("worker", 0) > 0 })
	p.run("listenByHelper", streamURL(l.host(), "a"), map[string]any{})
	p.waitOpen()
	publish(t, r, "a", "1")
	p.want("1")
	for i := range 3 {
		begun := l.count(&l.streams)
		l.cut(false)
		missed := "missed " + strconv.Itoa(i)
		publish(t, r, "a", missed)
		l.waitStreams(begun + 1)
		p.want(missed)
	}
}

// browserHelperComesBackWithTheNetwork: the browser is offline, as after a laptop slept.
func browserHelperComesBackWithTheNetwork(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r, "--heartbeat", "1s")
	l := newLink(t, in.public)
	p := b.open(t, servePages(t))
	p.run("listenByHelper", streamURL(l.host(), "a"), watchful)
	p.waitOpen()
	publish(t, r, "a", "before")
	p.want("before")
	call(p, network.EmulateNetworkConditionsByRule, network.EmulateNetworkConditionsByRuleParams{
		MatchedNetworkConditions: []*network.Conditions{{Offline: true, DownloadThroughput: -1, UploadThroughput: -1}},
	})
	l.swallow()
	for i := range 5 {
		publish(t, r, "a", strconv.Itoa(i))
	}
	eventually(t, "two tries without a network", func() bool { return p.count("error", 0) >= 1 })
	call(p, network.EmulateNetworkConditionsByRule, network.EmulateNetworkConditionsByRuleParams{
		MatchedNetworkConditions: []*network.Conditions{},
	})
	p.want("0", "1", "2", "3", "4")
}

// TestHelperHasItsTypes: TypeScript takes ssed.js with the types of ssed.d.ts, and a page
// of an application too.
func TestHelperHasItsTypes(t *testing.T) {
	const compiler = "clients/node_modules/typescript/bin/tsc"
	said, err := exec.Command("node", script(t, "../"+compiler, compiler), "--allowJs", "--checkJs", "--strict",
		"--target", "es2022", "--module", "es2022", "--moduleResolution", "bundler", "--allowImportingTsExtensions",
		"--lib", "es2022,dom", "--noEmit", helperFile).CombinedOutput()
	require.NoError(t, err, "%s", said)
}

// TestHelperIsSmall: a page pays for every byte of it.
func TestHelperIsSmall(t *testing.T) {
	text, err := os.ReadFile(helperFile)
	require.NoError(t, err)
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	require.NoError(t, err)
	_, err = w.Write(text)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.LessOrEqual(t, packed.Len(), 4096)
	tested.add("ssed.js", strconv.Itoa(packed.Len())+" bytes with gzip")
}

// TestHelperIsPackedForNPM: "npm pack" has what package.json promises, and Node imports it.
func TestHelperIsPackedForNPM(t *testing.T) {
	dir := t.TempDir()
	source, err := filepath.Abs(filepath.Dir(helperFile))
	require.NoError(t, err)
	npm := func(args ...string) {
		cmd := exec.Command("npm", append(args, "--no-audit", "--no-fund", "--offline")...)
		cmd.Dir = dir
		said, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", said)
	}
	npm("pack", source)
	archives, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	require.NoError(t, err)
	require.Len(t, archives, 1)
	npm("install", archives[0])
	run := exec.Command("node", "--input-type=module", "-e", `import { subscribe } from "ssed-client"; console.log(typeof subscribe)`)
	run.Dir = dir
	said, err := run.CombinedOutput()
	require.NoError(t, err, "%s", said)
	require.Equal(t, "function\n", string(said))
	require.FileExists(t, filepath.Join(dir, "node_modules/ssed-client/ssed.d.ts"))
}
