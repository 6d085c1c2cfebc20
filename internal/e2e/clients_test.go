//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	r3labs "github.com/r3labs/sse/v2"
	"github.com/stretchr/testify/require"
	"github.com/tmaxmax/go-sse"
	"gopkg.in/cenkalti/backoff.v1"

	"ssed/internal/redistest"
	"ssed/sseproto"
)

// event is what a client shows to an application.
type event struct {
	Event string
	ID    string
	Data  string

	Version string // alone in the first line of a helper script
}

// subject is a client library or program. Start opens the stream and calls show for
// each event until the test ends.
type subject struct {
	name  string
	start func(t testing.TB, url string, show func(event))
}

var subjects = []subject{
	{"npm eventsource", node("eventsource")},
	{"npm undici", node("undici")},
	{"ssed.js in Node", node("ssed.js")},
	{"Go r3labs/sse", startR3labs},
	{"Go tmaxmax/go-sse", startGoSSE},
	{"Python httpx-sse", python("httpx-sse")},
	{"Python sseclient-py+httpx", python("sseclient-py+httpx")},
	{"Python sseclient-py+requests read1", python("sseclient-py+requests read1")},
	{"curl", startCurl},
	blockReaders[0],
}

// blockReaders read blocks of a fixed size from an answer that has no chunks, and so show
// an event when later ones have filled the block: see TestBlockReadersShowEachEventAtOnce.
var blockReaders = []subject{
	{"Python sseclient-py+requests", python("sseclient-py+requests")},
	{"Python requests iter_content", python("requests iter_content")},
	{"Python requests iter_lines", python("requests iter_lines")},
	{"Python urllib3 stream", python("urllib3 stream")},
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

// node runs a JavaScript client, ssed.js with further options.
func node(client string, options ...map[string]any) func(testing.TB, string, func(event)) {
	return func(t testing.TB, url string, show func(event)) {
		path := script(t, "sse.mjs", "clients/node_modules/"+strings.Replace(client, "ssed.js", "typescript", 1))
		args := []string{path, client, url}
		for _, o := range options {
			text, err := json.Marshal(o)
			require.NoError(t, err)
			args = append(args, string(text))
		}
		spawn(t, lines("npm "+client, show), "node", args...)
	}
}

func python(client string) func(testing.TB, string, func(event)) {
	return func(t testing.TB, url string, show func(event)) {
		spawn(t, lines("Python "+client, show), pythonProgram, script(t, "sse.py", pythonProgram), client, url)
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

// startR3labs reads as README of r3labs/sse tells, with three additions that any
// application needs: the client gives up when the server ends a stream, its default
// delays are not those of the stream, and its events are at most 64 KiB.
func startR3labs(t testing.TB, url string, show func(event)) {
	tested.add("Go r3labs/sse", moduleVersion(t, "github.com/r3labs/sse/v2"))
	client := r3labs.NewClient(url, r3labs.ClientMaxBufferSize(4<<20))
	client.ReconnectStrategy = &backoff.StopBackOff{}
	client.Connection = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	background(t, func(ctx context.Context) {
		for ctx.Err() == nil {
			_ = client.SubscribeRawWithContext(ctx, func(m *r3labs.Event) {
				// It shows a block without data too, when the stream ends before one with.
				if m.Data != nil {
					show(event{Event: orMessage(string(m.Event)), ID: string(m.ID), Data: string(m.Data)})
				}
			})
			select {
			case <-ctx.Done():
			case <-time.After(300 * time.Millisecond):
			}
		}
	})
}

func startGoSSE(t testing.TB, url string, show func(event)) {
	tested.add("Go tmaxmax/go-sse", moduleVersion(t, "github.com/tmaxmax/go-sse"))
	background(t, func(ctx context.Context) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Error(err)
			return
		}
		client := sse.Client{HTTPClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
		conn := client.NewConnection(req)
		conn.Buffer(nil, 4<<20) // the default is 64 KiB
		conn.SubscribeToAll(func(e sse.Event) {
			show(event{Event: orMessage(e.Type), ID: e.LastEventID, Data: e.Data})
		})
		if err := conn.Connect(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func moduleVersion(t testing.TB, path string) string {
	return versionOf(t, "go", "list", "-m", "-f", "{{.Version}}", path)
}

func orMessage(eventType string) string {
	if eventType == "" {
		return sseproto.EventMessage
	}
	return eventType
}

// startCurl does what a shell script does: curl in a loop, with the last ID.
func startCurl(t testing.TB, url string, show func(event)) {
	tested.add("curl", strings.Fields(versionOf(t, "curl", "--version"))[1])
	background(t, func(ctx context.Context) {
		decoder := sseproto.Decoder{OnEvent: func(id, eventType, data []byte) {
			show(event{Event: string(eventType), ID: string(id), Data: strings.ToValidUTF8(string(data), "\uFFFD")})
		}}
		for ctx.Err() == nil {
			cmd := []string{"-sN", "--retry", "0", "-H", "Accept: text/event-stream", url}
			if id := decoder.LastEventID(); len(id) > 0 {
				cmd = append(cmd, "-H", "Last-Event-ID: "+string(id))
			}
			curl := exec.CommandContext(ctx, "curl", cmd...)
			curl.Stdout = &decoder
			_ = curl.Run() // a cut connection is an error
			decoder.Reconnected()
			wait, _ := decoder.Retry()
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
	})
}

// collector keeps what a client shows.
type collector struct {
	mu     sync.Mutex
	events []event // guarded by mu
	next   int     // the test's: events before it were looked at
}

func (c *collector) show(e event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, e)
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

// TestClients: each client gets what is published, byte for byte, nothing else, and
// goes on where it was however its connection ends.
func TestClients(t *testing.T) {
	r := redistest.Start(t)
	in := startReady(t, r, "--heartbeat", "1s")
	for _, s := range subjects {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			tryClient(t, r, newLink(t, in.public), s)
		})
	}
}

func tryClient(t *testing.T, r *redistest.Server, l *link, s subject) {
	t.Helper()
	channel := "for/" + s.name + "?&=ü"
	var c collector
	s.start(t, streamURL(l.host(), channel, "last_event_id", "nonsense"), c.show)
	first := c.take(t)
	require.Equal(t, sseproto.EventGap, first.Event, "an unknown ID is told")
	require.Contains(t, first.Data, sseproto.ReasonUnknownID)

	for _, sent := range basics {
		publish(t, r, channel, sent)
	}
	last := c.want(t, basics...)

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
}

// showsStart are those that show a block without data as an event. (So does r3labs/sse,
// whose events without data are left out in startR3labs.)
var showsStart = map[string]bool{"Go tmaxmax/go-sse": true, "Python httpx-sse": true}

// TestClientsTakeTheStartBlock: with start=id they come back to before their first event.
// Some show an event without data for it, so that it is only for those who ask.
func TestClientsTakeTheStartBlock(t *testing.T) {
	r := redistest.Start(t)
	in := startReady(t, r)
	for _, s := range subjects {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			l := newLink(t, in.public)
			var c collector
			s.start(t, streamURL(l.host(), s.name, "start", "id"), c.show)
			l.waitStreams(1)
			if showsStart[s.name] {
				require.Empty(t, c.take(t).Data)
			}
			publish(t, r, s.name, "m")
			c.want(t, "m")
			how := "shows nothing"
			if showsStart[s.name] {
				how = "shows an event without data"
			}
			tested.add(s.name+" and start=id", how)
		})
	}
}

// TestClientsOutlastAnInstanceThatIsNotReady: an instance without Redis turns clients
// away in a way that none of them takes for the end.
func TestClientsOutlastAnInstanceThatIsNotReady(t *testing.T) {
	r := redistest.Start(t)
	r.Stop()
	in := start(t, "--redis-url", r.URL())
	clients := make([]collector, len(subjects))
	var links []*link
	for i, s := range subjects {
		l := newLink(t, in.public)
		s.start(t, streamURL(l.host(), "a"), clients[i].show)
		links = append(links, l)
	}
	for _, l := range links {
		l.waitStreams(2)
	}
	require.NoError(t, r.Restart())
	in.waitReady()
	in.waitStreams(len(subjects))
	publish(t, r, "a", "at last")
	for i := range clients {
		clients[i].want(t, "at last")
	}
}
