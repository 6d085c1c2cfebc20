package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
	"ssed/sseproto"
)

// command is a subcommand that runs beside the test.
type command struct {
	t      *testing.T
	cmd    *exec.Cmd
	lines  chan string // of standard output; closed at its end
	mu     sync.Mutex
	stderr bytes.Buffer // guarded by mu
}

// Write takes standard error.
func (p *command) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.Write(b)
}

func (p *command) errors() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

func spawn(t *testing.T, env []string, args ...string) *command {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	p := &command{t: t, cmd: exec.CommandContext(ctx, program, args...), lines: make(chan string, 1000)}
	p.cmd.Env, p.cmd.Stderr = environment(env...), p
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			p.lines <- scan.Text()
		}
	}()
	return p
}

// rest returns the lines until the end, and the exit code.
func (p *command) rest() (lines []string, code int) {
	for line := range p.lines {
		lines = append(lines, line)
	}
	_ = p.cmd.Wait() // the state tells
	return lines, p.cmd.ProcessState.ExitCode()
}

func (in *instance) waitStreams(n int) {
	in.t.Helper()
	in.eventually(fmt.Sprint(n, " streams"), func() bool { return in.metric("ssed_streams") == float64(n) })
}

func TestTailPrintsWhatIsPublished(t *testing.T) {
	in := start(t)
	tail := spawn(t, nil, "tail", "--url", in.public, "-n", "3", "a", "b c")
	in.waitStreams(1)
	in.publish("a", "one")
	in.publish("b c", "two\nlines")
	in.publish("other", "not for it")
	in.publish("a", "three\x1b[31m")
	in.publish("a", "too late")
	lines, code := tail.rest()
	require.Equal(t, exitOK, code, tail.errors())
	require.Equal(t, []string{"one", "two", "lines", `three\x1b[31m`}, lines)
}

func TestTailWritesDataAsTheyAreWithRaw(t *testing.T) {
	in := start(t)
	tail := spawn(t, nil, "tail", "--url", in.public, "-n", "1", "--raw", "a")
	in.waitStreams(1)
	in.publish("a", "one\x1b[31m\u202e")
	lines, code := tail.rest()
	require.Equal(t, exitOK, code, tail.errors())
	require.Equal(t, []string{"one\x1b[31m\u202e"}, lines)
}

func TestTailPrintsLinesOfJSONAndBeginsSinceAnID(t *testing.T) {
	in := start(t)
	first := in.publish("a", "one").ID
	second := in.publish("a", "two").ID
	lines, code := spawn(t, nil, "tail", "--url", in.public, "--count=1", "--json", "--since", first, "a").rest()
	require.Equal(t, exitOK, code)
	require.Equal(t, []string{`{"id":"` + second + `","event":"message","data":"two"}`}, lines)
	lines, code = spawn(t, nil, "tail", "--url", in.public, "-n1", "--json", "--since", first+"/order-1", "a").rest()
	require.Equal(t, exitOK, code)
	require.Contains(t, lines[0], second)
}

func TestTailBeginsWithOlderMessages(t *testing.T) {
	in := start(t)
	for i := range 5 {
		in.publish("a", strconv.Itoa(i))
	}
	f := func(args []string, want ...string) {
		t.Helper()
		args = append([]string{"tail", "--url", in.public, "-n" + strconv.Itoa(len(want)), "a"}, args...)
		lines, code := spawn(t, nil, args...).rest()
		require.Equal(t, exitOK, code)
		require.Equal(t, want, lines)
	}
	all := []string{"0", "1", "2", "3", "4"}
	f([]string{"--since", "earliest"}, all...)
	f([]string{"--since", "1h"}, all...)
	f([]string{"--since=2020-01-01T00:00:00Z"}, all...)
	f([]string{"--last", "2"}, "3", "4")
}

func TestTailLeavesOutHeartbeats(t *testing.T) {
	t.Parallel()
	in := start(t, "--heartbeat=1s", "--heartbeat-event=ping")
	for _, args := range [][]string{nil, {"--json"}} {
		tail := spawn(t, []string{"SSED_HEARTBEAT_EVENT=ping"}, append([]string{"tail", "--url", in.public, "-n2", "a"}, args...)...)
		in.waitStreams(1)
		beats := in.metric("ssed_stream_heartbeats_total")
		in.eventually("heartbeats", func() bool { return in.metric("ssed_stream_heartbeats_total") >= beats+2 })
		in.api("POST", "/api/send", `{"channel_id":"a","event_type":"ping","data":"of a backend"}`, 200, nil)
		in.publish("a", "")
		lines, code := tail.rest()
		require.Equal(t, exitOK, code, tail.errors())
		require.Len(t, lines, 2)
		require.Contains(t, lines[0], "of a backend")
		in.waitStreams(0)
	}
}

func TestTailComesBackWithTheLastID(t *testing.T) {
	t.Parallel()
	in := start(t, "--max-age=1s", "--retry=1ms")
	tail := spawn(t, nil, "tail", "--url", in.public, "-n", "40", "a")
	in.waitStreams(1)
	var want []string
	for i := range 40 {
		n := i / 20
		in.eventually("a further stream", func() bool { return in.metric("ssed_stream_attached_total") > float64(n) })
		want = append(want, strconv.Itoa(i))
		in.publish("a", want[i])
	}
	lines, code := tail.rest()
	require.Equal(t, exitOK, code, tail.errors())
	require.Equal(t, want, lines)
	require.Contains(t, tail.errors(), "the server ended the stream; trying again in ")
	require.NotContains(t, tail.errors(), "gap")
}

func TestTailTellsGaps(t *testing.T) {
	in := start(t)
	tail := spawn(t, nil, "tail", "--url", in.public, "-n", "1", "--since", "1-1", "a")
	in.waitStreams(1)
	in.publish("a", "one")
	lines, code := tail.rest()
	require.Equal(t, exitOK, code)
	require.Equal(t, []string{"one"}, lines)
	require.Contains(t, tail.errors(), `ssed tail: gap: {"reason":`)

	tail = spawn(t, nil, "tail", "--url", in.public, "-n", "1", "--json", "--since", "1-1", "a")
	lines, _ = tail.rest() // what is in memory, behind the gap
	require.Len(t, lines, 2)
	require.Contains(t, lines[0], `"event":"gap"`)
}

func TestTailEndsByASignalAndTellsTheLastID(t *testing.T) {
	for _, c := range []struct {
		args []string
		want int
	}{{nil, exitOK}, {[]string{"-n", "2"}, exitFailed}} {
		in := start(t)
		tail := spawn(t, nil, append([]string{"tail", "--url", in.public, "a"}, c.args...)...)
		in.waitStreams(1)
		id := in.publish("a", "one").ID
		require.Equal(t, "one", <-tail.lines)
		require.NoError(t, tail.cmd.Process.Signal(syscall.SIGINT))
		_, code := tail.rest()
		require.Equal(t, c.want, code)
		require.Contains(t, tail.errors(), "the last ID was "+id)
	}
}

func TestTailSendsItsToken(t *testing.T) {
	in := start(t, "--auth=jwt", "--auth-jwt-secret-file="+secretFile(t, testSecret))
	token := tokenFor(t, jwt.MapClaims{"channels": []string{"a"}, "exp": time.Now().Add(time.Hour).Unix()})
	for i, c := range []struct{ env, args []string }{
		{[]string{"SSED_TOKEN=" + token}, nil},
		{nil, []string{"--token-file", writeFile(t, "token", token+"\n")}},
	} {
		tail := spawn(t, c.env, append([]string{"tail", "--url", in.public, "-n1", "a"}, c.args...)...)
		in.eventually("the stream", func() bool { return in.metric("ssed_stream_attached_total") == float64(i+1) })
		in.publish("a", "one")
		_, code := tail.rest()
		require.Equal(t, exitOK, code, tail.errors())
	}
	tail := spawn(t, nil, "tail", "--url", in.public, "a")
	_, code := tail.rest()
	require.Equal(t, exitFailed, code)
	require.Contains(t, tail.errors(), "401 Unauthorized")
}

func TestTailOfNothingFails(t *testing.T) {
	port, err := redistest.FreePort()
	require.NoError(t, err)
	tail := spawn(t, nil, "tail", "--url", fmt.Sprintf("http://user:s3cret@127.0.0.1:%d", port), "a")
	_, code := tail.rest()
	require.Equal(t, exitFailed, code)
	require.Contains(t, tail.errors(), "connection refused")
	require.NotContains(t, tail.errors(), "s3cret")
}

func TestTailAndPubNameEveryBadValue(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "missing")
	f := func(args []string, want ...string) {
		t.Helper()
		code, _, stderr := readFlags(t, nil, args...)
		require.Equal(t, exitUsage, code)
		for _, name := range want {
			require.Contains(t, stderr, "ssed: "+name+": ")
		}
	}
	f([]string{"tail", "--url=ftp://s3cret", "--since=x", "--count=none", "--token-file=" + missing, ""},
		"--url", "--since", "--count", "--token-file", "CHANNEL")
	f([]string{"tail", "--last=0", "a"}, "--last")
	f([]string{"tail", "--last=1", "--since=1h", "a"}, "--last")
	f([]string{"pub", "__ssed", "x", "--admin-url=nowhere", "--admin-token=short", "--redis-url=http://x", "--event=a\nb", "--id=a b", "--lines", "--config=" + missing},
		"CHANNEL", "--admin-url", "--admin-token", "--redis-url", "--event", "--id", "--lines", "--config")
	for _, args := range [][]string{{"tail"}, {"pub"}, {"pub", "a", "b", "c"}, {"tail", "a", "--drain=1s"}} {
		code, _, _ := readFlags(t, nil, args...)
		require.Equal(t, exitUsage, code)
	}
}

// runInput runs ssed with standard input to its end.
func runInput(t *testing.T, env []string, input string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	var out, errOut bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environment(env...), strings.NewReader(input), &out, &errOut
	_ = cmd.Run() // the state tells
	return cmd.ProcessState.ExitCode(), out.String(), errOut.String()
}

func TestPubByTheAdminListenerPrintsTheID(t *testing.T) {
	t.Parallel()
	token := writeFile(t, "token", "0123456789abcdef\n")
	in := start(t, "--admin-token-file", token)
	tail := spawn(t, nil, "tail", "--url", in.public, "--json", "-n", "7", "a")
	in.eventually("the stream", func() bool { return strings.Contains(in.metricsWith("0123456789abcdef"), "\nssed_streams 1\n") })
	var ids []string
	pub := func(input string, args ...string) {
		t.Helper()
		args = append([]string{"pub", "--admin-url", in.admin, "--admin-token-file", token, "a"}, args...)
		code, stdout, stderr := runInput(t, nil, input, args...)
		require.Equal(t, exitOK, code, stderr)
		ids = append(ids, strings.Fields(stdout)...)
	}
	pub("", "argument")
	pub("", "")
	pub("all of\nthe input\n", "-")
	pub("input")
	pub("two line ends\n\n")
	pub("first\nsecond\n", "--lines")
	lines, code := tail.rest()
	require.Equal(t, exitOK, code)
	for i, data := range []string{"argument", "", "all of\nthe input", "input", "two line ends\n", "first", "second"} {
		text, _ := json.Marshal(data)
		require.Equal(t, `{"id":"`+ids[i]+`","event":"message","data":`+string(text)+`}`, lines[i])
	}

	code, stdout, stderr := runProgram(t, []string{"SSED_ADMIN_TOKEN=fedcba9876543210"}, "pub", "--admin-url", in.admin, "a", "x")
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "401")
	require.NotContains(t, stdout+stderr, "fedcba")
}

// metricsWith is GET /metrics of an admin listener with a token.
func (in *instance) metricsWith(token string) string {
	req, err := http.NewRequestWithContext(in.t.Context(), http.MethodGet, in.admin+"/metrics", nil)
	require.NoError(in.t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := httpClient.Do(req)
	require.NoError(in.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(in.t, err)
	return string(text)
}

// TestPubRefusesEmptyInput: it is what is left of a command that failed.
func TestPubRefusesEmptyInput(t *testing.T) {
	in := start(t)
	code, stdout, stderr := runInput(t, nil, "", "pub", "--admin-url", in.admin, "a")
	require.Equal(t, exitFailed, code)
	require.Empty(t, stdout)
	require.Contains(t, stderr, "standard input is empty")
	require.Zero(t, in.metric("ssed_log_messages_total"))
}

func TestPubFollowsRedirectsOnRequestOnly(t *testing.T) {
	in := start(t)
	for _, status := range []int{http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		elsewhere := httptest.NewServer(http.RedirectHandler(in.admin+"/publish?channel_id=a", status))
		t.Cleanup(elsewhere.Close)
		code, stdout, stderr := runProgram(t, nil, "pub", "--admin-url", elsewhere.URL, "a", "private")
		require.Equal(t, exitFailed, code)
		require.Empty(t, stdout)
		require.Contains(t, stderr, in.admin+"/publish")
		require.Zero(t, in.metric("ssed_log_messages_total"))
	}
	elsewhere := httptest.NewServer(http.RedirectHandler(in.admin+"/publish?channel_id=a", http.StatusTemporaryRedirect))
	t.Cleanup(elsewhere.Close)
	code, _, stderr := runProgram(t, nil, "pub", "--follow-redirects", "--admin-url", elsewhere.URL, "a", "private")
	require.Equal(t, exitOK, code, stderr)
	require.Equal(t, 1.0, in.metric("ssed_log_messages_total"))
}

func TestPubThatReadsATerminalEndsBySIGINT(t *testing.T) {
	// Tests that run in the background may have SIGINT ignored, and children inherit that. Of a
	// signal that is caught they do not.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, os.Interrupt)
	defer signal.Stop(caught)
	in := start(t)
	master, slave := openTerminal(t)
	cmd := exec.Command(program, "pub", "--admin-url", in.admin, "--lines", "a")
	cmd.Env, cmd.Stdin = environment(), slave
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = master.WriteString("one\n")
	require.NoError(t, err)
	id, err := bufio.NewReader(out).ReadString('\n') // so it waits for the next line
	require.NoError(t, err)
	require.NotEmpty(t, id)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	_ = cmd.Wait() // the state tells
	require.Equal(t, syscall.SIGINT, cmd.ProcessState.Sys().(syscall.WaitStatus).Signal())
}

// TestPubReadsOnlyTheRedisURLThatItUses: the environment is that of the service, whose
// files others cannot read.
func TestPubReadsOnlyTheRedisURLThatItUses(t *testing.T) {
	in := start(t)
	missing := filepath.Join(t.TempDir(), "missing")
	code, _, stderr := runProgram(t, []string{"SSED_REDIS_URL_FILE=" + missing}, "pub", "--admin-url", in.admin, "a", "x")
	require.Equal(t, exitOK, code, stderr)
	code, _, stderr = runProgram(t, []string{"SSED_REDIS_URL_FILE=" + missing}, "pub", "a", "x")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "--redis-url-file: ")
}

// TestPubReadsOnlyTheTokenThatItUses: with Redis it needs none.
func TestPubReadsOnlyTheTokenThatItUses(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startRedis(t, r)
	file := writeFile(t, "ssed.yaml", "redis-url: "+r.URL()+"\nadmin-token-file: "+filepath.Join(t.TempDir(), "missing")+"\n")
	code, stdout, stderr := runProgram(t, nil, "pub", "--config", file, "a", "x")
	require.Equal(t, exitOK, code, stderr)
	require.Equal(t, "receivers: 1\n", stdout)
	code, _, stderr = runProgram(t, nil, "pub", "--config", file, "--admin-url", in.admin, "a", "x")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "--admin-token-file: ")
}

func TestPubOnRedisTellsWhoGotIt(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	config := writeFile(t, "ssed.yaml", "redis-url: "+r.URL()+"\nhistory-max: 7\n")
	code, stdout, stderr := runProgram(t, nil, "pub", "--config", config, "a", "x")
	require.Equal(t, exitFailed, code)
	require.Equal(t, "receivers: 0\n", stdout)
	require.Contains(t, stderr, "the message is lost")

	in := startRedis(t, r)
	tail := spawn(t, nil, "tail", "--url", in.public, "-n", "3", "a")
	in.waitStreams(1)
	code, stdout, stderr = runInput(t, []string{"SSED_REDIS_URL=" + r.URL()}, "one\ntwo\n", "pub", "--lines", "a")
	require.Equal(t, exitOK, code, stderr)
	require.Equal(t, "receivers: 1\nreceivers: 1\n", stdout)
	// The flag means this one, whatever the environment has.
	code, _, stderr = runProgram(t, []string{"SSED_REDIS_URL=redis://127.0.0.1:1"}, "pub", "--admin-url", in.admin, "a", "three")
	require.Equal(t, exitOK, code, stderr)
	lines, _ := tail.rest()
	require.Equal(t, []string{"one", "two", "three"}, lines)
}

// subscribe is what a subscriber of Redis gets on a channel.
func subscribe(t *testing.T, r *redistest.Server, channel string) <-chan string {
	t.Helper()
	client := newPublisher(t, r).client
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	got, received := make(chan string, 10), make(chan struct{})
	t.Cleanup(func() { cancel(); <-received })
	go func() {
		defer close(received)
		_ = client.Receive(ctx, client.B().Subscribe().Channel(channel).Build(), func(m rueidis.PubSubMessage) { got <- m.Message })
	}()
	for subscribers := int64(0); subscribers == 0; {
		answer, err := r.Do("PUBSUB", "NUMSUB", channel)
		require.NoError(t, err)
		subscribers = answer.([]any)[1].(int64)
	}
	return got
}

func TestPubOnRedisPutsTypeAndIDIntoAnEnvelope(t *testing.T) {
	r := redistest.Start(t)
	got := subscribe(t, r, "a")
	code, _, stderr := runProgram(t, nil, "pub", "--redis-url", r.URL(), "--envelope=json", "--event=order", "--id=o-17", "a", `{"x":1}`)
	require.Equal(t, exitOK, code, stderr)
	m, ok := sseproto.ParseEnvelope(<-got)
	require.True(t, ok)
	require.Equal(t, sseproto.Message{Event: "order", ID: "o-17", Data: `{"x":1}`}, m)
	// What would be taken for an envelope is not one.
	code, _, stderr = runProgram(t, nil, "pub", "--redis-url", r.URL(), "--envelope=json", "a", `{"data":"x"}`)
	require.Equal(t, exitOK, code, stderr)
	m, ok = sseproto.ParseEnvelope(<-got)
	require.True(t, ok)
	require.Equal(t, sseproto.Message{Data: `{"data":"x"}`}, m)
}

// TestPubOnRedisSendsTypeAndIDToInstancesWithoutEnvelopes: marked as what the gateway itself
// publishes, so that no flag of the instances matters.
func TestPubOnRedisSendsTypeAndIDToInstancesWithoutEnvelopes(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startRedis(t, r)
	tail := spawn(t, nil, "tail", "--url", in.public, "--json", "-n", "3", "a")
	in.waitStreams(1)
	for _, args := range [][]string{{"--event=order", "--id=o-17", "a", `{"x":1}`}, {"a", `{"data":"x"}`}, {"--event=order", "a", ""}} {
		code, _, stderr := runProgram(t, nil, append([]string{"pub", "--redis-url", r.URL()}, args...)...)
		require.Equal(t, exitOK, code, stderr)
	}
	lines, _ := tail.rest()
	require.Len(t, lines, 3)
	for i, want := range []struct{ ID, Event, Data string }{{"/o-17", "order", `{"x":1}`}, {"", "message", `{"data":"x"}`}, {"", "order", ""}} {
		var got struct{ ID, Event, Data string }
		require.NoError(t, json.Unmarshal([]byte(lines[i]), &got), lines[i])
		require.True(t, strings.HasSuffix(got.ID, want.ID), got.ID)
		require.Equal(t, want.Event, got.Event)
		require.Equal(t, want.Data, got.Data)
	}
}

func TestControlCharactersAreShownOnATerminal(t *testing.T) {
	master, slave := openTerminal(t)
	in := start(t)
	cmd := exec.Command(program, "tail", "--url", in.public, "-n", "1", "a")
	cmd.Env, cmd.Stdout = environment(), slave
	require.NoError(t, cmd.Start())
	in.waitStreams(1)
	in.publish("a", "a\x1b]0;title\x07\u009b1m\ttab\u00e9\u202etxt.exe\u2066")
	line, err := bufio.NewReader(master).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "a\\x1b]0;title\\x07\\x9b1m\ttab\u00e9\\u202etxt.exe\\u2066", strings.TrimRight(line, "\r\n"))
	require.NoError(t, cmd.Wait())

	in.waitStreams(0)
	cmd = exec.Command(program, "tail", "--url", in.public, "-n", "1", "--json", "a")
	cmd.Env, cmd.Stdout = environment(), slave
	require.NoError(t, cmd.Start())
	in.waitStreams(1)
	const data = "\x1b]0;\u009b1m\x7f\ttab\u00e9\u202e\u061c"
	in.publish("a", data)
	line, err = bufio.NewReader(master).ReadString('\n')
	require.NoError(t, err)
	require.NotRegexp(t, `[\x7f\x{80}-\x{9f}\x{202e}\x{061c}]`, line)
	var event struct{ Data string }
	require.NoError(t, json.Unmarshal([]byte(line), &event))
	require.Equal(t, data, event.Data, "it stays the same JSON")
	require.NoError(t, cmd.Wait())
}

// TestWhatAServerSaysCannotChangeATerminal: the line of the status, an ID.
func TestWhatAServerSaysCannotChangeATerminal(t *testing.T) {
	f := func(answer, want string, args ...string) {
		t.Helper()
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		served := make(chan struct{})
		go func() {
			defer close(served)
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = http.ReadRequest(bufio.NewReader(conn)) // whatever it is
			_, _ = io.WriteString(conn, answer)
		}()
		_, stdout, stderr := runProgram(t, nil, append(args, "http://"+listener.Addr().String(), "a", "x")...)
		require.NoError(t, listener.Close())
		<-served
		require.Contains(t, stdout+stderr, want)
		require.NotRegexp(t, `[\x00-\x08\x0b-\x1f\x7f-\x{9f}]`, stdout+stderr)
	}
	f("HTTP/1.1 403 \x1b]0;x\x07\r\nContent-Length: 0\r\n\r\n", `403 \x1b]0;x\x07`, "tail", "--url")
	f("HTTP/1.1 403 \x1b]0;x\x07\r\nContent-Length: 0\r\n\r\n", `403 \x1b]0;x\x07`, "pub", "--admin-url")
	f("HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n"+`{"id":"a\u009bb"}`, `a\x9bb`, "pub", "--admin-url")
	f("HTTP/1.1 403 a\x9bb\r\nContent-Length: 0\r\n\r\n", "403 a\ufffdb", "tail", "--url")
}
