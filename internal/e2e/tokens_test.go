//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// shownInTokens are the snippets of docs/TOKENS.md, by the name of their place.
var shownInTokens = map[string]shown{
	"worker":    {"clients/tokens/worker.py", "", "python"},
	"page":      {"clients/tokens/page.js", "", "js"},
	"React":     {"clients/tokens/useRun.js", "", "js"},
	"ssed.js":   {"clients/tokens/tabs.js", "", "js"},
	"httpx-sse": {"clients/tokens/reader.py", "", "python"},
}

// tokenSnippet is a snippet with an instance in the place of the example's.
func tokenSnippet(host, name string) (string, error) {
	text, err := os.ReadFile("clients/tokens/" + name)
	return strings.ReplaceAll(string(text), "https://sse.example.com", "http://"+host), err
}

// reactModule puts modules for Node together for a page, as bundlers do.
const reactModule = `
const process = {env: {NODE_ENV: "development"}};
const sources = %s;
const loaded = {};
function require(name) {
	if (!loaded[name]) {
		const module = loaded[name] = {exports: {}};
		new Function("module", "exports", "require", "process", sources[name])(module, module.exports, require, process);
	}
	return loaded[name].exports;
}
const react = require("react"), client = require("react-dom/client");
export const {createElement, StrictMode, useEffect, useState} = react;
export const {createRoot} = client;
`

// serveRuns serves a page for each way to show a run, and what they import.
func serveRuns(t testing.TB, host string) (origin string) {
	t.Helper()
	parts := map[string]string{
		"react": "react/cjs/react.development.js", "scheduler": "scheduler/cjs/scheduler.development.js",
		"react-dom": "react-dom/cjs/react-dom.development.js", "react-dom/client": "react-dom/cjs/react-dom-client.development.js",
	}
	sources := map[string]string{}
	for name, path := range parts {
		text, err := os.ReadFile("clients/node_modules/" + path)
		require.NoError(t, err, "make e2e installs it")
		sources[name] = string(text)
	}
	quoted, err := json.Marshal(sources)
	require.NoError(t, err)
	script := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
			_, _ = io.WriteString(w, text)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /react.js", script(fmt.Sprintf(reactModule, quoted)))
	mux.HandleFunc("GET /ssed.js", func(w http.ResponseWriter, req *http.Request) { http.ServeFile(w, req, helperFile) })
	for _, name := range []string{"page.js", "useRun.js", "tabs.js"} {
		text, err := tokenSnippet(host, name)
		require.NoError(t, err)
		mux.HandleFunc("GET /"+name, script(text))
	}
	serve := func(path, start string) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			fmt.Fprintf(w, `<!doctype html><title>run</title><script type="importmap">{"imports": {"react": "/react.js", "ssed-client": "/ssed.js"}}</script>
<main><pre id="output"></pre></main><script type="module">%s</script>`, start)
		})
	}
	serve("/{$}", "")
	serve("/page", `import "/page.js";`)
	serve("/tabs", `import "/tabs.js";`)
	serve("/react", `
import {createElement, createRoot, StrictMode} from "/react.js";
import {useRun} from "/useRun.js";
function Run() {
	const {text, state} = useRun("run:1");
	return createElement("pre", {id: "output", "data-state": state}, text);
}
createRoot(document.querySelector("main")).render(createElement(StrictMode, null, createElement(Run)));`)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

// shownText is what a page shows of the run.
func (p *tab) shownText() string {
	p.t.Helper()
	text, err := chromedp.Run(p.ctx, chromedp.Evaluate[string](`document.querySelector("#output")?.textContent ?? ""`))
	require.NoError(p.t, err)
	return text
}

// tokenHarness runs the worker: its tokens come at a rate, and it tells how many it has
// published.
const tokenHarness = `
import runpy, sys, time
snippet, redis_url, count, rate = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
import redis
redis.Redis.from_url = (lambda real: lambda url: real(redis_url))(redis.Redis.from_url)
def tokens():
    began = time.monotonic()
    for n in range(count):
        time.sleep(max(0, began + n / rate - time.monotonic()))
        yield " %d é\n" % n if n % 10 == 0 else " %d" % n
        if n % 50 == 49:
            print(n + 1, flush=True)
runpy.run_path(snippet, init_globals={"tokens": tokens()})
print("done", flush=True)
`

// runLength and runRate: a real run has 50 tokens a second, and lasts a minute.
const (
	runLength = 3000
	runRate   = 300
)

// tokenText is what whoever has all tokens shows.
func tokenText() string {
	var b strings.Builder
	for n := range runLength {
		fmt.Fprintf(&b, " %d", n)
		if n%10 == 0 {
			b.WriteString(" é\n")
		}
	}
	return b.String()
}

// printedText is what a program prints.
type printedText struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (p *printedText) take(r io.Reader) {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		p.mu.Lock()
		p.text.Write(buf[:n])
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (p *printedText) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// TestRunOfTokensReachesEveryoneFromTheFirst: a worker publishes the answer of a model. A
// page is opened in the middle and reloaded twice, a second one with React and two tabs that
// share a stream come later, a reader in Python last. Their instance restarts meanwhile. All
// show every token, once and in order, and close their stream at the end.
func TestRunOfTokensReachesEveryoneFromTheFirst(t *testing.T) {
	r := redistest.Start(t)
	flags := []string{"--envelope", "json", "--policy", "run:*=history-max:10000,history-ttl:10m"}
	address := freeHost(t)
	run := func() *instance { return startReady(t, r, append(flags, "--listen", address)...) }
	other := startReady(t, r, flags...) // as there should be: it takes what comes during the restart
	in := run()
	b := startBrowser(t)
	origin := serveRuns(t, in.public)

	dir := t.TempDir()
	harness := filepath.Join(dir, "harness.py")
	require.NoError(t, os.WriteFile(harness, []byte(tokenHarness), 0o600))
	var worker printedText
	spawn(t, worker.take, pythonProgram, harness, script(t, "tokens/worker.py", pythonProgram), r.URL(), fmt.Sprint(runLength), fmt.Sprint(runRate))
	published := func(what string) {
		eventually(t, what+" tokens", func() bool { return strings.Contains(worker.String(), what+"\n") })
	}
	began := time.Now()

	published("500")
	first := b.open(t, origin)
	first.navigate(origin + "/page")
	published("900")
	first.navigate(origin + "/page")
	published("1200")
	second := b.open(t, origin)
	second.navigate(origin + "/react")
	shared := b.open(t, origin)
	shared.navigate(origin + "/tabs")
	published("1500")
	late := b.open(t, origin)
	late.navigate(origin + "/tabs")
	published("1800")
	in.Signal(sigterm)
	require.Zero(t, in.wait(t))
	in = run()
	published("2300")
	first.navigate(origin + "/page")
	text, err := tokenSnippet(in.public, "reader.py")
	require.NoError(t, err)
	readerFile := filepath.Join(dir, "reader.py")
	require.NoError(t, os.WriteFile(readerFile, []byte(text), 0o600))
	var reader printedText
	reading := spawn(t, reader.take, pythonProgram, readerFile)

	want := tokenText()
	for name, p := range map[string]*tab{"reloaded": first, "React": second, "shared": shared, "late": late} {
		eventually(t, name+": the last token", func() bool { return strings.HasSuffix(p.shownText(), " 2999") })
		require.Equal(t, want, p.shownText(), name)
	}
	require.Zero(t, reading.wait(t))
	require.Equal(t, want, reader.String(), "Python")
	in.waitStreams(0)
	require.Zero(t, other.metric("ssed_streams"))
	require.Zero(t, in.metric("ssed_stream_gaps_total"))

	after := b.open(t, origin) // all is over, and kept for a while
	after.navigate(origin + "/page")
	eventually(t, "the whole run", func() bool { return after.shownText() == want })
	in.waitStreams(0)
	tested.add("a run of tokens", fmt.Sprintf("%d tokens, a page reloaded twice, late tabs, a restart: all from the first, after %s", runLength, time.Since(began).Round(time.Second)))
}
