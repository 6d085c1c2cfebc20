package engine

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// twoParts is a log of two partitions, in which both have begun.
func twoParts(ringBytes int64) (l *Log, a, b *Lineage) {
	l = newLog(ringBytes, minSegmentBytes, 1, false, func(uint64) {})
	l.divide(2)
	a, b = l.Partition(0), l.Partition(1)
	a.OpenSpan(sseproto.ID{Ms: 1000})
	b.OpenSpan(sseproto.ID{Ms: 1000})
	return l, a, b
}

// placeAt is that of a reader, from outside of a pass.
func (l *Log) placeAt(pos uint64) (ids []sseproto.ID, known bool) {
	v := l.inspector.open()
	defer v.close()
	return l.inspector.placeAt(pos)
}

// A primary that takes over may have a clock that is behind. Then a span begins before
// messages of the one before, which were taken back. A place that named those would let a
// client that comes back with it miss what has their IDs now.
func TestPlaceBehindANewSpanIsNotThatOfWhatWasTakenBack(t *testing.T) {
	l, a, b := twoParts(1 << 20)
	channel, other := channelOfPart("c", 0, 2), channelOfPart("c", 1, 2)
	a.Commit(sseproto.ID{Ms: 1100}, sseproto.ID{})
	a.Append(sseproto.ID{Ms: 1100, Seq: 1}, channel, "taken back")
	a.CloseSpan(sseproto.ID{Ms: 1000})
	a.OpenSpan(sseproto.ID{Ms: 1050})
	b.Append(sseproto.ID{Ms: 1000, Seq: 1}, other, "here")
	pos := l.Position()
	b.Append(sseproto.ID{Ms: 1000, Seq: 2}, other, "more")

	want := []sseproto.ID{{Ms: 1050}, {Ms: 1000, Seq: 1}}
	places, known := l.placeAt(pos)
	require.True(t, known)
	require.Equal(t, want, places)

	for l.tail.Load() <= pos { // until the ring has forgotten it
		b.Append(sseproto.ID{Ms: 1000, Seq: l.Position()}, other, strings.Repeat("x", 1000))
	}
	places, known = l.placeAt(pos)
	require.True(t, known)
	require.Equal(t, want, places)
}

// TestPlacesAreRightWhileTheRingTurns: they are read without the lock of the log.
func TestPlacesAreRightWhileTheRingTurns(t *testing.T) {
	const partitions, messages = 4, 20_000
	l := newLog(4*minSegmentBytes, minSegmentBytes, 1, false, func(uint64) {})
	l.divide(partitions)
	feeds := fillRing(l) // the spans have the first positions, and then the partitions take turns
	placesAt := func(pos uint64) (places []sseproto.ID) {
		for p := range uint64(partitions) {
			places = append(places, sseproto.ID{Ms: 1000, Seq: (pos - p - 1) / partitions})
		}
		return places
	}
	r := l.readers[0]
	look := func(pos uint64) (isRight, known bool) {
		v := r.open()
		defer v.close()
		places, known := r.placeAt(pos)
		return slices.Equal(placesAt(pos), places), known
	}
	isRight, known := look(l.Position())
	require.True(t, isRight && known)
	var ended atomic.Bool
	var feeding sync.WaitGroup
	feeding.Go(func() {
		defer ended.Store(true)
		for range messages {
			feeds[l.Position()%partitions].publish(strings.Repeat("x", 50))
		}
	})
	looks := 0
	for pos := l.Position(); !ended.Load(); pos = max(l.Position()-uint64(looks%600), 100) {
		if isRight, known := look(pos); known {
			looks++
			require.True(t, isRight, pos)
		}
	}
	feeding.Wait()
	require.Positive(t, looks)
}

func TestWhatAQuietPartitionTookBackIsFoundNearTheEnd(t *testing.T) {
	l, a, b := twoParts(1 << 20)
	channel, other := channelOfPart("c", 0, 2), channelOfPart("c", 1, 2)
	a.Append(sseproto.ID{Ms: 1000, Seq: 1}, channel, "kept")
	before := l.Position()
	for n := range uint64(1000) {
		b.Append(sseproto.ID{Ms: 1000, Seq: n + 1}, other, strings.Repeat("x", 100))
	}
	a.Append(sseproto.ID{Ms: 1000, Seq: 2}, channel, "taken back")
	a.CloseSpan(sseproto.ID{Ms: 1000, Seq: 1})

	require.Contains(t, a.untrusted(sseproto.ID{Ms: 1000, Seq: 1}), channel)
	l.mu.Lock()
	from := a.spanFromLocked(a.spans.newest(), sseproto.ID{Ms: 1000, Seq: 1})
	l.mu.Unlock()
	require.Greater(t, from, before+500, "the messages of the other partition are looked at, under the lock of all")
}

func TestPlacesOfLargeMessagesThatLeftTheRingAreBounded(t *testing.T) {
	t.Parallel()
	l, _, b := twoParts(4 * minSegmentBytes)
	other := channelOfPart("c", 1, 2)
	for n := range uint64(maxLeftSegments + 100) {
		b.Append(sseproto.ID{Ms: 1000, Seq: n + 1}, other, strings.Repeat("x", minSegmentBytes))
	}
	require.LessOrEqual(t, len(l.left.segments), maxLeftSegments)
	places, known := l.placeAt(l.tail.Load() - 1)
	require.True(t, known)
	require.NotZero(t, places[1].Seq)
}

// shutAsk asks a shard how many entries wait for a partition to open, or to begin.
type shutAsk struct{ reply chan int }

func (a *shutAsk) answer(s *shard) { a.reply <- s.shutJoins.len() + s.unbegun.len() }

func awaiting(s *shard) int {
	a := &shutAsk{make(chan int, 1)}
	s.post(command{ask: a})
	return <-a.reply
}

// comeAndGo plays many clients that come and leave, a hundred at a time, beside one that stays.
func comeAndGo(t *testing.T, e *Engine, client func() (leave func())) {
	t.Helper()
	const together = 100
	for range (2*tableChunk + 100) / together {
		var leave []func()
		for range together {
			leave = append(leave, client())
		}
		for _, f := range leave {
			f()
		}
		require.Eventually(t, func() bool { return e.Stats().Connections == 1 }, waitLong, pollEvery)
	}
}

func TestClientsThatLeaveWhileAPartitionIsShutAreForgotten(t *testing.T) {
	t.Parallel()
	e, f := startParts(t, 2, func(cfg *Config) { cfg.Shards = 1 })
	f[1].publish("taken back")
	f[1].line.CloseSpan(sseproto.ID{Ms: 1000})
	stays := comeBack(t, e, "", f[1].channel)
	comeAndGo(t, e, func() (leave func()) {
		c := comeBack(t, e, vector(0, sseproto.ID{Ms: 1000}, sseproto.ID{Ms: 1000}), f[1].channel)
		return func() {
			require.NoError(t, c.read())
			require.NoError(t, c.conn.Close())
		}
	})
	require.Less(t, awaiting(e.shards[0]), tableChunk+100)

	f[1].tick()
	f[1].h.written = f[1].id()
	f[1].line.OpenSpan(f[1].id())
	f[1].publish("open")
	require.Equal(t, "open", stays.next(1)[0].data)
}

// TestStreamThatJoinsIsToldOfWhatItsLoopHasNotScanned: one partition is shut, and what comes of
// the other has left the ring before the loop looks at it.
func TestStreamThatJoinsIsToldOfWhatItsLoopHasNotScanned(t *testing.T) {
	h := shardByHand(t, func(cfg *Config) { cfg.Partitions = 2 })
	shut, open := h.log.Partition(0), h.log.Partition(1)
	channel, other := channelOfPart("c", 0, 2), channelOfPart("c", 1, 2)
	kept := sseproto.ID{Ms: 1000}
	open.OpenSpan(kept)
	shut.Append(sseproto.ID{Ms: 1000, Seq: 1}, channel, "taken back")
	shut.CloseSpan(kept)
	c := comeBack(t, h.engine, vector(0, kept, kept), channel, other)
	passAll := func() {
		h.pass()
		h.passAll()
	}
	passAll()
	lost := sseproto.ID{Ms: 1000, Seq: 1}
	open.Append(lost, other, "lost")
	for n := uint64(2); h.log.tail.Load() <= h.reader.cursor.Load(); n++ {
		open.Append(sseproto.ID{Ms: 1000, Seq: n}, channelOfPart("nobody", 1, 2), "x")
	}
	passAll()
	got := c.next(1)
	require.Equal(t, "gap", got[0].kind)
	_, places := placesIn(t, got[0].id, 2)
	require.Equal(t, kept, places[0])
	require.Greater(t, places[1].Compare(lost), -1)
}
