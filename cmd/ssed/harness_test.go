package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
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
)

// patience is how long a test waits for what should happen at once.
const patience = 20 * time.Second

// program is the path of the binary under test.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ssed-test-")
	if err == nil {
		program = filepath.Join(dir, "ssed")
		err = build(program)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// build compiles the program, with the race detector if the tests have it.
func build(to string) error {
	args := []string{"build", "-buildvcs=false", "-ldflags", "-X main.version=v0.0.0-test", "-o", to}
	if raceEnabled {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, ".")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// instance is a running ssed.
type instance struct {
	t       testing.TB
	process *child.Process

	public, admin string // "http://127.0.0.1:port"

	mu  sync.Mutex
	log bytes.Buffer // guarded by mu
}

// start runs ssed on free ports until the test ends. Clients are told to come back
// soon and a drain is short, unless args say otherwise.
func start(t testing.TB, args ...string) *instance {
	t.Helper()
	in := launch(t, args...)
	in.public, in.admin = "http://"+in.logged("streams"), "http://"+in.logged("admin")
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
	args = append([]string{
		"--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--pprof", "--log-format", "json",
		"--retry", "10ms-30ms", "--drain", "50ms",
	}, args...)
	in := &instance{t: t}
	cmd := exec.Command(program, args...)
	cmd.Env = environment()
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	in.process, err = child.Start(cmd, func() { in.collect(stderr) })
	require.NoError(t, err)
	t.Cleanup(in.end)
	return in
}

// environment is that of the tests without what would change the flags. A program
// with the race detector would otherwise sleep for a second before it exits.
func environment(extra ...string) []string {
	env := []string{"GORACE=atexit_sleep_ms=0"}
	for _, v := range child.Environ() {
		if !strings.HasPrefix(v, "GORACE=") {
			env = append(env, v)
		}
	}
	return append(env, extra...)
}

func (in *instance) collect(stderr io.Reader) {
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		in.mu.Lock()
		in.log.Write(append(lines.Bytes(), '\n'))
		in.mu.Unlock()
	}
}

func (in *instance) logText() string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.log.String()
}

// logged waits for the line that tells the address of a listener.
func (in *instance) logged(listener string) (addr string) {
	in.t.Helper()
	in.eventually("address of "+listener, func() bool {
		for line := range strings.Lines(in.logText()) {
			var entry struct{ Msg, Listener, Addr string }
			if json.Unmarshal([]byte(line), &entry) == nil && entry.Listener == listener {
				addr = entry.Addr
				return true
			}
		}
		return false
	})
	return addr
}

// eventually polls until the condition holds.
func (in *instance) eventually(what string, holds func() bool) {
	in.t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if in.exited() || time.Now().After(deadline) {
			in.t.Fatalf("not reached: %s\nlog:\n%s", what, in.logText())
		}
		<-time.After(5 * time.Millisecond)
	}
}

func (in *instance) exited() bool { return in.process.Exited() }

func (in *instance) signal(s syscall.Signal) { in.process.Signal(s) }

// wait returns the exit code.
func (in *instance) wait() int {
	in.t.Helper()
	select {
	case <-in.process.Done():
	case <-time.After(patience):
		in.t.Fatalf("still running\nlog:\n%s", in.logText())
	}
	return in.process.Cmd.ProcessState.ExitCode()
}

// end stops the process if it runs, and fails the test for an untidy end, among
// them data races: the race detector makes exit code 66 of them.
func (in *instance) end() {
	if in.exited() {
		require.NotContains(in.t, in.logText(), "DATA RACE")
		return
	}
	_ = in.process.Stop(syscall.SIGTERM, patience) // a process that was killed has no code 0
	if code := in.process.Cmd.ProcessState.ExitCode(); code != exitOK || in.t.Failed() {
		in.t.Errorf("exit code %d, log:\n%s", code, in.logText())
	}
}

// kill ends the process as a crash would.
func (in *instance) kill() {
	in.signal(syscall.SIGKILL)
	<-in.process.Done()
}

// httpClient opens a connection for each request and shares nothing between tests.
var httpClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}

func (in *instance) get(url string) (status int, body string) {
	in.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	require.NoError(in.t, err)
	resp, err := httpClient.Do(req)
	require.NoError(in.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(in.t, err)
	return resp.StatusCode, string(b)
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
func (in *instance) metric(name string) (sum float64) {
	in.t.Helper()
	status, text := in.get(in.admin + "/metrics")
	require.Equal(in.t, http.StatusOK, status)
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

// openFiles counts the descriptors of the process.
func (in *instance) openFiles() int {
	in.t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", in.process.Cmd.Process.Pid))
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
