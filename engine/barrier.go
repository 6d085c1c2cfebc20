package engine

import (
	"sync/atomic"

	"ssed/sseproto"
)

// barrier is a place in the log that no stream may be led over: more is missing there than
// can be backfilled into the ring, but the history has it. Streams from before are
// closed and resume from there, page by page.
type barrier struct {
	// pos is a position of its own, without a message: who has nothing yet of what
	// follows stands before it when it was live, and on it when it resumed behind the
	// discontinuity.
	pos   uint64
	after sseproto.ID             // what lies before it is complete up to here
	next  atomic.Pointer[barrier] // the one that came after it
}

// barrierLocked puts a barrier into the log. It is told of before its position is shown.
func (l *Log) barrierLocked(after, low sseproto.ID) {
	c := &barrier{pos: l.head.Load(), after: after}
	l.barrier.next.Store(c)
	l.barrier = c
	l.skipLocked(low)
	l.wake = ^uint64(0)
}

// barrierSlots bounds the streams that are closed at a barrier in one pass: some 2 ms.
const barrierSlots = 256

// passBarriers closes the streams from before the log's barriers, some in each pass, one barrier
// after the other. Until all are, nothing behind a barrier may be scanned. It looks for the
// next one last: what the view has grown by before is not behind an unknown one.
func (s *shard) passBarriers() (done bool) {
	for {
		if s.barrierNext == 0 {
			next := s.barrier.next.Load()
			if next == nil {
				return true
			}
			s.barrier, s.barrierNext = next, 1
		}
		end := min(s.barrierNext+barrierSlots, s.slots.used)
		for ; s.barrierNext < end; s.barrierNext++ {
			if c := s.slots.at(s.barrierNext); s.isBefore(c, s.barrierNext, s.barrier) {
				s.disconnect(s.barrierNext, c, CloseHistory)
			}
		}
		if s.barrierNext < s.slots.used {
			return false
		}
		s.barrierNext = 0
	}
}

// isBefore reports whether a slot would be led over the barrier. One that waits for the
// history, or will, goes through it anyway.
func (s *shard) isBefore(c *slot, i uint32, at *barrier) bool {
	if c.fd < 0 || c.pos >= at.pos || c.state&slotResuming != 0 {
		return false
	}
	return c.state&slotPending == 0 || s.pending[i].then.kind != resumeID
}

// disconnect closes a stream that is to go on somewhere else, or later, and tells its
// client when to come back, unless it is in the middle of something. A client without
// an ID yet is told from where too: it would start at "now" and miss what comes
// meanwhile. Some clients show that as an empty event, so nobody else gets it.
func (s *shard) disconnect(i uint32, c *slot, reason CloseReason) {
	if c.state&slotNotLive == 0 {
		line := sseproto.AppendRetry(nil, s.retryDelay())
		if c.state&slotNoID != 0 {
			line = s.appendPlace(line, c)
		}
		_, _ = s.writeBytes(c, line)
	}
	s.closeSlot(i, reason)
}

// appendPlace extends dst with the position up to which a slot was given all.
func (s *shard) appendPlace(dst []byte, c *slot) []byte {
	pos := s.upTo(c)
	id, known := s.log.idAt(pos)
	if s.barrierNext != 0 && pos+1 == s.barrier.pos && id.Less(s.barrier.after) {
		id, known = s.barrier.after, true
	}
	if !known { // nothing has come since the process began
		return dst
	}
	return sseproto.AppendPosition(dst, id)
}

// upTo is the position up to which a slot was given all that is meant for it. One that
// is live has what was scanned, but for the jobs at hand.
func (s *shard) upTo(c *slot) uint64 {
	if c.state&slotNotLive != 0 {
		return c.pos
	}
	pos := s.reader.cursor.Load() - 1
	for n := c.sub; n != 0; n = s.subs.at(n).sibling {
		if job := s.members[s.subs.at(n).ch].job; job != 0 {
			pos = min(pos, s.jobs[job-1].from-1)
		}
	}
	return max(pos, c.pos)
}
