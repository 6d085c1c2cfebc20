//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
	"ssed/sseproto"
)

// event is what a client shows to an application.
type event struct {
	Event string
	ID    string
	Data  string

	Base64  []byte // of a helper script: Data
	Lost    string // no event: the connection has gone, and how the client tells it
	Version string // alone in the first line of a helper script
}

// subject is a client library or program. Start opens the stream and calls show for
// each event until the test ends.
type subject struct {
	name  string
	start func(t testing.TB, url string, show func(event))
	// bare reads without the condition by which its snippet leaves out events without
	// data. Nil: there is none.
	bare func(t testing.TB, url string, show func(event))
	// ends: it tells the end of a killed ssed as it tells any end. Else it tells an error.
	ends bool
}

var subjects = []subject{
	{name: "eventsource (Node.js)", start: node("npm-eventsource.mjs", "eventsource")},
	{name: "undici (Node.js)", start: node("undici.mjs", "undici")},
	{name: "ssed.js (Node.js)", start: node("ssed.js", "ssed-client"), ends: true},
	{name: "httpx-sse", start: python("httpx-sse.py", "httpx-sse", "httpx"), bare: pythonReader("httpx-sse")},
	{name: "sseclient-py, httpx", start: python("sseclient-httpx.py", "sseclient-py", "httpx")},
	sseclientRequests,
	{name: "requests, iter_lines", start: pythonReader("requests iter_lines")},
	{name: "aiohttp", start: python("aiohttp.py", "aiohttp")},
	{name: "r3labs/sse (Go)", start: startR3labs, bare: startBareR3labs},
	{name: "tmaxmax/go-sse (Go)", start: startGoSSE, bare: startBareGoSSE},
	{name: "OkHttp", start: java("OkHttp")},
	{name: "Java HttpClient", start: java("JavaHttpClient")},
	{name: "curl", start: startCurl, ends: true},
}

var sseclientRequests = subject{name: "sseclient-py, requests", start: python("sseclient-requests.py", "sseclient-py", "requests")}

// blockReaders read blocks of a fixed size from an answer that has no chunks, and so show
// an event when later ones have filled the block: see TestBlockReadersShowEachEventAtOnce.
var blockReaders = []subject{
	sseclientRequests,
	{name: "requests iter_content", start: pythonReader("requests iter_content")},
	{name: "requests iter_lines", start: pythonReader("requests iter_lines")},
	{name: "urllib3 stream", start: pythonReader("urllib3 stream")},
	{name: "requests read1", start: pythonReader("requests read1")},
}

// script returns the path of a helper, and fails the test when make e2e has not
// installed what it needs.
func script(t testing.TB, name, needs string) string {
	t.Helper()
	if _, err := os.Stat(needs); err != nil {
		t.Fatalf("%s is missing: make e2e installs it", needs)
	}
	return filepath.Join("clients", name)
}

// pythonProgram is the interpreter of the virtual environment.
const pythonProgram = "../../bin/e2e-python/bin/python"

const snippetDir = "snippets/"

// node runs a snippet for a package of npm.
func node(snippet, name string) func(testing.TB, string, func(event)) {
	return func(t testing.TB, url string, show func(event)) {
		path := script(t, "harness.mjs", "clients/node_modules/"+name)
		spawn(t, lines("npm "+name, show), "node", path, script(t, snippetDir+snippet, path), url, name)
	}
}

// nodeHelper runs ssed.js with options.
func nodeHelper(options map[string]any) func(testing.TB, string, func(event)) {
	return func(t testing.TB, url string, show func(event)) {
		text, err := json.Marshal(options)
		require.NoError(t, err)
		spawn(t, lines("ssed.js in Node", show), "node", script(t, "sse.mjs", "clients/node_modules/ssed-client"), url, string(text))
	}
}

// python runs a snippet for packages of PyPI.
func python(snippet string, packages ...string) func(testing.TB, string, func(event)) {
	return func(t testing.TB, url string, show func(event)) {
		path := script(t, "harness.py", pythonProgram)
		args := append([]string{path, script(t, snippetDir+snippet, path), url}, packages...)
		spawn(t, lines("PyPI "+packages[0], show), pythonProgram, args...)
	}
}

// pythonReader runs one of the readers of sse.py.
func pythonReader(name string) func(testing.TB, string, func(event)) {
	return func(t testing.TB, url string, show func(event)) {
		spawn(t, lines("Python "+name, show), pythonProgram, script(t, "sse.py", pythonProgram), name, url)
	}
}

// javaClasses compiles what clients/java has, once.
var javaClasses = sync.OnceValues(func() (path string, err error) {
	path = "../../bin/e2e-java/classes"
	sources, err := filepath.Glob("clients/java/clients/*.java")
	if err != nil {
		return "", err
	}
	said, err := exec.Command("javac", append([]string{"-Werror", "-cp", javaLibraries, "-d", path}, sources...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("javac: %w\n%s", err, said)
	}
	return path + ":" + javaLibraries, nil
})

const javaLibraries = "../../bin/e2e-java/*"

// java runs a class of clients/java.
func java(class string) func(testing.TB, string, func(event)) {
	return func(t testing.TB, url string, show func(event)) {
		script(t, "java", "../../bin/e2e-java/installed")
		path, err := javaClasses()
		require.NoError(t, err)
		jars, err := filepath.Glob("../../bin/e2e-java/okhttp-jvm-*.jar")
		require.NoError(t, err)
		require.Len(t, jars, 1)
		_, version, _ := strings.Cut(strings.TrimSuffix(filepath.Base(jars[0]), ".jar"), "okhttp-jvm-")
		tested.add("OkHttp", version)
		tested.add("Java", versionOf(t, "java", "--version"))
		spawn(t, lines("", show), "java", "-Xmx64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", path, "clients."+class, url)
	}
}

// lines reads what a helper script prints.
func lines(name string, show func(event)) func(io.Reader) {
	return func(r io.Reader) {
		in := json.NewDecoder(r)
		for {
			var e event
			if in.Decode(&e) != nil {
				return
			}
			if e.Version != "" {
				tested.add(name, e.Version)
				continue
			}
			if e.Base64 != nil {
				e.Data, e.Base64 = strings.ToValidUTF8(string(e.Base64), "\uFFFD"), nil
			}
			show(e)
		}
	}
}

// background runs fn until the test ends.
func background(t testing.TB, fn func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { fn(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

func orMessage(eventType string) string {
	if eventType == "" {
		return sseproto.EventMessage
	}
	return eventType
}

func startCurl(t testing.TB, url string, show func(event)) {
	tested.add("curl", strings.Fields(versionOf(t, "curl", "--version"))[1])
	spawn(t, lines("curl", show), "bash", script(t, "harness.sh", "/bin/bash"), script(t, snippetDir+"curl.sh", "/bin/bash"), url)
}

// lostAtEnd is how clients tell a stream that ended, and was not cut off.
const lostAtEnd = "end"

// collector keeps what a client shows.
type collector struct {
	mu     sync.Mutex
	events []event  // guarded by mu
	lost   []string // guarded by mu: how the client told that its connection was gone
	next   int      // the test's: events before it were looked at
}

func (c *collector) show(e event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Lost != "" {
		c.lost = append(c.lost, e.Lost)
		return
	}
	c.events = append(c.events, e)
}

// losses returns how the client told that its connections were gone.
func (c *collector) losses() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.lost)
}

// take waits for the next event.
func (c *collector) take(t testing.TB) (e event) {
	t.Helper()
	eventually(t, fmt.Sprintf("event %d at the client", c.next), func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.events) <= c.next {
			return false
		}
		e = c.events[c.next]
		return true
	})
	c.next++
	return e
}

// want takes messages and compares them.
func (c *collector) want(t testing.TB, data ...string) (last event) {
	t.Helper()
	for _, d := range data {
		last = c.take(t)
		require.Equal(t, sseproto.EventMessage, last.Event)
		require.True(t, same(last.Data, delivered(d)), "%.100q is not %.100q", last.Data, delivered(d))
		_, err := sseproto.ParseID([]byte(last.ID))
		require.NoError(t, err)
	}
	return last
}

// allClients are the rows of the table in docs/CLIENTS.md.
func allClients() (names []string) {
	for _, s := range browserSubjects {
		names = append(names, s.name)
	}
	for _, s := range subjects {
		names = append(names, s.name)
	}
	return names
}

// The columns of that table.
const (
	columnLive   = "each event at once"
	columnResume = "cut off: comes back, misses nothing"
	columnKilled = "ssed is killed (-9)"
	columnGap    = "`event: gap`"
	columnID     = "a block with an id alone"
	columnQuiet  = "15 s of silence"
)

var clientMatrix = newMatrix("CLIENTS.md", "matrix", allClients(),
	columnLive, columnResume, columnKilled, columnGap, columnID, columnQuiet)

const yes = "yes"

// TestClients: each client gets what is published, byte for byte, nothing else, and
// goes on where it was however its connection ends.
func TestClients(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startReady(t, r, "--heartbeat", "1s")
	for _, s := range subjects {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			tryClient(t, r, newLink(t, in.public), s)
		})
	}
}

// tryClient has s read a channel. Each message is published when the client has shown the
// one before.
func tryClient(t *testing.T, r *redistest.Server, l *link, s subject) {
	t.Helper()
	channel := "for/" + s.name + "?&=ü"
	var c collector
	s.start(t, streamURL(l.host(), channel, "last_event_id", "nonsense"), c.show)
	first := c.take(t)
	require.Equal(t, sseproto.EventGap, first.Event, "an unknown ID is told")
	require.Contains(t, first.Data, sseproto.ReasonUnknownID)
	clientMatrix.set(t, s.name, columnGap, yes)

	var last event
	for _, sent := range basics {
		publish(t, r, channel, sent)
		last = c.want(t, sent)
	}
	clientMatrix.set(t, s.name, columnLive, yes)

	l.waitHeartbeats(2)
	publish(t, r, channel, "behind heartbeats")
	last = c.want(t, "behind heartbeats")

	for i := range 4 {
		begun := l.count(&l.streams)
		l.cut(i%2 == 0)
		publish(t, r, channel, fmt.Sprint("missed ", i))
		publish(t, r, channel, fmt.Sprint("missed too ", i))
		l.waitStreams(begun + 1)
		require.Equal(t, last.ID, l.lastID())
		publish(t, r, channel, fmt.Sprint("live ", i))
		last = c.want(t, fmt.Sprint("missed ", i), fmt.Sprint("missed too ", i), fmt.Sprint("live ", i))
	}
	clientMatrix.set(t, s.name, columnResume, yes)
}

// trial is a client on a channel of its own, behind a link of its own.
type trial struct {
	subject
	collector
	*link
}

// tryAll starts clients that read the channel of their name.
func tryAll(t *testing.T, in *instance, list []subject, more ...string) (all []*trial) {
	t.Helper()
	for _, s := range list {
		one := &trial{subject: s, link: newLink(t, in.public)}
		s.start(t, streamURL(one.link.host(), s.name, more...), one.show)
		all = append(all, one)
	}
	return all
}

// TestClientsTakeTheStartBlock: with start=id they come back to before their first event.
// Some show an event without data for it, so that it is only for those who ask.
func TestClientsTakeTheStartBlock(t *testing.T) {
	t.Parallel()
	tryStartBlock(t, subjects)
}

func tryStartBlock(t *testing.T, list []subject) {
	t.Helper()
	r := redistest.Start(t)
	in := startReady(t, r, "--cors-credentials")
	for _, c := range tryAll(t, in, list, "start", "id") {
		c.waitStreams(1)
		publish(t, r, c.name, "m")
		c.want(t, "m")
		cell := "shows nothing"
		if c.bare != nil {
			var bare collector
			c.bare(t, streamURL(in.public, c.name, "start", "id"), bare.show)
			require.Empty(t, bare.take(t).Data, c.name)
			cell = "an event without data, which the snippet leaves out"
		}
		clientMatrix.set(t, c.name, columnID, cell)
	}
}

// TestClientsNoticeThatSsedIsKilled: they go to another instance and miss nothing.
func TestClientsNoticeThatSsedIsKilled(t *testing.T) {
	t.Parallel()
	tryKill(t, subjects)
}

func tryKill(t *testing.T, list []subject) {
	t.Helper()
	r := redistest.Start(t)
	one, other := startReady(t, r, "--cors-credentials"), startReady(t, r, "--cors-credentials")
	all := tryAll(t, one, list)
	for _, c := range all {
		c.waitStreams(1)
		publish(t, r, c.name, "before")
		c.want(t, "before")
		require.Empty(t, c.losses(), c.name)
		c.leadTo(other.public)
	}
	one.kill()
	for _, c := range all {
		publish(t, r, c.name, "meanwhile")
	}
	for _, c := range all {
		c.want(t, "meanwhile")
		losses := c.losses()
		require.NotEmpty(t, losses, c.name)
		cell := "an error, comes back"
		if losses[0] == lostAtEnd {
			cell = "an end, comes back"
		}
		require.Equal(t, c.ends, losses[0] == lostAtEnd, "%s: %q", c.name, losses)
		clientMatrix.set(t, c.name, columnKilled, cell)
	}
}

// TestClientsOutlastSilence: with the time-outs of the snippets a stream on which only
// heartbeats come stands, at the heartbeat that is the default. Two libraries end it
// sooner by themselves.
func TestClientsOutlastSilence(t *testing.T) {
	t.Parallel()
	trySilence(t, append(slices.Clone(subjects), hasty...))
}

var hasty = []subject{hastyHTTPX, hastyOkHTTP}

var (
	hastyHTTPX  = subject{name: "httpx with its own time-out", start: pythonReader("httpx defaults")}
	hastyOkHTTP = subject{name: "OkHttp with its own time-out", start: java("OkHttpDefaults")}
)

// TestShorterHeartbeatsKeepHastyClients: docs/CLIENTS.md tells these two values.
func TestShorterHeartbeatsKeepHastyClients(t *testing.T) {
	t.Parallel()
	for heartbeat, s := range map[string]subject{"4s": hastyHTTPX, "8s": hastyOkHTTP} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			in := startReady(t, redistest.Start(t), "--heartbeat", heartbeat)
			c := tryAll(t, in, []subject{s})[0]
			c.waitStreams(1)
			c.waitHeartbeats(2)
			require.Empty(t, c.losses())
		})
	}
}

func trySilence(t *testing.T, list []subject) {
	t.Helper()
	r := redistest.Start(t)
	in := startReady(t, r, "--cors-credentials")
	all := tryAll(t, in, list)
	for _, c := range all {
		c.waitStreams(1)
	}
	for _, c := range all {
		if slices.ContainsFunc(hasty, func(s subject) bool { return s.name == c.name }) {
			eventually(t, c.name+" gives up", func() bool { return len(c.losses()) > 0 })
			require.Zero(t, c.count(&c.heartbeats), "%s gives up before the first heartbeat", c.name)
			tested.add(c.name, "gives up before the first heartbeat: "+c.losses()[0])
			continue
		}
		eventually(t, c.name+": a heartbeat", func() bool { return c.count(&c.heartbeats) > 0 })
		publish(t, r, c.name, "behind the silence")
		c.want(t, "behind the silence")
		require.Empty(t, c.losses(), c.name)
		clientMatrix.set(t, c.name, columnQuiet, "stands")
	}
}

// TestClientsOutlastAnInstanceThatIsNotReady: an instance without Redis turns clients
// away in a way that none of them takes for the end.
func TestClientsOutlastAnInstanceThatIsNotReady(t *testing.T) {
	t.Parallel()
	tryNotReady(t, subjects)
}

func tryNotReady(t *testing.T, list []subject) {
	t.Helper()
	r := redistest.Start(t)
	r.Stop()
	in := start(t, "--redis-url", r.URL(), "--cors-credentials")
	all := tryAll(t, in, list)
	for _, c := range all {
		c.waitStreams(2)
	}
	require.NoError(t, r.Restart())
	in.waitReady()
	in.waitStreams(len(all))
	for _, c := range all {
		publish(t, r, c.name, "at last")
		c.want(t, "at last")
	}
}
