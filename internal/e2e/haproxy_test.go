//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

const (
	haproxyFile        = "../../deploy/haproxy.cfg"
	haproxyComposeFile = "../../deploy/haproxy-compose.cfg"
)

// startHAProxy runs HAProxy with the shipped file in front of two addresses of ssed.
// Pairs are further replacements.
func startHAProxy(t testing.TB, one, other string, pairs ...string) (host string) {
	t.Helper()
	host = freeHost(t)
	runHAProxy(t, host, freeHost(t), newCertificate(t), append([]string{haproxyRedirect, "", "127.0.0.1:8080", one, "127.0.0.1:8081", other}, pairs...))
	return host
}

// haproxyRedirect sends plain HTTP to TLS.
const haproxyRedirect = "    http-request redirect scheme https code 308 unless { ssl_fc }\n"

func runHAProxy(t testing.TB, plain, secure string, c *certificate, pairs []string) {
	t.Helper()
	tested.add("HAProxy", strings.Fields(versionOf(t, "haproxy", "-v"))[2])
	path := render(t, haproxyFile, append([]string{"bind :80", "bind " + plain, "bind :443", "bind " + secure, "/etc/haproxy/ssed.pem", c.Both}, pairs...)...)
	// -db: in the foreground.
	spawn(t, nil, "haproxy", "-db", "-f", path)
	waitForAnswer(t, plain)
}

func TestHAProxyTakesTheShippedFiles(t *testing.T) {
	for _, file := range []string{render(t, haproxyFile, "/etc/haproxy/ssed.pem", newCertificate(t).Both), haproxyComposeFile} {
		out, err := exec.Command("haproxy", "-c", "-f", file).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.NotContains(t, string(out), "WARNING")
	}
}

// TestHAProxyOfComposeIsTheOneThatIsTested but for TLS and the names of the servers.
func TestHAProxyOfComposeIsTheOneThatIsTested(t *testing.T) {
	settings := func(file string, pairs ...string) string {
		raw, err := os.ReadFile(render(t, file, pairs...))
		require.NoError(t, err)
		return string(raw[strings.Index(string(raw), "\ndefaults"):])
	}
	require.Equal(t,
		settings(haproxyFile, "127.0.0.1:8080", "ssed1:8080", "127.0.0.1:8081", "ssed2:8080",
			"    bind :443 ssl crt /etc/haproxy/ssed.pem alpn h2,http/1.1\n"+haproxyRedirect, ""),
		settings(haproxyComposeFile, "resolvers docker init-addr none ", ""))
}

func TestHAProxyPassesEachEventAtOnce(t *testing.T) {
	r := redistest.Start(t)
	in := startReady(t, r, "--heartbeat", "1s")
	// Heartbeats keep a stream open that is quiet for longer than HAProxy would wait.
	host := startHAProxy(t, in.public, in.public, "timeout client 45s", "timeout client 2s", "timeout server 45s", "timeout server 2s")
	s := openStream(t, streamURL(host, "a"))
	in.waitStreams(1)
	requireAtOnce(t, r, in, s)
	before := s.comments()
	eventually(t, "heartbeats", func() bool { return s.comments() >= before+4 })
	for _, p := range vectors(t) {
		publish(t, r, "a", p.sent)
		s.want(p.got)
	}
	s.close()
	in.waitStreams(0)
}

// TestHAProxySendsNobodyToAnInstanceThatIsNotReady: the check is GET /ready.
func TestHAProxySendsNobodyToAnInstanceThatIsNotReady(t *testing.T) {
	r, down := redistest.Start(t), redistest.Start(t)
	down.Stop()
	good, bad := startReady(t, r), start(t, "--redis-url", down.URL())
	host := startHAProxy(t, bad.public, good.public)
	// The first check may come after the first client: it takes one more second.
	eventually(t, "the check", func() bool { return bad.metric("ssed_http_answers_total") >= 2 })
	refused := bad.metric("ssed_refused_total")
	for i := range 10 {
		openStream(t, streamURL(host, "a"))
		good.waitStreams(i + 1)
	}
	require.Equal(t, refused, bad.metric("ssed_refused_total"))

	require.NoError(t, down.Restart())
	bad.waitReady()
	eventually(t, "streams on the instance that got ready", func() bool {
		openStream(t, streamURL(host, "a"))
		return bad.metric("ssed_streams") > 0
	})
}

// TestHAProxyLetsSsedAnswerWhenNoInstanceIsReady: a browser gives up for good after
// HAProxy's own 503, and comes again after what ssed says.
func TestHAProxyLetsSsedAnswerWhenNoInstanceIsReady(t *testing.T) {
	r := redistest.Start(t)
	r.Stop()
	one, other := start(t, "--redis-url", r.URL()), start(t, "--redis-url", r.URL())
	host := startHAProxy(t, one.public, other.public)
	for _, in := range []*instance{one, other} {
		eventually(t, "failed checks", func() bool { return in.metric("ssed_http_answers_total") >= 2 })
	}
	for range 10 {
		req, err := http.NewRequest(http.MethodGet, streamURL(host, "a"), nil)
		require.NoError(t, err)
		req.Header.Set("Accept", "text/event-stream")
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Regexp(t, `^retry: \d+\n$`, string(body))
	}
	require.NotZero(t, one.metric("ssed_refused_total"))
	require.NotZero(t, other.metric("ssed_refused_total"))
}

// The rolling restart: enough clients to make a storm visible, few enough for the
// limit of open files of small machines (five descriptors for each, over all processes).
const (
	restartClients = 500
	restartWindow  = 5 * time.Second
	// stormShare is the part of all reconnects that a tenth of the window may hold. An
	// even spread gives 10 %; all at once, which is what a plain stop does, 100 %.
	stormShare = 0.3
)

// TestRollingRestartUnderLoad: one of two instances behind HAProxy is stopped and
// started again under 500 clients. Every client has every message once, and those of
// the stopped instance come back over its drain window.
func TestRollingRestartUnderLoad(t *testing.T) {
	r := redistest.Start(t)
	args := []string{"--retry", "300ms-1s", "--drain", restartWindow.String()}
	address := freeHost(t)
	first := startReady(t, r, append(args, "--listen", address)...)
	second := startReady(t, r, args...)
	// All clients are on one address.
	host := startHAProxy(t, address, second.public, "sc0_conn_cur gt 100", "sc0_conn_cur gt 10000", "sc0_http_req_rate gt 200", "sc0_http_req_rate gt 100000")

	channels := []string{"north", "east", "south", "west"}
	clients := make([]*reader, restartClients)
	for i := range clients {
		clients[i] = newReader(host, channels[i%len(channels)])
	}
	follow(t, clients)
	eventually(t, "all streams", func() bool {
		return first.metric("ssed_streams")+second.metric("ssed_streams") == restartClients
	})
	moved := int(first.metric("ssed_streams"))
	require.Greater(t, moved, restartClients/3, "HAProxy spreads the clients")

	numbers := startNumbers(t, r, 50*time.Millisecond, channels...)
	waitFirst(t, clients)
	began := time.Now()
	first.Signal(sigterm)
	require.Zero(t, first.wait(t), first.Log())
	took := time.Since(began)
	second.waitStreams(restartClients)
	again := startReady(t, r, append(args, "--listen", address)...)
	n := numbers.stop()
	wantAll(t, clients, n)
	require.Equal(t, address, again.public)

	reconnects := histogram(clients, began)
	total := 0
	for tenth, count := range reconnects {
		total += count
		require.LessOrEqual(t, float64(count), stormShare*float64(moved), "storm in tenth %d of %v", tenth, reconnects)
	}
	require.Equal(t, moved, total, "only clients of the stopped instance come back, each once")
	tested.add("rolling restart", fmt.Sprintf("%d clients, %d moved, %d messages each; drained in %.1fs; reconnects by tenth of the window: %v",
		restartClients, moved, n, took.Seconds(), reconnects))
}

// histogram counts the attempts after began by tenths of the drain window.
func histogram(clients []*reader, began time.Time) []int {
	counts := make([]int, 20)
	for _, c := range clients {
		c.mu.Lock()
		for _, at := range c.attempts {
			if after := at.Sub(began); after > 0 {
				counts[min(int(after*10/restartWindow), len(counts)-1)]++
			}
		}
		c.mu.Unlock()
	}
	return counts
}
