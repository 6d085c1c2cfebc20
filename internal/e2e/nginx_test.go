//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

const nginxFile = "../../deploy/nginx.conf"

// render copies a shipped configuration with some of its text replaced. Each piece must
// be there: a test of another file than the shipped one shows nothing.
func render(t testing.TB, shipped string, pairs ...string) (path string) {
	t.Helper()
	raw, err := os.ReadFile(shipped)
	require.NoError(t, err)
	text := string(raw)
	for i := 0; i < len(pairs); i += 2 {
		require.Contains(t, text, pairs[i])
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	path = filepath.Join(t.TempDir(), filepath.Base(shipped))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

func freePort(t testing.TB) int {
	t.Helper()
	port, err := redistest.FreePort()
	require.NoError(t, err)
	return port
}

func freeHost(t testing.TB) string { return "127.0.0.1:" + strconv.Itoa(freePort(t)) }

// nginxPlace is where a rendered nginx keeps what Debian's keeps below /var and /run.
// It is given on the command line, so that the file stays the shipped one.
func nginxPlace(t testing.TB) []string {
	dir := t.TempDir()
	return []string{"-p", dir, "-g", "pid " + dir + "/pid; daemon off; error_log stderr;"}
}

// startNginx runs nginx with the shipped file in front of two addresses of ssed, and
// returns its own address. Pairs are further replacements.
func startNginx(t testing.TB, one, other string, pairs ...string) (host string) {
	t.Helper()
	host = freeHost(t)
	runNginx(t, freeHost(t), freeHost(t), newCertificate(t), append([]string{
		"127.0.0.1:8080", one, "127.0.0.1:8081", other,
		"ssl_protocols", "listen " + host + "; ssl_protocols", // beside TLS
	}, pairs...))
	waitForAnswer(t, host)
	return host
}

func runNginx(t testing.TB, plain, secure string, c *certificate, pairs []string) {
	t.Helper()
	_, version, _ := strings.Cut(versionOf(t, "nginx", "-v"), "nginx/")
	tested.add("nginx", version)
	path := render(t, nginxFile, append([]string{
		"listen 80;", "listen " + plain + ";", "listen 443 ", "listen " + secure + " ",
		"/etc/ssl/ssed/fullchain.pem", c.Cert, "/etc/ssl/ssed/key.pem", c.Key,
	}, pairs...)...)
	spawn(t, nil, "nginx", append(nginxPlace(t), "-c", path, "-e", "stderr")...)
	waitForAnswer(t, plain)
}

// toldNotFollowed is for clients that shall get redirects as they are.
func toldNotFollowed(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func waitForAnswer(t testing.TB, host string) {
	t.Helper()
	client := &http.Client{Transport: httpClient.Transport, CheckRedirect: toldNotFollowed}
	eventually(t, "an answer from "+host, func() bool {
		resp, err := client.Get("http://" + host + "/")
		if err != nil {
			return false
		}
		return resp.Body.Close() == nil
	})
}

func TestNginxTakesTheShippedFile(t *testing.T) {
	c := newCertificate(t)
	pairs := []string{"/etc/ssl/ssed/fullchain.pem", c.Cert, "/etc/ssl/ssed/key.pem", c.Key}
	if os.Geteuid() != 0 { // nginx tries to bind
		pairs = append(pairs, "listen 80;", "listen 8080;", "listen 443", "listen 8443")
	}
	path := render(t, nginxFile, pairs...)
	p := spawn(t, nil, "nginx", append(nginxPlace(t), "-t", "-c", path, "-e", "stderr")...)
	require.Zero(t, p.wait(t), p.logText())
}

// TestNginxPassesEachEventAtOnce: there is nothing about buffering in the shipped file.
func TestNginxPassesEachEventAtOnce(t *testing.T) {
	r := redistest.Start(t)
	in := startReady(t, r, "--heartbeat", "1s")
	l := newLink(t, in.public)
	// Heartbeats keep a stream open that is quiet for longer than nginx would wait.
	host := startNginx(t, l.host(), l.host(), "proxy_pass http", "proxy_read_timeout 2s; proxy_pass http")
	s := openStream(t, streamURL(host, "a"))
	l.waitStreams(1)
	line, _ := l.lastGet()
	tested.add("nginx speaks to ssed", line[strings.LastIndex(line, "HTTP/"):])
	in.waitStreams(1)

	requireAtOnce(t, r, in, s) // with a buffer the next event waits until 4 KiB have come together
	before := s.comments()
	eventually(t, "heartbeats", func() bool { return s.comments() >= before+4 })
	for _, p := range vectors(t) {
		publish(t, r, "a", p.sent)
		s.want(p.got)
	}
	require.Equal(t, []string{"chunked"}, s.resp.TransferEncoding)

	s.close()
	in.waitStreams(0)
}

// TestBlockReadersShowEachEventAtOnce: each event must be shown before the next is
// published. Nothing else comes that could fill a block.
func TestBlockReadersShowEachEventAtOnce(t *testing.T) {
	r := redistest.Start(t)
	for name, proxy := range map[string]func(t *testing.T, to string) string{
		"direct":         func(_ *testing.T, to string) string { return to },
		"nginx HTTP/1.0": func(t *testing.T, to string) string { return startNginx(t, to, to) },
		"nginx HTTP/1.1": func(t *testing.T, to string) string {
			return startNginx(t, to, to, "proxy_pass http", "proxy_http_version 1.1; proxy_pass http")
		},
		"HAProxy": func(t *testing.T, to string) string { return startHAProxy(t, to, to) },
	} {
		t.Run(name, func(t *testing.T) {
			in := startReady(t, r, "--heartbeat", "0")
			host := proxy(t, in.public)
			clients := make([]collector, len(blockReaders))
			for i, reader := range blockReaders {
				reader.start(t, streamURL(host, "a"), clients[i].show)
			}
			in.waitStreams(len(blockReaders))
			for _, sent := range basics {
				publish(t, r, "a", sent)
				for i := range clients {
					clients[i].want(t, sent)
				}
			}
		})
	}
}

// TestNginxGoesToTheOtherInstance: a draining instance takes no connections; nginx
// tries the next, and the client, which sends its last ID, misses nothing.
func TestNginxGoesToTheOtherInstance(t *testing.T) {
	r := redistest.Start(t)
	a, b := startReady(t, r), startReady(t, r)
	host := startNginx(t, a.public, b.public)
	clients := []*reader{newReader(host, "a"), newReader(host, "a"), newReader(host, "a"), newReader(host, "a")}
	follow(t, clients)
	eventually(t, "four streams on both", func() bool {
		one, other := a.metric("ssed_streams"), b.metric("ssed_streams")
		return one+other == 4 && one > 0 && other > 0
	})
	n := 0
	next := func() {
		publish(t, r, "a", strconv.Itoa(n))
		n++
	}
	next()
	waitFirst(t, clients)
	a.Signal(sigterm)
	eventually(t, "the end of the drained instance", func() bool {
		next()
		return a.Exited()
	})
	b.waitStreams(4)
	next()
	wantAll(t, clients, n)
}

// TestNginxReachesSsedByUnixSocket: nginx may be another user than ssed, so the mode of
// the socket decides whether it can connect.
func TestNginxReachesSsedByUnixSocket(t *testing.T) {
	r := redistest.Start(t)
	dir, err := os.MkdirTemp("", "ssed-e2e-socket-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	path := filepath.Join(dir, "ssed.sock")
	in := start(t, "--redis-url", r.URL(), "--listen", "127.0.0.1:0,unix:"+path, "--listen-mode", "0666")
	in.waitReady()
	host := startNginx(t, "unix:"+path, "unix:"+path)
	s := openStream(t, streamURL(host, "a"))
	in.waitStreams(1)
	publish(t, r, "a", "through the socket")
	s.want("through the socket")

	// The listener on a port is there too.
	direct := openStream(t, streamURL(in.public, "a"))
	in.waitStreams(2)
	publish(t, r, "a", "to both")
	s.want("to both")
	direct.want("to both")
}
