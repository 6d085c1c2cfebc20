//go:build e2e

package e2e

import (
	"encoding/json"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// finding is a check of ssed doctor.
type finding struct{ Check, Status, Text, Fix string }

// diagnose runs ssed doctor on a Redis and through a proxy.
func diagnose(t *testing.T, r *redistest.Server, host string, args ...string) (failed bool, findings map[string]finding) {
	t.Helper()
	args = append([]string{"doctor", "--json", "--redis-url", r.URL(), "--public-url", "http://" + host}, args...)
	out, err := exec.Command(program, args...).Output()
	var all struct {
		OK     bool
		Checks []finding
	}
	require.NoError(t, json.Unmarshal(out, &all), "%s", out)
	require.Equal(t, err == nil, all.OK)
	findings = map[string]finding{}
	for _, f := range all.Checks {
		findings[f.Check] = f
	}
	return !all.OK, findings
}

func TestDoctorFindsWhatNginxDoesToStreams(t *testing.T) {
	r := redistest.Start(t)
	in := startReady(t, r, "--heartbeat", "1s")
	f := func(directives, check, status, text, fix string, args ...string) {
		t.Helper()
		host := startNginx(t, in.public, in.public, "proxy_pass http", directives+" proxy_pass http")
		failed, findings := diagnose(t, r, host, append([]string{"--heartbeat=1s"}, args...)...)
		require.Equal(t, status == "fail", failed, "%v", findings)
		require.Equal(t, status, findings[check].Status, "%v", findings)
		require.Contains(t, findings[check].Text, text)
		require.Contains(t, findings[check].Fix, fix)
	}
	f("", "proxy: events", "ok", "each at once", "")
	f("", "proxy: quiet stream", "ok", "with 3 heartbeats", "", "--probe-time=3500ms")
	// The answer waits in the buffer of nginx, head and all.
	f("proxy_ignore_headers X-Accel-Buffering;", "proxy: begin", "fail", "no head within 5s", "proxy_ignore_headers")
	f("gzip on; gzip_types text/event-stream; gzip_proxied any; gzip_http_version 1.0; gzip_min_length 0;",
		"proxy: compression", "warn", "Content-Encoding gzip", "gzip off")
	f("return 404;", "proxy: begin", "fail", "404", "--public-url")
}

// TestDoctorFindsTimeoutsThatAreTooShort: the heartbeats of this instance are rarer than
// what the proxies take for a dead peer.
func TestDoctorFindsTimeoutsThatAreTooShort(t *testing.T) {
	r := redistest.Start(t)
	in := startReady(t, r, "--heartbeat", "60s")
	nginx := startNginx(t, in.public, in.public, "proxy_pass http", "proxy_read_timeout 2s; proxy_pass http")
	haproxy := startHAProxy(t, in.public, in.public, "timeout client 45s", "timeout client 2s", "timeout server 45s", "timeout server 2s")
	for _, host := range []string{nginx, haproxy} {
		eventually(t, "a ready instance behind "+host, func() bool {
			_, findings := diagnose(t, r, host)
			return findings["proxy: events"].Status == "ok"
		})
		begin := time.Now()
		failed, findings := diagnose(t, r, host, "--probe-time=30s", "--heartbeat=60s")
		require.True(t, failed)
		require.Contains(t, findings["proxy: quiet stream"].Text, "it was cut after 2s")
		require.Contains(t, findings["proxy: quiet stream"].Fix, "proxy_read_timeout 180 s")
		require.Less(t, time.Since(begin), 20*time.Second)
	}
}

func TestDoctorIsContentWithTheShippedHAProxy(t *testing.T) {
	r := redistest.Start(t)
	in := startReady(t, r)
	host := startHAProxy(t, in.public, in.public)
	eventually(t, "a ready instance behind "+host, func() bool {
		failed, _ := diagnose(t, r, host)
		return !failed
	})
}
