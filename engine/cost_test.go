package engine

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/sock"
	"ssed/sseproto"
)

// The tests in this file count what a loop does (budget.work): the counts are the same on
// every machine. Each takes an input once, four times and sixteen times.
var sizes = []int{1, 4, 16}

// counting returns what a shard does during f.
func (s *shard) counting(f func()) work {
	before := s.budget.work
	f()
	now := s.budget.work
	return work{
		now.writes - before.writes, now.bytes - before.bytes, now.queued - before.queued, now.calls - before.calls,
		now.looks - before.looks, now.slots - before.slots,
	}
}

// settle does passes until nothing is left to do, and returns the cost of the dearest.
func (s *nullShard) settle() (dearest cost) {
	for s.busy() {
		w := s.counting(func() { s.shard.pass(s.began) })
		dearest = max(dearest, w.cost())
	}
	return dearest
}

// all is what the stages of a pass may do together.
func (sh *shares) all() cost {
	return sh.admit + sh.walk + sh.small + sh.merge + sh.answer + sh.pages + sh.ahead + sh.events + sh.late + sh.paced + sh.large + sh.asks + sh.sweep
}

// aTurn is the dearest single thing that a stage does: a write of as many bytes and
// messages as one may have, over as many channels as a slot may have.
const aTurn = callCost + turnBytes/bytesPerCost + turnBytes*queuedCost + (turnMessages+20*1024)*lookCost

// notReading makes all sockets of a shard full.
func (s *nullShard) notReading() {
	s.send = func(int, []sock.Iovec) (int, sock.Result) { return 0, sock.Again }
}

// sweepOnce lets the sweeper look at every slot.
func (s *nullShard) sweepOnce() work {
	return s.counting(func() {
		s.sweeper.owed = float64(s.slots.used)
		for s.sweeper.isOwed() {
			s.shard.pass(s.began)
		}
	})
}

// fillWith adds n slots that subscribe to all of the channels.
func (s *nullShard) fillWith(n int, channels ...string) {
	for range n {
		slot, c := s.newSlot(int(s.null.Fd()))
		c.pos, c.phase = s.log.Position(), phaseLive
		for _, name := range channels {
			s.subscribe(slot, name)
		}
		if len(channels) > 1 {
			c.flags |= slotMany
		}
		if len(channels) > crowd {
			c.flags |= slotCrowd
		}
	}
}

func names(prefix string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprint(prefix, i)
	}
	return all
}

// TestReadersThatDoNotReadCostTheSameHoweverMuchTheyMiss: on two of two hot channels, which
// is what a look at the next message of each once was dear for.
func TestReadersThatDoNotReadCostTheSameHoweverMuchTheyMiss(t *testing.T) {
	t.Parallel()
	const slots = 100
	for _, size := range sizes {
		s := newNullShard(t)
		s.notReading()
		s.fillWith(slots, "hot0", "hot1")
		missed := 10_000 * size
		if raceEnabled {
			missed /= 4
		}
		for i := range missed {
			s.feed.publish(fmt.Sprint("hot", i%2), "x")
			if i%1000 == 0 {
				s.settle()
			}
		}
		s.settle()
		require.EqualValues(t, slots, s.count.slow.Load())
		w := s.sweepOnce()
		t.Logf("%d messages missed: %+v", missed, w)
		require.LessOrEqual(t, w.looks, int64(4*slots))
		require.LessOrEqual(t, w.slots, int64(4*slots))
	}
}

// TestReadersWhosePositionHasLeftTheRingCostTheSameHoweverLargeItIs: their sockets filled
// with something that is not of the ring, long before their next message came.
func TestReadersWhosePositionHasLeftTheRingCostTheSameHoweverLargeItIs(t *testing.T) {
	t.Parallel()
	const slots = 100
	for _, size := range sizes {
		s := newNullShardOf(t, int64(size)*(1<<20))
		s.notReading()
		s.fillWith(slots, "hot0", "hot1")
		for i := range s.slots.used {
			if c := s.slots.at(i); c.phase == phaseLive {
				s.heartbeat(i, c)
			}
		}
		require.EqualValues(t, slots, s.count.slow.Load())
		pos := s.slots.at(1).pos
		for s.log.tail.Load() <= pos+1 {
			s.feed.publish("noise", strings.Repeat("x", 1000))
		}
		messages := 5000 * size
		for i := range messages {
			s.feed.publish(fmt.Sprint("hot", i%2), "x")
		}
		s.settle()
		first, second := s.sweepOnce(), s.sweepOnce()
		t.Logf("%d messages missed: first look %+v, second %+v", messages, first, second)
		require.LessOrEqual(t, first.looks, int64(slots*2*40), "a few steps for each channel, as many as there are binary digits")
		require.LessOrEqual(t, second.looks, int64(2*slots))
		require.Zero(t, s.count.closed[CloseSlow].Load())
	}
}

// TestResumeOverManyChannelsCostsByItsMessages: a ring full of one-byte messages over 64
// channels, of which the client has 32.
func TestResumeOverManyChannelsCostsByItsMessages(t *testing.T) {
	t.Parallel()
	for _, size := range sizes {
		s := newNullShard(t)
		messages := 8000 * size
		if raceEnabled {
			messages /= 4
		}
		from := s.feed.publish("c0", "before")
		for i := range messages {
			s.feed.publish(fmt.Sprint("c", i%64), "x")
		}
		s.settle()
		var channels []string
		for i := range 32 {
			channels = append(channels, fmt.Sprint("c", 2*i)) // no two messages lie side by side
		}
		s.fillWith(1, channels...)
		s.slots.at(1).pos, _ = s.log.Position()-uint64(messages), from
		s.later(1)
		var dearest cost
		w := s.counting(func() { dearest = s.settle() })
		require.EqualValues(t, messages/2, s.count.delivered.Load())
		t.Logf("%d messages: %+v, dearest pass %v", messages, w, dearest)
		require.Less(t, w.looks, int64(4*messages))
		require.Less(t, dearest, s.shares.all()+aTurn)
	}
}

// TestBurstOverManyChannelsOfASlotCostsByItsMessages: two messages for each channel.
func TestBurstOverManyChannelsOfASlotCostsByItsMessages(t *testing.T) {
	t.Parallel()
	const slots = 100
	for _, size := range sizes {
		s := newNullShard(t)
		channels := names("c", 64*size)
		s.fillWith(slots, channels...)
		for range 2 {
			for _, name := range channels {
				s.feed.publish(name, "x")
			}
		}
		var dearest cost
		w := s.counting(func() { dearest = s.settle() })
		deliveries := int64(2 * slots * len(channels))
		require.EqualValues(t, deliveries, s.count.delivered.Load())
		t.Logf("%d channels: %+v, %.1f looks a delivery, dearest pass %v", len(channels), w, float64(w.looks)/float64(deliveries), dearest)
		require.Less(t, w.looks, 8*deliveries)
		require.Less(t, w.slots, 8*deliveries)
		require.LessOrEqual(t, w.writes, int64(2*slots))
		require.Less(t, dearest, s.shares.all()+aTurn)
	}
}

// TestPassWritesFewBytesThatReadersDoNotTakeAtOnce: members of a large channel for whom a
// hundred messages have piled up, and others that are behind. What is beyond a reader's window
// takes the kernel longer than it takes us to ask.
func TestPassWritesFewBytesThatReadersDoNotTakeAtOnce(t *testing.T) {
	t.Parallel()
	const slots = 100
	for _, size := range sizes {
		s := newNullShard(t)
		s.fill(slots, func(int) string { return "large" })
		s.fill(slots, func(int) string { return "small" })
		for i := range s.slots.used {
			if c := s.slots.at(i); c.phase == phaseLive && i > slots {
				s.queueLive(i)
				s.later(i)
			}
		}
		for range 20 * size {
			s.feed.publish("large", strings.Repeat("x", 4000))
			s.feed.publish("small", strings.Repeat("x", 4000))
		}
		most := int64(0)
		for s.busy() {
			most = max(most, s.counting(func() { s.shard.pass(s.began) }).queued)
		}
		require.EqualValues(t, 2*slots*20*size, s.count.delivered.Load())
		t.Logf("%d messages: at most %d such bytes in a pass", 20*size, most)
		require.LessOrEqual(t, most, int64(s.shares.late+s.shares.large)/int64(queuedCost)+2*turnBytes)
	}
}

// TestBurstIsGatheredOnceForAllMembers: a large channel is served in slices, over many passes.
func TestBurstIsGatheredOnceForAllMembers(t *testing.T) {
	t.Parallel()
	const burst = 100
	for _, size := range sizes {
		s := newNullShard(t)
		s.form = formChunked
		s.fill(1000*size, func(int) string { return "large" })
		for range burst {
			s.feed.publish("large", "x")
		}
		w := s.counting(func() { s.settle() })
		require.EqualValues(t, 1000*size*burst, s.count.delivered.Load())
		t.Logf("%d members: %+v", 1000*size, w)
		require.LessOrEqual(t, w.looks, int64(3*burst), "once to find them, once to gather them")
	}
}

// pageOf is a page of the history, of messages of a kilobyte on a channel.
func pageOf(channel string, messages int, upTo sseproto.ID) *replay {
	p := newPage([]string{channel}, sseproto.ID{Ms: 500})
	for n := range messages {
		p.Event(0, sseproto.ID{Ms: 500, Seq: uint64(n + 1)}, sseproto.Message{Data: strings.Repeat("x", 1000)})
	}
	p.finish(upTo)
	r := &replay{page: p, upTo: upTo, taken: make(chan struct{})}
	r.arrange()
	return r
}

// TestPageOfTheHistoryIsWrittenInTurns: how large it may be goes by the size of the ring. Those
// who take one each have their turns one after the other, and small channels theirs between.
func TestPageOfTheHistoryIsWrittenInTurns(t *testing.T) {
	const slots = 3
	for _, size := range sizes {
		s := newNullShard(t)
		s.fillWith(slots, "a")
		s.fillWith(1, "canary")
		canary := s.slots.used - 1
		r := pageOf("a", 1000*size, s.feed.publish("other", "x"))
		r.refs.Store(slots)
		for i := range uint32(slots) {
			c := s.slots.at(i + 1)
			s.enter(c, phaseResuming)
			s.pages.push(command{page: r, to: ref{i + 1, c.gen}})
		}
		var dearest cost
		for passes := 0; s.busy(); passes++ {
			s.feed.publish("canary", "x")
			w := s.counting(func() { s.shard.pass(s.began) })
			dearest = max(dearest, w.cost())
			require.Equal(t, s.log.Position(), s.slots.at(canary).pos, "after %d passes", passes)
			require.Less(t, passes, 100*size)
		}
		<-r.taken
		t.Logf("%d KiB: dearest pass %v", len(r.page.buf)>>10, dearest)
		require.Less(t, dearest, s.shares.all()+aTurn)
		for i := range uint32(slots) {
			require.Equal(t, phaseLive, s.slots.at(i+1).phase)
		}
		require.Zero(t, s.slots.at(canary).off)
	}
}

// TestFramesOfTheirOwnForManyStreamsCostAPassByTheirNumber: streams come back from another
// instance, with all of one partition and nothing of the other. Each gets frames of its own, whose
// making takes a loop longer than their write.
func TestFramesOfTheirOwnForManyStreamsCostAPassByTheirNumber(t *testing.T) {
	const messages = 1000
	for _, size := range sizes {
		s := newNullShardWith(t, Config{RingBytes: 64 << 20, Partitions: 2})
		low := sseproto.ID{Ms: 1000}
		s.log.Partition(0).OpenSpan(low)
		s.log.Partition(1).OpenSpan(low)
		names := []string{channelOfPart("c", 0, 2), channelOfPart("c", 1, 2)}
		has := low
		for n := range uint64(messages) {
			has.Seq = n + 1
			s.log.Partition(0).Append(has, names[0], "x")
			s.log.Partition(1).Append(has, names[1], "x")
		}
		s.settle()
		s.fillWith(20*size, names...)
		for i := range s.slots.used {
			if c := s.slots.at(i); c.phase == phaseLive {
				j := s.newJoining(c)
				j.places = []sseproto.ID{low, has}
				s.joins[i], c.pos = j, joiningPos
				s.later(i)
			}
		}
		most := uint64(0)
		for s.busy() {
			before := s.delivered
			s.shard.pass(s.began)
			most = max(most, s.delivered-before)
		}
		require.EqualValues(t, 20*size*messages, s.delivered)
		t.Logf("%d streams: at most %d frames in a pass", 20*size, most)
		require.LessOrEqual(t, most, uint64(s.shares.late/ownCost(2))+turnMessages)
	}
}

// TestClosingManyStreamsAtOnceCostsAPassLittle: an operator closes all of a channel.
func TestClosingManyStreamsAtOnceCostsAPassLittle(t *testing.T) {
	for _, size := range sizes {
		s := newNullShard(t)
		for range 300 * size {
			slot, c := s.newSlot(-1) // the descriptor is closed: /dev/null is shared by the others
			c.pos, c.phase = s.log.Position(), phaseBlocked
			s.subscribe(slot, "a")
			s.engine.conns.Add(1)
		}
		var closed int64
		var dearest cost
		for after := uint32(0); ; {
			var asked []*matchAsk
			for range maxAsking { // several operators
				q := &matchAsk{ctx: t.Context(), match: Match{Channel: "a"}, after: after, reply: make(chan closedSome, 1)}
				s.asks.push(waitingAsk{ask: q})
				asked = append(asked, q)
			}
			dearest = max(dearest, s.settle())
			after = 0
			for _, q := range asked {
				done := <-q.reply
				closed += done.streams
				after = max(after, done.last)
			}
			if after == 0 {
				break
			}
		}
		t.Logf("%d streams: dearest pass %v", 300*size, dearest)
		require.EqualValues(t, 300*size, closed)
		require.Less(t, dearest, s.shares.asks+millisecond)
	}
}

// TestSingleMessagesToSlotsOfManyChannelsCostByTheirNumber: while nothing else is there to
// be delivered, nobody looks at the other channels of a slot.
func TestSingleMessagesToSlotsOfManyChannelsCostByTheirNumber(t *testing.T) {
	t.Parallel()
	const slots, messages = 100, 50
	for _, size := range sizes {
		s := newNullShard(t)
		channels := names("c", 64*size)
		s.fillWith(slots, channels...)
		w := s.counting(func() {
			for i := range messages {
				s.feed.publish(channels[i*7%len(channels)], "x")
				s.settle()
			}
		})
		require.EqualValues(t, slots*messages, s.count.delivered.Load())
		require.Less(t, w.looks, int64(2*slots*messages))
	}
}

// TestPassDoesNotGrowWithWhatThereIsToDo: everything comes at once, and the message of a
// small channel is delivered in the first pass.
func TestPassDoesNotGrowWithWhatThereIsToDo(t *testing.T) {
	t.Parallel()
	for _, size := range sizes {
		s := newNullShard(t)
		for i := range 20 * size { // the slots of the canary's size, and hostile ones
			s.fillWith(5, fmt.Sprint("small", i))
		}
		s.fillWith(1, "canary")
		canary := s.slots.used - 1
		s.fillWith(100*size, "large")
		s.fillWith(10*size, names("many", 256)...)
		for i := range s.slots.used { // behind
			if c := s.slots.at(i); c.phase == phaseLive && i%3 == 0 && i != canary {
				s.queueLive(i)
				s.later(i)
			}
		}
		s.feed.publish("canary", "first")
		for i := range 100 * size {
			s.feed.publish("large", "x")
			s.feed.publish(fmt.Sprint("many", i%256), "x")
			s.feed.publish(fmt.Sprint("small", i%(20*size)), "x")
		}
		for i := range 1000 * size {
			s.ahead.push(waiting{ref{slot: 1, gen: s.slots.at(1).gen + 1}, resumePoint{kind: resumeID, id: sseproto.ID{Ms: 500, Seq: uint64(i)}}})
		}
		s.sweeper.owed = float64(s.slots.used)
		first := s.counting(func() { s.shard.pass(s.began) })
		require.Equal(t, uint64(1), s.slots.at(canary).pos, "in the first pass")
		dearest := s.settle()
		t.Logf("size %d: first pass %v, dearest later %v", size, first.cost(), dearest)
		sh := &s.shares // of those stages that have something to do
		require.Less(t, max(first.cost(), dearest), sh.small+sh.merge+sh.ahead+sh.late+sh.large+sh.sweep+aTurn)
	}
}

// TestSmallChannelComesBeforeThoseOfACrowd: streams of 1,024 channels each, as many as make
// their channels small ones, and messages that come a few at a time over all of them.
// Whatever comes for a channel of its own meanwhile is delivered in the pass that finds it.
func TestSmallChannelComesBeforeThoseOfACrowd(t *testing.T) {
	t.Parallel()
	for _, slots := range []int{4, 16, 64} {
		s := newNullShard(t)
		channels := names("c", 1024)
		s.fillWith(1, "canary")
		s.fillWith(slots, channels...)
		var dearest cost
		for i := range channels {
			s.feed.publish(channels[i], "x")
			if i%20 != 0 { // what comes during a pass
				continue
			}
			s.feed.publish("canary", "x")
			position := s.log.Position()
			w := s.counting(func() { s.shard.pass(s.began) })
			dearest = max(dearest, w.cost())
			require.Equal(t, position, s.slots.at(1).pos, "after %d messages", i)
		}
		s.settle()
		t.Logf("%d slots: dearest pass %v", slots, dearest)
		require.Less(t, dearest, 2*millisecond)
		require.EqualValues(t, slots*len(channels)+len(channels)/20+1, s.count.delivered.Load())
	}
}

// TestWaitersForTheLogCostNothing: however many there are.
func TestWaitersForTheLogCostNothing(t *testing.T) {
	t.Parallel()
	for _, size := range sizes {
		s := newNullShard(t)
		s.fillWith(1000*size, "a")
		for i := uint32(1); i < s.slots.used; i++ {
			s.enter(s.slots.at(i), phaseAhead)
			s.ahead.push(waiting{ref{i, s.slots.at(i).gen}, resumePoint{kind: resumeID, id: sseproto.ID{Ms: 1000, Seq: 1000 + uint64(i)}}})
		}
		w := s.counting(func() {
			for range 100 {
				s.feed.publish("b", "x")
				s.shard.pass(s.began)
			}
		})
		require.Zero(t, w.writes+w.calls)
		require.LessOrEqual(t, w.slots, int64(100))
	}
}

// TestWaitersThatLeaveAreForgotten: a client that comes with an ID ahead of the log and
// leaves, over and over, keeps no memory; also while the log is not open.
func TestWaitersThatLeaveAreForgotten(t *testing.T) {
	t.Parallel()
	for _, open := range []bool{true, false} {
		h := shardByHand(t, nil)
		cov := h.log.cover.Load()
		if !open { // as before the first span
			h.log.cover.Store(&coverage{from: sseproto.MaxID, first: 1})
		}
		stays := h.arrive(t, after(sseproto.ID{Ms: 1000, Seq: 2}), "a")
		for range 1000 {
			c := h.arrive(t, after(sseproto.ID{Ms: 1000, Seq: 5}), "a")
			require.NoError(t, c.conn.Close())
			h.watch()
		}
		require.Equal(t, 1, h.open)
		require.LessOrEqual(t, len(h.ahead.list), 130)
		require.LessOrEqual(t, h.ahead.ends.len(), 130)
		h.log.cover.Store(cov)
		h.f.publish("a", "one")
		h.f.publish("a", "two")
		h.f.publish("a", "three")
		h.pass()
		require.Equal(t, []string{"three"}, datas(stays.next(1)))
	}
}

// TestStarvedSocketIsTriedAgain: where nothing is in the socket, no edge of epoll follows.
func TestStarvedSocketIsTriedAgain(t *testing.T) {
	t.Parallel()
	h := shardByHand(t, func(cfg *Config) { cfg.Heartbeat = time.Hour })
	c := h.arrive(t, resumePoint{}, "a")
	h.watch() // the first edge, of the descriptor that is new
	send := h.send
	h.send = func(int, []sock.Iovec) (int, sock.Result) { return 0, sock.Starved }
	h.f.publish("a", "x")
	h.pass()
	h.send = send
	h.watch()
	require.Equal(t, phaseBlocked, h.slots.at(1).phase)
	h.sweeper.owed = float64(h.slots.used)
	h.pass()
	h.pass()
	require.Equal(t, []string{"x"}, datas(c.next(1)))
	require.Zero(t, h.count.slow.Load())
}

// TestPositionsOfTheWholeRingAreKnown: also without Redis, where a message a millisecond
// has a clock of its own each.
func TestPositionsOfTheWholeRingAreKnown(t *testing.T) {
	t.Parallel()
	l := newLog(8<<20, maxSegmentBytes, 0, false, func(uint64) {})
	l.OpenSpan(sseproto.ID{Ms: 1000})
	for ms := uint64(1001); l.Stats().Evicted < 2*maxPositions; ms++ {
		l.Append(sseproto.ID{Ms: ms, Seq: 1}, "a", "x")
	}
	oldest := l.tail.Load() - maxPositions/2
	for pos := oldest; pos < l.head.Load(); pos++ {
		id, known := l.idAt(pos)
		require.True(t, known, pos)
		require.Equal(t, sseproto.ID{Ms: 1000 + pos, Seq: 1}, id)
	}
}

// TestFollowFindsWhatAWalkFinds: the way by trees and the way by every message agree.
func TestFollowFindsWhatAWalkFinds(t *testing.T) {
	t.Parallel()
	eachViewOfChannels(t, 30_000, func(v *view, ch uint32) {
		left, before := v.walk(ch)
		for pos := max(v.tail, 3) - 3; pos < v.head; pos += 1 + pos%11 {
			next, lost := v.follow(ch, pos)
			for len(left) > 0 && left[0] <= pos {
				left = left[1:]
			}
			wantNext, wantLost := uint64(0), pos < before
			if !wantLost && len(left) > 0 {
				wantNext = left[0]
			}
			if next != wantNext || lost != wantLost { // a million times: require is a hundred times as dear
				require.Failf(t, "they differ", "%d after %d: %d, %t and %d, %t", ch, pos, next, lost, wantNext, wantLost)
			}
		}
	})
}

// eachViewOfChannels publishes messages on 13 channels in changing order. Of the ring as it
// is after each 977 of them it gives each channel.
func eachViewOfChannels(t *testing.T, messages int, look func(v *view, ch uint32)) {
	s := newNullShardOf(t, 1<<20)
	for i := range messages {
		s.feed.publish(fmt.Sprint("c", (i*i+i/7)%13), "x")
		if i%977 != 0 {
			continue
		}
		v := s.reader.open()
		for k := range 13 {
			if ch, ok := s.log.dir.find(fmt.Sprint("c", k)); ok {
				look(&v, ch)
			}
		}
		v.close()
	}
}

// walk goes back message by message: the positions of a channel that the ring has, in
// ascending order, and the one before them, which it has no longer; 0: there was none.
func (v *view) walk(ch uint32) (positions []uint64, before uint64) {
	before = v.r.log.dir.at(ch).last.Load()
	for before != 0 && before >= v.tail {
		positions = append(positions, before)
		if e, _ := v.at(before); e.prev != 0 {
			before -= uint64(e.prev)
		} else {
			before = 0
		}
	}
	slices.Reverse(positions)
	return positions, before
}

// aPlace is what the place at the end of a segment costs, and a head.
const aPlace = callCost + maxSegmentBytes/frameBytesPerEntry/orderedLooks*lookCost

// TestPlacesFarFromEachOtherAreCounted: streams of a log of several partitions begin at
// positions all over the ring. To find the place at each takes a look at half a segment.
func TestPlacesFarFromEachOtherAreCounted(t *testing.T) {
	t.Parallel()
	const slots = 200
	for _, partitions := range []int{4, 16} {
		s := newNullShardWith(t, Config{Partitions: partitions, RingBytes: 8 << 20, SegmentBytes: maxSegmentBytes})
		fillRing(s.log)
		s.settle()
		v := s.reader.open()
		ends := v.lastOfSegments()
		records := len(v.refs[0].seg.entries)
		v.close()
		for k := range slots {
			s.arriveAt(ends[k%len(ends)], channelOfPart("quiet", 0, partitions))
		}
		var dearest cost
		w := s.counting(func() { dearest = s.settle() })
		t.Logf("%d partitions, %d records in a segment: %+v, dearest pass %v", partitions, records, w, dearest)
		require.GreaterOrEqual(t, w.looks, int64(slots*records/orderedLooks))
		require.Less(t, dearest, s.shares.answer+s.shares.late+2*aPlace)
		started := 0
		for i := range s.slots.used {
			if s.slots.at(i).phase == phaseLive {
				started++
			}
		}
		require.Equal(t, slots, started)
	}
}

// TestPlacesCloseToEachOtherCostWhatCameBetween: streams begin at the end of the ring, one
// after the other, while messages come.
func TestPlacesCloseToEachOtherCostWhatCameBetween(t *testing.T) {
	t.Parallel()
	const places = 1000
	for _, partitions := range []int{4, 16} {
		l, feeds := fullLog(partitions, 8<<20)
		r := l.readers[0]
		before := r.budget.looks
		for k := range places {
			feeds[k%partitions].publish("x")
			v := r.open()
			_, known := r.placeAt(l.Position() - 1)
			v.close()
			require.True(t, known)
		}
		looks := r.budget.looks - before
		t.Logf("%d partitions: %d looks", partitions, looks)
		require.GreaterOrEqual(t, looks, int64(places))
		require.Less(t, looks, int64(2*places+2*maxSegmentBytes/frameBytesPerEntry/orderedLooks))
	}
}

// TestStreamsBesideAPartitionThatIsShutCostByTheirMessages: they get frames of their own.
func TestStreamsBesideAPartitionThatIsShutCostByTheirMessages(t *testing.T) {
	const slots, messages = 100, 50
	s, open := besideShut(t, slots, true)
	w := s.counting(func() {
		for range messages {
			open.publish("x")
			s.settle()
		}
	})
	require.EqualValues(t, slots*messages, s.count.delivered.Load())
	t.Logf("%+v", w)
	require.EqualValues(t, slots*messages, w.writes)
	require.LessOrEqual(t, w.slots, int64(3*slots*messages), "a member of the channel, its turn, and one that finds no more")
	require.LessOrEqual(t, w.looks, int64((8+2*2*partLooks+ownCost(2)/lookCost)*slots*messages), "the making of a frame counts, too, and two turns at two partitions")
}
