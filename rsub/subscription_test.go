package rsub

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// TestOnlyMessagesForUsKeepALateSubscription: a published tick does not come. While messages
// do, the subscription lags and is given time; what a sentinel says on every server is no sign.
func TestOnlyMessagesForUsKeepALateSubscription(t *testing.T) {
	f := func(name, pattern, channel string, want time.Duration) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				feed, subscriptions := awaiting(t, 1)
				l := subscriptions[0]
				l.expect(20)
				began := time.Now()
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() {
					defer close(done)
					for ; ctx.Err() == nil; time.Sleep(feed.cfg.TickInterval) {
						if channel != "" {
							l.onMessage(pubsub(pattern, channel, "127.0.0.1,26379,id,0"))
						}
					}
				}()
				cause, _ := l.watch(ctx, make(chan error), func(context.Context) error { return nil }) // any server answers
				cancel()
				<-done
				require.Equal(t, CauseProbe, cause)
				require.InDelta(t, want, time.Since(began), float64(time.Second))
			})
		})
	}
	f("silence", "", "", testProbe)
	f("hello of a sentinel", "*", "__sentinel__:hello", testProbe)
	f("keyspace event", "*", "__keyspace@0__:k", testProbe)
	f("messages", "*", "c", overdue*testProbe)
	f("notices", "", "__ssed:{"+testPrefix+"}", overdue*testProbe)
}

// TestAnswerOfAnOldClientCutsNoNewSubscription: the answer of a replica to a call that was under
// way while the subscription went over to the new primary says nothing about that one.
func TestAnswerOfAnOldClientCutsNoNewSubscription(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	feed, err := New(testConfig(t, s.URL(), "me", withFeeds(2)), discard{})
	require.NoError(t, err)
	t.Cleanup(feed.client.Close)
	subscriptions := feed.subscriptions
	get := func() rueidis.Client {
		client, err := feed.client.Get(t.Context())
		require.NoError(t, err)
		return client
	}
	before := get()
	subscriptions[0].client.Store(&before)
	feed.client.Discard(before)
	now := get()
	subscriptions[1].client.Store(&now)
	feed.readOnly(before)
	require.Len(t, subscriptions[0].disconnects, 1)
	require.Empty(t, subscriptions[1].disconnects)
	feed.readOnly(now)
	require.Equal(t, CauseReadOnly, <-subscriptions[1].disconnects)
}

// stuckLog is a log that nobody reads until it is closed.
type stuckLog struct {
	lines  chan string
	closed chan struct{}
}

func (s *stuckLog) Write(line []byte) (int, error) {
	select {
	case s.lines <- string(line):
	default:
	}
	<-s.closed
	return len(line), nil
}

// TestStuckLogHoldsUpNoMessages: only the one who writes a line waits for it to be read.
func TestStuckLogHoldsUpNoMessages(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	log := &stuckLog{make(chan string, 1), make(chan struct{})}
	in := start(t, s.URL(), "a", func(c *Config) {
		c.MaxMessageBytes, c.Logger = 10, slog.New(slog.NewTextHandler(log, nil))
	})
	defer close(log.closed) // or it could not be stopped
	waitSynced(t, in)
	do(t, s, "PUBLISH", "c", "longer than ten bytes")
	require.Contains(t, <-log.lines, "limit=10")
	do(t, s, "PUBLISH", "c", "longer than ten bytes")
	flush(t, s, "end", in)
	require.True(t, in.isSynced())
	require.Equal(t, uint64(2), in.Stats().Oversize)
}

// TestClosedHooksAreNotUnderWayNorCalledAgain: the span of a lost connection is ended
// while its read loop may still be in a hook.
func TestClosedHooksAreNotUnderWayNorCalledAgain(t *testing.T) {
	feed, subscriptions := awaiting(t, 1)
	h := &hooks{subscription: subscriptions[0]}
	calls := 0
	feed.cfg.OnLeaseReleased = func() {
		calls++
		require.False(t, h.mu.TryLock(), "close has to wait for this call")
	}
	h.onMessage(pubsub("", feed.keys.Control, "free x"))
	require.Equal(t, 1, calls)
	h.close()
	h.onMessage(pubsub("", feed.keys.Control, "free x"))
	h.onMessage(pubsub("*", "c", "late"))
	h.onSubscription(rueidis.PubSubSubscription{Kind: "unsubscribe"})
	require.Equal(t, 1, calls)
	require.Zero(t, feed.Stats().Numbered)
	require.Empty(t, subscriptions[0].disconnects)
}
