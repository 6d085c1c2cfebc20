package rsub

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
)

// TestOnlyMessagesForUsKeepALateLink: a published tick does not come. While messages
// do, the link lags and is given time; what a sentinel says on every server is no sign.
func TestOnlyMessagesForUsKeepALateLink(t *testing.T) {
	f := func(name, pattern, channel string, want time.Duration) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				feed, links := claimant(t, 1)
				l := links[0]
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
				cause, _ := l.watch(ctx, make(chan error))
				cancel()
				<-done
				require.Equal(t, CauseProbe, cause)
				require.InDelta(t, want, time.Since(began), float64(time.Second))
			})
		})
	}
	f("silence", "", "", DefaultProbeTimeout)
	f("hello of a sentinel", "*", "__sentinel__:hello", DefaultProbeTimeout)
	f("keyspace event", "*", "__keyspace@0__:k", DefaultProbeTimeout)
	f("messages", "*", "c", overdue*DefaultProbeTimeout)
	f("notices", "", "__ssed:{"+testPrefix+"}", overdue*DefaultProbeTimeout)
}

// TestClosedHooksAreNotUnderWayNorCalledAgain: the span of a lost connection is ended
// while its read loop may still be in a hook.
func TestClosedHooksAreNotUnderWayNorCalledAgain(t *testing.T) {
	feed, links := claimant(t, 1)
	h := &hooks{link: links[0]}
	calls := 0
	feed.cfg.OnFree = func() {
		calls++
		require.False(t, h.mu.TryLock(), "close has to wait for this call")
	}
	h.onMessage(pubsub("", feed.control, "free x"))
	require.Equal(t, 1, calls)
	h.close()
	h.onMessage(pubsub("", feed.control, "free x"))
	h.onMessage(pubsub("*", "c", "late"))
	h.onSubscription(rueidis.PubSubSubscription{Kind: "unsubscribe"})
	require.Equal(t, 1, calls)
	require.Zero(t, feed.Stats().Numbered)
	require.Empty(t, links[0].cuts)
}
