//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/certtest"
	"ssed/internal/redistest"
)

// certificate is one for 127.0.0.1.
type certificate struct {
	certtest.Pair
	roots *x509.CertPool
}

func newCertificate(t testing.TB) *certificate {
	a := certtest.New(t)
	return &certificate{a.Issue("127.0.0.1"), a.Roots}
}

// client speaks HTTP/2 or HTTP/1.1 by TLS, from an address of loopback. It follows no
// redirects.
func (c *certificate) client(t testing.TB, from string, http2 bool) *http.Client {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	transport := &http.Transport{
		DialContext: dialer.DialContext, ForceAttemptHTTP2: http2, DisableCompression: true,
		TLSClientConfig: &tls.Config{RootCAs: c.roots},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: toldNotFollowed}
}

// secureProxy is a proxy with the shipped file, TLS and all.
type secureProxy struct {
	name          string
	plain, secure string // "127.0.0.1:port"
	cert          *certificate
}

func (p *secureProxy) url(channel string) string {
	return strings.Replace(streamURL(p.secure, channel), "http:", "https:", 1)
}

// eachProxy runs a test with each shipped file in front of two addresses. Pairs are
// further replacements, by the name of the proxy.
func eachProxy(t *testing.T, one, other func(t *testing.T) string, pairs map[string][]string, test func(t *testing.T, p *secureProxy)) {
	for name, run := range map[string]func(testing.TB, string, string, *certificate, []string){"nginx": runNginx, "HAProxy": runHAProxy} {
		t.Run(name, func(t *testing.T) {
			p := &secureProxy{name, freeHost(t), freeHost(t), newCertificate(t)}
			run(t, p.plain, p.secure, p.cert, append([]string{"127.0.0.1:8080", one(t), "127.0.0.1:8081", other(t)}, pairs[name]...))
			test(t, p)
		})
	}
}

func TestProxiesSpeakTLS(t *testing.T) {
	r := redistest.Start(t)
	in := startReady(t, r, "--heartbeat", "1s", "--trusted-proxies", proxyAddress)
	public := func(*testing.T) string { return in.public }
	eachProxy(t, public, public, nil, func(t *testing.T, p *secureProxy) {
		resp, err := p.cert.client(t, clientAddress, false).Get(streamURL(p.plain, "a"))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusPermanentRedirect, resp.StatusCode)
		require.True(t, strings.HasPrefix(resp.Header.Get("Location"), "https://127.0.0.1"), resp.Header.Get("Location"))

		for _, http2 := range []bool{true, false} {
			s := openStreamBy(t, p.cert.client(t, clientAddress, http2), p.url("a"), nil)
			require.Equal(t, http2, s.resp.ProtoMajor == 2)
			in.waitStreams(1)
			for i := range 20 {
				publish(t, r, "a", strings.Repeat("x", i+1))
				s.want(strings.Repeat("x", i+1))
			}
			s.close()
			in.waitStreams(0)
		}
		old := &tls.Config{RootCAs: p.cert.roots, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
		_, err = tls.Dial("tcp", p.secure, old)
		require.Error(t, err, "TLS 1.1 is refused")
	})
}

// spoofed are fields by which proxies tell who and what a client is; a client sends them
// itself here. Some services take the last two for the first.
var spoofed = []string{
	"X-Forwarded-For", "Forwarded", "X-Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Uri", "X-Forwarded-Method",
	"X-Real-IP", "X-Client-IP", "X-Cluster-Client-IP", "True-Client-IP", "CF-Connecting-IP",
	"X-Original-URI", "X-Original-URL", "X-Original-Method", "X-Rewrite-URL", "X-HTTP-Method-Override", "X.Forwarded.For", "X_Forwarded_For",
}

// TestProxiesPassNothingThatClientsSayOfThemselves looks at what comes out behind them.
func TestProxiesPassNothingThatClientsSayOfThemselves(t *testing.T) {
	seen := make(chan http.Header, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/sse/connect" {
			seen <- r.Header
		}
	}))
	t.Cleanup(server.Close)
	address := func(*testing.T) string { return server.Listener.Addr().String() }
	eachProxy(t, address, address, nil, func(t *testing.T, p *secureProxy) {
		for _, http2 := range []bool{true, false} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url("a"), nil)
			require.NoError(t, err)
			for _, name := range spoofed {
				req.Header[name] = []string{forged, forged}
			}
			resp, err := p.cert.client(t, clientAddress, http2).Do(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			got := <-seen
			require.Equal(t, []string{clientAddress}, got["X-Forwarded-For"])
			require.Equal(t, []string{"https"}, got["X-Forwarded-Proto"])
			for name, values := range got {
				require.NotContains(t, strings.Join(values, " "), forged, name)
			}
		}
	})
}

// answerTo returns the answer to a request for a stream that is not kept.
func answerTo(t *testing.T, client *http.Client, url, accept string) (status int, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	req.Header.Set("Accept", accept)
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(text)
}

// requireTurnedAway: an EventSource would give up for good after 429, and after an answer
// that its page may not read.
func requireTurnedAway(t *testing.T, client *http.Client, p *secureProxy) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url("a"), nil)
	require.NoError(t, err)
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Origin", "https://app.example.com")
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	require.Equal(t, "https://app.example.com", resp.Header.Get("Access-Control-Allow-Origin"))
	require.Equal(t, "retry: 15000\n\n", string(body))
	status, _ := answerTo(t, client, p.url("a"), "*/*")
	require.Equal(t, http.StatusTooManyRequests, status)
}

func TestProxiesLimitTheStreamsOfAnAddress(t *testing.T) {
	in := startReady(t, redistest.Start(t), "--trusted-proxies", proxyAddress)
	public := func(*testing.T) string { return in.public }
	fast := map[string][]string{"nginx": {"burst=100", "burst=10000"}, "HAProxy": {"sc0_http_req_rate gt 200", "sc0_http_req_rate gt 10000"}}
	eachProxy(t, public, public, fast, func(t *testing.T, p *secureProxy) {
		client := p.cert.client(t, clientAddress, true)
		var streams []*stream
		for range 100 {
			streams = append(streams, openStreamBy(t, client, p.url("a"), nil))
		}
		in.waitStreams(100)
		requireTurnedAway(t, client, p)
		other := openStreamBy(t, p.cert.client(t, "127.0.0.10", true), p.url("a"), nil)
		in.waitStreams(101)

		streams[0].close()
		in.waitStreams(100)
		eventually(t, "room for one more", func() bool {
			one := openStreamBy(t, client, p.url("a"), nil)
			defer one.close()
			return in.metric("ssed_streams") == 101
		})
		for _, s := range append(streams, other) {
			s.close()
		}
		in.waitStreams(0)
	})
}

func TestProxiesLimitTheRequestsOfAnAddress(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	address := func(*testing.T) string { return server.Listener.Addr().String() }
	eachProxy(t, address, address, nil, func(t *testing.T, p *secureProxy) {
		client := p.cert.client(t, clientAddress, true)
		statuses := map[int]int{}
		for range 2000 { // ten a second are allowed, and some at once
			status, _ := answerTo(t, client, p.url("a"), "*/*")
			if statuses[status]++; status == http.StatusTooManyRequests {
				break
			}
		}
		require.GreaterOrEqual(t, statuses[http.StatusNotFound]+statuses[http.StatusServiceUnavailable], 100)
		requireTurnedAway(t, client, p)
		status, _ := answerTo(t, p.cert.client(t, "127.0.0.10", true), p.url("a"), "*/*")
		require.NotEqual(t, http.StatusTooManyRequests, status)
	})
}

// requireAtOnce publishes events one after the other. Each must come through the proxy
// before the next one is published, about as soon as on a stream beside it: HAProxy without
// http-no-delay needs 206 ms for each, a thousand times as long.
func requireAtOnce(t *testing.T, r *redistest.Server, in *instance, proxied *stream) {
	t.Helper()
	direct := openStream(t, streamURL(in.public, "a"))
	in.waitStreams(2)
	var near, far []time.Duration
	for i := range 51 {
		sent := strconv.Itoa(i)
		began := time.Now()
		publish(t, r, "a", sent)
		direct.want(sent)
		near = append(near, time.Since(began))
		proxied.want(sent)
		far = append(far, time.Since(began))
	}
	direct.close()
	in.waitStreams(1)
	slices.Sort(near)
	slices.Sort(far)
	require.Less(t, far[25], 100*near[25], "medians, through the proxy and beside it")
}
