package rsub

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redisconn"
	"ssed/internal/redistest"
	"ssed/sseproto"
)

func TestAllInstancesGetTheSameSequence(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	list := []*instance{start(t, s.URL(), "a"), start(t, s.URL(), "b"), start(t, s.URL(), "c")}
	waitSynced(t, list...)
	var late *instance
	var wg sync.WaitGroup
	wg.Go(func() { publish(dial(t, s), 4, 2500, "m") })
	eventually(t, func() bool { _, n, _ := list[0].sink.counts(); return n > 1000 }, "no messages")
	late = start(t, s.URL(), "late") // joins under load
	wg.Wait()
	waitSynced(t, late)
	flush(t, s, "end", append(list, late)...)
	want := list[0].sink.all()
	require.Len(t, want, 4*2500+1)
	require.Equal(t, want, list[1].sink.all())
	require.Equal(t, want, list[2].sink.all())
	require.Len(t, late.sink.spans, 1)
	require.Equal(t, tail(want, late.sink.spans[0].low), late.sink.all(), "an exact suffix")
	for _, in := range list {
		require.Len(t, in.sink.spans, 1)
		st := in.Stats()
		require.Equal(t, uint64(4*2500+1), st.Delivered)
		require.Equal(t, 1, st.SubscriptionsSynced)
		require.Positive(t, st.Connects)
		var lags uint64
		for _, n := range st.LagCounts {
			lags += n
		}
		require.Positive(t, lags)
		require.Less(t, st.LastLag, patience)
	}
}

func TestWatermarkOfTheClockComesWithTheCommits(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	sink := &watermarks{}
	f, err := New(testConfig(t, s.URL(), "a"), sink)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	defer func() { cancel(); require.NoError(t, <-done) }()
	future := uint64(time.Now().Add(time.Hour).UnixMilli())
	eventually(t, func() bool { ok, _ := f.State(); return ok }, "not synced")
	do(t, s, "HSET", f.keys.Clock, "watermark", fmt.Sprintf("%d-7", future))
	eventually(t, func() bool { return sink.has(id(future, 7)) }, "no such watermark")
	last, _, _ := f.seen.latest()
	require.Greater(t, last, future, "ticks lie beyond the watermark")
}

func TestOverlappingPatternsDeliverOnce(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	in := start(t, s.URL(), "a", withPatterns("sse:*", "*", "s?e:*", "sse:*", "other:*"))
	waitSynced(t, in)
	for i := range 50 {
		do(t, s, "PUBLISH", "sse:1", strconv.Itoa(i))
		do(t, s, "PUBLISH", "__reserved", "never")
	}
	flush(t, s, "end", in)
	all := in.sink.all()
	require.Len(t, all, 51)
	for i, m := range all[:50] {
		require.Equal(t, strconv.Itoa(i), m.payload)
		require.Equal(t, "sse:1", m.channel)
	}
	require.Equal(t, uint64(100), in.Stats().Overlaps)
	require.GreaterOrEqual(t, in.Stats().Reserved, uint64(50))
}

func TestOversizeMessageTakesItsNumberAndIsLeftOut(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	small := start(t, s.URL(), "small", func(c *Config) { c.MaxMessageBytes = 10 })
	large := start(t, s.URL(), "large")
	waitSynced(t, small, large)
	for i := range 20 {
		do(t, s, "PUBLISH", "c", strings.Repeat("x", i))
	}
	flush(t, s, "end", small, large)
	var want, places []message
	for _, m := range large.sink.all() {
		if len(m.payload) <= 10 {
			want = append(want, m)
		} else {
			places = append(places, message{id: m.id, channel: m.channel})
		}
	}
	require.Equal(t, want, small.sink.all(), "the same IDs for the rest")
	require.Equal(t, places, small.sink.oversized, "their places are told")
	require.Equal(t, uint64(9), small.Stats().Oversize)
	require.Equal(t, uint64(12), small.Stats().Delivered)
}

// TestChannelNobodyCanAskForTakesItsNumberAndIsLeftOut: no client can name it, so nothing
// is to be kept of it.
func TestChannelNobodyCanAskForTakesItsNumberAndIsLeftOut(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	in := start(t, s.URL(), "in")
	waitSynced(t, in)
	longest := strings.Repeat("x", sseproto.MaxChannelBytes)
	do(t, s, "EVAL", "for _, channel in ipairs(ARGV) do redis.call('PUBLISH', channel, 'm') end", "0", // no tick in between
		"a", longest+"x", "a\x00b", longest)
	flush(t, s, "end", in)
	all := in.sink.all()
	require.Len(t, all, 3, "and the end")
	require.Equal(t, "a", all[0].channel)
	require.Equal(t, longest, all[1].channel)
	require.Equal(t, all[0].id.Seq+3, all[1].id.Seq)
	require.EqualValues(t, 2, in.Stats().Unaskable)
}

// TestDeliveredNeverGoesBack, not even by the one message that is looked at just now.
func TestDeliveredNeverGoesBack(t *testing.T) {
	f, err := New(testConfig(t, "redis://127.0.0.1:1", "x", func(c *Config) { c.MaxMessageBytes = 10 }), discard{})
	require.NoError(t, err)
	l := f.subscriptions[0]
	l.seq.subscribe("n1", "")
	l.seq.fingerprint = "f"
	require.Equal(t, open, l.seq.tick(tickAt(10)).action)
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 200_000 {
			l.onMessage(pubsub("*", "c", "larger than ten bytes"))
		}
	})
	for f.Stats().Oversize < 200_000 {
		require.Zero(t, f.Stats().Delivered)
	}
	wg.Wait()
}

func TestKilledSubscriptionResyncsAndOthersAreUnaffected(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	named := func(c *Config) { c.Client.ClientName = "victim" }
	victim, other := start(t, s.URL(), "victim", named), start(t, s.URL(), "other")
	waitSynced(t, victim, other)
	stop := noise(t, s, 1, 50, "m")
	for round := range 5 {
		eventually(t, func() bool { return victim.Stats().SubscriptionsSynced == 1 }, "not subscribedTo")
		killPubSub(t, s, "victim")
		eventually(t, func() bool { n, _, _ := victim.sink.counts(); return n == round+2 }, "no new span")
	}
	stop()
	flush(t, s, "end", victim, other)
	all := other.sink.all()
	require.Len(t, other.sink.spans, 1)
	require.Equal(t, uint64(5), victim.Stats().Resyncs["disconnect"])
	requireSameWhereCovered(t, victim, all)
}

func TestKilledCommandConnectionsDoNotTouchTheSpan(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	a, b := start(t, s.URL(), "a"), start(t, s.URL(), "b")
	waitSynced(t, a, b)
	for range 5 {
		_, _, n := a.sink.counts()
		do(t, s, "CLIENT", "KILL", "TYPE", "normal")
		eventually(t, func() bool { _, _, m := a.sink.counts(); return m > n+2 }, "no ticks")
	}
	flush(t, s, "end", a, b)
	require.Len(t, a.sink.spans, 1)
	require.Equal(t, tail(a.sink.all(), b.sink.spans[0].low), b.sink.all())
}

func TestClusterIsRefusedByName(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, "--cluster-enabled", "yes")
	do(t, s, "CLUSTER", "ADDSLOTSRANGE", "0", "16383")
	in := start(t, s.URL(), "a")
	eventually(t, func() bool { _, why := in.State(); return strings.Contains(why, redisconn.ErrCluster.Error()) }, "no reason")
	synced, _ := in.State()
	require.False(t, synced)
}

func TestFlushAllContinuesTheOrder(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	a, b := start(t, s.URL(), "a"), start(t, s.URL(), "b")
	waitSynced(t, a, b)
	stop := noise(t, s, 2, 20, "m")
	for round := range uint64(3) {
		do(t, s, "FLUSHALL")
		eventually(t, func() bool { return a.Stats().EpochChanges > round && b.Stats().EpochChanges > round }, "no new epoch")
	}
	do(t, s, "SCRIPT", "FLUSH")
	_, _, before := a.sink.counts()
	eventually(t, func() bool { _, _, n := a.sink.counts(); return n > before+3 }, "no ticks after SCRIPT FLUSH")
	stop()
	flush(t, s, "end", a, b)
	require.Len(t, a.sink.spans, 1)
	require.Len(t, b.sink.spans, 1)
	requireSameWhereCovered(t, b, a.sink.all())
}

func TestClockSetBackNeverMovesPositionsBack(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	ahead := start(t, s.URL(), "ahead", func(c *Config) { c.ClockOffset = time.Hour })
	waitSynced(t, ahead)
	behind := start(t, s.URL(), "behind")
	waitSynced(t, behind)
	first, _, _ := ahead.seen.latest()
	require.NoError(t, ahead.stop())
	eventually(t, func() bool { return behind.Stats().Leading }, "no take-over")
	var next uint64
	eventually(t, func() bool { next, _, _ = behind.seen.latest(); return next > first }, "no tick beyond the other clock's")
	do(t, s, "FLUSHALL") // now only behind's memory keeps the clock from falling back
	eventually(t, func() bool { return behind.Stats().EpochChanges > 0 }, "no new epoch")
	last, _, _ := behind.seen.latest()
	require.Greater(t, last, next)
	spans, _, _ := behind.sink.counts()
	require.Equal(t, 1, spans)
}

func TestTickBehindTheLastOneResyncs(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	in := start(t, s.URL(), "a")
	waitSynced(t, in)
	stopped, _, _ := in.seen.latest()
	epoch, node := do(t, s, "HGET", in.keys.Clock, "epoch"), do(t, s, "INFO", "server").(string)
	run := redisconn.ParseInfo(node).RunID()
	do(t, s, "PUBLISH", in.keys.Control, fmt.Sprintf("tick %d %s 0-0 %s %s - forged", stopped-5000, epoch, in.fingerprint, run))
	eventually(t, func() bool { return in.Stats().Resyncs["order"] == 1 && in.isSynced() }, "no resync")
	flush(t, s, "end", in)
	require.Len(t, in.sink.spans, 2)
}

func TestRedisRestartResyncs(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"--appendonly", "yes"}} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			s := redistest.Start(t, args...)
			a, b := start(t, s.URL(), "a"), start(t, s.URL(), "b")
			waitSynced(t, a, b)
			flush(t, s, "before", a, b)
			s.Kill()
			eventually(t, func() bool { ok, why := a.State(); return !ok && strings.Contains(why, "redis: ") }, "still synced")
			require.NoError(t, s.Restart())
			eventually(t, func() bool { n, _, _ := a.sink.counts(); m, _, _ := b.sink.counts(); return n == 2 && m == 2 }, "no new span")
			waitSynced(t, a, b)
			flush(t, s, "after", a, b)
			requireSameWhereCovered(t, b, a.sink.all())
		})
	}
}

func TestRedisAbsentAtStart(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Stop()
	in := start(t, s.URL(), "a")
	eventually(t, func() bool { _, why := in.State(); return strings.Contains(why, "connection refused") }, "no reason")
	_, err := in.Publish(context.Background(), "c", "x")
	require.Error(t, err)
	require.NoError(t, s.Restart())
	waitSynced(t, in)
	r, err := in.Publish(context.Background(), "c", "hello")
	require.NoError(t, err)
	require.Equal(t, int64(1), r.Receivers)
	eventually(t, func() bool { return in.has("hello") }, "not delivered")
	require.Equal(t, in.sink.all()[0].id, r.ID)
	_, err = in.Publish(context.Background(), in.keys.Control, "tick 1 e 0-0 f n - c")
	require.ErrorIs(t, err, ErrReserved)
}

func TestStalledRedisIsNoticedAndComesBack(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	soon := func(c *Config) { c.ProbeTimeout = DefaultProbeTimeout }
	a, b := start(t, s.URL(), "a", soon), start(t, s.URL(), "b", withFeeds(2), soon)
	waitSynced(t, a, b)
	require.NoError(t, s.Pause())
	gone := func(in *instance) func() bool { return func() bool { return in.Stats().SubscriptionsSynced == 0 } }
	eventually(t, gone(a), "a did not notice")
	eventually(t, gone(b), "b did not notice")
	ok, why := a.State()
	require.False(t, ok)
	require.NotEmpty(t, why)
	require.NoError(t, s.Resume())
	waitSynced(t, a, b)
	flush(t, s, "end", a, b)
}

func TestOtherPatternsOnThePrefixAreRefused(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	first := start(t, s.URL(), "first", withPatterns("sse:*"), func(c *Config) { c.TickInterval = 500 * time.Millisecond })
	waitSynced(t, first)
	second, err := New(testConfig(t, s.URL(), "second", withPatterns("other:*")), discard{})
	require.NoError(t, err)
	err = second.Run(context.Background())
	require.ErrorIs(t, err, ErrConfigMismatch)
	for _, part := range []string{first.fingerprint, second.fingerprint, `"sse:*"`, `"other:*"`} {
		require.ErrorContains(t, err, part)
	}
	require.True(t, first.isSynced(), "the first fleet is not disturbed")
	// Another prefix is another world.
	waitSynced(t, start(t, s.URL(), "third", withPatterns("other:*"), func(c *Config) { c.Prefix = "p2:" }))
	// Two leads after its leader has left a fleet that goes on has another one. One that
	// has left as a whole is not waited for any longer.
	require.NoError(t, first.stop())
	early, err := New(testConfig(t, s.URL(), "early", withPatterns("other:*")), discard{})
	require.NoError(t, err)
	require.ErrorIs(t, early.Run(t.Context()), ErrConfigMismatch)
	until, err := strconv.ParseInt(do(t, s, "HGET", first.keys.Clock, "leader_until").(string), 10, 64)
	require.NoError(t, err)
	free := time.UnixMilli(until)
	require.True(t, free.Before(time.Now()), "the lead is free at once")
	eventually(t, func() bool { return time.Since(free) > mismatchFor }, "%v", free)
	waitSynced(t, start(t, s.URL(), "fourth", withPatterns("other:*")))
}

func TestTicksOfAnotherConfigAfterTheStartMakeItNotReadyUntilTheyStop(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	in := start(t, s.URL(), "a")
	waitSynced(t, in)
	now := func(ms int64) string { return strconv.FormatInt(time.Now().UnixMilli()+ms, 10) }
	do(t, s, "PUBLISH", in.keys.Control, "tick "+now(0)+" e 0-0 ffff n - b")
	eventually(t, func() bool { return in.Stats().RefusedTicks["foreign"] == 1 }, "not refused")
	do(t, s, "HSET", in.keys.Clock, "fingerprint", "ffff", "fingerprint_text", "theirs", "leader", "b", "leader_until", now(-4000))
	eventually(t, func() bool { ok, why := in.State(); return !ok && strings.Contains(why, "ffff (theirs)") }, "still ready")
	waitSynced(t, in) // five seconds after the lead of b
	require.Len(t, in.sink.spans, 1, "no message had another number")
}

func TestTickerTakesOverAndTicksDoNotGrowWithInstances(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	var list []*instance
	for i := range 4 {
		list = append(list, start(t, s.URL(), fmt.Sprint("i", i)))
	}
	waitSynced(t, list...)
	leader := leaderOf(t, list)
	fromT, _, _ := leader.seen.latest()
	from := leader.Stats().TicksSeen
	eventually(t, func() bool { return leader.Stats().TicksSeen >= from+30 }, "no ticks")
	toT, _, _ := leader.seen.latest()
	ticks := leader.Stats().TicksSeen - from
	perSecond := float64(ticks) * 1000 / float64(toT-fromT)
	require.LessOrEqual(t, perSecond, 11.0, "%d ticks in %d ms", ticks, toT-fromT)

	old := leader.cfg.Instance
	require.NoError(t, leader.stop())
	var rest []*instance
	for _, in := range list {
		if in != leader {
			rest = append(rest, in)
		}
	}
	next := leaderOf(t, rest)
	require.NotEqual(t, old, next.cfg.Instance)
	for _, in := range rest {
		require.Len(t, in.sink.spans, 1)
	}
}

func TestDeadLeaderIsReplaced(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	in := start(t, s.URL(), "a")
	waitSynced(t, in)
	// A leader that died: it holds the lead for another half a second.
	do(t, s, "HSET", in.keys.Clock, "leader", "dead", "leader_until", strconv.FormatInt(time.Now().UnixMilli()+500, 10))
	eventually(t, func() bool { return !in.Stats().Leading }, "two leaders")
	eventually(t, func() bool { return in.Stats().Leading }, "no take-over")
	require.Len(t, in.sink.spans, 1)
}

func TestFeedOnAReplicaIsNeverSyncedUntilItIsPromoted(t *testing.T) {
	t.Parallel()
	primary := redistest.Start(t)
	replica := redistest.Start(t, "--replicaof", strings.Replace(primary.Addr(), ":", " ", 1))
	good := start(t, primary.URL(), "good")
	waitSynced(t, good)
	lost := start(t, replica.URL(), "lost")
	eventually(t, func() bool { return lost.Stats().Connects > 3 }, "it does not look for the primary")
	spans, _, _ := lost.sink.counts()
	require.Zero(t, spans)
	require.False(t, lost.isSynced())
	require.True(t, good.isSynced())
	do(t, replica, "REPLICAOF", "NO", "ONE")
	waitSynced(t, lost)
}

func TestDemotedPrimaryRollsBackToTheLastGoodTick(t *testing.T) {
	t.Parallel()
	old, promoted := redistest.Start(t), redistest.Start(t)
	in := start(t, old.URL(), "in")
	waitSynced(t, in)
	// The other fleet has gone over to the new primary, and the old one follows it
	// with this instance's subscription still up.
	do(t, old, "REPLICAOF", "127.0.0.1", strconv.Itoa(promoted.Port()))
	there := start(t, promoted.URL(), "there")
	waitSynced(t, there)
	eventually(t, func() bool { spans, _, _ := in.sink.counts(); return spans == 1 && !in.sink.isOpen() }, "the span goes on")
	in.sink.mu.Lock()
	s := in.sink.spans[0]
	last := s.low
	if n := len(s.commits); n > 0 {
		last = s.commits[n-1]
	}
	require.Equal(t, last, s.through)
	in.sink.mu.Unlock()
	require.False(t, in.isSynced())
	do(t, old, "REPLICAOF", "NO", "ONE")
	waitSynced(t, in)
}

// TestServerThatWasDemotedMeanwhileBeginsANewSpan: it is a primary again, the same process,
// before a tick of another one could come.
func TestServerThatWasDemotedMeanwhileBeginsANewSpan(t *testing.T) {
	t.Parallel()
	for feeds := 1; feeds <= 2; feeds++ {
		t.Run(fmt.Sprint(feeds, " feeds"), func(t *testing.T) {
			s := redistest.Start(t)
			in := start(t, s.URL(), "in", withFeeds(feeds))
			waitSynced(t, in)
			flush(t, s, "before", in)
			do(t, s, "REPLICAOF", "127.0.0.1", "1") // nobody is there
			do(t, s, "REPLICAOF", "NO", "ONE")
			eventually(t, func() bool { spans, _, _ := in.sink.counts(); return spans == 2 && in.isSynced() }, "the span goes on")
			in.sink.mu.Lock()
			defer in.sink.mu.Unlock()
			first := in.sink.spans[0]
			require.Equal(t, append([]sseproto.ID{first.low}, first.commits...)[len(first.commits)], first.through)
		})
	}
}

// TestLostSubscriptionCountsWholeOnlyWhenItComesBackToTheSameNode: what came after the last
// tick may have come from another node by replication, whose tick was still to be read.
func TestLostSubscriptionCountsWholeOnlyWhenItComesBackToTheSameNode(t *testing.T) {
	t.Parallel()
	for feeds := 1; feeds <= 2; feeds++ {
		t.Run(fmt.Sprint(feeds, " feeds"), func(t *testing.T) {
			first, second := redistest.Start(t), redistest.Start(t)
			p := startProxy(t, first.Addr())
			in := start(t, "redis://"+p.addr(), "in", withFeeds(feeds), func(c *Config) {
				c.TickInterval, c.ProbeTimeout = time.Hour, 3*time.Hour // no ticks but those of joins
			})
			eventually(t, func() bool { return in.Stats().SubscriptionsSynced == feeds }, "not synced")
			flush(t, first, "first", in)
			p.cut()
			eventually(t, func() bool { n, _, _ := in.sink.counts(); return n == 2 && in.Stats().SubscriptionsSynced == feeds }, "not back")
			flush(t, first, "second", in)
			p.lead(second.Addr())
			p.cut()
			eventually(t, func() bool { n, _, _ := in.sink.counts(); return n == 3 && in.Stats().SubscriptionsSynced == feeds }, "not back")
			flush(t, second, "third", in)
			in.sink.mu.Lock()
			defer in.sink.mu.Unlock()
			same, other := in.sink.spans[0], in.sink.spans[1]
			require.False(t, same.through.Less(same.last()), "%v is before %v", same.through, same.last())
			committed := other.low
			if n := len(other.commits); n > 0 { // by the tick for the second subscription
				committed = other.commits[n-1]
			}
			require.Equal(t, committed, other.through)
			if feeds == 1 {
				require.True(t, other.through.Less(other.last()), "nothing was at stake")
			}
		})
	}
}

// TestSubscriptionFollowsTheCommandsToAnotherNode: after a failover the commands reach the
// new primary while the subscription stands to the old one, which is well and says nothing.
func TestSubscriptionFollowsTheCommandsToAnotherNode(t *testing.T) {
	t.Parallel()
	old, promoted := redistest.Start(t), redistest.Start(t)
	p := startProxy(t, old.Addr())
	in := start(t, "redis://"+p.addr(), "in", func(c *Config) {
		c.Client.ClientName = "victim"
		c.ProbeTimeout = time.Hour // it must not be what finds out
	})
	waitSynced(t, in)
	p.lead(promoted.Addr())
	killCommands(t, old, "victim")
	eventually(t, func() bool { n, _, _ := in.sink.counts(); return n == 2 }, "the subscription stays")
	waitSynced(t, in)
	flush(t, promoted, "there", in)
	require.EqualValues(t, 1, in.Stats().Resyncs["node"])
}

func TestSilentSubscriptionIsCutAndMadeAgain(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	p := startProxy(t, s.Addr())
	in := start(t, "redis://"+p.addr(), "a", func(c *Config) {
		c.Client.Dialer.KeepAlive = time.Hour // the library would notice first
		c.ProbeTimeout = 500 * time.Millisecond
	})
	waitSynced(t, in)
	p.muteSubscribers()
	eventually(t, func() bool { return in.Stats().Resyncs["probe"] == 1 }, "not cut")
	eventually(t, func() bool { n, _, _ := in.sink.counts(); return n == 2 }, "not made again")
	waitSynced(t, in)
}

func TestReleasedLeaseIsTold(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	freed := make(chan struct{}, 1)
	in := start(t, s.URL(), "a", func(c *Config) { c.OnLeaseReleased = func() { freed <- struct{}{} } })
	waitSynced(t, in)
	do(t, s, "PUBLISH", in.keys.Control, "free b")
	select {
	case <-freed:
	case <-time.After(patience):
		t.Fatal("not called")
	}
}

// TestRedisThatRefusesWritesIsNamed: messages come, and are committed when it takes writes again.
func TestRedisThatRefusesWritesIsNamed(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	in := start(t, s.URL(), "in", func(c *Config) { c.ProbeTimeout = 8 * time.Second }) // a busy machine answers a PING within half of it
	waitSynced(t, in)
	do(t, s, "CONFIG", "SET", "min-replicas-to-write", "1")
	flush(t, s, "meanwhile", in)
	eventually(t, func() bool { _, why := in.State(); return strings.Contains(why, "NOREPLICAS") }, "no reason")
	do(t, s, "CONFIG", "SET", "min-replicas-to-write", "0")
	waitSynced(t, in)
	flush(t, s, "end", in)
	require.Len(t, in.sink.spans, 1)
}

// TestSpoiledClockIsRepaired: somebody has written into it by hand.
func TestSpoiledClockIsRepaired(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	in := start(t, s.URL(), "in")
	waitSynced(t, in)
	for _, field := range []string{"watermark", "epoch", "t", "leader", "leader_until", "fingerprint_text", "evicted", "evicted_node", "inbox_base"} {
		for _, garbage := range []string{"", "x y", "99999999999999999999-0", "9999999999999999999", "-1"} {
			_, _, before := in.sink.counts()
			do(t, s, "HSET", in.keys.Clock, field, garbage)
			eventually(t, func() bool { _, _, n := in.sink.counts(); return n > before+1 && in.isSynced() }, "no ticks after %s=%q", field, garbage)
		}
	}
	require.Empty(t, in.Stats().RefusedTicks)
	require.Nil(t, do(t, s, "HGET", in.keys.Clock, "watermark"))
}

// TestClockOfAnotherTypeIsNamed in the reason why the feed is not synced.
func TestClockOfAnotherTypeIsNamed(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	do(t, s, "SET", "{"+testPrefix+"}:clock", "not a hash")
	in := start(t, s.URL(), "in")
	eventually(t, func() bool {
		_, why := in.State()
		return strings.Contains(why, in.keys.Clock) && strings.Contains(why, "WRONGTYPE")
	}, "no reason")
	do(t, s, "DEL", in.keys.Clock)
	waitSynced(t, in)
}

func TestFullMemoryDoesNotStopTicks(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	in := start(t, s.URL(), "a")
	waitSynced(t, in)
	do(t, s, "CONFIG", "SET", "maxmemory", "1")
	_, err := s.Do("SET", "k", "v")
	require.Error(t, err)
	_, _, before := in.sink.counts()
	eventually(t, func() bool { _, _, n := in.sink.counts(); return n > before+5 }, "no ticks")
	require.True(t, in.isSynced())
	flush(t, s, "end", in)
}

func TestTwoFeedsLoseNothingWhenOneIsKilled(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	named := func(c *Config) { c.Client.ClientName = "victim" }
	in := start(t, s.URL(), "a", withFeeds(2), named)
	witness := start(t, s.URL(), "b")
	waitSynced(t, in, witness)
	both := func() bool { return in.Stats().SubscriptionsSynced == 2 }
	eventually(t, both, "one feed only")
	stop := noise(t, s, 2, 50, "m")
	for round := range uint64(8) {
		// Both are in the span once they have read a tick that lies behind both joins.
		_, _, n := in.sink.counts()
		eventually(t, func() bool { _, _, m := in.sink.counts(); return m > n+2 && both() }, "no ticks")
		killOnePubSub(t, s, "victim", int(round))
		eventually(t, func() bool { return in.Stats().Resyncs["disconnect"] > round }, "not noticed")
		eventually(t, both, "not back")
	}
	stop()
	flush(t, s, "end", in, witness)
	require.Len(t, in.sink.spans, 1, "the span never ended")
	all := in.sink.all()
	require.Equal(t, tail(witness.sink.all(), in.sink.spans[0].low), tail(all, witness.sink.spans[0].low))
	require.Equal(t, uint64(len(all)), in.Stats().Delivered)
	require.True(t, in.isSynced())
}

func TestStopEndsAtOnceWhateverRedisDoes(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	a := start(t, s.URL(), "a", func(c *Config) { // nothing else ends a wait
		c.ProbeTimeout, c.Client.ConnWriteTimeout, c.Client.Dialer.KeepAlive = time.Hour, time.Hour, time.Hour
	})
	waitSynced(t, a)
	require.NoError(t, s.Pause())
	stopped := make(chan error, 1)
	go func() { stopped <- a.stop() }()
	select {
	case err := <-stopped:
		require.NoError(t, err)
	case <-time.After(patience):
		require.Fail(t, "it waits for Redis")
	}
	require.NoError(t, s.Resume())
	spans, _, _ := a.sink.counts()
	require.Equal(t, 1, spans)
	require.False(t, a.sink.isOpen(), "the span is closed")
	l, err := net.Listen("tcp", s.Addr())
	require.Error(t, err, "%v", l) // the server is still there
}

func TestCommitNowCommitsWhatWasPublished(t *testing.T) {
	t.Parallel()
	for feeds := 1; feeds <= 2; feeds++ {
		t.Run(fmt.Sprint(feeds, " feeds"), func(t *testing.T) {
			s := redistest.Start(t)
			in := start(t, s.URL(), "a", withFeeds(feeds), func(c *Config) {
				c.TickInterval, c.ProbeTimeout = time.Hour, 3*time.Hour
			})
			eventually(t, func() bool { return in.Stats().SubscriptionsSynced == feeds }, "not synced")
			for i := range 20 {
				payload := fmt.Sprint("m", i)
				do(t, s, "PUBLISH", "c", payload)
				require.NoError(t, in.CommitNow(context.Background()))
				require.True(t, in.has(payload))
				in.sink.mu.Lock()
				now := in.sink.now()
				require.True(t, now.last().Less(now.commits[len(now.commits)-1]))
				in.sink.mu.Unlock()
			}
			require.NoError(t, s.Pause())
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			defer cancel()
			require.ErrorIs(t, in.CommitNow(ctx), context.DeadlineExceeded)
			require.NoError(t, s.Resume())
		})
	}
}

// What the server has evicted since the last tick may have been history: the clock says
// up to where.
func TestTicksTellUpToWhereKeysWereEvicted(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	in := start(t, s.URL(), "a")
	waitSynced(t, in)
	field := func(name string) any { return do(t, s, "HGET", in.keys.Clock, name) }
	eventually(t, func() bool { return field("evicted") == "0" }, "no tick has looked")
	require.Nil(t, field("evicted_to"))
	do(t, s, "HSET", in.keys.Clock, "watermark", "7-0")
	evictOthers(t, s)
	eventually(t, func() bool { return field("evicted_to") == "7-0" }, "no tick tells of it")
	// The count stands still now: the position stays.
	do(t, s, "CONFIG", "SET", "maxmemory", "0")
	eventually(t, func() bool { return strings.Contains(info(t, s), fmt.Sprintf("evicted_keys:%s\r", field("evicted"))) }, "not counted")
	do(t, s, "HSET", in.keys.Clock, "watermark", "9-0")
	_, _, before := in.sink.counts()
	eventually(t, func() bool { _, _, n := in.sink.counts(); return n > before+3 }, "no ticks")
	require.Equal(t, "7-0", field("evicted_to"))
}

// Another server does not count what the one before it has evicted.
func TestAnotherServerMayHaveEvicted(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, "--appendonly", "yes")
	do(t, s, "CONFIG", "SET", "maxmemory-policy", "volatile-lru")
	do(t, s, "CONFIG", "SET", "maxmemory", "1gb")
	in := start(t, s.URL(), "a")
	waitSynced(t, in)
	field := func(name string) any { return do(t, s, "HGET", in.keys.Clock, name) }
	eventually(t, func() bool { return field("evicted") == "0" }, "no tick has looked")
	do(t, s, "HSET", in.keys.Clock, "watermark", "7-0", "evicted_node", "0123")
	eventually(t, func() bool { return field("evicted_to") == "7-0" }, "it has the same settings")
	do(t, s, "CONFIG", "SET", "maxmemory-policy", "noeviction")
	do(t, s, "HSET", in.keys.Clock, "watermark", "9-0", "evicted_node", "0123")
	eventually(t, func() bool { return field("evicted_node") != "0123" }, "no tick has looked")
	require.Equal(t, "7-0", field("evicted_to"))
}

func info(t *testing.T, s *redistest.Server) string {
	t.Helper()
	text, ok := do(t, s, "INFO", "stats").(string)
	require.True(t, ok)
	return text
}

// evictOthers fills the memory of a server until it evicts keys that have an expiry.
func evictOthers(t *testing.T, s *redistest.Server) {
	t.Helper()
	do(t, s, "CONFIG", "SET", "maxmemory-policy", "volatile-lru")
	do(t, s, "CONFIG", "SET", "maxmemory", "3mb")
	for i := 0; strings.Contains(info(t, s), "evicted_keys:0\r"); i++ {
		require.Less(t, i, 100_000, "nothing was evicted")
		do(t, s, "SET", fmt.Sprint("other", i), strings.Repeat("x", 10_000), "EX", "3600")
	}
}
