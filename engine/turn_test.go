package engine

import (
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/front"
	"ssed/sseproto"
)

// byHand is a shard whose loop does not run: the test does its passes, and what
// other goroutines do between two steps of one.
type byHand struct {
	*shard
	f *feed
}

func shardByHand(t *testing.T, change func(*Config)) byHand {
	cfg := Config{
		Shards: 1, RingBytes: minRingBytes, SegmentBytes: minSegmentBytes, RetryMin: 1, RetryMax: 1,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	noListener, err := front.New(front.Config{}, front.Host{})
	require.NoError(t, err)
	e := &Engine{cfg: cfg.withDefaults(), started: time.Now(), front: noListener}
	e.log = newLog(e.cfg.RingBytes, e.cfg.SegmentBytes, 2, false, e.wakeShards)
	e.log.divide(e.cfg.Partitions)
	e.log.dir.policies = e.cfg.Policies
	e.replayer = newReplayer(t.Context(), e.log, &e.cfg)
	s, err := newShard(e, 0)
	require.NoError(t, err)
	e.shards = []*shard{s}
	t.Cleanup(func() {
		s.closeAll()
		s.poller.close()
	})
	return byHand{s, startFeed(e, 1000)}
}

// arrive is join for a shard by hand, with the pass that answers.
func (h byHand) arrive(t *testing.T, resume resumePoint, channels ...string) *testClient {
	c := join(t, h.engine, resume, channels...)
	h.pass()
	return c
}

func (h byHand) pass() {
	h.shard.pass(time.Now())
}

// passAll does passes until the loop has scanned all, and has nothing left to do.
func (h byHand) passAll() {
	for h.hasWork() || h.reader.cursor.Load() < h.log.head.Load() {
		h.pass()
	}
}

// turn publishes to a channel of nobody until the ring has forgotten all that is
// in it.
func (h byHand) turn() {
	for until := h.log.head.Load(); h.log.tail.Load() < until; {
		h.f.publish("noise", strings.Repeat("n", 1000))
	}
}

func TestRingMayTurnWhileAPassLooksAtIt(t *testing.T) {
	h := shardByHand(t, nil)
	h.arrive(t, resumePoint{}, "a")
	ch, _ := h.log.dir.find("a")
	v := h.reader.open()
	h.f.publish("a", "gone before the pass gets to it")
	h.turn()
	pos, lost := v.follow(ch, 0)
	require.Zero(t, pos)
	require.True(t, lost)
	v.close()
}

func TestRingMayTurnAgainWhileAShardCatchesUpWithIt(t *testing.T) {
	h := shardByHand(t, nil)
	h.f.publish("a", "before")
	a := h.arrive(t, resumePoint{}, "a")
	h.arrive(t, resumePoint{}, "b")
	h.pass()
	h.turn()
	h.f.publish("a", "one")
	v := h.reader.open() // the cursor is behind the tail
	h.turn()
	h.f.publish("b", "makes the view look at the log anew")
	h.fanOut(&v)
	v.close()
	h.pass()
	h.f.publish("a", "two")
	h.pass()
	h.pass()
	// Without a history: closed or told, but not "two" as if there were no "one".
	h.closeAll()
	for _, ev := range a.ended() {
		if ev.data == "two" {
			require.Fail(t, "a message was skipped silently")
		}
		if ev.kind == "gap" {
			break
		}
	}
}

func TestChannelsOfFramesLargerThanTheRingAreForgotten(t *testing.T) {
	l := newLog(minRingBytes, minSegmentBytes, 0, false, func(uint64) {})
	l.OpenSpan(sseproto.ID{Ms: 1000})
	for i := range 50 {
		l.Append(sseproto.ID{Ms: 1000, Seq: uint64(i) + 1}, fmt.Sprint("c", i), strings.Repeat("x", 2*minRingBytes))
	}
	require.Equal(t, 1, l.dir.len())
}

func TestLastSubscriberLeavesWhileTheLastMessageIsForgotten(t *testing.T) {
	l := newLog(minRingBytes, minSegmentBytes, 0, false, func(uint64) {})
	l.OpenSpan(sseproto.ID{Ms: 1000})
	index := l.dir.subscribe("a")
	l.Append(sseproto.ID{Ms: 1000, Seq: 1}, "a", "x")
	l.Append(sseproto.ID{Ms: 1000, Seq: 2}, "b", "x")
	l.dir.mu.Lock()
	left := make(chan struct{})
	go func() {
		defer close(left)
		l.dir.unsubscribe(index) // waits here, or comes later: both are right
	}()
	l.tail.Store(l.head.Load()) // the eviction, which finds it subscribed
	l.dir.dropLocked(index)
	l.dir.mu.Unlock()
	<-left
	requireForgotten(t, l, "a")
}

func TestShardKeepsNothingOfTheRingBetweenPasses(t *testing.T) {
	h := shardByHand(t, nil)
	first := h.f.publish("a", "first")
	for range 100 {
		h.f.publish("a", "scattered")
		h.f.publish("b", "between")
	}
	h.arrive(t, after(first), "a")
	h.pass()
	require.Greater(t, cap(h.own.vec), 50)
	for _, b := range []*batch{&h.batches[0], &h.own} {
		for _, piece := range b.vec[:cap(b.vec)] {
			require.Nil(t, piece.Base)
		}
	}
}

func TestFrameStaysWhatItIsWhileAViewIsOpen(t *testing.T) {
	h := shardByHand(t, nil)
	h.f.publish("a", "mine")
	v := h.reader.open()
	e, seg := v.at(h.log.Position())
	frame := seg.frame(e)
	for range 3 {
		h.turn()
	}
	require.Equal(t, "id: 1000-1\ndata: mine\n\n", string(frame))
	v.close()
	turned := len(h.log.free)
	h.turn()
	require.Positive(t, turned+len(h.log.free), "segments are used again when nobody looks")
}

// TestMemoryOfSegmentsIsGivenBackWhenNobodyLooks, and not before: a reader that still saw a
// frame would crash, or read 0xDB where the memory is on the heap.
func TestMemoryOfSegmentsIsGivenBackWhenNobodyLooks(t *testing.T) {
	h := shardByHand(t, func(cfg *Config) { cfg.RingBytes = 1 << 20 })
	large := strings.Repeat("large", 100_000)
	h.f.publish("a", large)
	v := h.reader.open()
	e, seg := v.at(h.log.Position())
	require.False(t, seg.common)
	frame := seg.frame(e)
	other := h.log.committed.open()
	for range 3 {
		h.turn()
	}
	require.Contains(t, string(frame), large)
	v.close()
	h.log.reclaim()
	require.Contains(t, string(frame), large, "another reader looks")
	require.NotNil(t, seg.memory)
	other.close()
	h.log.reclaim()
	require.Nil(t, seg.memory)
	require.Empty(t, h.log.retired)
	require.Empty(t, h.log.unused)
}

// TestRingIsOutsideTheHeap: the collector runs when the heap has doubled. With the ring in it
// the process would take twice the ring.
func TestRingIsOutsideTheHeap(t *testing.T) {
	if raceEnabled {
		t.Log("under the race detector the ring is on the heap, see memory_heap.go")
		return
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	l := newLog(64<<20, maxSegmentBytes, 1, false, func(uint64) {})
	l.OpenSpan(sseproto.ID{Ms: 1})
	data, large := strings.Repeat("x", 1000), strings.Repeat("x", 2*maxSegmentBytes)
	for n := uint64(1); l.Stats().Evicted == 0; n++ {
		l.Append(sseproto.ID{Ms: 1, Seq: 2 * n}, "a", data)
		if n%100 == 0 {
			l.Append(sseproto.ID{Ms: 1, Seq: 2*n + 1}, "a", large)
		}
	}
	require.Greater(t, l.Stats().RingBytes, int64(60<<20))
	require.Less(t, heap(), before+2<<20)
	runtime.KeepAlive(l)
}

func TestHalfWrittenMessageIsFinishedBeforeTheNext(t *testing.T) {
	h := shardByHand(t, func(cfg *Config) { cfg.RingBytes = 8 << 20 })
	c := h.arrive(t, resumePoint{}, "a")
	c.read() // the head
	large := strings.Repeat("x", 1<<20)
	h.f.publish("a", large)
	h.pass()
	require.NotZero(t, h.slots.at(1).off)
	c.read() // there is room again, but the shard has not been told yet
	h.f.publish("a", "next")
	h.pass()
	for len(c.got) < 2 {
		h.watch()
		require.NoError(t, c.read())
	}
	require.Equal(t, []string{large, "next"}, datas(c.got))
}

func TestWhoCameToAnEmptyLogIsToldWhenItsShardFallsBehind(t *testing.T) {
	h := shardByHand(t, nil)
	c := h.arrive(t, resumePoint{}, "a")
	h.f.publish("a", "gone before the shard looked")
	h.turn()
	h.pass()
	h.f.publish("a", "two")
	h.pass()
	got := c.next(2)
	require.Equal(t, "gap", got[0].kind)
	require.Equal(t, "two", got[1].data)
}

// outlivePlaces publishes until the position of the first slot has no ID any more, with
// the shard keeping up.
func (h byHand) outlivePlaces() {
	pos := h.slots.at(1).pos
	for i, known := 0, true; known; i++ {
		h.f.t, h.f.n = h.f.t+1, 0
		h.f.publish("noise", "x")
		if i%50 == 0 {
			h.pass()
			_, known = h.log.idAt(pos)
		}
	}
	h.pass()
}

// TestQuietStreamOfAnOverrunShardGoesOnFromWhereTheShardWas: its last message is long
// forgotten, but nothing was there for it since.
func TestQuietStreamOfAnOverrunShardGoesOnFromWhereTheShardWas(t *testing.T) {
	h := shardByHand(t, nil)
	quiet := h.arrive(t, resumePoint{}, "quiet")
	h.outlivePlaces()
	h.f.publish("quiet", "gone before the shard looked")
	h.turn()
	h.pass()
	h.f.publish("quiet", "two")
	h.pass()
	got := quiet.next(2)
	require.Equal(t, "gap", got[0].kind)
	require.Equal(t, "two", got[1].data)
	require.Zero(t, h.count.closed[CloseSlow].Load())
}

func TestLastSubscriberLeavesWhileAMessageIsAppended(t *testing.T) {
	l := newLog(minRingBytes, minSegmentBytes, 0, false, func(uint64) {})
	subscribed := l.dir.subscribe("a")
	index := l.dir.touch("a") // a message comes, its position is not stored yet
	l.dir.unsubscribe(subscribed)
	require.NotEqual(t, index, l.dir.subscribe("b"))
	require.Equal(t, index, l.dir.subscribe("a"))
}
