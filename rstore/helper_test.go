package rstore

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"ssed/internal/redisconn"
	"ssed/internal/redistest"
	"ssed/sseproto"
)

func TestMain(m *testing.M) {
	// It closes connections to nodes that left a cluster, 5 s later.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2"))
}

const testPrefix = "sse:stream:"

// message is one entry of testLog.
type message struct {
	id      sseproto.ID
	channel string
	data    string
}

// span is a stretch the log covers: (low, end], or open-ended.
type span struct {
	low, end sseproto.ID
	open     bool
}

// testLog stands for the instance's log: committed messages and the stretches
// over which it is complete.
type testLog struct {
	mu        sync.Mutex
	messages  []message
	spans     []span
	committed sseproto.ID
	changed   chan struct{}
	prev      map[sseproto.ID]sseproto.ID // the channel's message before each
	last      map[string]sseproto.ID
	typed     map[sseproto.ID]sseproto.Message // what more a publisher gave; fixed before the first commit

	// after runs when ReadCommitted has read and before it returns, without the lock.
	after func()
}

// newTestLog covers everything after low.
func newTestLog(low sseproto.ID) *testLog {
	return &testLog{
		spans: []span{{low: low, open: true}}, committed: low, changed: make(chan struct{}),
		prev: map[sseproto.ID]sseproto.ID{}, last: map[string]sseproto.ID{},
	}
}

func (l *testLog) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *testLog) signalLocked() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// commit adds messages and commits up to upTo.
func (l *testLog) commit(upTo sseproto.ID, messages ...message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.messages = append(l.messages, messages...)
	for _, m := range messages {
		l.prev[m.id], l.last[m.channel] = l.last[m.channel], m.id
	}
	l.committed = upTo
	l.signalLocked()
}

// evict forgets everything up to low.
func (l *testLog) evict(low sseproto.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.messages = slices.DeleteFunc(l.messages, func(m message) bool { return !low.Less(m.id) })
	var spans []span
	for _, s := range l.spans {
		if s.open || low.Less(s.end) {
			if s.low.Less(low) {
				s.low = low
			}
			spans = append(spans, s)
		}
	}
	l.spans = spans
	l.signalLocked()
}

// hole closes the span at what is committed and opens one at low.
func (l *testLog) hole(low sseproto.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := &l.spans[len(l.spans)-1]
	last.end, last.open = l.committed, false
	l.spans = append(l.spans, span{low: low, open: true})
	l.committed = low
	l.signalLocked()
}

// before is the position of the channel's message before m, in the span from low on.
func (l *testLog) before(m *message, low sseproto.ID) (id sseproto.ID) {
	if prev := l.prev[m.id]; low.Less(prev) {
		return prev
	}
	return id
}

func (l *testLog) given(m *message) sseproto.Message {
	if typed, ok := l.typed[m.id]; ok {
		return typed
	}
	return sseproto.Message{Data: m.data}
}

func (l *testLog) ReadCommitted(after sseproto.ID, limit, maxBytes int, visit func(sseproto.ID, string, sseproto.Message, sseproto.ID)) (through, low sseproto.ID) {
	l.mu.Lock()
	if l.after != nil {
		defer l.after()
	}
	defer l.mu.Unlock()
	for _, s := range l.spans {
		end := s.end
		if s.open {
			end = sseproto.MaxID
		}
		if after.Less(s.low) {
			return after, s.low
		}
		if !after.Less(end) {
			continue
		}
		through = s.end
		if s.open {
			through = l.committed
		}
		if through.Less(after) {
			through = after
		}
		size, n, last := 0, 0, after
		for _, m := range l.messages {
			if !after.Less(m.id) || through.Less(m.id) {
				continue
			}
			if n > 0 && (n >= limit || size+len(m.data) > maxBytes) {
				return last, after
			}
			visit(m.id, m.channel, l.given(&m), l.before(&m, s.low))
			n, size, last = n+1, size+len(m.data), m.id
		}
		return through, after
	}
	return after, sseproto.MaxID
}

// world is a Redis with what the tick script would have put there.
type world struct {
	t      *testing.T
	server *redistest.Server
	redis  rueidis.Client
	base   uint64 // ms of the first ID
}

func newWorld(t *testing.T, args ...string) *world {
	w := &world{t: t, server: redistest.Start(t, args...), base: uint64(time.Now().UnixMilli())}
	var err error
	w.redis, err = rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{w.server.Addr()}, ForceSingleClient: true, DisableCache: true,
	})
	require.NoError(t, err)
	t.Cleanup(w.redis.Close)
	return w
}

// newWorldAndLog is a world whose clock has begun, and a log that covers all from there on.
func newWorldAndLog(t *testing.T, args ...string) (*world, *testLog) {
	t.Helper()
	w := newWorld(t, args...)
	w.clock("e1")
	return w, newTestLog(w.id(0, 0))
}

// startWriter runs the store of an instance on both. Change is nil for the usual settings.
func startWriter(t *testing.T, change func(*Config)) (*world, *testLog, *Store) {
	t.Helper()
	w, log := newWorldAndLog(t)
	cfg := w.config("a")
	if change != nil {
		change(&cfg)
	}
	s := w.store(cfg, log)
	w.start(s)
	return w, log, s
}

func (w *world) ctx() context.Context { return w.t.Context() }

func (w *world) do(args ...string) rueidis.RedisResult {
	return w.redis.Do(w.ctx(), w.redis.B().Arbitrary(args...).Build())
}

// clock is the first tick in an epoch.
func (w *world) clock(epoch string) {
	w.t.Helper()
	require.NoError(w.t, w.do("HSET", redisconn.MakeKeys(testPrefix).Clock, "epoch", epoch, "t", fmt.Sprint(w.base)).Error())
}

func (w *world) config(instance string) Config {
	return Config{
		Client: rueidis.ClientOption{
			InitAddress: []string{w.server.Addr()},
			// A busy machine is not a stalled Redis.
			Dialer: net.Dialer{Timeout: 20 * time.Second, KeepAlive: 20 * time.Second}, ConnWriteTimeout: 20 * time.Second,
		},
		Prefix: testPrefix, Instance: instance,
		GapWait:       20 * time.Millisecond,
		FlushInterval: time.Millisecond,
		MaxLen:        10_000,
		Logger:        slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

func (w *world) store(cfg Config, src Source) *Store {
	w.t.Helper()
	s, err := New(cfg, src)
	require.NoError(w.t, err)
	w.t.Cleanup(s.Close)
	return s
}

// start runs a store until stop is called or the test ends.
func (w *world) start(s *Store) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.ctx()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx)
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	w.t.Cleanup(stop)
	return stop
}

func (w *world) id(ms, seq int) sseproto.ID {
	return sseproto.ID{Ms: w.base + uint64(ms), Seq: uint64(seq)}
}

// burst makes n messages after tick ms, spread over the channels.
func (w *world) burst(ms, n, channels int) []message {
	out := make([]message, n)
	for i := range out {
		out[i] = message{w.id(ms, i+1), fmt.Sprintf("ch%d", i%channels), fmt.Sprintf("%d/%d", ms, i)}
	}
	return out
}

func (w *world) waitMark(s *Store, id sseproto.ID) {
	w.t.Helper()
	require.Eventually(w.t, func() bool { return !s.Watermark().Less(id) }, time.Minute, 2*time.Millisecond,
		"watermark %v, want %v, stats %+v", s.Watermark(), id, s.Stats())
}

// history reads a stream as Redis has it.
func (w *world) history(channel string) []message {
	w.t.Helper()
	entries, err := w.do("XRANGE", testPrefix+channel, "-", "+").AsXRange()
	require.NoError(w.t, err)
	out := make([]message, len(entries))
	for i, e := range entries {
		id, err := sseproto.ParseID(e.ID)
		require.NoError(w.t, err)
		out[i] = message{id, channel, e.FieldValues["data"]}
	}
	return out
}

// requireHistory checks that the streams hold exactly these messages.
func (w *world) requireHistory(want []message) {
	w.t.Helper()
	byChannel := map[string][]message{}
	for _, m := range want {
		byChannel[m.channel] = append(byChannel[m.channel], m)
	}
	for ch, list := range byChannel {
		got := w.history(ch)
		for i := range min(len(list), len(got)) {
			if list[i] != got[i] {
				require.Equal(w.t, list[i], got[i], "channel %s, entry %d", ch, i)
			}
		}
		require.Len(w.t, got, len(list), "channel %s", ch)
	}
}

func (w *world) markers() []gap { return w.markersAt(redisconn.MakeKeys(testPrefix).Gaps) }

func (w *world) markersOf(s *Store) []gap { return w.markersAt(s.keys.Gaps) }

func (w *world) markersAt(key string) []gap {
	w.t.Helper()
	list, err := w.do("LRANGE", key, "0", "-1").AsStrSlice()
	require.NoError(w.t, err)
	out := make([]gap, len(list))
	for i, text := range list {
		out[i], err = parseMarker(text)
		require.NoError(w.t, err)
	}
	return out
}

// recorder is a Replay that keeps what it is told.
type recorder struct {
	events map[int][]message
	whole  []sseproto.Message
	types  []string
	lost   map[int][]string
	oldest map[int]sseproto.ID
	order  []int // channel of each call
}

func newRecorder() *recorder {
	return &recorder{events: map[int][]message{}, lost: map[int][]string{}, oldest: map[int]sseproto.ID{}}
}

func (r *recorder) Event(ch int, id sseproto.ID, m sseproto.Message) {
	r.events[ch] = append(r.events[ch], message{id: id, data: strings.Clone(m.Data)})
	r.types = append(r.types, strings.Clone(m.Event))
	r.whole = append(r.whole, sseproto.Message{
		Event: strings.Clone(m.Event), ID: strings.Clone(m.ID), Retry: m.Retry, Data: strings.Clone(m.Data),
	})
	r.order = append(r.order, ch)
}

func (r *recorder) Lost(ch int, reason string, oldest sseproto.ID) {
	r.lost[ch] = append(r.lost[ch], reason)
	r.oldest[ch] = oldest
	r.order = append(r.order, ch)
}

// data of the events of a channel, in a row.
func (r *recorder) data(ch int) string {
	parts := make([]string, len(r.events[ch]))
	for i, m := range r.events[ch] {
		parts[i] = m.data
	}
	return strings.Join(parts, " ")
}

// pubsubHooks closes ready once subscribed and passes payloads on.
func pubsubHooks(heard func(string), ready chan struct{}) rueidis.PubSubHooks {
	return rueidis.PubSubHooks{
		OnSubscription: func(rueidis.PubSubSubscription) { close(ready) },
		OnMessage:      func(m rueidis.PubSubMessage) { heard(m.Message) },
	}
}
