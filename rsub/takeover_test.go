package rsub

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redisconn"
	"ssed/internal/redistest"
	"ssed/sseproto"
)

// setClockAhead sets the clock far ahead of the time: from then on each tick moves it by a
// millisecond, however long a busy machine takes.
func setClockAhead(t *testing.T, s *redistest.Server, clock string) (ms uint64) {
	t.Helper()
	ms = uint64(time.Now().Add(time.Hour).UnixMilli())
	do(t, s, "HSET", clock, "t", strconv.FormatUint(ms, 10))
	return ms
}

func clockOf(t *testing.T, s *redistest.Server, clock string) uint64 {
	t.Helper()
	text, _ := do(t, s, "HGET", clock, "t").(string)
	ms, _ := strconv.ParseUint(text, 10, 64)
	return ms
}

// copyOf starts a replica and sets the clock far ahead.
func copyOf(t *testing.T, old *redistest.Server, clock string) *redistest.Server {
	t.Helper()
	ahead := setClockAhead(t, old, clock)
	replica := redistest.Start(t, "--replicaof", "127.0.0.1 "+strconv.Itoa(old.Port()))
	eventually(t, func() bool { return clockOf(t, replica, clock) >= ahead }, "no replication")
	return replica
}

// promoteACopy makes a copy of old a primary. Old lives on and does not know: it was frozen, or
// the network is divided.
func promoteACopy(t *testing.T, old *redistest.Server, clock string) *redistest.Server {
	t.Helper()
	promoted := copyOf(t, old, clock)
	do(t, promoted, "REPLICAOF", "NO", "ONE")
	return promoted
}

func startReplicated(t *testing.T) *redistest.Server {
	t.Helper()
	return redistest.Start(t, "--repl-diskless-sync-delay", "0")
}

// startBehindProxy runs an instance that a proxy can lead to another server.
func startBehindProxy(t *testing.T, options ...option) (*redistest.Server, *proxy, *instance) {
	t.Helper()
	s := startReplicated(t)
	p := startProxy(t, s.Addr())
	in := start(t, "redis://"+p.addr(), "a", options...)
	waitSynced(t, in)
	return s, p, in
}

// TestServerThatLivesOnGivesNoIDOfItsSuccessor: two primaries number at the same time. All
// that the former one numbers lies before the first tick of the other: no ID is given twice,
// and who comes over finds a discontinuity in which everything lies that it did not get.
func TestServerThatLivesOnGivesNoIDOfItsSuccessor(t *testing.T) {
	t.Parallel()
	for feeds := 1; feeds <= 2; feeds++ {
		t.Run(fmt.Sprint(feeds, " feeds"), func(t *testing.T) {
			t.Parallel()
			old, p, a := startBehindProxy(t, withFeeds(feeds))
			promoted := promoteACopy(t, old, a.keys.Clock)
			b := start(t, promoted.URL(), "b", withFeeds(feeds))
			waitSynced(t, b)
			for i := range 5 {
				do(t, old, "PUBLISH", "c", fmt.Sprint("old", i))
				do(t, promoted, "PUBLISH", "c", fmt.Sprint("new", i))
				require.NoError(t, a.CommitNow(context.Background()))
				require.NoError(t, b.CommitNow(context.Background()))
			}
			flush(t, old, "last of old", a)
			flush(t, promoted, "last of new", b)
			p.lead(promoted.Addr())
			p.cut()
			eventually(t, func() bool {
				spans, _, _ := a.sink.counts()
				return spans == 2 && a.Stats().SubscriptionsSynced == feeds
			}, "it does not go over")
			flush(t, promoted, "both", a, b)

			took := b.sink.spans[0].low
			payloadOf := map[sseproto.ID]string{}
			for _, m := range append(a.sink.all(), b.sink.all()...) {
				if other, given := payloadOf[m.id]; given {
					require.Equal(t, other, m.payload, "two messages are %v", m.id)
				}
				payloadOf[m.id] = m.payload
			}
			first, second := a.sink.spans[0], a.sink.spans[1]
			require.True(t, first.last().Less(took), "%v is of the former primary, %v of the new one", first.last(), took)
			require.Equal(t, "last of old", first.messages[len(first.messages)-1].payload)
			require.Equal(t, tail(b.sink.all(), second.low), second.messages)
			require.False(t, second.low.Less(b.sink.all()[5].id), "what it missed lies between its spans")
		})
	}
}

// TestServerThatLivesOnBeyondItsRoom: it numbers with IDs of its successor. Nothing of that counts
// when the instance has come over.
func TestServerThatLivesOnBeyondItsRoom(t *testing.T) {
	t.Parallel()
	for feeds := 1; feeds <= 2; feeds++ {
		t.Run(fmt.Sprint(feeds, " feeds"), func(t *testing.T) {
			t.Parallel()
			old, p, a := startBehindProxy(t, withFeeds(feeds))
			flush(t, old, "before", a)
			promoted := promoteACopy(t, old, a.keys.Clock)
			b := start(t, promoted.URL(), "b")
			waitSynced(t, b)
			require.NoError(t, a.CommitNow(context.Background()))
			flush(t, old, "within", a)
			took := b.sink.spans[0].low
			do(t, old, "HSET", a.keys.Clock, "t", strconv.FormatUint(took.Ms+1000, 10))
			require.NoError(t, a.CommitNow(context.Background()))
			flush(t, old, "beyond", a)
			flush(t, promoted, "of the successor", b)
			require.NoError(t, a.CommitNow(context.Background()))
			p.lead(promoted.Addr())
			p.cut()
			eventually(t, func() bool {
				spans, _, _ := a.sink.counts()
				return spans == 2 && a.Stats().SubscriptionsSynced == feeds
			}, "it does not go over")
			flush(t, promoted, "both", a, b)
			require.Equal(t, []string{"before", "within", "both"}, payloads(a.sink.all()))
			first, second := a.sink.spans[0], a.sink.spans[1]
			require.True(t, first.through.Less(took), "%v is of the successor", first.through)
			require.True(t, b.sink.all()[0].id.Less(second.low), "what it missed lies between its spans")
		})
	}
}

// TestServerWithOldDataEndsNoTermThatItDoesNotKnow: a server that was restarted, and takes itself
// for the primary, knows an earlier term of the one before it, and who ended that. The last term
// is none of those: what came in it stays.
func TestServerWithOldDataEndsNoTermThatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	for feeds := 1; feeds <= 2; feeds++ {
		t.Run(fmt.Sprint(feeds, " feeds"), func(t *testing.T) {
			t.Parallel()
			first, clock := startReplicated(t), redisconn.MakeKeys(testPrefix).Clock
			id := redisconn.ParseInfo(fmt.Sprint(do(t, first, "INFO", "server"))).RunID()
			firstTerm := id + ":1," + strings.Repeat("b", len(id)) + ":2"
			do(t, first, "HSET", clock, "servers", firstTerm+","+id+":3")
			p := startProxy(t, first.Addr())
			a := start(t, "redis://"+p.addr(), "a", withFeeds(feeds))
			waitSynced(t, a)
			flush(t, first, "of its last term", a)
			require.NoError(t, a.CommitNow(context.Background()))
			flush(t, first, "behind the next tick", a) // so the one before is committed
			sent := a.sink.all()[0].id
			restored := promoteACopy(t, first, clock)
			do(t, restored, "HSET", clock, "servers", firstTerm)
			p.lead(restored.Addr())
			p.cut()
			eventually(t, func() bool {
				spans, _, _ := a.sink.counts()
				return spans == 2 && a.Stats().SubscriptionsSynced == feeds
			}, "it does not go over")
			flush(t, restored, "of the other one", a)
			require.Equal(t, "of its last term", a.sink.all()[0].payload)
			require.True(t, sent.Less(a.sink.spans[0].through), "it is taken back: the span ends at %v", a.sink.spans[0].through)
		})
	}
}

// TestChecksumOfAFormerPrimarySaysNothing: beyond its room two primaries tick with the same t, and
// what comes behind that on one of them is not what comes on the other.
func TestChecksumOfAFormerPrimarySaysNothing(t *testing.T) {
	t.Parallel()
	old, p, a := startBehindProxy(t)
	promoted := promoteACopy(t, old, a.keys.Clock)
	b := start(t, promoted.URL(), "b")
	waitSynced(t, b)
	took := b.sink.spans[0].low
	do(t, old, "HSET", a.keys.Clock, "t", strconv.FormatUint(took.Ms, 10))
	for range 3 {
		require.NoError(t, a.CommitNow(context.Background()))
	}
	for clockOf(t, promoted, a.keys.Clock) < clockOf(t, old, a.keys.Clock)+10 {
		do(t, promoted, "PUBLISH", "c", "new")
		require.NoError(t, b.CommitNow(context.Background()))
	}
	p.lead(promoted.Addr())
	p.cut()
	eventually(t, func() bool { spans, _, _ := a.sink.counts(); return spans == 2 && a.isSynced() }, "it does not go over")
	flush(t, promoted, "both", a, b)
	require.Zero(t, a.Stats().ChecksumMismatches)
	require.Zero(t, b.Stats().ChecksumMismatches)
}

// TestFormerPrimaryWithoutReplicasTakesNoTicks when it is told to have some: however long it lives
// on, it gives out no ID of its successor.
func TestFormerPrimaryWithoutReplicasTakesNoTicks(t *testing.T) {
	t.Parallel()
	old, p, a := startBehindProxy(t, func(c *Config) { c.ProbeTimeout = 8 * time.Second }) // a busy machine answers a PING within half of it
	promoted := copyOf(t, old, a.keys.Clock)
	do(t, old, "CONFIG", "SET", "min-replicas-max-lag", "2")
	do(t, old, "CONFIG", "SET", "min-replicas-to-write", "1")
	waitSynced(t, a)
	do(t, promoted, "REPLICAOF", "NO", "ONE")
	eventually(t, func() bool { _, why := a.State(); return strings.Contains(why, "NOREPLICAS") }, "it ticks on")
	b := start(t, promoted.URL(), "b")
	waitSynced(t, b)
	require.ErrorIs(t, a.CommitNow(context.Background()), errNoTick)
	flush(t, old, "of the former", a)
	all := a.sink.all()
	require.True(t, all[len(all)-1].id.Less(b.sink.spans[0].low))
	p.lead(promoted.Addr())
	p.cut()
	eventually(t, func() bool { spans, _, _ := a.sink.counts(); return spans == 2 && a.isSynced() }, "it does not go over")
	flush(t, promoted, "both", a, b)
	require.Equal(t, []string{"both"}, payloads(a.sink.all()), "what no tick came behind is taken back")
}

// TestHistoryOfTwoPrimariesLosesNothingInSilence: an instance hangs on the former primary and
// writes the history of the new one.
func TestHistoryOfTwoPrimariesLosesNothingInSilence(t *testing.T) {
	t.Parallel()
	f := func(name string, successorWrites bool, beyond uint64) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			old := startReplicated(t)
			p := startProxy(t, old.Addr())
			leader := start(t, old.URL(), "leader")
			waitSynced(t, leader)
			withoutInbox := func(c *Config) { c.Inbox, c.ProbeTimeout = "", time.Hour }
			a := startGatewayAt(t, "redis://"+p.addr(), "a", withoutInbox)
			waitWritten(t, a)
			promoted := promoteACopy(t, old, a.keys.Clock)
			b := start(t, promoted.URL(), "b")
			waitSynced(t, b)
			if successorWrites {
				waitWritten(t, startGatewayAt(t, promoted.URL(), "c", withoutInbox))
			}
			flush(t, promoted, "kept", b)
			kept := b.sink.all()[0].id
			if beyond > 0 {
				do(t, old, "HSET", a.keys.Clock, "t", strconv.FormatUint(kept.Ms+beyond, 10))
			}
			for range 50 {
				require.NoError(t, leader.CommitNow(context.Background()))
			}
			far := sseproto.ID{Ms: clockOf(t, old, a.keys.Clock)}
			p.lead(promoted.Addr())
			killCommands(t, old, "gateway") // its subscription stays
			watermark := func() sseproto.ID {
				text, _ := do(t, promoted, "HGET", a.keys.Clock, "watermark").(string)
				id, _ := sseproto.ParseID(text)
				return id
			}
			if beyond == 0 {
				eventually(t, func() bool { return !watermark().Less(far) }, "the history stands still")
				p.cut()
			} else { // it comes over by itself: before its history is refused, when it sends a tick first
				eventually(t, func() bool { return a.Stats().Resyncs["node"] > 0 }, "the subscription stays")
			}
			eventually(t, func() bool { return kept.Less(watermark()) }, "the history stands still")
			for _, m := range streamOf(t, promoted, "flush") {
				if m.id == kept {
					return
				}
			}
			require.False(t, successorWrites, "who has it writes it")
			require.True(t, isUnderMarker(t, promoted, a.keys.Gaps, kept), "%v is lost without a word", kept)
		})
	}
	f("nobody else writes", false, 0)
	f("the successor writes", true, 0)
	f("nobody else writes, beyond the room", false, 1000)
	f("the successor writes, beyond the room", true, 1000)
}

// isUnderMarker reports whether a gap marker covers the position.
func isUnderMarker(t *testing.T, s *redistest.Server, key string, id sseproto.ID) bool {
	t.Helper()
	for _, marker := range do(t, s, "LRANGE", key, "0", "-1").([]any) {
		var from, to string
		_, err := fmt.Sscan(marker.(string), &from, &to)
		require.NoError(t, err)
		low, err := sseproto.ParseID(from)
		require.NoError(t, err)
		high, err := sseproto.ParseID(to)
		require.NoError(t, err)
		if low.Less(id) && !high.Less(id) {
			return true
		}
	}
	return false
}

// TestFirstTickOfAServerLeavesRoom where there was another before, and nowhere else.
func TestFirstTickOfAServerLeavesRoom(t *testing.T) {
	t.Parallel()
	room := uint64(takeOverRoom.Milliseconds())
	// begin runs an instance by a proxy, with the clock far ahead.
	begin := func(t *testing.T, args ...string) (s *redistest.Server, p *proxy, in *instance, ahead uint64) {
		s = redistest.Start(t, args...)
		p = startProxy(t, s.Addr())
		in = start(t, "redis://"+p.addr(), "in")
		waitSynced(t, in)
		ahead = setClockAhead(t, s, in.keys.Clock)
		eventually(t, func() bool { ms, _, _ := in.seen.latest(); return ms > ahead }, "no ticks")
		return s, p, in, ahead
	}
	secondSpan := func(t *testing.T, in *instance) sseproto.ID {
		eventually(t, func() bool { spans, _, _ := in.sink.counts(); return spans == 2 }, "no new span")
		in.sink.mu.Lock()
		defer in.sink.mu.Unlock()
		return in.sink.spans[1].low
	}
	t.Run("restarted", func(t *testing.T) {
		s, _, in, ahead := begin(t, "--appendonly", "yes", "--appendfsync", "always")
		require.NoError(t, s.Restart())
		require.Greater(t, secondSpan(t, in).Ms, ahead+room)
	})
	t.Run("another one without data", func(t *testing.T) {
		_, p, in, ahead := begin(t)
		p.lead(redistest.Start(t).Addr())
		p.cut()
		require.Greater(t, secondSpan(t, in).Ms, ahead+room)
	})
	t.Run("of a version that did not note it", func(t *testing.T) {
		s, _, in, ahead := begin(t)
		do(t, s, "EVAL", "redis.call('HDEL', KEYS[1], 'servers') redis.call('HSET', KEYS[1], 'evicted_node', 'abc123')", "1", in.keys.Clock)
		eventually(t, func() bool { ms, _, _ := in.seen.latest(); return ms > ahead+room }, "no room")
	})
	t.Run("the same", func(t *testing.T) {
		s, p, in, ahead := begin(t)
		p.cut()
		require.Less(t, secondSpan(t, in).Ms, ahead+room)
		do(t, s, "FLUSHALL")
		eventually(t, func() bool { return in.Stats().EpochChanges == 1 }, "no new epoch")
		ms, _, _ := in.seen.latest()
		require.Greater(t, ms, ahead)
		require.Less(t, ms, ahead+room)
	})
}
