//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// TestDoctorFindsWhatProxiesDoToStreams: each of these is a proxy that is set up as people
// do who have not read docs/PROXIES.md.
func TestDoctorFindsWhatProxiesDoToStreams(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name                     string
		start                    func(t testing.TB, to string) string
		check, status, text, fix string
	}{
		{
			"HAProxy without http-no-delay", func(t testing.TB, to string) string {
				return startHAProxy(t, to, to, "option http-no-delay", "")
			}, "proxy: events", "fail", "came several at once", "HAProxy: option http-no-delay",
		},
		{
			"lighttpd without streaming", func(t testing.TB, to string) string {
				return startLighttpdProxy(t, to, "server.stream-response-body = 1", "")
			}, "proxy: begin", "fail", "no head within", "server.stream-response-body = 1",
		},
		{
			"nginx without its header", func(t testing.TB, to string) string {
				return startNginx(t, to, to, "proxy_pass http", "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering; proxy_pass http")
			}, "proxy: begin", "fail", "no head within", "proxy_ignore_headers",
		},
		{
			"nginx that drops Last-Event-ID", func(t testing.TB, to string) string {
				return startNginx(t, to, to, "proxy_pass http", `proxy_set_header Last-Event-ID ""; proxy_pass http`)
			}, "proxy: resume", "fail", "Last-Event-ID of the request does not reach ssed", "last_event_id in the query",
		},
		{
			"nginx that drops Pragma", func(t testing.TB, to string) string {
				return startNginx(t, to, to, "proxy_pass http", `proxy_set_header Pragma ""; proxy_pass http`)
			}, "proxy: request fields", "warn", "Cache-Control or Pragma", "start=id",
		},
		{
			"nginx with a Cache-Control of its own", func(t testing.TB, to string) string {
				return startNginx(t, to, to, "proxy_pass http", "proxy_hide_header Cache-Control; expires 1h; proxy_pass http")
			}, "proxy: head", "warn", "max-age=3600", "Cache-Control",
		},
		{
			"Apache that compresses", func(t testing.TB, to string) string {
				return startApache(t, to, "ProxyTimeout 60", "ProxyTimeout 60\n    LoadModule filter_module modules/mod_filter.so\n    LoadModule deflate_module modules/mod_deflate.so\n    SetOutputFilter DEFLATE")
			}, "proxy: compression", "warn", "Content-Encoding gzip", "no compression of text/event-stream",
		},
		{
			"http-proxy by default", func(t testing.TB, to string) string {
				return startHTTPProxy(t, to, `"proxyRes"`, `"no event"`)
			}, "proxy: clients that leave", "fail", "streams stay open at ssed", "--max-age 1h",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := redistest.Start(t)
			in := startReady(t, r)
			host := c.start(t, in.public)
			_, findings := diagnose(t, r, host, "--admin-url", "http://"+in.admin)
			require.Equal(t, c.status, findings[c.check].Status, "%v", findings)
			require.Contains(t, findings[c.check].Text, c.text)
			require.Contains(t, findings[c.check].Fix, c.fix)
			tested.add("doctor, "+c.name, findings[c.check].Text)
		})
	}
}

// TestDoctorIsContentWithTheShownProxies: with the lines of docs/PROXIES.md nothing about
// them is found.
func TestDoctorIsContentWithTheShownProxies(t *testing.T) {
	t.Parallel()
	for _, p := range allProxies {
		if strings.HasSuffix(p.name, "by default") {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			r := redistest.Start(t)
			in := startReady(t, r)
			host := p.start(t, in.public)
			waitForSsed(t, host)
			_, findings := diagnose(t, r, host, "--admin-url", "http://"+in.admin)
			for name, f := range findings {
				if strings.HasPrefix(name, "proxy: ") && name != "proxy: quiet stream" {
					require.Equal(t, "ok", f.Status, "%v", f)
				}
			}
		})
	}
}
