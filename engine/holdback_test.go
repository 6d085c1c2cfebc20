package engine

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// stubbornHistory does not get an invalidation through.
type stubbornHistory struct {
	*memoryHistory
	disputing atomic.Int32
}

func (h *stubbornHistory) Invalidate(ctx context.Context, _, _ sseproto.ID) error {
	h.disputing.Add(1)
	<-ctx.Done()
	return ctx.Err()
}

// TestBackfillEndsWhenNoMoreCanBeHeldBack: at whatever it is.
func TestBackfillEndsWhenNoMoreCanBeHeldBack(t *testing.T) {
	const ring = 1 << 20
	h := &stubbornHistory{memoryHistory: newMemoryHistory()}
	h.block = make(chan struct{})
	for name, step := range map[string]struct {
		cut     bool
		written sseproto.ID
		begun   func(e *Engine) bool
	}{
		"disputing": {cut: true, written: sseproto.ID{Ms: 2000}, begun: func(*Engine) bool { return h.disputing.Load() == 1 }},
		"waiting":   {written: sseproto.ID{Ms: 1000}, begun: func(e *Engine) bool { return e.log.watchers.Load() == 1 }},
		"reading":   {written: sseproto.ID{Ms: 2000}, begun: func(*Engine) bool { return h.waiting.Load() == 1 }},
	} {
		t.Run(name, func(t *testing.T) {
			e := startEngine(t, func(cfg *Config) { cfg.History, cfg.RingBytes, cfg.HistoryWait = h, ring, time.Hour })
			f := startFeed(e, 1000)
			c := joined(t, e, resumePoint{}, "a")
			last := f.publish("a", "m1")
			if step.cut {
				last = sseproto.ID{Ms: 1000}
			}
			e.log.CloseSpan(last)
			again := startFeed(e, 2000)
			again.tick(step.written)
			require.Eventually(t, func() bool { return step.begun(e) }, waitLong, pollEvery)
			pad := strings.Repeat("x", 1000)
			for range ring/2/len(pad) + 1 {
				again.publish("b", pad)
			}
			again.publish("a", "m2")
			got := c.next(3)
			require.Equal(t, []string{"message", "gap", "message"}, []string{got[0].kind, got[1].kind, got[2].kind})
			require.Contains(t, got[1].data, sseproto.ReasonUnavailable)
			require.Equal(t, "m2", got[2].data)
			require.EqualValues(t, 1, e.Stats().Log.Abandoned)
		})
	}
}

// holdingLog is a log that backfills a discontinuity, as far as the test does.
func holdingLog(onAppend func(mask uint64)) *Log {
	l := newLog(16<<20, maxSegmentBytes, 1, true, onAppend)
	l.dir.at(l.dir.subscribe("a")).shards.Store(1)
	l.OpenSpan(sseproto.ID{Ms: 1000})
	l.CloseSpan(sseproto.ID{Ms: 1000})
	l.OpenSpan(sseproto.ID{Ms: 2000})
	return l
}

func TestWhatIsNotTrustedDoesNotCountAsHeldBack(t *testing.T) {
	l := holdingLog(func(uint64) {})
	l.Append(sseproto.ID{Ms: 2000, Seq: 1}, "a", "trusted")
	held := l.holdback.bytes
	for i := range 100 {
		l.Append(sseproto.ID{Ms: 2100, Seq: uint64(i + 1)}, "a", "doubtful")
	}
	require.Greater(t, l.holdback.bytes, held)
	l.CloseSpan(sseproto.ID{Ms: 2100})
	require.Equal(t, held, l.holdback.bytes)
	l.endBackfill(l.oldestHeld(), false)
	require.Zero(t, l.holdback.bytes)
	require.EqualValues(t, 1, l.Stats().Appended)
}

// TestWhatWaitedLetsTheLockGoInBetween: the feed goes on meanwhile, and what it brings
// comes behind the rest.
func TestWhatWaitedLetsTheLockGoInBetween(t *testing.T) {
	const held = 3*putSlice + 1
	turns, during := 0, 0
	var l *Log
	publish := func(n int) { l.Append(sseproto.ID{Ms: 2000, Seq: uint64(n)}, "a", fmt.Sprint("m", n)) }
	l = holdingLog(func(uint64) {
		turns++
		if l.holdback.active() {
			require.True(t, l.cover.Load().backfilling, "no resume from the ring before all is there")
			during++
			publish(held + during)
		}
	})
	for n := range held {
		publish(n + 1)
	}
	require.Zero(t, turns)
	l.endBackfill(l.oldestHeld(), false)
	require.Equal(t, 3, during)
	require.Equal(t, 4, turns)
	require.Equal(t, coverage{from: sseproto.ID{Ms: 2000}, first: 1}, *l.cover.Load())
	publish(held + during + 1)
	l.Commit(sseproto.ID{Ms: 2100}, sseproto.ID{})
	got, through, _ := collect(l, sseproto.ID{Ms: 2000})
	require.Equal(t, sseproto.ID{Ms: 2100}, through)
	require.Len(t, got, held+4)
	for i, m := range got {
		require.Equal(t, fmt.Sprintf("2000-%d a m%d", i+1, i+1), m)
	}
}

// TestLinkLostWhileWhatWaitedIsPutIntoTheRing: the second loss is backfilled behind all
// of it, and what was not to be trusted of it is told.
func TestLinkLostWhileWhatWaitedIsPutIntoTheRing(t *testing.T) {
	const held = 2 * putSlice
	through := sseproto.ID{Ms: 2000, Seq: putSlice / 2} // in the ring by then, with more
	var l *Log
	closed := false
	l = holdingLog(func(uint64) {
		if !closed {
			closed = true
			l.CloseSpan(through)
			l.OpenSpan(sseproto.ID{Ms: 3000})
			l.Append(sseproto.ID{Ms: 3000, Seq: 1}, "a", "again")
		}
	})
	for n := range held {
		l.Append(sseproto.ID{Ms: 2000, Seq: uint64(n + 1)}, "a", "x")
	}
	l.endBackfill(l.oldestHeld(), false)
	require.True(t, closed)
	require.EqualValues(t, putSlice, l.Stats().Appended)
	require.True(t, l.cover.Load().backfilling)
	st := l.oldestHeld()
	require.Equal(t, through, st.after)
	require.Equal(t, map[string]string{"a": sseproto.ReasonOutage}, l.untrusted(st.after))
	l.endBackfill(st, false)
	require.Nil(t, l.oldestHeld())
	require.Zero(t, l.holdback.bytes)
	require.Equal(t, sseproto.ID{Ms: 3000, Seq: 1}, l.Stats().Last)
}
