//go:build e2e

package e2e

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// proxied is a proxy with a file that docs/PROXIES.md shows. Start runs it in front of an
// address of ssed and returns its own.
type proxied struct {
	name   string
	start  func(t testing.TB, upstream string) (host string)
	killed ending
	// leaves is when a stream ends whose client has left.
	leaves leaving
}

// ending is how the stream of a killed ssed ends for clients of a proxy.
type ending string

const (
	byError ending = "an error"
	byEnd   ending = "an end"
	byNone  ending = "**silence**"
)

// leaving is what a proxy needs to end a stream whose client has left.
type leaving string

const (
	atOnce      leaving = "its stream ends at once"
	byHeartbeat leaving = "its stream ends with one of the next heartbeats"
	byAge       leaving = "**its stream stays** until `--max-age`"
)

var allProxies = []proxied{
	{"nginx (HTTP/1.0)", func(t testing.TB, to string) string { return startNginx(t, to, to) }, byEnd, atOnce},
	{"nginx (HTTP/1.1)", func(t testing.TB, to string) string {
		return startNginx(t, to, to, "proxy_pass http", "proxy_http_version 1.1; proxy_pass http")
	}, byError, atOnce},
	{"HAProxy", func(t testing.TB, to string) string { return startHAProxy(t, to, to) }, byError, byHeartbeat},
	{"Caddy", startCaddy, byEnd, atOnce},
	{"Apache", func(t testing.TB, to string) string { return startApache(t, to) }, byError, byHeartbeat},
	{"Varnish", func(t testing.TB, to string) string { return startVarnish(t, to) }, byError, atOnce},
	{"Varnish, by default", func(t testing.TB, to string) string {
		return startVarnish(t, to, `req.url ~ "^/sse/"`, "false")
	}, byError, byHeartbeat},
	{"Squid", startSquid, byError, atOnce},
	{"h2o", startH2O, byEnd, byHeartbeat},
	{"lighttpd", func(t testing.TB, to string) string { return startLighttpdProxy(t, to) }, byError, byHeartbeat},
	{"http-proxy", func(t testing.TB, to string) string { return startHTTPProxy(t, to) }, byError, atOnce},
	{"http-proxy, by default", func(t testing.TB, to string) string {
		return startHTTPProxy(t, to, `"proxyRes"`, `"no event"`)
	}, byNone, byAge},
	{"Vite's proxy", func(t testing.TB, to string) string { return startVite(t, to) }, byError, atOnce},
	{"Vite's proxy, by default", func(t testing.TB, to string) string {
		return startVite(t, to, `"proxyRes"`, `"no event"`)
	}, byNone, atOnce},
}

// The columns of the table in docs/PROXIES.md. The first is of the table of clients.
const (
	columnReplay    = "a resume is answered at once"
	columnEnd       = "ssed ends the stream"
	columnLeftovers = "the client leaves"
)

var proxyMatrix = newMatrix("PROXIES.md", "matrix", namesOf(allProxies), columnLive, columnReplay, columnEnd, columnKilled, columnLeftovers)

func namesOf(proxies []proxied) (names []string) {
	for _, p := range proxies {
		names = append(names, p.name)
	}
	return names
}

// place copies a file for a proxy into a directory of its own, with its name in the place
// of PLACE and some of its text replaced.
func place(t testing.TB, file string, pairs ...string) (path string) {
	t.Helper()
	path = render(t, filepath.Join("proxies", file), pairs...)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	// Squid is another user than root when it writes there.
	require.NoError(t, os.Chmod(filepath.Dir(path), 0o777))
	require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(string(text), "PLACE", filepath.Dir(path))), 0o644))
	return path
}

func portOf(host string) string { return host[strings.LastIndex(host, ":")+1:] }

func startCaddy(t testing.TB, to string) string {
	host := freeHost(t)
	tested.add("Caddy", versionOf(t, "caddy", "version"))
	spawn(t, nil, "caddy", "run", "--adapter", "caddyfile", "--config",
		place(t, "Caddyfile", "http://example.com", "http://"+host, "127.0.0.1:8080", to))
	waitForAnswer(t, host)
	return host
}

func startApache(t testing.TB, to string, pairs ...string) string {
	host := freeHost(t)
	_, version, _ := strings.Cut(versionOf(t, "apache2", "-v"), "Apache/")
	tested.add("Apache", version)
	spawn(t, nil, "apache2", "-DFOREGROUND", "-f", place(t, "apache.conf", append([]string{"127.0.0.1:80\n", host + "\n", "127.0.0.1:8080", to}, pairs...)...))
	waitForAnswer(t, host)
	return host
}

func startVarnish(t testing.TB, to string, pairs ...string) string {
	host := freeHost(t)
	_, version, _ := strings.Cut(versionOf(t, "varnishd", "-V"), "varnish-")
	tested.add("Varnish", version)
	path := place(t, "varnish.vcl", append([]string{`.port = "8080"`, `.port = "` + portOf(to) + `"`}, pairs...)...)
	spawn(t, nil, "varnishd", "-F", "-j", "none", "-n", filepath.Dir(path), "-a", host, "-f", path, "-s", "malloc,16m")
	waitForAnswer(t, host)
	return host
}

func startSquid(t testing.TB, to string) string {
	host := freeHost(t)
	_, version, _ := strings.Cut(versionOf(t, "squid", "-v"), "Version ")
	tested.add("Squid", version)
	spawn(t, nil, "squid", "-N", "-f", place(t, "squid.conf", "http_port 80 ", "http_port "+host+" ", "parent 8080", "parent "+portOf(to)))
	waitForAnswer(t, host)
	return host
}

func startH2O(t testing.TB, to string) string {
	host := freeHost(t)
	tested.add("h2o", strings.TrimPrefix(versionOf(t, "h2o", "-v"), "h2o version "))
	spawn(t, nil, "h2o", "-c", place(t, "h2o.yaml", "port: 80\n", "port: "+portOf(host)+"\n", "127.0.0.1:8080", to))
	waitForAnswer(t, host)
	return host
}

func startLighttpdProxy(t testing.TB, to string, pairs ...string) string {
	host := freeHost(t)
	tested.add("lighttpd", strings.Fields(versionOf(t, "lighttpd", "-v"))[0])
	path := place(t, "lighttpd.conf", append([]string{"server.port = 80\n", "server.port = " + portOf(host) + "\n", `"port" => 8080`, `"port" => ` + portOf(to)}, pairs...)...)
	spawn(t, nil, "lighttpd", "-D", "-f", path)
	waitForAnswer(t, host)
	return host
}

// placeModule is place for a module of Node.
func placeModule(t testing.TB, file, to string, pairs ...string) (path string) {
	t.Helper()
	path = place(t, file, append([]string{"127.0.0.1:8080", to}, pairs...)...)
	modules, err := filepath.Abs("clients/node_modules")
	require.NoError(t, err)
	require.NoError(t, os.Symlink(modules, filepath.Join(filepath.Dir(path), "node_modules")))
	return path
}

func npmVersion(t testing.TB, name string) string {
	return versionOf(t, "node", "-p", `require("./clients/node_modules/`+name+`/package.json").version`)
}

func startHTTPProxy(t testing.TB, to string, pairs ...string) string {
	host := freeHost(t)
	tested.add("npm http-proxy", npmVersion(t, "http-proxy"))
	spawn(t, nil, "node", placeModule(t, "http-proxy.mjs", to, pairs...), portOf(host))
	waitForAnswer(t, host)
	return host
}

func startVite(t testing.TB, to string, pairs ...string) string {
	host := freeHost(t)
	tested.add("npm vite", npmVersion(t, "vite"))
	path := placeModule(t, "vite.config.mjs", to, pairs...)
	dir := filepath.Dir(path)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "index.html"), nil, 0o644))
	spawn(t, nil, "node", filepath.Join(dir, "node_modules/vite/bin/vite.js"), dir, "--config", path, "--host", "127.0.0.1", "--port", portOf(host), "--strictPort")
	waitForAnswer(t, host)
	return host
}

// TestProxiesLeaveStreamsAsTheyAre fills the table of docs/PROXIES.md.
func TestProxiesLeaveStreamsAsTheyAre(t *testing.T) {
	t.Parallel()
	for _, p := range allProxies {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			tryProxy(t, p)
		})
	}
}

func tryProxy(t *testing.T, p proxied) {
	t.Helper()
	r := redistest.Start(t)
	quiet := []string{"--heartbeat", "0"} // nothing else pushes what is held back
	one, other := startReady(t, r, quiet...), startReady(t, r, quiet...)
	l := newLink(t, one.public)
	host := p.start(t, l.host())
	waitForSsed(t, host)

	s := openStream(t, streamURL(host, "a"))
	one.waitStreams(1)
	requireAtOnce(t, r, one, s)
	proxyMatrix.set(t, p.name, columnLive, yes)

	first := s.collector.events[0].ID
	resumed := openStreamBy(t, httpClient, streamURL(host, "a"), http.Header{"Last-Event-ID": {first}})
	for i := 1; i < len(s.collector.events); i++ {
		resumed.want(strconv.Itoa(i))
	}
	proxyMatrix.set(t, p.name, columnReplay, yes)

	l.leadTo(other.public)
	one.Signal(sigterm)
	for _, each := range []*stream{s, resumed} {
		require.NoError(t, each.ended())
	}
	proxyMatrix.set(t, p.name, columnEnd, "an end")

	s = openStream(t, streamURL(host, "a"))
	other.waitStreams(1)
	publish(t, r, "a", "before")
	s.want("before")
	other.kill()
	switch p.killed {
	case byEnd:
		require.NoError(t, s.ended())
	case byError:
		require.ErrorIs(t, s.ended(), io.ErrUnexpectedEOF)
	case byNone:
		eventually(t, "the end of ssed for the proxy", func() bool { return l.openCount() == 0 })
		require.False(t, s.hasEnded())
	}
	proxyMatrix.set(t, p.name, columnKilled, string(p.killed))

	tryLeaving(t, p, r, l, host)
}

// waitForSsed waits until the answers through a proxy are those of ssed. Varnish refuses
// for a moment when it has started.
func waitForSsed(t *testing.T, host string) {
	t.Helper()
	eventually(t, "ssed behind "+host, func() bool {
		status, _ := answerTo(t, httpClient, "http://"+host+"/sse/connect", "*/*")
		return status == http.StatusBadRequest
	})
}

// tryLeaving: streams whose clients have gone are closed at once, by the next heartbeats,
// or when they are as old as --max-age.
func tryLeaving(t *testing.T, p proxied, r *redistest.Server, l *link, host string) {
	t.Helper()
	left := func(heartbeat string) (stayed float64) {
		in := startReady(t, r, "--heartbeat", heartbeat, "--max-age", "10s")
		l.leadTo(in.public)
		for i := range 3 {
			channel := strconv.Itoa(i)
			s := openStream(t, streamURL(host, channel))
			publish(t, r, channel, "before")
			s.want("before")
			s.close()
		}
		before := in.metric("ssed_stream_heartbeats_total")
		in.waitStreams(0)
		if each := (in.metric("ssed_stream_heartbeats_total") - before) / 3; each > 0 {
			tested.add(p.name+", heartbeats to clients that have gone", strconv.FormatFloat(each, 'f', 1, 64)+" each")
		}
		return in.metric(`ssed_stream_closed_total{reason="expired"}`)
	}
	switch p.leaves {
	case atOnce:
		require.Zero(t, left("0"))
	case byHeartbeat:
		require.EqualValues(t, 3, left("0"))
		require.Zero(t, left("1s"))
	case byAge:
		require.EqualValues(t, 3, left("1s"))
	}
	proxyMatrix.set(t, p.name, columnLeftovers, string(p.leaves))
}

// shownInProxies are the files that docs/PROXIES.md shows.
var shownInProxies = map[string]shown{
	"Caddy":      {"proxies/Caddyfile", "snippet", ""},
	"Apache":     {"proxies/apache.conf", "snippet", "apache"},
	"Varnish":    {"proxies/varnish.vcl", "snippet", ""},
	"Squid":      {"proxies/squid.conf", "snippet", ""},
	"h2o":        {"proxies/h2o.yaml", "snippet", "yaml"},
	"lighttpd":   {"proxies/lighttpd.conf", "snippet", ""},
	"http-proxy": {"proxies/http-proxy.mjs", "snippet", "js"},
	"Vite":       {"proxies/vite.config.mjs", "snippet", "js"},
}
