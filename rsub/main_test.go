package rsub

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"ssed/internal/redistest"
	"ssed/sseproto"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(
		m,
		goleak.IgnoreAnyFunction("github.com/cloudwego/netpoll.(*defaultPoll).Wait"),         // of the engine in the model test, never ends
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2"), // closes connections to nodes that left, 5 s later
	)
}

// patience bounds every wait for something that must happen.
const patience = time.Minute

// testProbe is Config.ProbeTimeout where a test is not about it. On a busy machine Redis, or
// an instance, may get no processor for seconds: half of this is how long a tick may be late.
const testProbe = 20 * time.Second

const testPrefix = "sse:stream:"

// message is what a sink got.
type message struct {
	id               sseproto.ID
	channel, payload string
}

// span is one stretch without holes.
type span struct {
	low, through sseproto.ID
	open         bool
	messages     []message
	commits      []sseproto.ID
}

// recorder is a Sink that keeps everything and checks what every sink may rely on.
type recorder struct {
	mu        sync.Mutex
	spans     []*span
	problems  []string
	oversized []message // places of messages that are too large
}

func (r *recorder) now() *span {
	if len(r.spans) == 0 {
		return &span{}
	}
	return r.spans[len(r.spans)-1]
}

func (r *recorder) check(ok bool, format string, args ...any) {
	if !ok {
		r.problems = append(r.problems, fmt.Sprintf(format, args...))
	}
}

func (s *span) last() sseproto.ID {
	if n := len(s.messages); n > 0 {
		return s.messages[n-1].id
	}
	return s.low
}

func (r *recorder) OpenSpan(low sseproto.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.check(!r.now().open, "span opened in a span at %v", low)
	r.check(!low.Less(r.now().last()), "span opens at %v behind %v", low, r.now().last())
	r.spans = append(r.spans, &span{low: low, open: true})
}

func (r *recorder) Append(id sseproto.ID, channel, payload string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.now()
	r.check(s.open, "message %v outside a span", id)
	r.check(s.last().Less(id), "message %v after %v", id, s.last())
	s.messages = append(s.messages, message{id, strings.Clone(channel), strings.Clone(payload)})
}

func (r *recorder) Oversize(id sseproto.ID, channel string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.now()
	r.check(s.open, "place of a message %v outside a span", id)
	r.check(s.last().Less(id), "place of a message %v after %v", id, s.last())
	r.oversized = append(r.oversized, message{id: id, channel: strings.Clone(channel)})
}

func (r *recorder) Commit(id, _ sseproto.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.now()
	r.check(s.open, "commit %v outside a span", id)
	last := s.low
	if n := len(s.commits); n > 0 {
		last = s.commits[n-1]
	}
	r.check(last.Less(id), "commit %v after %v", id, last)
	s.commits = append(s.commits, id)
}

func (r *recorder) CloseSpan(through sseproto.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.now()
	r.check(s.open, "close outside a span")
	s.open, s.through = false, through
}

// kept are the messages of a span, without those that its close took back.
func (s *span) kept() []message {
	if s.open {
		return s.messages
	}
	n := sort.Search(len(s.messages), func(i int) bool { return s.through.Less(s.messages[i].id) })
	return s.messages[:n]
}

// all returns the messages of all spans, without those that a close took back.
func (r *recorder) all() []message {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []message
	for _, s := range r.spans {
		list = append(list, s.kept()...)
	}
	return list
}

// has looks from the end: what is waited for comes last.
func (r *recorder) has(payload string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range slices.Backward(r.spans) {
		for _, m := range slices.Backward(s.kept()) {
			if m.payload == payload {
				return true
			}
		}
	}
	return false
}

func (r *recorder) counts() (spans, messages, commits int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		messages += len(s.messages)
		commits += len(s.commits)
	}
	return len(r.spans), messages, commits
}

func (r *recorder) wrong() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.problems
}

// instance is a running feed with its recorder.
type instance struct {
	*Feed
	sink *recorder
	stop func() error
}

type option func(*Config)

func withPatterns(p ...string) option { return func(c *Config) { c.Patterns = p } }
func withFeeds(n int) option          { return func(c *Config) { c.Feeds = n } }

func testConfig(t testing.TB, url, name string, options ...option) Config {
	t.Helper()
	client, err := rueidis.ParseURL(url)
	require.NoError(t, err)
	cfg := Config{
		Client: client, Patterns: []string{"*"}, Prefix: testPrefix, Instance: name,
		ProbeTimeout: testProbe,
		NumberWait:   patience, // a number may be late, too, and is right
		Logger:       slog.New(slog.DiscardHandler),
	}
	for _, o := range options {
		o(&cfg)
	}
	return cfg
}

// start runs a feed until the test ends or stop is called.
func start(t testing.TB, url, name string, options ...option) *instance {
	t.Helper()
	in := &instance{sink: &recorder{}}
	var err error
	in.Feed, err = New(testConfig(t, url, name, options...), in.sink)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- in.Run(ctx) }()
	in.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() {
		require.NoError(t, in.stop())
		require.Empty(t, in.sink.wrong(), "instance %s", name)
		require.Zero(t, in.Stats().ChecksumMismatches, "instance %s", name)
	})
	return in
}

// eventually looks until the condition holds, less and less often: a look is a command to
// Redis, or takes a lock of what is looked at.
func eventually(t testing.TB, condition func() bool, format string, args ...any) {
	t.Helper()
	end := time.Now().Add(patience)
	for wait := time.Millisecond; !condition(); wait = min(wait*3/2, 20*time.Millisecond) {
		require.True(t, time.Now().Before(end), "%s", fmt.Sprintf(format, args...))
		time.Sleep(wait)
	}
}

func (in *instance) isSynced() bool { ok, _ := in.State(); return ok }

func waitSynced(t testing.TB, list ...*instance) {
	t.Helper()
	for _, in := range list {
		eventually(t, in.isSynced, "%s is not synced", in.cfg.Instance)
	}
}

// has reports whether a message with the payload arrived.
func (in *instance) has(payload string) bool {
	return in.sink.has(payload)
}

// flush publishes a last message and waits until all have it.
func flush(t testing.TB, s *redistest.Server, mark string, list ...*instance) {
	t.Helper()
	do(t, s, "PUBLISH", "flush", mark)
	for _, in := range list {
		eventually(t, func() bool { return in.has(mark) }, "%s: no %q", in.cfg.Instance, mark)
	}
}

func do(t testing.TB, s *redistest.Server, args ...string) any {
	t.Helper()
	reply, err := s.Do(args...)
	require.NoError(t, err)
	return reply
}

// dial connects to a server until the test ends.
func dial(t testing.TB, s *redistest.Server) rueidis.Client {
	t.Helper()
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.Addr()}, ForceSingleClient: true, DisableCache: true, PipelineMultiplex: -1})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}

// publish sends count messages from each of the publishers at once.
func publish(client rueidis.Client, publishers, count int, tag string) {
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for i := range count {
				channel, payload := fmt.Sprintf("ch:%d", i%7), fmt.Sprintf("%s-%d-%d", tag, p, i)
				publishOne(client, channel, payload)
			}
		})
	}
	wg.Wait()
}

func publishOne(client rueidis.Client, channel, payload string) {
	_ = client.Do(context.Background(), client.B().Publish().Channel(channel).Message(payload).Build()).Error()
}

// tail returns the messages after the position.
func tail(list []message, after sseproto.ID) []message {
	for i, m := range list {
		if after.Less(m.id) {
			return list[i:]
		}
	}
	return nil
}
