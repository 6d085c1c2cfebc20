package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
	"ssed/sseproto"
)

// payloads are what PUBLISH may carry and what a client ends up with.
var payloads = []struct{ sent, got string }{
	{`{"text": "Hello!"}`, `{"text": "Hello!"}`},
	{"", ""},
	{" leading space", " leading space"},
	{"two\nlines", "two\nlines"},
	{"cr\rcrlf\r\nlf\n", "cr\ncrlf\nlf\n"},
	{"\n\n", "\n\n"},
	{"data: x\nid: 7\n\nevent: y", "data: x\nid: 7\n\nevent: y"},
	{"grüße 世界 🚀", "grüße 世界 🚀"},
	{"bad \xff\xfe\xe4\xb8 utf-8 \x00\x01", "bad \uFFFD\uFFFD\uFFFD utf-8 \x00\x01"},
	{strings.Repeat("long ", 40_000), strings.Repeat("long ", 40_000)},
}

func TestStartTellsThatKeepAliveProbesRun(t *testing.T) {
	for _, c := range []struct {
		args []string
		told bool
	}{
		{nil, false},
		{[]string{"--heartbeat=60s"}, false},
		{[]string{"--heartbeat=61s"}, true},
		{[]string{"--heartbeat=0"}, true},
		{[]string{"--heartbeat=0", "--peer-timeout=0"}, false},
	} {
		in := start(t, c.args...)
		in.eventually("the start", func() bool { return strings.Contains(in.Log(), "ssed: started") })
		in.Signal(syscall.SIGTERM)
		require.Equal(t, exitOK, in.wait())
		require.Equal(t, c.told, strings.Contains(in.Log(), "the kernel probes every silent connection"), "%v", c.args)
	}
}

func TestEmbeddedDeliversWhatIsPosted(t *testing.T) {
	in := start(t)
	s := connect(t, in, "", "user123")
	other := connect(t, in, "", "user1234")
	var last sseproto.ID
	for _, p := range payloads {
		answer := in.publish("user123", p.sent)
		s.want(p.got)
		require.Equal(t, answer.ID, s.lastID)
		id, err := sseproto.ParseID(s.lastID)
		require.NoError(t, err)
		require.True(t, last.Less(id))
		last = id
	}
	in.publish("user1234", "only this")
	other.want("only this")
	require.InDelta(t, 20, s.retry.Load(), 10)
}

func TestEmbeddedReplaysFromMemory(t *testing.T) {
	in := start(t)
	first := in.publish("a", "1").ID
	in.publish("b", "2")
	in.publish("c", "not asked for")
	in.publish("a", "3")
	connect(t, in, first, "a", "b").want("2", "3")
	s := connect(t, in, "", "a", "b")
	in.publish("a", "4")
	s.want("4")

	s = connect(t, in, "no-such-id", "a")
	s.wantGap(sseproto.ReasonUnknownID)
	in.publish("a", "5")
	s.want("5")
}

func TestLastEventIDIsTakenFromTheQueryToo(t *testing.T) {
	in := start(t)
	first := in.publish("a", "1").ID
	in.publish("a", "2")
	for _, name := range []string{sseproto.ParamLastEventID, sseproto.ParamLastEventIDCamel} {
		resp, err := httpClient.Get(in.public + "/sse/connect?channel_id=a&" + name + "=" + first)
		require.NoError(t, err)
		lines := bufio.NewReader(resp.Body)
		for {
			line, err := lines.ReadString('\n')
			require.NoError(t, err)
			if line == "data: 2\n" {
				break
			}
		}
		resp.Body.Close()
	}
}

func TestAdminRefusesWhatStreamsRefuse(t *testing.T) {
	t.Parallel()
	in := start(t, "--max-message-bytes", "1KiB")
	f := func(want int, query, body string) {
		t.Helper()
		resp, err := httpClient.Post(in.admin+"/publish?"+query, "text/plain", strings.NewReader(body))
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, want, resp.StatusCode, query)
	}
	f(200, "channel_id=a", strings.Repeat("x", 1024))
	f(413, "channel_id=a", strings.Repeat("x", 1025))
	f(400, "channel_id=%zz", "")
	f(400, "", "")
	status, _ := in.get(in.admin + "/publish?channel_id=a")
	require.Equal(t, 405, status)
	status, page := in.get(in.admin + "/")
	require.Equal(t, 200, status)
	require.Contains(t, page, "EventSource")
}

func TestReadyHealthAndMetricsAreOnBothSides(t *testing.T) {
	in := start(t)
	for _, base := range []string{in.public, in.admin} {
		for _, path := range []string{"/health", "/ready"} {
			status, _ := in.get(base + path)
			require.Equal(t, 200, status, base+path)
		}
	}
	in.publish("a", "1")
	require.EqualValues(t, 1, in.metric("ssed_log_messages_total"))
	require.EqualValues(t, 1, in.metric("ssed_ready"))
	status, _ := in.get(in.public + "/metrics")
	require.Equal(t, 404, status, "not on the public port")
}

// TestConnectionsOfTheAdminListenerAreBounded: they share their files with Redis and the streams.
func TestConnectionsOfTheAdminListenerAreBounded(t *testing.T) {
	in := start(t)
	refused := func() bool {
		c, err := net.Dial("tcp", strings.TrimPrefix(in.admin, "http://"))
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		_, _ = io.WriteString(c, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") // the answer tells
		_ = c.SetReadDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
		return err != nil
	}
	kept := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
	defer kept.CloseIdleConnections()
	scrape := func() string {
		resp, err := kept.Get(in.admin + "/metrics")
		require.NoError(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return string(text)
	}
	require.Contains(t, scrape(), "\nssed_admin_connections 1\n")
	open := 1
	for !refused() {
		open++
		require.Less(t, open, 1000)
	}
	text := scrape()
	require.Contains(t, text, fmt.Sprintf("\nssed_admin_connections %d\n", open))
	require.Contains(t, text, "\nssed_admin_connections_refused_total 1\n")
}

func TestDocsTellTheMetrics(t *testing.T) {
	in := startRedis(t, redistest.Start(t), "--gap-wait", "250ms",
		"--publish-listen", "127.0.0.1:0", "--publish-jwt-secret-file", secretFile(t, testSecret))
	_, text := in.get(in.admin + "/metrics")
	requireTable(t, "../../docs/METRICS.md", "metrics", metricsList(t, text))
}

// metricGroups are the headings of docs/METRICS.md: a metric stands below the one with the
// longest beginning of its name.
var metricGroups = []struct {
	heading string
	names   []string
}{
	{"The process", []string{"ssed_build_info", "ssed_ready", "ssed_shard_busy_seconds_total"}},
	{"Connections and streams", []string{"ssed_"}},
	{"Access", []string{"ssed_auth"}},
	{"Messages in memory", []string{"ssed_log_"}},
	{"Redis", []string{"ssed_redis_", "ssed_feed_", "ssed_publish_receipts_total"}},
	{"The inbox", []string{"ssed_inbox_"}},
	{"The history", []string{"ssed_history_"}},
	{"Other instances", []string{"ssed_fleet_"}},
	{"The admin listener and the one for backends", []string{"ssed_admin_", "ssed_publish_"}},
}

func metricGroup(name string) (group int) {
	longest := 0
	for i, g := range metricGroups {
		for _, beginning := range g.names {
			if len(beginning) > longest && strings.HasPrefix(name, beginning) {
				group, longest = i, len(beginning)
			}
		}
	}
	return group
}

// metricsList is what docs/METRICS.md says of each metric, made from a scrape.
func metricsList(t *testing.T, scrape string) string {
	groups := make([]strings.Builder, len(metricGroups))
	for _, m := range regexp.MustCompile(`(?m)^# HELP (ssed_\w+) (.*)\n# TYPE \w+ (\w+)\n(.*)$`).FindAllStringSubmatch(scrape, -1) {
		name, help, kind, sample := m[1], m[2], m[3], m[4]
		require.Equal(t, strings.HasSuffix(name, "_total"), kind == "counter", name)
		var more []string
		if kind == "histogram" {
			more = append(more, kind)
		}
		for _, l := range regexp.MustCompile(`[{,](\w+)="`).FindAllStringSubmatch(sample, -1) {
			if l[1] != "le" {
				more = append(more, "`"+l[1]+"`")
			}
		}
		item := "* `" + name + "`"
		if len(more) > 0 {
			item += " (" + strings.Join(more, ", ") + ")"
		}
		groups[metricGroup(name)].WriteString(item + ": " + help + "\n")
	}
	var b strings.Builder
	for i, g := range metricGroups {
		require.NotZero(t, groups[i].Len(), g.heading)
		b.WriteString("\n## " + g.heading + "\n\n" + groups[i].String())
	}
	return b.String() + "\n"
}

func TestUnixSocketServesStreams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	in := start(t, "--listen", "127.0.0.1:0,unix:"+path)
	c, err := net.Dial("unix", path)
	require.NoError(t, err)
	defer c.Close()
	fmt.Fprintf(c, "GET /sse/connect?channel_id=a HTTP/1.1\r\nHost: x\r\n\r\n")
	lines := bufio.NewReader(c)
	head, err := http.ReadResponse(lines, nil)
	require.NoError(t, err)
	require.Equal(t, 200, head.StatusCode)
	in.publish("a", "hello")
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	body := bufio.NewReader(head.Body)
	for line := ""; line != "data: hello\n"; {
		line, err = body.ReadString('\n')
		require.NoError(t, err)
	}
}

func TestBusyPortIsAnErrorThatNamesIt(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	code, _, stderr := runProgram(t, nil, "--listen", l.Addr().String(), "--admin", "off")
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, l.Addr().String())
	code, _, stderr = runProgram(t, nil, "--listen", "127.0.0.1:0", "--admin", l.Addr().String())
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, l.Addr().String())
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	in := start(t, "--drain", "10m")
	var open []*eventStream
	for range 100 { // the last of them is not closed within seconds
		open = append(open, connect(t, in, "", "a"))
	}
	in.Signal(syscall.SIGTERM)
	in.eventually("draining", func() bool { return strings.Contains(in.Log(), "draining") })
	ended := func() bool { in.Signal(syscall.SIGINT); return in.Exited() }
	for deadline := time.Now().Add(patience); !ended() && time.Now().Before(deadline); { // not within a second
		<-time.After(50 * time.Millisecond)
	}
	require.Equal(t, exitFailed, in.wait())
	require.Contains(t, in.Log(), "second signal")
	for _, s := range open {
		s.wantEnd()
	}
}

// TestSignalThatComesTwiceDrains: timeout(1) of GNU sends one to the process and one to
// its group.
func TestSignalThatComesTwiceDrains(t *testing.T) {
	in := start(t, "--drain", "500ms")
	s := connect(t, in, "", "a")
	in.Signal(syscall.SIGTERM)
	in.Signal(syscall.SIGINT)
	in.Signal(syscall.SIGTERM)
	require.Equal(t, exitOK, in.wait())
	s.wantEnd()
}

// drain sends the signal, and waits until no more streams are taken.
func (in *instance) drain() {
	in.t.Helper()
	in.Signal(syscall.SIGTERM)
	in.eventually("draining", func() bool {
		status, body := in.get(in.admin + "/ready")
		return status == 503 && strings.Contains(body, "draining")
	})
	_, err := net.Dial("tcp", strings.TrimPrefix(in.public, "http://"))
	require.Error(in.t, err, "a draining instance takes no connections")
}

// TestSignalDrainsStreams: every client is told when to come back, then closed, and the process ends.
func TestSignalDrainsStreams(t *testing.T) {
	t.Parallel()
	const streams = 200
	in := start(t, "--drain", "2s", "--retry", "3s-9s")
	var open []*eventStream
	for range streams {
		open = append(open, connect(t, in, "", "a"))
	}
	in.Signal(syscall.SIGTERM)
	retries := map[int64]bool{}
	for _, s := range open {
		s.wantEnd()
		require.GreaterOrEqual(t, s.retry.Load(), int64(3000))
		require.LessOrEqual(t, s.retry.Load(), int64(9000))
		retries[s.retry.Load()] = true
	}
	require.Greater(t, len(retries), streams/2, "retry is drawn for each")
	require.Equal(t, exitOK, in.wait())
}

// TestDrainIsSpreadOverItsWindow: messages come meanwhile, and the process ends with the last
// stream.
func TestDrainIsSpreadOverItsWindow(t *testing.T) {
	t.Parallel()
	const streams = 500 // a loop closes one each 100 ms at least: that is time for a message on a busy machine, too
	in := start(t, "--drain", "2m", "--shards", "1")
	var open []*eventStream
	for range streams {
		open = append(open, connect(t, in, "", "a"))
	}
	in.drain()
	in.eventually("the first ones are closed", func() bool { return in.metric("ssed_streams") < streams })
	in.publish("a", "while draining")
	late := 0
	for _, s := range open {
		if m, ok := s.next(); ok {
			require.Equal(t, "while draining", m.data)
			late++
		}
		s.close()
	}
	require.Positive(t, late)
	require.Less(t, late, streams)
	require.Equal(t, exitOK, in.wait())
}

func TestStoppedReaderDelaysNobody(t *testing.T) {
	t.Parallel()
	in := start(t, "--ring-bytes", "1MiB")
	stopped, err := net.Dial("tcp", strings.TrimPrefix(in.public, "http://"))
	require.NoError(t, err)
	defer stopped.Close()
	fmt.Fprintf(stopped, "GET /sse/connect?channel_id=a HTTP/1.1\r\nHost: x\r\n\r\n")
	s := connect(t, in, "", "a")
	in.eventually("two streams", func() bool { return in.metric("ssed_streams") == 2 })

	large := strings.Repeat("x", 64<<10)
	for range 160 { // 10 MiB: more than socket buffers and ring hold
		in.publish("a", large)
		s.want(large)
	}
	in.eventually("stopped reader closed", func() bool { return in.metric("ssed_streams") == 1 })
	in.publish("a", "still here")
	s.want("still here")
}

func TestHalfClosedClientStillGetsItsStream(t *testing.T) {
	// A client that has sent its request may shut down its sending side (RFC 9112
	// §9.6 leaves it to the server). ssed takes that for the end of the client: a
	// parked connection cannot tell it from a vanished one.
	in := start(t)
	c, err := net.Dial("tcp", strings.TrimPrefix(in.public, "http://"))
	require.NoError(t, err)
	defer c.Close()
	fmt.Fprintf(c, "GET /sse/connect?channel_id=a HTTP/1.1\r\nHost: x\r\n\r\n")
	in.eventually("stream", func() bool { return in.metric("ssed_streams") == 1 })
	require.NoError(t, c.(*net.TCPConn).CloseWrite())
	_, err = io.ReadAll(c)
	require.NoError(t, err)
	in.eventually("closed", func() bool { return in.metric("ssed_streams") == 0 })
}
