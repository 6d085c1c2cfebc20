package main

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
	"ssed/sseproto"
)

// typed are payloads in envelopes and what clients make of them; beside the last come
// the fields of the history.
var typed = []struct {
	payload               string
	kind, publisher, data string
	fields                []any
}{
	{
		`{"event":"order.paid","id":"order-17","data":"{\"total\":5}"}`, "order.paid", "order-17", `{"total":5}`,
		[]any{"event_type", "order.paid", "data", `{"total":5}`, "id", "order-17"},
	},
	{
		`{"event":"order paid","retry":25,"data":{"total": 5}}`, "order paid", "", `{"total": 5}`,
		[]any{"event_type", "order paid", "data", `{"total": 5}`, "retry", "25"},
	},
	{
		`{"id":"a/b","retry":26,"data":"two\r\nlines"}`, "message", "a/b", "two\nlines",
		[]any{"event_type", "message", "data", "two\r\nlines", "id", "a/b", "retry", "26"},
	},
	{`{"data":"plain"}`, "message", "", "plain", []any{"event_type", "message", "data", "plain"}},
	{
		`{"data":"x","total":5}`, "message", "", `{"data":"x","total":5}`,
		[]any{"event_type", "message", "data", `{"data":"x","total":5}`},
	},
	{
		`{"event":"gap","data":"x"}`, "message", "", `{"event":"gap","data":"x"}`,
		[]any{"event_type", "message", "data", `{"event":"gap","data":"x"}`},
	},
	{"raw \xff", "message", "", "raw \uFFFD", []any{"event_type", "message", "data", "raw \xff"}},
}

// rawStream is a client that keeps what came over the wire.
type rawStream struct {
	t      *testing.T
	cancel context.CancelFunc
	lines  chan string // closed at the end
}

// listen opens a stream for channel a and takes its first line, the retry time.
func listen(t *testing.T, in *instance, lastID string) *rawStream {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, "GET", in.public+"/sse/connect?channel_id=a", nil)
	require.NoError(t, err)
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Last-Event-ID", lastID)
	resp, err := httpClient.Do(req)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	s := &rawStream{t: t, cancel: cancel, lines: make(chan string)}
	go func() {
		defer close(s.lines)
		defer resp.Body.Close()
		for body := bufio.NewReader(resp.Body); ; {
			line, err := body.ReadString('\n')
			if err != nil {
				return
			}
			select {
			case s.lines <- line:
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(s.close)
	require.Regexp(t, "^retry: ", s.line())
	return s
}

func (s *rawStream) close() {
	s.cancel()
	for range s.lines {
	}
}

func (s *rawStream) line() string {
	s.t.Helper()
	select {
	case line := <-s.lines:
		return line
	case <-time.After(patience):
		s.t.Fatal("nothing came")
		return ""
	}
}

// frames takes n events as they are on the wire, without heartbeats.
func (s *rawStream) frames(n int) (frames []string) {
	s.t.Helper()
	var frame strings.Builder
	for len(frames) < n {
		line := s.line()
		require.NotEmpty(s.t, line, "the stream ended after %q", frames)
		if line == sseproto.Heartbeat {
			continue
		}
		frame.WriteString(line)
		if line == "\n" {
			frames = append(frames, frame.String())
			frame.Reset()
		}
	}
	return frames
}

// idOf is the last event ID that a client has after a frame.
func idOf(frame string) string {
	line, _, _ := strings.Cut(frame, "\n")
	return strings.TrimPrefix(line, "id: ")
}

// requireTyped compares frames with what typed says a client makes of them.
func requireTyped(t *testing.T, frames []string) {
	t.Helper()
	var events []message
	d := sseproto.Decoder{OnEvent: func(id, kind, data []byte) {
		_, publisher, err := sseproto.ParseEventID(string(id))
		require.NoError(t, err)
		events = append(events, message{string(kind), publisher, string(data)})
	}}
	_, err := d.Write([]byte(strings.Join(frames, "")))
	require.NoError(t, err)
	for i, want := range typed {
		require.Equal(t, message{want.kind, want.publisher, want.data}, events[i], want.payload)
	}
	wait, ok := d.Retry()
	require.True(t, ok)
	require.Equal(t, 26*time.Millisecond, wait)
}

// TestTypedEventsAreTheSameBytesFromEverywhere: live, from memory, from Redis after a
// restart, and read back after a lost link.
func TestTypedEventsAreTheSameBytesFromEverywhere(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startRedis(t, r, "--envelope", "json", "--gap-wait", "250ms")
	p := newPublisher(t, r)
	start := in.publish("a", "start").ID
	live := listen(t, in, start)
	for _, m := range typed {
		p.publish("a", m.payload)
	}
	frames := live.frames(len(typed))
	requireTyped(t, frames)
	require.EqualValues(t, 4, in.metric(`ssed_log_envelopes_total{outcome="read"}`))
	require.EqualValues(t, 1, in.metric(`ssed_log_envelopes_total{outcome="refused"}`))
	for i, frame := range frames[:len(frames)-1] { // the publisher's id comes back with the position
		require.Equal(t, frames[i+1:], listen(t, in, idOf(frame)).frames(len(frames)-i-1), "from memory behind %q", frame)
	}
	in.written(r, idOf(frames[len(frames)-1]))
	entries, err := r.Do("XRANGE", "sse:stream:a", "-", "+")
	require.NoError(t, err)
	for i, m := range typed {
		fields := entries.([]any)[i+1].([]any)[1].([]any)
		require.Equal(t, m.fields, fields[:len(fields)-2], m.payload)
		require.Equal(t, "prev", fields[len(fields)-2])
	}

	in.Signal(15)
	require.Equal(t, exitOK, in.wait())
	in = startRedis(t, r, "--envelope", "json", "--gap-wait", "250ms")
	again := listen(t, in, start)
	replayed := again.frames(len(typed) + 1)
	require.Contains(t, replayed[0], sseproto.ReasonOutage) // there was no instance for a while
	require.Equal(t, frames, replayed[1:], "from Redis")
	require.Equal(t, frames[1:], listen(t, in, idOf(frames[0])).frames(len(typed))[1:], "from Redis behind a publisher's id")
}

// TestTypedEventsAreReadBackAfterALostLink: while the link of one instance is cut, the
// other one goes on; the streams of both get the same bytes.
func TestTypedEventsAreReadBackAfterALostLink(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	args := []string{"--envelope", "json", "--history-max", "100000"}
	one, two := startRedis(t, r, args...), startRedis(t, r, args...)
	p := newPublisher(t, r)
	start := one.publish("a", "start").ID
	a, b := listen(t, one, start), listen(t, two, start)
	var enough atomic.Bool
	published := 0
	var work sync.WaitGroup
	work.Go(func() {
		for !enough.Load() {
			for _, m := range typed {
				p.publish("a", m.payload)
			}
			published++
		}
	})
	filled := func(in *instance) bool { return in.metric("ssed_log_filled_total") > 0 }
	for cuts := 0; !filled(one) || !filled(two); cuts++ { // the older link each time, so one of each instance
		killFirstSubscriber(t, r)
		one.eventually("linked again", func() bool {
			spans := one.metric("ssed_log_spans_total") + two.metric("ssed_log_spans_total")
			return spans >= float64(3+cuts) && one.metric("ssed_feed_links")+two.metric("ssed_feed_links") == 2
		})
	}
	enough.Store(true)
	work.Wait()
	for round := range published {
		frames := a.frames(len(typed))
		requireTyped(t, frames)
		require.Equal(t, frames, b.frames(len(typed)), "round %d", round)
	}
}

func TestFleetsThatReadEnvelopesStayAmongThemselves(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	startRedis(t, r)
	in := launch(t, "--redis-url", r.URL(), "--envelope", "json")
	require.Equal(t, exitFailed, in.wait())
	require.Contains(t, in.Log(), "envelope=json")
}

// TestPostedDataIsNotTakenForAnEnvelope: what looks like one is delivered as it is.
func TestPostedDataIsNotTakenForAnEnvelope(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startRedis(t, r, "--envelope", "json")
	s := connect(t, in, "", "a")
	const data = `{"event":"x","data":"y"}`
	in.publish("a", data)
	s.want(data)
}

// TestEnvelopesStayClosedUnlessAskedFor: the default is the payload as it is.
func TestEnvelopesStayClosedUnlessAskedFor(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startRedis(t, r)
	s := connect(t, in, "", "a")
	newPublisher(t, r).publish("a", typed[0].payload)
	s.want(typed[0].payload)
}
