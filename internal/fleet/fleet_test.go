package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"ssed/internal/redisconn"
	"ssed/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what should happen soon.
const patience = time.Minute

// town is a Redis with instances, and the control channel between them.
type town struct {
	t     *testing.T
	redis *redistest.Server

	mu        sync.Mutex
	instances []*instance // guarded by mu
}

type instance struct {
	*Fleet
	name  string
	deaf  atomic.Bool // notices do not reach it
	count atomic.Int64
	stop  func()
	done  chan struct{} // closed when Run has returned
	err   error         // of Run, then
}

func newTown(t *testing.T) *town { return &town{t: t, redis: redistest.Start(t)} }

// run starts an instance that has count streams of every channel.
func (w *town) run(name string, count int64, change func(*Config)) *instance {
	w.t.Helper()
	in := &instance{name: name}
	in.count.Store(count)
	cfg := Config{
		Client: rueidis.ClientOption{InitAddress: []string{w.redis.Addr()}},
		Prefix: "sse:stream:", Instance: name,
		Report:      func() []byte { return []byte("report of " + name) },
		Subscribers: func(context.Context, string) (int64, error) { return in.count.Load(), nil },
		Notify:      w.notify,
		Interval:    300 * time.Millisecond, // a busy machine must not let a key expire
		Logger:      slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	in.Fleet = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	in.done = make(chan struct{})
	go func() { defer close(in.done); in.err = in.Run(ctx) }()
	in.stop = sync.OnceFunc(func() { cancel(); <-in.done })
	w.t.Cleanup(in.stop)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.instances = append(w.instances, in)
	return in
}

// notify brings words to everybody, as the control channel does, twice: an instance may
// have two links.
func (w *town) notify(_ context.Context, words ...string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, in := range w.instances {
		if !in.deaf.Load() {
			in.Notice(slices.Clone(words))
			in.Notice(slices.Clone(words))
		}
	}
	return nil
}

// sees waits until an instance lists exactly these.
func (w *town) sees(in *instance, names ...string) []Member {
	w.t.Helper()
	var list []Member
	var err error
	require.Eventually(w.t, func() bool {
		list, err = in.Members(w.t.Context())
		return err == nil && slices.EqualFunc(list, names, func(m Member, name string) bool { return m.Name == name })
	}, patience, 5*time.Millisecond, "%v %v", list, err)
	return list
}

// hears asks until the answer is this one: on a busy machine one may come too late.
func (w *town) hears(in *instance, channel string, want Spread) {
	w.t.Helper()
	var got Spread
	var err error
	require.Eventually(w.t, func() bool {
		got, err = in.Subscribers(w.t.Context(), channel)
		return err == nil && reflect.DeepEqual(want, got)
	}, patience, time.Millisecond, "%v %v", got, err)
}

func TestInstancesSeeEachOtherUntilTheyGo(t *testing.T) {
	w := newTown(t)
	a, b, c := w.run("a", 0, nil), w.run("b", 0, nil), w.run("c", 0, nil)
	for _, in := range []*instance{a, b, c} {
		for _, m := range w.sees(in, "a", "b", "c") {
			require.Equal(t, "report of "+m.Name, string(m.Report))
			require.WithinDuration(t, time.Now(), m.Seen, patience)
		}
	}
	b.stop()
	list, err := a.Members(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 2, "who leaves is gone at once")
	keys, err := w.redis.Do("KEYS", "*")
	require.NoError(t, err)
	require.ElementsMatch(t, []any{"{sse:stream:}:instances", "{sse:stream:}:instance:a", "{sse:stream:}:instance:c", "{sse:stream:}:owner:a", "{sse:stream:}:owner:c", "ssed:prefixes"}, keys)
}

// TestKilledInstanceIsForgotten: it never said that it leaves.
func TestKilledInstanceIsForgotten(t *testing.T) {
	w := newTown(t)
	a := w.run("a", 0, nil)
	w.redis.Do("SET", "{sse:stream:}:instance:dead", "1000 report", "PX", "300")
	w.redis.Do("ZADD", "{sse:stream:}:instances", fmt.Sprint(time.Now().Add(300*time.Millisecond).UnixMilli()), "dead")
	w.sees(a, "a", "dead")
	w.sees(a, "a")
	require.Eventually(t, func() bool {
		n, err := w.redis.Do("ZCARD", "{sse:stream:}:instances")
		return err == nil && n == int64(1)
	}, patience, 5*time.Millisecond, "the index forgets it too")
}

func TestNothingStaysInRedis(t *testing.T) {
	w := newTown(t)
	a := w.run("a", 1, nil)
	b := w.run("b", 2, nil)
	w.sees(a, "a", "b")
	_, err := a.Subscribers(t.Context(), "x")
	require.NoError(t, err)
	keys, err := w.redis.Do("KEYS", "*")
	require.NoError(t, err)
	require.NotEmpty(t, keys)
	for _, key := range keys.([]any) {
		ttl, err := w.redis.Do("PTTL", key.(string))
		require.NoError(t, err)
		require.NotEqual(t, int64(-1), ttl, "%s has no expiry", key)
	}
	a.stop()
	b.stop()
	_, err = a.Members(t.Context())
	require.ErrorIs(t, err, redisconn.ErrClosed)
}

func TestListingOutlastsARestartOfRedis(t *testing.T) {
	w := newTown(t)
	a, b := w.run("a", 0, nil), w.run("b", 0, nil)
	w.sees(a, "a", "b")
	w.redis.Stop()
	require.Eventually(t, func() bool { return a.Stats().BeatErrors > 1 }, patience, 5*time.Millisecond)
	_, err := a.Members(t.Context())
	require.Error(t, err)
	require.NoError(t, w.redis.Restart())
	w.sees(a, "a", "b")
	w.sees(b, "a", "b")
}

// TestListingWorksWithMemoryFull: then above all somebody looks.
func TestListingWorksWithMemoryFull(t *testing.T) {
	w := newTown(t)
	_, err := w.redis.Do("CONFIG", "SET", "maxmemory", "1")
	require.NoError(t, err)
	a, b := w.run("a", 3, nil), w.run("b", 4, nil)
	w.sees(a, "a", "b")
	w.hears(b, "x", Spread{Shares: []Share{{"a", 3}, {"b", 4}}, Asked: 2})
}

func TestAllInstancesAreAsked(t *testing.T) {
	w := newTown(t)
	var asked atomic.Value
	a, b := w.run("a", 3, nil), w.run("b", 0, nil)
	w.run("c", 5, func(cfg *Config) {
		cfg.Subscribers = func(_ context.Context, channel string) (int64, error) { asked.Store(channel); return 5, nil }
	})
	w.sees(a, "a", "b", "c")
	channel := "grüße * \x01 " + strings.Repeat("x", 200)
	w.hears(b, channel, Spread{Shares: []Share{{"a", 3}, {"b", 0}, {"c", 5}}, Asked: 3})
	require.Equal(t, channel, asked.Load())
}

// TestFrozenInstanceIsNotWaitedForLong, and the answer says that one is missing.
func TestFrozenInstanceIsNotWaitedForLong(t *testing.T) {
	w := newTown(t)
	a, b, c := w.run("a", 3, nil), w.run("b", 1, nil), w.run("c", 5, nil)
	w.sees(a, "a", "b", "c")
	c.deaf.Store(true)
	began := time.Now()
	w.hears(b, "x", Spread{Shares: []Share{{"a", 3}, {"b", 1}}, Asked: 3})
	require.GreaterOrEqual(t, time.Since(began), askTimeout, "it was given the time")
}

// TestAnswerOfAnUnlistedInstanceCountsForNobodyElse: it has just begun, and answers first.
func TestAnswerOfAnUnlistedInstanceCountsForNobodyElse(t *testing.T) {
	w := newTown(t)
	a := w.run("a", 1, func(cfg *Config) {
		cfg.Notify = func(ctx context.Context, words ...string) error {
			_, err := w.redis.Do("HSET", "{sse:stream:}:reply:"+words[1], "new", "7")
			return errors.Join(err, w.notify(ctx, words...))
		}
	})
	w.run("b", 0, func(cfg *Config) {
		cfg.Subscribers = func(ctx context.Context, _ string) (int64, error) { // answers once the asker has looked
			for ctx.Err() == nil {
				if stats, err := w.redis.Do("INFO", "commandstats"); err != nil || strings.Contains(stats.(string), "cmdstat_hgetall:") {
					return 2, err
				}
			}
			return 0, ctx.Err()
		}
	})
	w.sees(a, "a", "b")
	w.hears(a, "x", Spread{Shares: []Share{{"a", 1}, {"b", 2}, {"new", 7}}, Asked: 3})
	require.EqualValues(t, 1, a.Stats().Asked, "the first answer is whole")
}

func TestOnlyInstanceAsksNobody(t *testing.T) {
	w := newTown(t)
	a := w.run("a", 3, func(cfg *Config) {
		cfg.Notify = func(context.Context, ...string) error { t.Error("asked"); return nil }
	})
	w.sees(a, "a")
	s, err := a.Subscribers(t.Context(), "x")
	require.NoError(t, err)
	require.Equal(t, Spread{Shares: []Share{{"a", 3}}, Asked: 1}, s)
}

// TestQuestionsAreBounded on both sides: a read loop never waits.
func TestQuestionsAreBounded(t *testing.T) {
	w := newTown(t)
	hold := make(chan struct{})
	entered := make(chan struct{}, maxAsking+1)
	slow := func(ctx context.Context, _ string) (int64, error) {
		entered <- struct{}{}
		<-hold
		return 0, ctx.Err()
	}
	a := w.run("a", 0, func(cfg *Config) { cfg.Subscribers = slow })
	w.sees(a, "a")
	question := []string{noticeAsk, "0123456789abcdef", "b", "78"}
	a.Notice(question)
	<-entered // it is being answered
	for i := range maxQuestions + 10 {
		question[1] = fmt.Sprintf("%016x", i+1)
		a.Notice(question)
	}
	require.EqualValues(t, 10, a.Stats().Dropped)

	var asking sync.WaitGroup
	for range maxAsking {
		asking.Go(func() { _, _ = a.Subscribers(context.Background(), "x") })
		<-entered
	}
	_, err := a.Subscribers(t.Context(), "x")
	require.ErrorIs(t, err, ErrBusy)
	require.EqualValues(t, 1, a.Stats().Busy)
	go func() {
		for range entered { // the questions that waited
		}
	}()
	close(hold)
	asking.Wait()
	a.stop()
	close(entered)
}

// TestAQuestionOfTwoLinksIsAnsweredOnce: each of them brings it.
func TestAQuestionOfTwoLinksIsAnsweredOnce(t *testing.T) {
	w := newTown(t)
	a, b := w.run("a", 3, nil), w.run("b", 0, nil)
	w.sees(b, "a", "b")
	w.hears(b, "x", Spread{Shares: []Share{{"a", 3}, {"b", 0}}, Asked: 2})
	asked := b.Stats().Asked
	a.stop() // what waited is answered or dropped
	st := a.Stats()
	require.LessOrEqual(t, st.Answers+st.AnswerErrors+st.Dropped, asked)
}

// TestOldQuestionsAreDropped: their asker does not look any more.
func TestOldQuestionsAreDropped(t *testing.T) {
	w := newTown(t)
	asked := make(chan struct{}, 2)
	a := w.run("a", 0, func(cfg *Config) {
		cfg.Subscribers = func(context.Context, string) (int64, error) { asked <- struct{}{}; return 1, nil }
	})
	w.sees(a, "a")
	now := time.Now()
	a.asks.questions <- question{"0123456789abcdef", "78", now.Add(-2 * askTimeout)}
	a.asks.questions <- question{"fedcba9876543210", "78", now.Add(time.Hour)} // not old, however long it waits
	require.Eventually(t, func() bool { return a.Stats().Answers == 1 }, patience, 5*time.Millisecond)
	require.EqualValues(t, 1, a.Stats().Dropped)
	require.Len(t, asked, 1)
}

func TestMalformedNoticesAreIgnored(t *testing.T) {
	w := newTown(t)
	a := w.run("a", 1, nil)
	w.sees(a, "a")
	for _, text := range []string{
		"", "ask", "ask 0123456789abcdef b", "ask 0123456789abcdef b 78 x", "tell 0123456789abcdef b 78",
		"ask 0123456789abcde b 78", "ask 0123456789abcdef0 b 78", "ask 0123456789abcdef a 78",
		"ask 0123456789abcdef b " + strings.Repeat("78", 257),
		"ask xxxxxxxxxxxxxxxx b 78", "ask 0123456789abcdef b 7", "ask 0123456789abcde0 b zz",
	} {
		a.Notice(strings.Fields(text))
	}
	require.Eventually(t, func() bool { return a.Stats().AnswerErrors == 2 }, patience, 5*time.Millisecond)
	require.Zero(t, a.Stats().Answers)
	keys, err := w.redis.Do("KEYS", "*reply*")
	require.NoError(t, err)
	require.Empty(t, keys)
}

// TestForeignReportsAreAnError, not a list that leaves instances out.
func TestForeignReportsAreAnError(t *testing.T) {
	w := newTown(t)
	a := w.run("a", 1, nil)
	w.sees(a, "a")
	w.redis.Do("SET", "{sse:stream:}:instance:x", "nonsense")
	w.redis.Do("ZADD", "{sse:stream:}:instances", fmt.Sprint(time.Now().Add(time.Hour).UnixMilli()), "x")
	_, err := a.Members(t.Context())
	require.ErrorIs(t, err, errReport)
}
