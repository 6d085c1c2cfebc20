package engine

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/front"
	"ssed/sseproto"
)

func earliest() resumePoint {
	return resumePoint{kind: resumeStart, start: sseproto.StartPoint{Kind: sseproto.FromEarliest}}
}

func lastOf(n int) resumePoint {
	return resumePoint{kind: resumeStart, start: sseproto.StartPoint{Kind: sseproto.FromLast, Count: n}}
}

func sinceMs(ms uint64) resumePoint {
	return resumePoint{kind: resumeStart, start: sseproto.StartPoint{Kind: sseproto.FromTime, Time: ms}}
}

func TestStartIDsAreTextOfIDs(t *testing.T) {
	ids := []sseproto.ID{{}, {Ms: 7, Seq: 9}, sseproto.MaxID}
	require.Equal(t, ids, makeStartIDs(ids).ids())
	require.Nil(t, startIDs("").ids())
	require.Equal(t, makeStartIDs(ids), makeStartIDs(ids))
}

// startTest publishes to some channels, and knows what each start is to bring.
type startTest struct {
	t       *testing.T
	e       *Engine
	f       *feed
	h       *memoryHistory // nil: none
	written bool           // what is published is in the history at once
	n       int
}

func (s *startTest) publish(channel, data string) sseproto.ID {
	id := s.f.publish(channel, data)
	if s.h != nil && s.written {
		s.h.add(id, channel, data)
	}
	return id
}

func (s *startTest) tick() {
	s.f.t, s.f.n = s.f.t+100, 0
	at := sseproto.ID{Ms: s.f.t}
	if s.h == nil || !s.written {
		s.f.log.Commit(at, sseproto.ID{})
		return
	}
	s.h.mu.Lock()
	s.h.written = at
	s.h.mu.Unlock()
	s.f.log.Commit(at, at)
}

// turn makes the ring forget all that is in it.
func (s *startTest) turn() {
	tail := s.e.log.Position() + 1
	for s.e.log.tail.Load() < tail {
		s.f.publish("other", strings.Repeat("x", 1000))
	}
}

// expect joins with a start, and wants these messages and then what is published next.
func (s *startTest) expect(p resumePoint, channels string, want ...string) {
	s.t.Helper()
	s.n++
	end := fmt.Sprint("end", s.n)
	names := append(strings.Split(channels, " "), end)
	c := join(s.t, s.e, p, names...)
	got := datas(c.next(len(want)))
	s.publish(end, "end")
	require.Equal(s.t, append(want, "end"), append(got, datas(c.next(1))...), "%+v on %s", p.start, channels)
}

func startTestWith(t *testing.T, h *memoryHistory) *startTest {
	e := startEngine(t, func(cfg *Config) {
		cfg.RingBytes = minRingBytes
		if h != nil {
			cfg.History = h
		}
	})
	return &startTest{t: t, e: e, f: startFeed(e, 1000), h: h, written: true}
}

// TestStartWithoutAHistoryIsWhatTheRingHas: nothing is told of what it has forgotten.
func TestStartWithoutAHistoryIsWhatTheRingHas(t *testing.T) {
	s := startTestWith(t, nil)
	s.publish("a", "gone")
	s.turn()
	s.tick()
	s.publish("a", "a1")
	s.publish("b", "b1")
	s.tick()
	s.publish("b", "b2")
	s.publish("a", "a2")
	s.tick()
	s.publish("b", "b3")

	s.expect(earliest(), "a", "a1", "a2")
	s.expect(earliest(), "a b", "a1", "b1", "b2", "a2", "b3")
	s.expect(earliest(), "nothing")
	s.expect(lastOf(1), "a", "a2")
	s.expect(lastOf(1), "a b", "a2", "b3")
	s.expect(lastOf(2), "b nothing a", "a1", "b2", "a2", "b3")
	s.expect(lastOf(100), "a b", "a1", "b1", "b2", "a2", "b3")
	s.expect(sinceMs(0), "a", "a1", "a2")
	s.expect(sinceMs(1199), "a b", "a1", "b1", "b2", "a2", "b3") // at least: b2 may be from 1199 too
	s.expect(sinceMs(1200), "a b", "b2", "a2", "b3")
	s.expect(sinceMs(1299), "a b", "b2", "a2", "b3")
	s.expect(sinceMs(1300), "a b", "b3")
	s.expect(sinceMs(1<<62), "a b", "b3") // in the future: from the last tick on
	s.tick()
	s.tick()
	s.expect(sinceMs(1450), "a b", "b3") // of the ticks before, the last one with a message comes whole
	s.expect(sinceMs(1500), "a b")       // the last tick is known, and has none
	require.Zero(t, s.e.Stats().Gaps.Total())
}

// TestStartCountsAllThatTheRingCoversWhileItTurns: what is not counted there would be asked of the
// history, which counts up to where the ring begins. The stream began with older messages then.
func TestStartCountsAllThatTheRingCoversWhileItTurns(t *testing.T) {
	e := startEngine(t, func(cfg *Config) { cfg.RingBytes, cfg.SegmentBytes = minRingBytes, minSegmentBytes })
	f := startFeed(e, 1000)
	for e.Stats().Log.Evicted == 0 {
		f.publish("a", benchPayload)
	}
	var published atomic.Uint64
	ctx, stop := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			published.Store(f.publish("a", benchPayload).Seq)
		}
	})
	defer done.Wait()
	defer stop()
	const n = 1_000_000
	for range 500 {
		before := published.Load()
		found := &foundStarts{ids: make([]sseproto.ID, 1), missing: make([]int, 1)}
		require.True(t, e.log.lookForStarts(found, []string{"a"}, sseproto.StartPoint{Kind: sseproto.FromLast, Count: n}))
		require.GreaterOrEqual(t, n-found.missing[0], int(before)-int(found.cov.from.Seq))
	}
}

// TestStartWithAClockOfItsOwnIsExact: there, IDs tell when a message was published.
func TestStartWithAClockOfItsOwnIsExact(t *testing.T) {
	e := startEngine(t, nil)
	e.Log().OpenLocal()
	var ids []sseproto.ID
	for i := range 5 {
		ids = append(ids, e.Log().Publish("a", sseproto.Message{Data: fmt.Sprint("m", i)}))
		waitForMs(ids[i].Ms + 1)
	}
	f := func(p resumePoint, want ...string) {
		t.Helper()
		require.Equal(t, want, datas(join(t, e, p, "a").next(len(want))))
	}
	f(earliest(), "m0", "m1", "m2", "m3", "m4")
	f(lastOf(2), "m3", "m4")
	f(sinceMs(ids[2].Ms), "m2", "m3", "m4")
	f(sinceMs(ids[2].Ms+1), "m3", "m4")
	require.GreaterOrEqual(t, e.log.clock(), ids[4].Ms)
}

// waitForMs returns when the clock has come to a millisecond.
func waitForMs(ms uint64) {
	for uint64(time.Now().UnixMilli()) < ms {
		runtime.Gosched()
	}
}

// TestStartGoesOnFromTheHistoryInTheRing: some of what is asked for has left the ring.
func TestStartGoesOnFromTheHistoryInTheRing(t *testing.T) {
	s := startTestWith(t, newMemoryHistory())
	s.publish("a", "a1")
	s.publish("b", "b1")
	s.tick()
	s.publish("b", "b2")
	s.publish("a", "a2")
	s.tick()
	s.turn()
	s.tick()
	s.publish("b", "b3")
	s.tick()
	s.publish("b", "b4")
	s.publish("a", "a3")

	s.expect(earliest(), "a b", "a1", "b1", "b2", "a2", "b3", "b4", "a3")
	s.expect(earliest(), "nothing")
	s.expect(lastOf(1), "a", "a3")
	s.expect(lastOf(2), "a", "a2", "a3")
	s.expect(lastOf(2), "a b", "a2", "b3", "b4", "a3")
	s.expect(lastOf(3), "a b nothing", "a1", "b2", "a2", "b3", "b4", "a3")
	s.expect(lastOf(9), "a b", "a1", "b1", "b2", "a2", "b3", "b4", "a3")
	s.expect(sinceMs(0), "a b", "a1", "b1", "b2", "a2", "b3", "b4", "a3")
	s.expect(sinceMs(1099), "a b", "a1", "b1", "b2", "a2", "b3", "b4", "a3")
	s.expect(sinceMs(1100), "a b", "b2", "a2", "b3", "b4", "a3")
	s.expect(sinceMs(1300), "a b", "b3", "b4", "a3")
	s.expect(sinceMs(1400), "a b", "b4", "a3")
	require.Zero(t, s.e.Stats().Gaps.Total())
}

// TestStartAtATimeThatIsNotWrittenYet: the history knows less of that time than the ring,
// which has lost a part of it.
func TestStartAtATimeThatIsNotWrittenYet(t *testing.T) {
	s := startTestWith(t, newMemoryHistory())
	s.publish("a", "a1")
	s.tick()
	s.turn() // the ring covers from the middle of a tick
	s.written = false
	s.publish("a", "a2")
	s.publish("b", "b1")
	c := join(t, s.e, sinceMs(1150), "a", "b")
	require.NoError(t, c.read())
	s.written = true
	s.tick()
	require.Equal(t, []string{"a1", "a2", "b1"}, datas(c.next(3)), "at least from then: a1 is of the tick before")
}

// TestStartWaitsForTheLog: until a span begins, and while a discontinuity is backfilled.
func TestStartWaitsForTheLog(t *testing.T) {
	for _, p := range []resumePoint{earliest(), sinceMs(1000), lastOf(5)} {
		e := startEngine(t, nil)
		c := join(t, e, p, "a")
		require.NoError(t, c.read()) // the head
		f := startFeed(e, 1000)
		f.publish("a", "m1")
		require.Equal(t, []string{"m1"}, datas(c.next(1)))

		h := newMemoryHistory()
		h.block = make(chan struct{})
		e = startEngine(t, withHistory(h, 4<<20))
		f = startFeed(e, 1000)
		h.add(f.publish("a", "m1"), "a", "m1")
		f.tick(sseproto.ID{Ms: 1000})
		live := joined(t, e, resumePoint{}, "a")
		f.log.CloseSpan(sseproto.ID{Ms: 1100})
		h.add(sseproto.ID{Ms: 1200, Seq: 1}, "a", "m2")
		h.mu.Lock()
		h.written = sseproto.ID{Ms: 1300}
		h.mu.Unlock()
		f.t, f.n = 1300, 0
		f.log.OpenSpan(sseproto.ID{Ms: 1300})
		require.Eventually(t, func() bool { return h.waiting.Load() == 1 }, waitLong, pollEvery)
		c = join(t, e, p, "a")
		require.NoError(t, c.read())
		f.publish("a", "m3")
		close(h.block)
		require.Equal(t, []string{"m2", "m3"}, datas(live.next(2)))
		require.Equal(t, []string{"m1", "m2", "m3"}, datas(c.next(3)), "%+v", p.start)
	}
}

// TestStartWithNothingOlderNamesItsPosition: who is cut off before the first event and comes
// back with it misses nothing, however many messages have come.
func TestStartWithNothingOlderNamesItsPosition(t *testing.T) {
	for _, history := range []bool{false, true} {
		for _, p := range []resumePoint{earliest(), sinceMs(1100), lastOf(1)} {
			h := newMemoryHistory()
			h.written = sseproto.ID{Ms: 1100}
			e := startEngine(t, func(cfg *Config) {
				if history {
					cfg.History = h
				}
			})
			f := startFeed(e, 1000)
			f.publish("other", "x")
			f.tick(sseproto.ID{Ms: 1100})
			fd, conn := socketPair(t)
			e.conns.Add(1)
			e.attach(&front.Stream{FD: fd, Head: []byte("HEAD\n"), Channels: []string{"a"}, Since: e.log.standing(), TakesID: true, Start: &p.start})
			c := newTestClient(t, conn)
			for len(c.dec.LastEventID()) == 0 {
				require.NoError(t, c.read())
			}
			require.Equal(t, "1100-0", string(c.dec.LastEventID()))
			require.Empty(t, c.got)
			require.NoError(t, conn.Close())
			f.publish("a", "m1")
			f.publish("a", "m2")
			c = join(t, e, after(sseproto.ID{Ms: 1100}), "a")
			require.Equal(t, []string{"m1", "m2"}, datas(c.next(2)))
		}
	}
}

// TestClientThatReadsSlowlyGetsNoMoreThanItAskedFor: its socket is full while older messages
// of one channel are sent, in the ring and from the history. Those of the other one that it
// does not want lie in between.
func TestClientThatReadsSlowlyGetsNoMoreThanItAskedFor(t *testing.T) {
	for _, ringBytes := range []int64{4 << 20, minRingBytes} {
		h := newMemoryHistory()
		e := startEngine(t, withHistory(h, ringBytes))
		s := &startTest{t: t, e: e, f: startFeed(e, 1000), h: h, written: true}
		var want []string
		for i := range 20 {
			want = append(want, fmt.Sprint("slow", i, strings.Repeat("x", 60_000)))
			s.publish("slow", want[i])
			s.publish("busy", "not asked for")
			s.publish("busy", "not asked for")
			s.tick()
		}
		for range 20 {
			s.publish("busy", "busy")
			want = append(want, "busy")
		}
		s.tick()
		c := join(t, e, lastOf(20), "slow", "busy")
		require.Eventually(t, func() bool { return e.Stats().Blocked > 0 }, waitLong, pollEvery)
		require.Equal(t, want, datas(c.next(40)))
		s.publish("busy", "live")
		require.Equal(t, []string{"live"}, datas(c.next(1)))
		require.Zero(t, e.Stats().Gaps.Total())
		require.Equal(t, ringBytes == minRingBytes, e.Stats().ResumedHistory > 0)
	}
}
