package engine

import (
	"sync/atomic"

	"ssed/sseproto"
)

// cut is a place in the log that no stream may be led over: more is missing there than
// can be read back into the ring, but the history has it. Streams from before are
// closed and resume from there, page by page.
type cut struct {
	// pos is a position of its own, without a message: who has nothing yet of what
	// follows stands before it when it was live, and on it when it resumed behind the
	// hole.
	pos   uint64
	after sseproto.ID         // what lies before it is complete up to here
	next  atomic.Pointer[cut] // the one that came after it
}

// cutLocked puts a cut into the log. It is told of before its position is shown.
func (l *Log) cutLocked(after, low sseproto.ID) {
	c := &cut{pos: l.head.Load(), after: after}
	l.cut.next.Store(c)
	l.cut = c
	l.skipLocked(low)
	l.wake = ^uint64(0)
}

// cutSlots bounds the streams that are closed at a cut in one pass: some 2 ms.
const cutSlots = 256

// cutOff closes the streams from before the log's cuts, some in each pass, one cut
// after the other. Until all are, nothing behind a cut may be scanned. It looks for the
// next one last: what the view has grown by before is not behind an unknown one.
func (s *shard) cutOff() (done bool) {
	for {
		if s.cutNext == 0 {
			next := s.cut.next.Load()
			if next == nil {
				return true
			}
			s.cut, s.cutNext = next, 1
		}
		end := min(s.cutNext+cutSlots, s.slots.used)
		for ; s.cutNext < end; s.cutNext++ {
			if c := s.slots.at(s.cutNext); s.isBefore(c, s.cutNext, s.cut) {
				s.sendOff(s.cutNext, c, CloseHistory)
			}
		}
		if s.cutNext < s.slots.used {
			return false
		}
		s.cutNext = 0
	}
}

// isBefore reports whether a slot would be led over the cut. One that waits for the
// history, or will, goes through it anyway.
func (s *shard) isBefore(c *slot, i uint32, at *cut) bool {
	if c.fd < 0 || c.pos >= at.pos || c.state&slotResuming != 0 {
		return false
	}
	return c.state&slotPending == 0 || s.pending[i].then.kind != resumeID
}

// sendOff closes a stream that is to go on somewhere else, or later, and tells its
// client when to come back, unless it is in the middle of something. A client without
// an ID yet is told from where too: it would start at "now" and miss what comes
// meanwhile. Some clients show that as an empty event, so nobody else gets it.
func (s *shard) sendOff(i uint32, c *slot, reason CloseReason) {
	if c.state&slotHeld == 0 {
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
	if s.cutNext != 0 && pos+1 == s.cut.pos && id.Less(s.cut.after) {
		id, known = s.cut.after, true
	}
	if !known { // nothing has come since the process began
		return dst
	}
	return sseproto.AppendPosition(dst, id)
}

// upTo is the position up to which a slot was given all that is meant for it. One that
// is not held has what was scanned, but for the jobs at hand.
func (s *shard) upTo(c *slot) uint64 {
	if c.state&slotHeld != 0 {
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
