package engine

import (
	"sync/atomic"

	"ssed/sseproto"
)

// barrier is a place in the log that no stream may be led over: more is missing there than
// can be backfilled into the ring, but the history has it; or there is no history, and
// more channels have to be told than the ring has room for. Streams from before are
// closed and resume from there, page by page.
type barrier struct {
	// pos is a position of its own, without a message: who has nothing yet of what
	// follows stands before it when it was live, and on it when it resumed behind the
	// discontinuity.
	pos   uint64
	part  uint8                   // the partition that it is of: it concerns nobody else
	after sseproto.ID             // what lies before it is complete up to here
	next  atomic.Pointer[barrier] // the one that came after it
}

// barrierLocked puts a barrier into the log. It is told of before its position is shown.
func (ln *Lineage) barrierLocked(after, low sseproto.ID) {
	c := &barrier{pos: ln.log.head.Load(), part: ln.part, after: after}
	ln.log.barrier.next.Store(c)
	ln.log.barrier = c
	ln.log.skipLocked(ln.part, low)
	ln.log.wake = ^uint64(0)
}

// passBarriers closes the streams from before the log's barriers, as many as the budget
// allows, one barrier after the other. Until all are, nothing behind a barrier may be
// scanned. It looks for the next one last: what the view has grown by before is not behind
// an unknown one.
func (s *shard) passBarriers() (done bool) {
	for {
		if s.barrierNext == 0 {
			next := s.barrier.next.Load()
			if next == nil {
				return true
			}
			s.barrier, s.barrierNext = next, 1
		}
		if !s.walk(&s.barrierNext, s.stopAtBarrier) {
			return false
		}
	}
}

// stopAtBarrier disconnects a slot that is before the barrier.
func (s *shard) stopAtBarrier(i uint32, c *slot) {
	if s.isBefore(i, s.barrier) {
		s.disconnect(i, c, CloseHistory)
	}
}

// isBefore reports whether a slot would be led over the barrier. One that waits for the
// history, or will, goes through it anyway; so does one that is not answered yet, when
// something is missing since its request was read.
func (s *shard) isBefore(i uint32, at *barrier) bool {
	c := s.slots.at(i)
	switch {
	case c.pos >= at.pos, !c.isAnswered(), c.phase == phaseAhead, c.phase == phaseResuming:
		return false
	case s.log.isDivided() && !s.isOf(c, at.part):
		return false
	}
	return !c.has(slotPending) || s.pending[i].then.kind != resumeID
}

// isOf reports whether a slot has a channel of a partition. O(n) for n channels.
func (s *shard) isOf(c *slot, part uint8) bool {
	for n := c.sub; n != 0; n = s.subs.at(n).sibling {
		s.budget.looks++
		if s.log.dir.at(s.subs.at(n).ch).part == part {
			return true
		}
	}
	return false
}

// disconnect closes a stream that is to go on somewhere else, or later, and tells its
// client when to come back, unless it is in the middle of something. A stream that joins is not,
// while it waits: beside a partition that is shut it may do so for long. A client without
// an ID yet is told from where too: it would start at "now" and miss what comes
// meanwhile. Some clients show that as an empty event, so of the others only those get
// it that do not: the ID of a quiet channel may be so old that nothing proves any more
// what came since.
func (s *shard) disconnect(i uint32, c *slot, reason CloseReason) {
	var last []byte
	if c.phase == phaseLive || c.phase == phaseJoining {
		last = sseproto.AppendRetry(last, s.retryDelay())
		if c.has(slotNoID | slotTakesID) {
			last = s.appendPlace(last, i)
		}
		last = c.form().wrap(last, 0)
	}
	if c.isBetweenMessages() {
		last = c.form().end(last)
	}
	if len(last) > 0 {
		_, _ = s.writeBytes(c, last)
	}
	s.closeSlot(i, reason)
}

// isBetweenMessages reports whether a slot's stream may end here: what is written of it
// ends with a head or a message, and its socket is not known to be full.
func (c *slot) isBetweenMessages() bool {
	switch c.phase {
	case phaseLive, phaseAhead, phaseResuming, phaseJoining:
		return true
	case phaseQueued, phasePaced:
		return !c.has(slotPending) && c.off == 0
	}
	return false
}

// appendPlace extends dst with the position up to which a slot was given all.
func (s *shard) appendPlace(dst []byte, i uint32) []byte {
	pos := s.upTo(i)
	if s.log.isDivided() {
		return s.appendPlaceOfAll(dst, i, pos)
	}
	id, known := s.log.idAt(pos)
	if s.barrierNext != 0 && pos+1 == s.barrier.pos && id.Less(s.barrier.after) {
		id, known = s.barrier.after, true
	}
	if !known { // nothing has come since the process began
		return dst
	}
	return sseproto.AppendPosition(dst, id)
}

// appendPlaceOfAll is appendPlace in a log of several partitions.
func (s *shard) appendPlaceOfAll(dst []byte, i uint32, pos uint64) []byte {
	if j := s.joins[i]; j != nil {
		if !j.canResume() {
			return dst
		}
		return appendPlaces(dst, j.places)
	}
	places, known := s.reader.placeAt(pos)
	if !known {
		return dst
	}
	if s.barrierNext != 0 && pos+1 == s.barrier.pos {
		at := &places[s.barrier.part]
		*at = later(*at, s.barrier.after)
	}
	return appendPlaces(dst, places)
}
