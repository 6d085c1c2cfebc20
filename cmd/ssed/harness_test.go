package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"ssed/internal/child"
	"ssed/internal/redistest"
	"ssed/internal/ssedtest"
)

// patience is how long a test waits for what should happen at once.
const patience = time.Minute

// program is the path of the binary under test.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ssed-test-")
	if err == nil {
		program = filepath.Join(dir, "ssed")
		err = build(program, raceEnabled)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// The goroutine is started by os/signal on first use and never ends.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("os/signal.loop"), goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// build compiles the program, as a rule with the race detector if the tests have it.
func build(to string, race bool) error {
	args := []string{"-ldflags", "-s -w -X main.version=v0.0.0-test"}
	if race {
		args = append(args, "-race")
	}
	return ssedtest.Build(to, args...)
}

// quickProgram is the program without the race detector, which starts ten times as fast.
var quickProgram = sync.OnceValues(func() (path string, err error) {
	path = program + "-quick"
	return path, build(path, false)
})

// readFlags runs ssed to its end for what it says of its flags. One goroutine reads them.
func readFlags(t *testing.T, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	quick, err := quickProgram()
	require.NoError(t, err)
	return runToTheEnd(t, quick, env, args)
}

// instance is a running ssed.
type instance struct {
	*ssedtest.Instance
	t testing.TB

	public, admin string // "http://127.0.0.1:port"
}

// start runs ssed on free ports until the test ends. Clients are told to come back
// soon and a drain is short, unless args say otherwise.
func start(t testing.TB, args ...string) *instance {
	t.Helper()
	in := launch(t, args...)
	require.NoError(t, in.AwaitAddresses())
	in.public, in.admin = "http://"+in.Public(), "http://"+in.Admin()
	return in
}

// startRedis runs ssed on the Redis server and waits until it is ready and the
// history is being written.
func startRedis(t testing.TB, r *redistest.Server, args ...string) *instance {
	t.Helper()
	in := start(t, append([]string{"--redis-url", r.URL()}, args...)...)
	in.waitReady()
	if !slices.Contains(args, "off") {
		in.eventually("the first watermark", func() bool {
			mark, err := r.Do("HGET", "{sse:stream:}:clock", "watermark")
			return err == nil && mark != nil
		})
	}
	return in
}

func launch(t testing.TB, args ...string) *instance {
	t.Helper()
	args = append([]string{"--pprof", "--retry", "10ms-30ms", "--drain", "50ms"}, args...)
	process, err := ssedtest.Launch(program, ssedtest.Options{Env: environment()}, args...)
	require.NoError(t, err)
	in := &instance{Instance: process, t: t}
	t.Cleanup(in.end)
	return in
}

// environment is that of the tests without what would change the flags. A program
// with the race detector would otherwise sleep for a second before it exits.
func environment(extra ...string) []string {
	env := []string{"GORACE=" + os.Getenv("GORACE") + " atexit_sleep_ms=0"}
	for _, v := range child.Environ() {
		if !strings.HasPrefix(v, "GORACE=") {
			env = append(env, v)
		}
	}
	return append(env, extra...)
}

// eventually polls until the condition holds, less and less often: a look at /metrics costs
// several milliseconds with the race detector, which others wait for too.
func (in *instance) eventually(what string, holds func() bool) {
	in.t.Helper()
	deadline := time.Now().Add(patience)
	for pause := 5 * time.Millisecond; !holds(); pause = min(pause*3/2, 50*time.Millisecond) {
		if in.Exited() || time.Now().After(deadline) {
			in.t.Fatalf("not reached: %s\nlog:\n%s", what, in.Log())
		}
		<-time.After(pause)
	}
}

// logs waits until the log has the text: a line comes through a pipe, and later than what
// a client is told.
func (in *instance) logs(text string) {
	in.t.Helper()
	in.eventually("in the log: "+text, func() bool { return strings.Contains(in.Log(), text) })
}

// wait returns the exit code.
func (in *instance) wait() int {
	in.t.Helper()
	select {
	case <-in.Done():
	case <-time.After(patience):
		in.t.Fatalf("still running\nlog:\n%s", in.Log())
	}
	return in.Cmd.ProcessState.ExitCode()
}

// end stops the process if it runs, and fails the test for an untidy end, among
// them data races: the race detector makes exit code 66 of them.
func (in *instance) end() {
	if in.Exited() {
		require.NotContains(in.t, in.Log(), "DATA RACE")
		return
	}
	_ = in.Stop(syscall.SIGTERM, patience) // a process that was killed has no code 0
	if code := in.Cmd.ProcessState.ExitCode(); code != exitOK || in.t.Failed() {
		in.t.Errorf("exit code %d, log:\n%s", code, in.Log())
	}
}

// kill ends the process as a crash would.
func (in *instance) kill() {
	in.Signal(syscall.SIGKILL)
	<-in.Done()
}

// httpClient opens a connection for each request and shares nothing between tests.
var httpClient = ssedtest.Client

func (in *instance) get(url string) (status int, body string) {
	in.t.Helper()
	status, body, err := ssedtest.Get(context.Background(), url)
	require.NoError(in.t, err)
	return status, body
}

func (in *instance) waitReady() {
	in.t.Helper()
	in.eventually("ready", func() bool { return in.isReady() })
}

func (in *instance) isReady() bool {
	status, _ := in.get(in.public + "/ready")
	return status == http.StatusOK
}

// publish sends a message by the admin listener and returns the answer.
func (in *instance) publish(channel, payload string) (answer struct {
	ID        string
	Receivers *int64
	Error     string
},
) {
	in.t.Helper()
	resp, err := httpClient.Post(in.admin+"/publish?channel_id="+url.QueryEscape(channel), "text/plain", strings.NewReader(payload))
	require.NoError(in.t, err)
	defer resp.Body.Close()
	require.NoError(in.t, json.NewDecoder(resp.Body).Decode(&answer))
	require.Contains(in.t, []int{http.StatusOK, http.StatusAccepted}, resp.StatusCode, answer.Error)
	return answer
}

// metric returns the sum of a metric over its labels.
func (in *instance) metric(name string) float64 {
	in.t.Helper()
	sum, err := in.Metric(context.Background(), name)
	require.NoError(in.t, err)
	return sum
}

// openFiles counts the descriptors of the process.
func (in *instance) openFiles() int {
	in.t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", in.Pid()))
	require.NoError(in.t, err)
	return len(fds)
}

// publisher is a backend: it PUBLISHes numbered payloads.
type publisher struct {
	t      testing.TB
	client rueidis.Client
}

func newPublisher(t testing.TB, r *redistest.Server) *publisher {
	t.Helper()
	client, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{r.Addr()}, DisableCache: true, ForceSingleClient: true, PipelineMultiplex: -1,
		RingScaleEachConn: 8,
	})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return &publisher{t, client}
}

func (p *publisher) publish(channel, payload string) {
	p.t.Helper()
	cmd := p.client.B().Publish().Channel(channel).Message(payload).Build()
	require.NoError(p.t, p.client.Do(context.Background(), cmd).Error())
}

// numbers publishes from, from+1, …, to-1, a thousand in a pipeline.
func (p *publisher) numbers(channel string, from, to int) {
	p.t.Helper()
	for from < to {
		var cmds rueidis.Commands
		for ; from < to && len(cmds) < 1000; from++ {
			cmds = append(cmds, p.client.B().Publish().Channel(channel).Message(strconv.Itoa(from)).Build())
		}
		for _, result := range p.client.DoMulti(context.Background(), cmds...) {
			require.NoError(p.t, result.Error())
		}
	}
}
