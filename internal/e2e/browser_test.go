//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
	"ssed/sseproto"
)

// page is what an application's page does with an EventSource: it notes what happens
// for the test to fetch.
const page = `<!doctype html><title>e2e</title>
<script type="importmap">{"imports": {
	"ssed-client": "/ssed.js",
	"@microsoft/fetch-event-source": "/fetch-event-source/index",
	"event-source-polyfill": "/event-source-polyfill.js",
	"sse.js": "/sse.js"
}}</script><script>
const seen = [];
function listen(url, withCredentials) {
	const source = new EventSource(url, {withCredentials});
	for (const type of ["message", "gap", "order.paid", "open", "error"]) {
		source.addEventListener(type, (e) => seen.push({
			Event: type, ID: e.lastEventId ?? "", Data: e.data ?? "", State: source.readyState,
		}));
	}
}
async function listenByHelper(url, options) {
	const {subscribe} = await import("/ssed.js");
	const stream = subscribe(url, [], {
		...options,
		onMessage: (m) => seen.push({Event: m.type, ID: m.id, Data: m.data}),
		onGap: (gap) => seen.push({Event: "gap", ID: stream.lastEventId, Data: JSON.stringify(gap)}),
		onState: (open) => seen.push({Event: open ? "open" : "error", State: open ? 1 : 0}),
		onRefused: () => seen.push({Event: "error", State: 2}),
	});
	return stream;
}
async function listenTold(url, channels) {
	const {subscribe} = await import("/ssed.js");
	const stream = subscribe(url, channels, {
		tell: true,
		onMessage: (m) => seen.push({Event: "message", ID: m.id, Data: m.type + " on " + m.channel + ": " + m.data}),
		onGap: (gap) => seen.push({Event: "gap", ID: "", Data: JSON.stringify(gap)}),
		onState: (open) => seen.push({Event: open ? "open" : "error", State: open ? 1 : 0}),
	});
	stream.on("news", () => seen.push({Event: "message", ID: "", Data: "never"}));
	stream.on("news", (m) => seen.push({Event: "message", ID: m.id, Data: "for news: " + m.data}));
}
function listenNative(url, types) {
	const source = new EventSource(url);
	source.onopen = () => seen.push({Event: "open", ID: "", Data: "", State: 1});
	for (const type of types) {
		source.addEventListener(type, (e) => seen.push({Event: "message", ID: e.lastEventId, Data: e.type + ": " + e.data}));
	}
}
let tokens = 0;
function listenWithTokens(url) { listenByHelper(url, {token: () => "token-" + ++tokens}); }
// Pages that are opened again keep the last ID, as after a reload.
async function listenFromLastID(url) {
	const stream = await listenByHelper(url, {lastEventId: sessionStorage.lastID ?? ""});
	addEventListener("pagehide", () => { sessionStorage.lastID = stream.lastEventId; });
}
async function installWorker(script) {
	await navigator.serviceWorker.register(script);
	await navigator.serviceWorker.ready;
	if (!navigator.serviceWorker.controller) {
		await new Promise((done) => navigator.serviceWorker.addEventListener("controllerchange", done));
	}
	seen.push({Event: "worker", State: 0});
}
function setCookie(pair) { document.cookie = pair; }
async function listenByBareFetch(url) {
	const {fetchEventSource} = await import("/fetch-event-source/index");
	await fetchEventSource(url, {onmessage: (e) => seen.push({Event: "message", ID: e.id, Data: e.data})});
}
async function runSnippet(name, url, channels) {
	window.url = url;
	window.channels = channels;
	window.show = (type, id, data) => seen.push({Event: type, ID: id, Data: data});
	window.lost = (why) => seen.push({Lost: why ? "error" : "end"});
	await import("/snippets/" + name);
}
</script>`

// workerBegins is how a service worker takes over the page that has installed it.
const workerBegins = `
self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (e) => e.waitUntil(self.clients.claim()));
`

// passThroughWorker answers every request of the page by fetch.
const passThroughWorker = workerBegins + `
self.addEventListener("fetch", (e) => e.respondWith(fetch(e.request)));
`

// readyState of a closed EventSource.
const stateClosed = 2

// sighting is one line of the page's notes.
type sighting struct {
	event
	State int
}

// servePages serves the page on an origin of its own.
func servePages(t testing.TB) (origin string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, page)
	})
	// The library imports its parts without ".js", as bundlers want it.
	mux.HandleFunc("GET /fetch-event-source/", func(w http.ResponseWriter, req *http.Request) {
		http.ServeFile(w, req, "clients/node_modules/@microsoft/fetch-event-source/lib/esm/"+path.Base(req.URL.Path)+".js")
	})
	mux.HandleFunc("GET /snippets/", func(w http.ResponseWriter, req *http.Request) {
		http.ServeFile(w, req, "clients/snippets/"+path.Base(req.URL.Path))
	})
	// What a bundler does to a package of the time before modules.
	mux.HandleFunc("GET /event-source-polyfill.js", func(w http.ResponseWriter, _ *http.Request) {
		text, err := os.ReadFile("clients/node_modules/event-source-polyfill/src/eventsource.js")
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "text/javascript")
		fmt.Fprintf(w, "%s\nexport const { EventSourcePolyfill } = globalThis;", text)
	})
	mux.HandleFunc("GET /sse.js", func(w http.ResponseWriter, req *http.Request) {
		http.ServeFile(w, req, "clients/node_modules/sse.js/lib/sse.js")
	})
	mux.HandleFunc("GET /htmx", serveHTMX)
	mux.HandleFunc("GET /htmx/", func(w http.ResponseWriter, req *http.Request) {
		http.ServeFile(w, req, "clients/node_modules/"+map[string]string{"htmx.js": "htmx.org/dist/htmx.js", "sse.js": "htmx-ext-sse/sse.js"}[path.Base(req.URL.Path)])
	})
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "the state after a gap") })
	mux.HandleFunc("GET /worker.js", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/javascript")
		fmt.Fprint(w, passThroughWorker)
	})
	mux.HandleFunc("GET /worker-of-the-docs.js", func(w http.ResponseWriter, _ *http.Request) {
		text, err := os.ReadFile("clients/snippets/service-worker.js")
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "text/javascript")
		fmt.Fprintf(w, "%s%s", workerBegins, text)
	})
	mux.HandleFunc("GET /ssed.js", func(w http.ResponseWriter, req *http.Request) {
		http.ServeFile(w, req, helperFile)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

// serveHTMX is a page with the snippet for htmx. Its query has the URL of the stream.
func serveHTMX(w http.ResponseWriter, req *http.Request) {
	snippet, err := os.ReadFile("clients/snippets/htmx-ext-sse.html")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprintf(w, `<!doctype html><title>e2e</title><script src="/htmx/htmx.js"></script><script src="/htmx/sse.js"></script><script>
const seen = [];
addEventListener("htmx:sseMessage", ({detail}) => seen.push({Event: detail.type, ID: detail.lastEventId, Data: detail.data}));
addEventListener("htmx:sseError", () => seen.push({Lost: "error"}));
</script>%s`, strings.Replace(string(snippet), "/sse/connect?channel_id=news", html.EscapeString(req.URL.Query().Get("url")), 1))
}

// browser is one Chromium for a test and its subtests.
type browser struct{ ctx context.Context }

func startBrowser(t testing.TB) *browser {
	t.Helper()
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("no-sandbox", true), // does not work as root
		chromedp.Flag("disable-gpu", true),
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		// Each tab has a process, so that one of them can be killed.
		chromedp.Flag("disable-features", "Translate,BlinkGenPropertyTrees,ProcessPerSiteUpToMainFrameThreshold"),
		chromedp.Flag("ignore-certificate-errors", true),
		chromedp.WSURLReadTimeout(patience),
	)
	ctx, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	version, err := chromedp.Run(ctx, chromedp.Evaluate[string](`navigator.userAgent.match(/\w*Chrome\/\S+/)[0]`))
	require.NoError(t, err)
	tested.add("Chromium EventSource", version)
	return &browser{ctx}
}

// tab is a page in a tab of its own.
type tab struct {
	t   testing.TB
	ctx context.Context
	collector

	killed atomic.Bool
	moving sync.Mutex // held while the tab navigates, or its notes are taken

	mu      sync.Mutex
	changes []sighting // guarded by mu: open and error
}

// open opens a tab with the page of an origin. It is closed when the test ends.
func (b *browser) open(t testing.TB, origin string) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx)
	p := &tab{t: t, ctx: ctx}
	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(origin+"/")))
	fetching, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { p.fetch(fetching) })
	t.Cleanup(func() {
		stop()
		cancel() // before the wait: a page that was killed answers nothing
		wg.Wait()
	})
	return p
}

// navigate replaces the page of the tab.
func (p *tab) navigate(url string) {
	p.t.Helper()
	p.moving.Lock()
	defer p.moving.Unlock()
	require.NoError(p.t, chromedp.Do(p.ctx, chromedp.Navigate(url)))
}

// kill ends the process of the tab's page: no handler of it runs.
func (p *tab) kill() {
	p.t.Helper()
	p.killed.Store(true)
	// Nothing answers the command, nor what the test waits for of this page.
	go func() {
		_ = chromedp.Do(p.ctx, chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
			_, err := cdp.Call(ctx, t, cdppage.Crash, cdp.Empty{})
			return err
		}))
	}()
}

// run runs a function of the page.
func (p *tab) run(function string, args ...any) {
	p.t.Helper()
	list, err := json.Marshal(append([]any{}, args...))
	require.NoError(p.t, err)
	script := fmt.Sprintf("void %s(...%s); true", function, list)
	_, err = chromedp.Run(p.ctx, chromedp.Evaluate[bool](script))
	require.NoError(p.t, err)
}

// listen opens an EventSource.
func (p *tab) listen(url string, withCredentials bool) {
	p.t.Helper()
	p.run("listen", url, withCredentials)
}

// fetch takes the page's notes until the test ends.
func (p *tab) fetch(ctx context.Context) {
	for ctx.Err() == nil {
		p.moving.Lock()
		notes, err := chromedp.Run(p.ctx, chromedp.Evaluate[[]sighting](`typeof seen === "undefined" ? [] : seen.splice(0)`))
		p.moving.Unlock()
		if err != nil {
			if ctx.Err() == nil && !p.killed.Load() {
				p.t.Error(err)
			}
			return
		}
		for _, n := range notes {
			p.note(n)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pollInterval):
		}
	}
}

func (p *tab) note(n sighting) {
	if n.Lost != "" || n.Event != "open" && n.Event != "error" && n.Event != "worker" {
		p.show(n.event)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changes = append(p.changes, n)
}

// count counts the changes of a kind after which the EventSource is in that state.
func (p *tab) count(kind string, state int) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.changes {
		if c.Event == kind && c.State == state {
			n++
		}
	}
	return n
}

// wantNoMore: nothing has come beside what the test took, so nothing twice.
func (p *tab) wantNoMore() {
	p.t.Helper()
	require.Equal(p.t, p.collector.next, p.received())
}

// received counts the events that have come.
func (p *tab) received() int {
	p.collector.mu.Lock()
	defer p.collector.mu.Unlock()
	return len(p.events)
}

func (p *tab) waitOpen() {
	p.t.Helper()
	eventually(p.t, "open in the browser", func() bool { return p.count("open", 1) > 0 })
}

func (p *tab) want(data ...string) {
	p.t.Helper()
	p.collector.want(p.t, data...)
}

func TestBrowser(t *testing.T) {
	b := startBrowser(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *browser)
	}{
		{"DecodesEveryPayload", browserDecodesEveryPayload},
		{"RunsEachClient", browserRunsEachClient},
		{"MissesNothingOverCuts", browserMissesNothingOverCuts},
		{"LosesNothingFromOpenOn", browserLosesNothingFromOpenOn},
		{"AsksForLeaveAcrossOrigins", browserAsksForLeaveAcrossOrigins},
		{"HoldsSixTabs", browserHoldsSixTabs},
		{"HoldsManyStreamsOverHTTP2", browserHoldsManyStreamsOverHTTP2},
		{"OutlastsAnInstanceThatIsNotReady", browserOutlastsAnInstanceNotReady},
		{"ShowsGaps", browserShowsGaps},
		{"KnowsTypedEvents", browserKnowsTypedEvents},
		{"MovesOverWhenItsInstanceDrains", browserMovesOver},
		{"IsToldTheChannels", browserIsToldTheChannels},
		{"AsksForAThousandChannels", browserAsksForAThousandChannels},
		{"HelperNoticesSilence", browserHelperNoticesSilence},
		{"HelperNoticesNoAnswer", browserHelperNoticesNoAnswer},
		{"HelperNoticesNoAnswerToAReconnect", browserHelperNoticesNoAnswerToAReconnect},
		{"HelperComesBackAfterRefusals", browserHelperComesBackAfterRefusals},
		{"HelperAsksForATokenAgain", browserHelperAsksForATokenAgain},
		{"HelperResumesBehindAServiceWorker", browserHelperResumesBehindAServiceWorker},
		{"ResumesBehindAServiceWorkerThatLeavesItOut", browserResumesBehindAServiceWorker},
		{"HelperComesBackWithTheNetwork", browserHelperComesBackWithTheNetwork},
		{"TabsShareAStream", browserTabsShareAStream},
		{"TabsGoOnWhenTheLeaderIsKilled", browserTabsGoOnWhenTheLeaderIsKilled},
		{"TabsGoOnWhenTheLeaderIsFrozen", browserTabsGoOnWhenTheLeaderIsFrozen},
		{"ReloadedTabsCatchUp", browserReloadedTabsCatchUp},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, b) })
	}
}

func browserDecodesEveryPayload(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r)
	p := b.open(t, servePages(t))
	p.listen(streamURL(in.public, "a"), false)
	p.waitOpen()
	for _, v := range vectors(t) {
		publish(t, r, "a", v.sent)
		e := p.take(t)
		require.Equal(t, sseproto.EventMessage, e.Event, v.name)
		require.True(t, same(e.Data, v.got), "%s: %.100q is not %.100q", v.name, e.Data, v.got)
	}
}

// subject makes a client for tryClient of a function of the page.
func (b *browser) subject(name, function string, more ...any) subject {
	return subject{name: name, start: func(t testing.TB, url string, show func(event)) {
		p := b.open(t, servePages(t))
		p.forward(t, show)
		p.run(function, append([]any{url}, more...)...)
	}}
}

// browserSubjects are those that run in a page. Their start is a function of the browser:
// see browser.subjects.
var browserSubjects = []struct{ name, snippet string }{
	{"browsers' EventSource", "eventsource.js"},
	{"ssed.js", "ssed.js"},
	{"fetch-event-source", "fetch-event-source.js"},
	{"event-source-polyfill", "event-source-polyfill.js"},
	{"htmx-ext-sse", ""},
}

// subjects are the clients that run in a page.
func (b *browser) subjects() (list []subject) {
	for _, s := range browserSubjects {
		one := subject{name: s.name, ends: s.name == "ssed.js"}
		if s.name == "fetch-event-source" {
			one.bare = b.subject(s.name, "listenByBareFetch").start
		}
		one.start = func(t testing.TB, stream string, show func(event)) {
			origin := servePages(t)
			p := b.open(t, origin)
			p.forward(t, show)
			if s.snippet == "" {
				p.navigate(origin + "/htmx?url=" + url.QueryEscape(stream))
				return
			}
			p.run("runSnippet", s.snippet, stream)
		}
		list = append(list, one)
	}
	return list
}

// forward gives what the page sees to show.
func (p *tab) forward(t testing.TB, show func(event)) {
	background(t, func(ctx context.Context) {
		for i := 0; ctx.Err() == nil; {
			p.collector.mu.Lock()
			fresh, losses := p.events[i:], p.lost
			p.lost = nil
			p.collector.mu.Unlock()
			for _, lost := range losses {
				show(event{Lost: lost})
			}
			for _, e := range fresh {
				show(e)
			}
			i += len(fresh)
			select {
			case <-ctx.Done():
			case <-time.After(pollInterval):
			}
		}
	})
}

// browserRunsEachClient fills the rows of browsers in the table of docs/CLIENTS.md, all
// at once: most of it is waiting.
func browserRunsEachClient(t *testing.T, b *browser) {
	for name, try := range map[string]func(*testing.T, []subject){
		"TakesTheStartBlock":               tryStartBlock,
		"NoticesThatSsedIsKilled":          tryKill,
		"OutlastsAnInstanceThatIsNotReady": tryNotReady,
		"OutlastsSilence":                  trySilence,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			try(t, b.subjects())
		})
	}
	browserBehavesAsTheOtherClients(t, b)
}

// browserBehavesAsTheOtherClients: htmx asks with credentials, which across origins takes
// --cors-credentials.
func browserBehavesAsTheOtherClients(t *testing.T, b *browser) {
	for _, name := range []string{"@microsoft/fetch-event-source", "event-source-polyfill", "htmx.org", "htmx-ext-sse"} {
		version := versionOf(t, "node", "-p", `require("./clients/node_modules/`+name+`/package.json").version`)
		tested.add("npm "+name, version+", in Chromium")
	}
	r := redistest.Start(t)
	in := startReady(t, r, "--heartbeat", "1s", "--cors-credentials")
	for _, s := range b.subjects() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			l := newLink(t, in.public)
			tryClient(t, r, l, s)
			if s.name == "fetch-event-source" || s.name == "event-source-polyfill" {
				// By fetch, which across origins takes a preflight.
				_, header := l.lastGet()
				require.Equal(t, "Bearer token", header.Get("Authorization"))
			}
		})
	}
}

func browserMissesNothingOverCuts(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r)
	l := newLink(t, in.public)
	p := b.open(t, servePages(t))
	p.listen(streamURL(l.host(), "a"), false)
	p.waitOpen()
	numbers := startNumbers(t, r, 5*time.Millisecond, "a")
	const cuts = 8
	for i := range cuts {
		target := p.received() + 50
		eventually(t, "messages between cuts", func() bool { return p.received() >= target })
		begun := l.count(&l.streams)
		l.cut(i%2 == 0)
		l.waitStreams(begun + 1)
		_, header := l.lastGet()
		_, err := sseproto.ParseID([]byte(header.Get("Last-Event-ID")))
		require.NoError(t, err)
	}
	n := numbers.stop()
	for i := range n {
		p.want(strconv.Itoa(i))
	}
	require.Equal(t, n, p.received(), "nothing twice")
	tested.add("Chromium over cuts", fmt.Sprintf("%d cuts, %d messages, each once", cuts, n))
}

// browserLosesNothingFromOpenOn: cut off before its first event, and sent to another
// instance, the page gets what was published meanwhile, also through proxies.
func browserLosesNothingFromOpenOn(t *testing.T, b *browser) {
	r := redistest.Start(t)
	one, other := startReady(t, r), startReady(t, r)
	l := newLink(t, one.public)
	for name, host := range map[string]string{
		"alone":   l.host(),
		"nginx":   startNginx(t, l.host(), l.host()),
		"haproxy": startHAProxy(t, l.host(), l.host()),
	} {
		l.leadTo(one.public)
		p := b.open(t, servePages(t))
		p.listen(streamURL(host, name), false)
		p.waitOpen()
		_, header := l.lastGet()
		require.Equal(t, "no-cache no-cache", header.Get("Cache-Control")+" "+header.Get("Pragma"), name)
		l.leadTo(other.public)
		l.cut(false)
		publish(t, r, name, "while away")
		p.want("while away")
		one.waitStreams(0)
		p.wantNoMore()
		tested.add("Chromium before its first event, "+name, "cut off and back at another instance: nothing lost, no gap")
	}
}

// browserResumesBehindAServiceWorker: with the worker of the docs an EventSource comes back
// with its last ID. With one that passes every request on it gives up when it is cut off,
// and comes back without the ID when ssed ends the stream.
func browserResumesBehindAServiceWorker(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r)
	opened := func(script, channel string) (*tab, *link) {
		l := newLink(t, in.public)
		origin := serveBoth(t, l)
		p := b.open(t, origin)
		p.run("installWorker", script)
		eventually(t, "the worker", func() bool { return p.count("worker", 0) > 0 })
		p.listen(streamURL(strings.TrimPrefix(origin, "http://"), channel), false)
		p.waitOpen()
		publish(t, r, channel, "before")
		p.want("before")
		return p, l
	}
	p, l := opened("/worker-of-the-docs.js", "a")
	l.cut(false)
	publish(t, r, "a", "meanwhile")
	p.want("meanwhile")

	const changed = "Chromium does better now: docs/CLIENTS.md says otherwise"
	p, l = opened("/worker.js", "b")
	l.cut(false)
	eventually(t, "an EventSource that has given up. Else: "+changed, func() bool { return p.count("error", stateClosed) > 0 })

	_, l = opened("/worker.js", "c")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, "http://"+in.admin+"/api/connections?channel=c", nil)
	require.NoError(t, err)
	resp, err := httpClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
	l.waitStreams(2)
	require.Empty(t, l.lastID(), changed)
	tested.add("Chromium behind a service worker", "gives up, or comes back without Last-Event-ID, unless the worker leaves the stream out")
}

// serveBoth serves the page, and below /sse/ what a link leads to, on one origin.
func serveBoth(t testing.TB, l *link) (origin string) {
	t.Helper()
	to := func(address string) *httputil.ReverseProxy {
		target, err := url.Parse(address)
		require.NoError(t, err)
		proxy := httputil.NewSingleHostReverseProxy(target)
		proxy.FlushInterval = -1
		proxy.ErrorLog = log.New(io.Discard, "", 0) // connections that the test cuts
		return proxy
	}
	mux := http.NewServeMux()
	mux.Handle("/sse/", to("http://"+l.host()))
	mux.Handle("/", to(servePages(t)))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	return server.URL
}

func browserAsksForLeaveAcrossOrigins(t *testing.T, b *browser) {
	friend, stranger := servePages(t), servePages(t)
	cases := []struct {
		name            string
		flags           []string
		origin          string
		withCredentials bool
		opens, cookie   bool
	}{
		{"by default", nil, stranger, false, true, false},
		{"by default, with credentials", nil, stranger, true, false, false},
		{"credentials", []string{"--cors-credentials"}, stranger, true, true, true},
		{"credentials not used", []string{"--cors-credentials"}, stranger, false, true, false},
		{"on the list", []string{"--cors-origins", friend}, friend, false, true, false},
		{"not on the list", []string{"--cors-origins", friend}, stranger, false, false, false},
		{"on the list, with credentials", []string{"--cors-origins", friend, "--cors-credentials"}, friend, true, true, true},
		{"not on the list, with credentials", []string{"--cors-origins", friend, "--cors-credentials"}, stranger, true, false, false},
	}
	for _, c := range cases {
		r := redistest.Start(t)
		in := start(t, append(c.flags, "--redis-url", r.URL())...)
		in.waitReady()
		l := newLink(t, in.public)
		p := b.open(t, c.origin)
		p.run("setCookie", "session=secret")
		p.listen(streamURL(l.host(), "a"), c.withCredentials)
		if !c.opens {
			eventually(t, c.name+": refused by the browser", func() bool { return p.count("error", stateClosed) > 0 })
			require.Zero(t, p.count("open", 1), c.name)
			continue
		}
		p.waitOpen()
		publish(t, r, "a", c.name)
		p.want(c.name)
		_, header := l.lastGet()
		require.Equal(t, c.cookie, strings.Contains(header.Get("Cookie"), "session=secret"), c.name)
	}
}

// browserHoldsSixTabs: that is what browsers allow for one host over HTTP/1.1.
func browserHoldsSixTabs(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r)
	origin := servePages(t)
	var tabs []*tab
	for range 6 {
		p := b.open(t, origin)
		p.listen(streamURL(in.public, "a"), false)
		p.waitOpen()
		tabs = append(tabs, p)
	}
	in.waitStreams(len(tabs))
	for i := range 10 {
		publish(t, r, "a", strconv.Itoa(i))
		for _, p := range tabs {
			p.want(strconv.Itoa(i))
		}
	}
}

// browserHoldsManyStreamsOverHTTP2: behind a proxy that speaks HTTP/2 the limit is gone.
func browserHoldsManyStreamsOverHTTP2(t *testing.T, b *browser) {
	const streams = 30
	r := redistest.Start(t)
	in := startReady(t, r)
	host := freeHost(t)
	runNginx(t, freeHost(t), host, newCertificate(t), []string{"127.0.0.1:8080", in.public, "127.0.0.1:8081", in.public})
	p := b.open(t, servePages(t))
	for range streams {
		p.listen(strings.Replace(streamURL(host, "a"), "http:", "https:", 1), false)
	}
	eventually(t, "all open", func() bool { return p.count("open", 1) == streams })
	in.waitStreams(streams)
	publish(t, r, "a", "to all")
	for range streams {
		p.want("to all")
	}
}

func browserOutlastsAnInstanceNotReady(t *testing.T, b *browser) {
	r := redistest.Start(t)
	r.Stop()
	in := start(t, "--redis-url", r.URL())
	p := b.open(t, servePages(t))
	p.listen(streamURL(in.public, "a"), false)
	eventually(t, "three tries", func() bool { return p.count("error", 0) >= 3 })
	require.NoError(t, r.Restart())
	in.waitReady()
	in.waitStreams(1)
	publish(t, r, "a", "at last")
	p.want("at last")
	require.Zero(t, p.count("error", stateClosed))
}

func browserShowsGaps(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r)
	p := b.open(t, servePages(t))
	p.listen(streamURL(in.public, "a", "last_event_id", "nonsense"), false)
	e := p.take(t)
	require.Equal(t, "gap", e.Event)
	var gap struct{ Reason, Requested string }
	require.NoError(t, json.Unmarshal([]byte(e.Data), &gap))
	require.Equal(t, sseproto.ReasonUnknownID, gap.Reason)
	require.Equal(t, "nonsense", gap.Requested)
	publish(t, r, "a", "behind the gap")
	p.want("behind the gap")
}

// browserKnowsTypedEvents: the listener of the type is called, and the publisher's id
// comes back with the position when the browser reconnects.
func browserKnowsTypedEvents(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r, "--envelope", "json")
	l := newLink(t, in.public)
	p := b.open(t, servePages(t))
	p.listen(streamURL(l.host(), "a"), false)
	p.waitOpen()
	publish(t, r, "a", `{"event":"order.paid","id":"order/17","retry":20,"data":{"total":5}}`)
	e := p.take(t)
	require.Equal(t, "order.paid", e.Event)
	require.Equal(t, `{"total":5}`, e.Data)
	_, publisher, err := sseproto.ParseEventID(e.ID)
	require.NoError(t, err)
	require.Equal(t, "order/17", publisher)

	begun := l.count(&l.streams)
	l.cut(false)
	publish(t, r, "a", "meanwhile")
	l.waitStreams(begun + 1)
	_, header := l.lastGet()
	require.Equal(t, e.ID, header.Get("Last-Event-ID"))
	p.want("meanwhile")
	tested.add("Chromium typed events", "listener of the type called; the publisher's id sent back in Last-Event-ID")
}

// browserMovesOver: behind HAProxy the page notices nothing of a restart.
func browserMovesOver(t *testing.T, b *browser) {
	r := redistest.Start(t)
	one, other := startReady(t, r), startReady(t, r)
	host := startHAProxy(t, one.public, other.public)
	p := b.open(t, servePages(t))
	p.listen(streamURL(host, "a"), false)
	p.waitOpen()
	publish(t, r, "a", "before")
	p.want("before")
	if one.metric("ssed_streams") == 0 {
		one, other = other, one
	}
	one.Signal(sigterm)
	require.Zero(t, one.wait(t))
	publish(t, r, "a", "meanwhile")
	other.waitStreams(1)
	publish(t, r, "a", "after")
	p.want("meanwhile", "after")
	require.Zero(t, p.count("error", stateClosed))
}
