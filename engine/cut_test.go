package engine

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

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

func TestLossLargerThanTheRingIsResumedPageByPage(t *testing.T) {
	const lost = 1000 // 1 MB; the ring has a quarter of it
	h := newMemoryHistory()
	e := startEngine(t, withHistory(h, minRingBytes))
	startFeed(e, 1000)
	var all []*testClient
	for range cutSlots { // over two shards
		all = append(all, joined(t, e, resumePoint{}, "a"), joined(t, e, resumePoint{}, "quiet"))
	}
	e.log.Append(sseproto.ID{Ms: 1000, Seq: 1}, "a", "before")
	h.add(sseproto.ID{Ms: 1000, Seq: 1}, "a", "before")
	for i := 0; i < len(all); i += 2 {
		all[i].next(1)
	}
	outage(e, h, lost)
	for _, c := range all {
		require.Empty(t, c.ended(), "nothing from behind the hole")
		retry, told := c.dec.Retry()
		require.True(t, told)
		require.GreaterOrEqual(t, retry, e.cfg.RetryMin)
		require.Equal(t, "1000-1", string(c.dec.LastEventID()), "a quiet client has a place to go on from too")
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

func TestWhoWaitsForTheHistoryIsNotClosedAtACut(t *testing.T) {
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

// A loop that is still closing streams delivers nothing from behind the cut, and does
// not sleep.
func TestNothingIsDeliveredOverACut(t *testing.T) {
	h := shardByHand(t, nil)
	var all []*testClient
	for range cutSlots + 20 {
		all = append(all, h.arrive(t, resumePoint{}, "a"))
	}
	h.log.mu.Lock()
	h.log.cut.Store(&cut{pos: h.log.head.Load(), after: sseproto.ID{Ms: 1000}})
	h.log.unlock()
	h.f.publish("a", "behind")
	h.pass()
	require.Equal(t, 20, h.open)
	require.True(t, h.busy())
	h.pass()
	require.Zero(t, h.open)
	for h.busy() {
		h.pass()
	}
	for _, c := range all {
		require.Empty(t, c.ended())
	}
	late := h.arrive(t, resumePoint{}, "a")
	h.f.publish("a", "live")
	h.pass()
	require.Equal(t, []string{"live"}, datas(late.next(1)))
}

func TestLossOfManyChannelsLetsTheLockGoInBetween(t *testing.T) {
	const channels = 3*tellSlice + 1
	var turns, open atomic.Int32
	var l *Log
	l = newLog(16<<20, maxSegmentBytes, 1, false, func(uint64) {
		turns.Add(1)
		if !l.cover.Load().filling {
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
	require.False(t, l.cover.Load().filling)
	require.EqualValues(t, channels, l.Stats().Gaps)
	require.Equal(t, channels, l.gaps.list()[0].Streams)
	l.Append(sseproto.ID{Ms: 2000, Seq: 1}, "c1", "x")
	require.Equal(t, sseproto.ID{Ms: 2000, Seq: 1}, l.Stats().Last)
}
