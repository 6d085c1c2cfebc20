//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// instance is a running ssed.
type instance struct {
	t testing.TB
	*process
	public, admin string // "127.0.0.1:port"
}

// start runs ssed on free ports until the test ends, with a short drain, and waits for
// its addresses.
func start(t testing.TB, args ...string) *instance {
	t.Helper()
	defaults := []string{"--admin", "127.0.0.1:0", "--log-format", "json", "--retry", "200ms-400ms", "--drain", "50ms"}
	if !slices.Contains(args, "--listen") { // a list: a default would be added to it
		defaults = append(defaults, "--listen", "127.0.0.1:0")
	}
	args = append(defaults, args...)
	in := &instance{t: t}
	t.Cleanup(func() { // after spawn's
		if in.process != nil && in.Cmd.ProcessState.ExitCode() != 0 {
			t.Errorf("ssed: exit code %d\n%s", in.Cmd.ProcessState.ExitCode(), in.logText())
		}
	})
	in.process = spawn(t, nil, program, args...)
	in.public, in.admin = in.logged("streams"), in.logged("admin")
	return in
}

// startReady runs ssed on that Redis and waits until it serves and the history is
// being written.
func startReady(t testing.TB, r *redistest.Server, args ...string) *instance {
	t.Helper()
	in := start(t, append([]string{"--redis-url", r.URL()}, args...)...)
	in.waitReady()
	eventually(t, "the first watermark", func() bool {
		mark, err := r.Do("HGET", "{sse:stream:}:clock", "watermark")
		return err == nil && mark != nil
	})
	return in
}

// logged waits for the line that tells the address of a listener.
func (in *instance) logged(listener string) (addr string) {
	in.t.Helper()
	eventually(in.t, "address of "+listener, func() bool {
		require.False(in.t, in.Exited(), "ssed ended:\n%s", in.logText())
		for line := range strings.Lines(in.logText()) {
			var entry struct{ Listener, Addr string }
			if json.Unmarshal([]byte(line), &entry) == nil && entry.Listener == listener {
				addr = entry.Addr
				return true
			}
		}
		return false
	})
	return addr
}

// httpClient opens a connection for each request and shares nothing between tests.
var httpClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}

// get returns status 0 when there is no answer.
func get(t testing.TB, url string) (status int, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	resp, err := httpClient.Do(req)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b)
}

func (in *instance) waitReady() {
	in.t.Helper()
	eventually(in.t, "ready", func() bool {
		status, _ := get(in.t, "http://"+in.admin+"/ready")
		return status == http.StatusOK
	})
}

// metric returns the sum of a metric over its labels.
func (in *instance) metric(name string) (sum float64) {
	in.t.Helper()
	_, text := get(in.t, "http://"+in.admin+"/metrics")
	found := false
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if key != name && !strings.HasPrefix(key, name+"{") {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		require.NoError(in.t, err, line)
		sum, found = sum+v, true
	}
	require.True(in.t, found, "no metric %s in:\n%s", name, text)
	return sum
}

// waitStreams waits until so many event streams are open.
func (in *instance) waitStreams(n int) {
	in.t.Helper()
	eventually(in.t, strconv.Itoa(n)+" streams", func() bool { return in.metric("ssed_streams") == float64(n) })
}

// streamURL is the address of a stream on a host, with further parameters as pairs.
func streamURL(host, channel string, more ...string) string {
	query := "channel_id=" + url.QueryEscape(channel)
	for i := 0; i < len(more); i += 2 {
		query += "&" + more[i] + "=" + url.QueryEscape(more[i+1])
	}
	return "http://" + host + "/sse/connect?" + query
}

// publish publishes with one command on a connection of its own.
func publish(t testing.TB, r *redistest.Server, channel, payload string) {
	t.Helper()
	receivers, err := r.Do("PUBLISH", channel, payload)
	require.NoError(t, err)
	require.NotZero(t, receivers, "no instance is subscribed")
}
