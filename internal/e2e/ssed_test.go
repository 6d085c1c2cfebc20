//go:build e2e

package e2e

import (
	"context"
	"net/url"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
	"ssed/internal/ssedtest"
)

// instance is a running ssed.
type instance struct {
	*ssedtest.Instance
	t             testing.TB
	public, admin string // "127.0.0.1:port"
	killed        bool
}

// start runs ssed on free ports until the test ends, with a short drain, and waits for
// its addresses.
func start(t testing.TB, args ...string) *instance {
	t.Helper()
	process, err := ssedtest.Launch(program, ssedtest.Options{}, append([]string{"--retry", "200ms-400ms", "--drain", "50ms"}, args...)...)
	require.NoError(t, err)
	in := &instance{Instance: process, t: t}
	t.Cleanup(in.end)
	require.NoError(t, in.AwaitAddresses())
	in.public, in.admin = in.Public(), in.Admin()
	return in
}

// end stops the process if it runs, and fails the test for an untidy end.
func (in *instance) end() {
	if in.killed {
		return
	}
	if err := in.Stop(syscall.SIGTERM, patience); err != nil {
		in.t.Error(err)
	}
	if code := in.Cmd.ProcessState.ExitCode(); code != 0 || in.t.Failed() {
		in.t.Errorf("ssed: exit code %d\n%s", code, in.Log())
	}
}

// kill ends the process as kill -9 does, and waits for the end.
func (in *instance) kill() {
	in.t.Helper()
	in.killed = true
	require.NoError(in.t, in.Stop(syscall.SIGKILL, patience))
}

// wait returns the exit code.
func (in *instance) wait(t testing.TB) int {
	t.Helper()
	select {
	case <-in.Done():
	case <-time.After(patience):
		t.Fatalf("ssed still runs\n%s", in.Log())
	}
	return in.Cmd.ProcessState.ExitCode()
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

// httpClient opens a connection for each request and shares nothing between tests.
var httpClient = ssedtest.Client

func (in *instance) waitReady() {
	in.t.Helper()
	require.NoError(in.t, in.AwaitReady(context.Background()))
}

// metric returns the sum of a metric over its labels.
func (in *instance) metric(name string) float64 {
	in.t.Helper()
	sum, err := in.Metric(context.Background(), name)
	require.NoError(in.t, err)
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
