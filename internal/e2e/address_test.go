//go:build e2e

package e2e

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

const (
	proxyAddress  = "127.0.0.1" // what the proxies of these tests connect from
	clientAddress = "127.0.0.9"
	forged        = "203.0.113.7" // what the client says of itself
)

// clientFrom is httpClient from another address of loopback.
func clientFrom(address string) *http.Client {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dialer.DialContext}}
}

// startDoorman serves an authorisation endpoint that admits everyone and notes which
// client ssed says is asking.
func startDoorman(t testing.TB) (url string, asked <-chan string) {
	t.Helper()
	clients := make(chan string, 100)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		clients <- req.Header.Get("X-Forwarded-For")
	}))
	t.Cleanup(server.Close)
	return server.URL, clients
}

// TestAddressOfTheClient: ssed knows who is behind the proxy, and a client cannot
// pretend to be another.
func TestAddressOfTheClient(t *testing.T) {
	// proxy puts one in front of an instance and returns its address.
	f := func(name string, flags []string, checked bool, proxy func(in *instance) string) {
		t.Run(name, func(t *testing.T) {
			r := redistest.Start(t)
			doorman, asked := startDoorman(t)
			in := startReady(t, r, append(flags, "--auth", "forward", "--auth-url", doorman, "--auth-cache-ttl", "0")...)
			host := proxy(in)
			s := openStreamBy(t, clientFrom(clientAddress), streamURL(host, "a"), http.Header{"X-Forwarded-For": {forged}})
			publish(t, r, "a", "hello")
			s.want("hello")
			require.Equal(t, clientAddress, <-asked)
			require.Empty(t, asked)
			if !checked {
				return
			}
			// The checks, which come from the proxy itself, get through as well.
			eventually(t, "checks", func() bool { return in.metric("ssed_http_answers_total") >= 4 })
			openStream(t, streamURL(host, "a"))
			require.Equal(t, proxyAddress, <-asked, "the client of this stream is on the same address")
		})
	}
	trusted := []string{"--trusted-proxies", proxyAddress}
	f("without a proxy", nil, false, func(in *instance) string { return in.public })
	f("nginx by X-Forwarded-For", trusted, false, func(in *instance) string {
		return startNginx(in.t, in.public, in.public)
	})
	f("HAProxy by X-Forwarded-For", trusted, true, func(in *instance) string {
		return startHAProxy(in.t, in.public, in.public)
	})
	for _, version := range []string{"send-proxy", "send-proxy-v2"} {
		f("HAProxy by "+version, append(trusted, "--proxy-protocol"), true, func(in *instance) string {
			return startHAProxy(in.t, in.public, in.public,
				"    http-request set-header X-Forwarded-For %[src]\n", "", "default-server inter", "default-server "+version+" inter")
		})
	}
}

// TestProxyHeaderIsForTrustedProxiesOnly: with --proxy-protocol a trusted address must
// send the header, and from any other one it is no HTTP.
func TestProxyHeaderIsForTrustedProxiesOnly(t *testing.T) {
	in := start(t, "--trusted-proxies", proxyAddress, "--proxy-protocol")
	header := "PROXY TCP4 " + forged + " 127.0.0.1 4096 80\r\n"
	request := "GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	f := func(from, sent, want string) {
		t.Helper()
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := dialer.Dial("tcp", in.public)
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
		_, err = c.Write([]byte(sent))
		require.NoError(t, err)
		got := make([]byte, len(want))
		n, _ := c.Read(got)
		require.Equal(t, want, string(got[:n]))
	}
	f(proxyAddress, header+request, "HTTP/1.1 200")
	f(proxyAddress, request, "")
	f(clientAddress, request, "HTTP/1.1 200")
	f(clientAddress, header+request, "HTTP/1.1 400")
}
