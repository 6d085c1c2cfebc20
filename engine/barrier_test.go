package engine

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/front"
	"ssed/sseproto"
)

// outage loses the link while the history goes on with n messages of 1 KiB on channel
// a, and finds it again.
func outage(e *Engine, h *memoryHistory, n int) {
	e.log.CloseSpan(sseproto.ID{Ms: 1000, Seq: 1})
	for i := range n {
		h.add(sseproto.ID{Ms: 1500, Seq: uint64(i + 1)}, "a", fmt.Sprint(i, strings.Repeat("x", 1000)))
	}
	e.log.OpenSpan(sseproto.ID{Ms: 2000})
	e.log.Append(sseproto.ID{Ms: 2000, Seq: 1}, "a", "again")
	e.log.Commit(sseproto.ID{Ms: 2100}, sseproto.ID{Ms: 2000})
}

// manySlots is more than one pass closes.
const manySlots = 300

func TestLossLargerThanTheRingIsResumedPageByPage(t *testing.T) {
	const lost = 1000 // 1 MB; the ring has a quarter of it
	h := newMemoryHistory()
	e := startEngine(t, withHistory(h, minRingBytes))
	startFeed(e, 1000)
	var all []*testClient
	for range manySlots { // over two shards
		all = append(all, joined(t, e, resumePoint{}, "a"), joined(t, e, resumePoint{}, "quiet"))
	}
	e.log.Append(sseproto.ID{Ms: 1000, Seq: 1}, "a", "before")
	h.add(sseproto.ID{Ms: 1000, Seq: 1}, "a", "before")
	for i := 0; i < len(all); i += 2 {
		all[i].next(1)
	}
	for _, c := range all {
		c.forget()
	}
	outage(e, h, lost)
	for i, c := range all {
		require.Empty(t, c.ended(), "nothing from behind the hole")
		retry, told := c.dec.Retry()
		require.True(t, told)
		require.GreaterOrEqual(t, retry, e.cfg.RetryMin)
		place := ""
		if i%2 != 0 { // the quiet ones have no ID of their own to go on from
			place = "1000-1"
		}
		require.Equal(t, place, string(c.dec.LastEventID()))
	}
	require.EqualValues(t, len(all), e.Stats().Closed[CloseHistory])
	require.EqualValues(t, 1, e.Stats().Log.Abandoned)
	require.Empty(t, e.RecentGaps())
	c := join(t, e, after(sseproto.ID{Ms: 1000, Seq: 1}), "a")
	got := c.next(lost + 1)
	for i := range lost {
		require.Equal(t, fmt.Sprintf("1500-%d", i+1), got[i].id)
		require.Equal(t, sseproto.EventMessage, got[i].kind)
	}
	require.Equal(t, "again", got[lost].data)
	e.log.Append(sseproto.ID{Ms: 2100, Seq: 1}, "a", "live")
	require.Equal(t, []string{"live"}, datas(c.next(1)))
}

// TestLossOfManySmallMessagesIsMeasuredByItsPlaceInTheRing: of 20 bytes each takes
// nine times as much there. Read back all the same, it would push out its own beginning.
func TestLossOfManySmallMessagesIsMeasuredByItsPlaceInTheRing(t *testing.T) {
	const lost = 2 * minRingBytes / int(ringOverhead)
	h := newMemoryHistory()
	e := startEngine(t, withHistory(h, minRingBytes))
	startFeed(e, 1000)
	c := joined(t, e, resumePoint{}, "a")
	e.log.CloseSpan(sseproto.ID{Ms: 1000})
	for i := range lost {
		h.add(sseproto.ID{Ms: 1500, Seq: uint64(i + 1)}, "a", "x")
	}
	again := startFeed(e, 2000)
	again.tick(sseproto.ID{Ms: 2000})
	require.Empty(t, c.ended())
	require.Equal(t, "1000-0", string(c.dec.LastEventID()))
	require.EqualValues(t, 1, e.Stats().Closed[CloseHistory])
	require.Zero(t, e.Stats().Log.Evicted)
	require.Zero(t, e.Stats().Log.Backfilled)
	c = join(t, e, after(sseproto.ID{Ms: 1000}), "a")
	again.publish("a", "live")
	require.Equal(t, "live", c.next(lost + 1)[lost].data)
}

func TestWhoWaitsForTheHistoryIsNotClosedAtABarrier(t *testing.T) {
	h := newMemoryHistory()
	h.block = make(chan struct{})
	e := startEngine(t, withHistory(h, minRingBytes))
	f := startFeed(e, 1000)
	f.tick(sseproto.ID{Ms: 1000})
	h.add(sseproto.ID{Ms: 900, Seq: 1}, "a", "old")
	resuming, live := join(t, e, after(sseproto.ID{Ms: 800}), "a"), joined(t, e, resumePoint{}, "a")
	require.Eventually(t, func() bool { return e.Stats().ResumedHistory == 1 }, waitLong, pollEvery)
	e.log.CloseSpan(sseproto.ID{Ms: 1100})
	for i := range 300 {
		h.add(sseproto.ID{Ms: 1500, Seq: uint64(i + 1)}, "a", strings.Repeat("x", 1000))
	}
	e.log.OpenSpan(sseproto.ID{Ms: 2000})
	e.log.Commit(sseproto.ID{Ms: 2100}, sseproto.ID{Ms: 2000})
	close(h.block)
	require.Empty(t, live.ended())
	require.Len(t, resuming.next(301), 301)
}

// A loop that is still closing streams delivers nothing from behind the barrier, and does
// not sleep.
func TestNothingIsDeliveredOverABarrier(t *testing.T) {
	h := shardByHand(t, nil)
	var all []*testClient
	for range manySlots {
		all = append(all, h.arrive(t, resumePoint{}, "a"))
	}
	h.breakOff(sseproto.ID{Ms: 1000}, sseproto.ID{Ms: 2000}, nil)
	h.f.publish("a", "behind")
	h.pass()
	require.Less(t, h.open, manySlots)
	require.Positive(t, h.open, "more than one pass may close")
	for h.busy() {
		h.pass()
	}
	require.Zero(t, h.open)
	for _, c := range all {
		require.Empty(t, c.ended())
	}
	late := h.arrive(t, resumePoint{}, "a")
	h.f.publish("a", "live")
	h.pass()
	require.Equal(t, []string{"live"}, datas(late.next(1)))
}

func TestLossOfManyChannelsLetsTheLockGoInBetween(t *testing.T) {
	const channels = 3*putSlice + 1
	var turns, open atomic.Int32
	var l *Log
	l = newLog(16<<20, maxSegmentBytes, 1, false, func(uint64) {
		turns.Add(1)
		if !l.cover.Load().backfilling {
			open.Add(1)
		}
	})
	for i := range channels {
		index := l.dir.subscribe(fmt.Sprint("c", i))
		l.dir.at(index).shards.Store(1)
	}
	l.OpenSpan(sseproto.ID{Ms: 1000})
	l.CloseSpan(sseproto.ID{Ms: 1000})
	l.OpenSpan(sseproto.ID{Ms: 2000})
	require.EqualValues(t, 4, turns.Load())
	require.Zero(t, open.Load(), "no resume without a gap while they are being told")
	require.False(t, l.cover.Load().backfilling)
	require.EqualValues(t, channels, l.Stats().Gaps.Total())
	require.Equal(t, channels, l.gaps.list()[0].Streams)
	l.Append(sseproto.ID{Ms: 2000, Seq: 1}, "c1", "x")
	require.Equal(t, sseproto.ID{Ms: 2000, Seq: 1}, l.Stats().Last)
}

// breakOff loses more than can be backfilled, from after to low. What meanwhile appends came in
// meanwhile.
func (h byHand) breakOff(after, low sseproto.ID, meanwhile func()) {
	h.log.CloseSpan(after)
	h.log.mu.Lock()
	h.log.holdback.open(&h.log.Lineage, low)
	h.log.unlock()
	h.f.t, h.f.n = low.Ms, low.Seq
	if meanwhile != nil {
		meanwhile()
	}
	h.log.endBackfill(h.log.oldestHeld(), true)
}

// TestWhoResumedBehindABarrierStaysOpen: it has the discontinuity already, and would get it
// twice, sent back to where the others are.
func TestWhoResumedBehindABarrierStaysOpen(t *testing.T) {
	h := shardByHand(t, nil)
	for range manySlots {
		h.arrive(t, resumePoint{}, "a")
	}
	resumed := h.arrive(t, after(sseproto.ID{Ms: 2000}), "a") // waits for the log
	h.breakOff(sseproto.ID{Ms: 1000}, sseproto.ID{Ms: 2000}, nil)
	h.pass()
	require.Greater(t, h.open, 1, "the loop is not through yet")
	require.Empty(t, h.ahead.list)
	for h.busy() {
		h.pass()
	}
	require.Equal(t, 1, h.open)
	h.f.publish("a", "behind")
	h.pass()
	require.Equal(t, []string{"behind"}, datas(resumed.next(1)))
}

func TestNothingNeedsToComeBetweenTwoBarriers(t *testing.T) {
	h := shardByHand(t, nil)
	h.breakOff(sseproto.ID{Ms: 1000}, sseproto.ID{Ms: 2000}, nil)
	h.pass()
	c := h.arrive(t, resumePoint{}, "a")
	h.breakOff(sseproto.ID{Ms: 2100}, sseproto.ID{Ms: 3000}, nil)
	h.f.publish("a", "behind")
	h.pass()
	require.Empty(t, c.ended())
	require.Equal(t, "2100-0", string(c.dec.LastEventID()))
}

// TestBarriersAreTakenOneAfterTheOther: a loop that comes to look when there are two sends
// its streams back before the first one.
func TestBarriersAreTakenOneAfterTheOther(t *testing.T) {
	h := shardByHand(t, nil)
	c := h.arrive(t, resumePoint{}, "a")
	h.breakOff(sseproto.ID{Ms: 1100}, sseproto.ID{Ms: 2000}, nil)
	h.f.publish("b", "between")
	h.breakOff(sseproto.ID{Ms: 2100}, sseproto.ID{Ms: 3000}, nil)
	h.pass()
	require.Empty(t, c.ended())
	require.Equal(t, "1100-0", string(c.dec.LastEventID()))
	late := h.arrive(t, resumePoint{}, "a")
	h.f.publish("a", "live")
	h.pass()
	require.Equal(t, []string{"live"}, datas(late.next(1)))
}

// TestQuietClientHasAPlaceToGoOnFrom: also when its own is long forgotten, and what
// comes behind the barrier is for it.
func TestQuietClientHasAPlaceToGoOnFrom(t *testing.T) {
	h := shardByHand(t, nil)
	quiet := h.arrive(t, resumePoint{}, "quiet")
	h.outlivePlaces()
	end := sseproto.ID{Ms: h.f.t, Seq: 1}
	h.breakOff(end, sseproto.ID{Ms: h.f.t + 1000}, func() { h.f.publish("quiet", "behind") })
	h.pass()
	require.Empty(t, quiet.ended())
	require.Equal(t, end.String(), string(quiet.dec.LastEventID()))
}

// TestWhoMissesSomethingBeforeABarrierIsSentBackBeforeIt: what the loop has not scanned yet
// when it learns of the barrier.
func TestWhoMissesSomethingBeforeABarrierIsSentBackBeforeIt(t *testing.T) {
	h := shardByHand(t, nil)
	c := h.arrive(t, resumePoint{}, "a")
	h.f.publish("b", "of somebody else")
	h.pass()
	missed := h.f.publish("a", "not scanned")
	h.f.publish("b", "either")
	h.breakOff(sseproto.ID{Ms: 1100}, sseproto.ID{Ms: 2000}, nil)
	h.pass()
	require.Empty(t, c.ended())
	require.Equal(t, sseproto.ID{Ms: missed.Ms, Seq: missed.Seq - 1}.String(), string(c.dec.LastEventID()))
}

// TestNothingIsScannedOverABarrierThatComesMeanwhile: the view of a pass that was overrun
// grows while the slots are looked at.
func TestNothingIsScannedOverABarrierThatComesMeanwhile(t *testing.T) {
	h := shardByHand(t, nil)
	c := h.arrive(t, resumePoint{}, "a")
	h.f.publish("noise", "x")
	h.turn()
	v := h.reader.open()
	require.Less(t, h.reader.cursor.Load(), v.tail)
	h.breakOff(sseproto.ID{Ms: 1100}, sseproto.ID{Ms: 2000}, func() { h.f.publish("a", "behind") })
	h.fanOut(&v)
	v.close()
	for h.busy() {
		h.pass()
	}
	require.Empty(t, c.ended())
}

// TestWhoCameBeforeABarrierAndIsAdmittedBehindItMissesNothing: its request was read before,
// and the loop is through with the barrier.
func TestWhoCameBeforeABarrierAndIsAdmittedBehindItMissesNothing(t *testing.T) {
	h := shardByHand(t, nil)
	fd, conn := socketPair(t)
	a := &front.Stream{FD: fd, Channels: []string{"a"}, Since: h.log.standing()}
	h.breakOff(sseproto.ID{Ms: 1100}, sseproto.ID{Ms: 2000}, nil)
	h.pass()
	h.engine.conns.Add(1)
	h.engine.attach(a)
	h.pass()
	h.f.publish("a", "behind")
	h.pass()
	got := newTestClient(t, conn).next(2)
	require.Equal(t, "gap", got[0].kind, "there is no history here")
	require.Equal(t, "behind", got[1].data)
}

func TestBackfillGivenUpLetsTheLockGoInBetween(t *testing.T) {
	const channels = 3*putSlice + 1
	var turns atomic.Int32
	l := newLog(16<<20, maxSegmentBytes, 1, true, func(uint64) { turns.Add(1) })
	for i := range channels {
		l.dir.at(l.dir.subscribe(fmt.Sprint("c", i))).shards.Store(1)
	}
	l.OpenSpan(sseproto.ID{Ms: 1000})
	l.CloseSpan(sseproto.ID{Ms: 1000})
	l.OpenSpan(sseproto.ID{Ms: 2000})
	l.learnWatermark(sseproto.ID{Ms: 2000})
	h := newMemoryHistory()
	h.err = errHoldbackFull
	f := &backfiller{line: &l.Lineage, history: h, wait: waitLong, onError: func(error, sseproto.ID, sseproto.ID) {}}
	f.backfill(t.Context(), l.oldestHeld())
	require.EqualValues(t, 4+1, turns.Load(), "and who waits is woken when all is there")
	require.False(t, l.cover.Load().backfilling)
	require.EqualValues(t, channels, l.Stats().Gaps.Total())
	require.Equal(t, channels, l.gaps.list()[0].Streams)
}

// TestLossOfMoreChannelsThanTheRingHasRoomForIsABarrier: the ring does not forget all that
// it has for gap events. With a history that cannot be read it is the same.
func TestLossOfMoreChannelsThanTheRingHasRoomForIsABarrier(t *testing.T) {
	for _, history := range []bool{false, true} {
		l := newLog(minRingBytes, minSegmentBytes, 1, history, func(uint64) {})
		for i := range 1000 {
			l.dir.subscribe(fmt.Sprint("c", i))
		}
		l.OpenSpan(sseproto.ID{Ms: 1000})
		l.Append(sseproto.ID{Ms: 1000, Seq: 1}, "c1", "kept")
		before := l.newestBarrier()
		l.CloseSpan(sseproto.ID{Ms: 1000, Seq: 1})
		l.OpenSpan(sseproto.ID{Ms: 2000})
		if history {
			h := newMemoryHistory()
			h.err = errHoldbackFull
			f := &backfiller{line: &l.Lineage, history: h, wait: waitLong, onError: func(error, sseproto.ID, sseproto.ID) {}}
			l.learnWatermark(sseproto.ID{Ms: 2000})
			f.backfill(t.Context(), l.oldestHeld())
		}
		b := before.next.Load()
		require.NotNil(t, b)
		require.Equal(t, sseproto.ID{Ms: 1000, Seq: 1}, b.after)
		require.Zero(t, l.Stats().Gaps.Total())
		require.Zero(t, l.Stats().Evicted)
		require.False(t, l.cover.Load().backfilling)
		l.Append(sseproto.ID{Ms: 2000, Seq: 1}, "c1", "again")
		require.Equal(t, sseproto.ID{Ms: 2000, Seq: 1}, l.Stats().Last)
	}
}

// TestWhoIsNotToldForWantOfRoomIsToldWhenItComesBack: all streams are sent back, and
// those of clients without an ID get one to come back with.
func TestWhoIsNotToldForWantOfRoomIsToldWhenItComesBack(t *testing.T) {
	h := shardByHand(t, nil)
	for i := range 1000 {
		h.log.dir.subscribe(fmt.Sprint("c", i))
	}
	c := h.arrive(t, resumePoint{}, "c1")
	last := h.f.publish("c2", "of somebody else")
	h.pass()
	h.log.CloseSpan(last)
	again := startFeed(h.engine, 2000)
	for h.busy() {
		h.pass()
	}
	require.Empty(t, c.ended())
	require.Equal(t, last.String(), string(c.dec.LastEventID()))
	back := h.arrive(t, after(last), "c1")
	again.publish("c1", "live")
	h.pass()
	got := back.next(2)
	require.Equal(t, "gap", got[0].kind)
	require.Equal(t, "live", got[1].data)
}
