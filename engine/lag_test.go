package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

func (h Histogram) total() (n uint64) {
	for _, count := range h.Counts {
		n += count
	}
	return n
}

func TestEveryDeliveryHasALag(t *testing.T) {
	e := startEngine(t, nil)
	f := startFeed(e, 1000)
	var all []*testClient
	for range 300 { // a large channel, and a small one
		all = append(all, joined(t, e, resumePoint{}, "large"))
	}
	small := joined(t, e, resumePoint{}, "small")
	for range 10 {
		f.publish("large", "x")
		f.publish("small", "x")
	}
	for _, c := range all {
		c.next(10)
	}
	small.next(10)
	require.Eventually(t, func() bool { return e.Stats().DeliveryLag.total() == 3010 }, waitLong, pollEvery)
	lag := e.Stats().DeliveryLag
	require.Len(t, lag.Counts, len(lag.Bounds)+1)
	require.Positive(t, lag.SumSeconds)
	require.Less(t, lag.SumSeconds, 3010*waitLong.Seconds())
}

// lagOf is the sum of what was observed during f.
func (h byHand) lagOf(f func()) time.Duration {
	before := h.count.lag.micros.Load()
	f()
	return time.Duration(h.count.lag.micros.Load()-before) * time.Microsecond
}

func TestLagCountsFromTheMomentAtWhichTheLoopWasWoken(t *testing.T) {
	h := shardByHand(t, nil)
	h.engine.started = time.Now().Add(-time.Hour)
	c := h.arrive(t, resumePoint{}, "a")
	h.fallAsleep()
	h.asleep.Store(true)
	h.f.publish("a", "x")
	require.False(t, h.asleep.Load())
	h.woken.Add(-int64(time.Minute)) // it came a minute ago
	h.clock.slept -= moment(2 * time.Minute)
	h.wakeUp(true, time.Now())
	lag := h.lagOf(h.pass)
	require.InDelta(t, time.Minute, lag, float64(30*time.Second))
	c.next(1)

	h.fallAsleep() // and ended by something else: the note of the last time is old
	h.wakeUp(true, time.Now())
	h.f.publish("a", "x")
	require.Less(t, h.lagOf(h.pass), 30*time.Second)
}

func TestLagOfALoopAtWorkCountsFromThePassBefore(t *testing.T) {
	h := shardByHand(t, nil)
	h.engine.started = time.Now().Add(-time.Hour)
	h.arrive(t, resumePoint{}, "a")
	h.shard.pass(time.Now().Add(-3 * time.Minute))
	h.f.publish("a", "x")
	require.InDelta(t, 3*time.Minute, h.lagOf(h.pass), float64(time.Minute))
	h.f.publish("a", "x")
	require.Less(t, h.lagOf(h.pass), time.Minute)
}

func TestLagOfABacklogCountsFromWhenItCame(t *testing.T) {
	h := shardByHand(t, func(cfg *Config) { cfg.RingBytes, cfg.SegmentBytes = 4<<20, 1<<20 })
	h.engine.started = time.Now().Add(-time.Hour)
	h.arrive(t, resumePoint{}, "a")
	h.shard.pass(time.Now().Add(-9 * time.Second))
	for range 2 * scanEntries {
		h.f.publish("nobody", "x")
	}
	h.f.publish("a", "x")
	h.shard.pass(time.Now().Add(-6 * time.Second))
	h.shard.pass(time.Now().Add(-3 * time.Second))
	require.Zero(t, h.count.delivered.Load())
	require.Greater(t, h.lagOf(h.pass), 5*time.Second)
}

func TestSlowStreamsAreCountedWhileTheirSocketIsFull(t *testing.T) {
	e := startEngine(t, nil)
	f := startFeed(e, 1000)
	c, gone := joined(t, e, resumePoint{}, "a"), joined(t, e, resumePoint{}, "a")
	// 2 MB: more than the sockets hold, less than the ring, so that nobody is cut off
	// however late the loops run.
	const n = 256
	for range n {
		f.publish("a", strings.Repeat("x", 8000))
	}
	require.Eventually(t, func() bool { return e.Stats().Slow == 2 }, waitLong, pollEvery)
	c.next(n)
	require.Eventually(t, func() bool { return e.Stats().Slow == 1 }, waitLong, pollEvery)
	require.NoError(t, gone.conn.Close())
	require.Eventually(t, func() bool { return e.Stats().Slow == 0 }, waitLong, pollEvery)
}

func TestBusyTimeLeavesOutSleep(t *testing.T) {
	began := time.Now()
	e := startEngine(t, nil)
	f := startFeed(e, 1000)
	c := joined(t, e, resumePoint{}, "a")
	for range 100 {
		f.publish("a", "x")
		c.next(1)
	}
	busy := e.Stats().ShardBusy
	require.Len(t, busy, 2)
	require.Positive(t, busy[0]+busy[1])
	require.Less(t, max(busy[0], busy[1]), time.Since(began))

	h := shardByHand(t, nil)
	h.fallAsleep()
	h.clock.counted -= moment(time.Minute)
	h.wakeUp(false, time.Now())
	worked := time.Duration(h.count.busy.Load())
	require.InDelta(t, time.Minute, worked, float64(30*time.Second))
	h.fallAsleep()
	h.wakeUp(true, time.Now().Add(time.Hour))
	require.Less(t, time.Duration(h.count.busy.Load()), worked+time.Minute, "an hour of sleep")
}

func TestAgeOfTheRingIsThatOfItsOldestSegment(t *testing.T) {
	l := newLog(minRingBytes, minSegmentBytes, 1, false, func(uint64) {})
	require.Zero(t, l.Stats().Oldest)
	require.EqualValues(t, minRingBytes, l.Stats().LimitBytes)
	l.OpenSpan(sseproto.ID{Ms: 1})
	n := uint64(0)
	fill := func() {
		n++
		l.Append(sseproto.ID{Ms: 1, Seq: n}, "a", strings.Repeat("x", 1000))
	}
	fill()
	(*l.index.Load())[0].seg.born = time.Now().Add(-time.Hour)
	require.InDelta(t, time.Hour, l.Stats().Oldest, float64(time.Minute))
	for l.Stats().Evicted == 0 {
		fill()
	}
	require.Less(t, l.Stats().Oldest, time.Minute)
}
