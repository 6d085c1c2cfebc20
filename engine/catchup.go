package engine

import (
	"math"
	"slices"

	"ssed/engine/internal/sock"
)

const (
	// turnBytes bounds what one connection gets in one turn when it is behind, and what
	// one write of messages carries: others wait for it. 1 MiB to a reader with the smallest
	// window took 0.7 ms, and 6 ms where the system had to find fresh memory.
	turnBytes = 256 << 10
	// turnMessages bounds the messages of one write: some 50 µs.
	turnMessages = 4096
)

// queuedSlot waits for its turn. Came is the moment before which none of the messages
// that it is to get was in the log; 0: it is behind, and they do not count as its lag.
type queuedSlot struct {
	ref
	came moment
}

// mergeSoon gives a live slot a turn: it has messages of several channels to get, which
// it must get in the order of the log. Until then jobs pass it by.
func (s *shard) mergeSoon(i uint32, came moment) {
	s.queueLive(i)
	s.merges.push(queuedSlot{ref{i, s.slots.at(i).gen}, came})
}

// queueLive ends that a slot is live. Its pos is exact; one that has left the ring may
// have no ID any more, and is moved up to where the slot is complete.
func (s *shard) queueLive(i uint32) {
	c := s.slots.at(i)
	if c.pos < s.log.tail.Load() {
		c.pos = s.upTo(i)
	}
	s.enter(c, phaseQueued)
}

// later gives a slot a turn behind all others that are behind. Its pos is exact.
func (s *shard) later(i uint32) {
	c := s.slots.at(i)
	s.enter(c, phaseQueued)
	s.late.push(queuedSlot{ref: ref{i, c.gen}})
}

// takeTurns gives queued slots a turn each, in the order in which they came. Who does not
// finish comes behind the others.
func (s *shard) takeTurns(v *view, q *queue[queuedSlot], share cost) {
	s.budget.begin(share)
	for n := q.len(); n > 0; n-- {
		r := q.pop()
		s.budget.slots++
		if c := s.slots.at(r.slot); c.gen == r.gen && c.phase == phaseQueued {
			delivered := s.delivered
			s.turn(v, r, c)
			if r.came != 0 {
				s.addLag(r.came, s.delivered-delivered)
			}
		}
		if s.budget.spent() {
			break
		}
	}
	s.noteLags()
}

// turn goes on writing to a slot: what is pending, then the ring.
func (s *shard) turn(v *view, r queuedSlot, c *slot) {
	switch {
	case c.has(slotPending):
		s.writePending(v, r.slot, c)
	case r.came != 0:
		s.writeRing(v, r.slot, c, false)
	case len(s.joins) > 0 && s.joins[r.slot] != nil:
		s.join(v, r.slot, c)
	default:
		s.catchUp(v, r.slot, c)
	}
}

// writePending writes a slot's pending bytes and then goes on behind them.
func (s *shard) writePending(v *view, i uint32, c *slot) {
	p := s.pending[i]
	n, res := s.writeBytes(c, p.rest)
	if res == sock.Failed {
		s.closeSlot(i, CloseError)
		return
	}
	if p.rest = p.rest[n:]; len(p.rest) > 0 {
		s.block(c)
		return
	}
	then := p.then
	s.dropPending(i)
	s.resumeFrom(v, i, c, then)
}

// catchUp is writeRing for a slot that is behind, unless it has to wait for its client.
func (s *shard) catchUp(v *view, i uint32, c *slot) {
	if s.mayWrite(i, c) {
		s.writeRing(v, i, c, true)
	}
}

// writeRing writes what a slot has not received yet of the messages that the shard has
// scanned, from the ring alone, one turn of it. Its pos is exact. One that is behind gets the
// newest message alone of channels whose policy says so. Then the slot is live,
// or queued, blocked, on its way through the history, or closed.
func (s *shard) writeRing(v *view, i uint32, c *slot, isBehind bool) {
	target := s.reader.cursor.Load() - 1
	if c.pos < target && !s.findHeads(v, i, c, target, isBehind) {
		s.fellBehind(v, i, c)
		return
	}
	for spent := 0; c.pos < target; {
		b := &s.own
		if !s.gatherOwn(v, c, target) {
			s.fellBehind(v, i, c)
			return
		}
		if len(b.frames) == 0 {
			c.pos = target
			break
		}
		n, res := s.write(c, b.vec)
		if res == sock.Failed {
			s.closeSlot(i, CloseError)
			return
		}
		s.advance(c, b.frames, n)
		s.notePace(i, n)
		if n < b.bytes {
			s.block(c)
			return
		}
		if spent += n; len(s.heads) > 0 && (spent >= turnBytes || s.budget.spent()) {
			s.later(i)
			return
		}
	}
	delete(s.starts, i)
	if c.flags&(slotNoID|slotTakesID) == slotNoID|slotTakesID && !s.namePlace(i, c) {
		return
	}
	s.enter(c, phaseLive)
}

// findHeads makes s.heads the slot's next messages up to target, one of each channel that
// has any, as a heap. Not ok: some have left the ring. O(n log m) for n channels with m
// messages behind pos.
func (s *shard) findHeads(v *view, i uint32, c *slot, target uint64, isBehind bool) (ok bool) {
	s.heads = s.heads[:0]
	starts := s.starts[i]
	for k, n := 0, c.sub; n != 0; k++ {
		sub := s.subs.at(n)
		pos, lost := s.nextOf(v, c, sub.ch, starts.behind(k, c.pos), target, isBehind)
		if lost {
			return false
		}
		if pos != 0 {
			s.heads = append(s.heads, pos)
		}
		n = sub.sibling
	}
	slices.Sort(s.heads) // a sorted list is a heap
	return true
}

// gatherOwn collects the slot's next messages over all its channels in the order of the
// log, as many as one write may carry, and takes them off s.heads. Not ok: some of them
// have left the ring. O(log n) for each message, with n channels.
func (s *shard) gatherOwn(v *view, c *slot, target uint64) (ok bool) {
	b := &s.own
	b.reset()
	b.form = c.form()
	skip := c.off
	for len(s.heads) > 0 && !b.isFull() {
		pos := s.heads[0]
		if pos < v.tail { // the view has grown since
			return false
		}
		e, seg := v.at(pos)
		if b.add(v, pos, e, seg, skip) {
			break
		}
		next := uint64(0)
		if d := uint64(e.next.Load()); d != 0 && pos+d <= target {
			next = pos + d
		}
		if skip > 0 && next > 0 && s.log.dir.at(e.ch).slow == SlowLatest { // of what follows, the newest
			var lost bool
			if next, lost = v.newest(e.ch, pos, target); lost {
				return false
			}
		}
		skip = 0
		if next > 0 {
			s.heads[0] = next
		} else {
			last := len(s.heads) - 1
			s.heads[0] = s.heads[last]
			s.heads = s.heads[:last]
		}
		siftDown(s.heads)
	}
	return true
}

// siftDown moves the first of a heap of positions to its place.
func siftDown(heads []uint64) {
	for k := 0; ; {
		child := 2*k + 1
		if child >= len(heads) {
			return
		}
		if child+1 < len(heads) && heads[child+1] < heads[child] {
			child++
		}
		if heads[k] <= heads[child] {
			return
		}
		heads[k], heads[child] = heads[child], heads[k]
		k = child
	}
}

// fellBehind deals with a slot whose next messages have left the ring. One that is in the
// middle of a message is too slow: it is closed and comes back with its Last-Event-ID.
// One that only its shard kept waiting goes through the history.
func (s *shard) fellBehind(v *view, i uint32, c *slot) {
	if s.log.isDivided() {
		s.rejoin(v, i, c)
		return
	}
	id, known := s.log.idAt(c.pos)
	if c.off > 0 || !known {
		s.closeSlot(i, CloseSlow)
		return
	}
	s.count.reattached.Add(1)
	s.catchUpAgain(i, c)
	p := resumePoint{kind: resumeID, id: id}
	if starts := s.starts[i]; starts != nil {
		p.from = starts.from
		delete(s.starts, i)
	}
	s.resumeFrom(v, i, c, p)
}

// lostTouch reports whether a blocked slot's next message has left the ring. Where the
// answer is no it moves the slot's pos up to right before its next message, or to the end
// of what was scanned: so one that does not read costs O(1) until the ring has turned
// over that place.
func (s *shard) lostTouch(v *view, i uint32) bool {
	c := s.slots.at(i)
	if c.has(slotPending) || c.pos+1 >= v.tail {
		return false
	}
	next := max(s.reader.cursor.Load(), c.pos+1)
	starts := s.starts[i]
	for k, n := 0, c.sub; n != 0; k, n = k+1, s.subs.at(n).sibling {
		pos, lost := s.nextOf(v, c, s.subs.at(n).ch, starts.behind(k, c.pos), math.MaxUint64, true)
		if lost {
			return true
		}
		if pos != 0 {
			next = min(next, pos)
		}
	}
	c.pos = next - 1
	return false
}

// upTo is the newest position that is known up to which a slot was given all that is
// meant for it. A live one has what was scanned, but for the jobs at hand; in an overrun
// that is what was scanned before, until the slot is looked at. O(n) for n channels.
func (s *shard) upTo(i uint32) uint64 {
	c := s.slots.at(i)
	if c.phase != phaseLive {
		return c.pos
	}
	end := s.reader.cursor.Load()
	if s.overrun.next != 0 && i >= s.overrun.next {
		end = s.overrun.from
	}
	pos := end - 1
	for n := c.sub; n != 0; n = s.subs.at(n).sibling {
		s.budget.looks++
		if job := s.members.at(s.subs.at(n).ch).job; job != 0 {
			pos = min(pos, s.jobs[job-1].from-1)
		}
	}
	return max(pos, c.pos)
}
