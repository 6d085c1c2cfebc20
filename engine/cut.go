package engine

import "ssed/sseproto"

// cut is a place in the log that no stream may be led over: more is missing before it
// than can be read back into the ring, but the history has it. Streams from before are
// closed and resume from there, page by page.
type cut struct {
	pos   uint64      // the first position behind it
	after sseproto.ID // what lies before it is complete up to here
}

// cutSlots bounds the streams that are closed at a cut in one pass: some 2 ms.
const cutSlots = 256

// cutOff closes the streams from before the log's newest cut, some in each pass. Until
// all are, nothing behind it may be scanned. The log tells of a cut before it shows
// what comes behind.
func (s *shard) cutOff() (done bool) {
	c := s.log.cut.Load()
	if c == nil {
		return true
	}
	if c.pos != s.cutPos {
		s.cutPos, s.cutNext = c.pos, 1
	}
	if s.cutNext == 0 {
		return true
	}
	end := min(s.cutNext+cutSlots, s.slots.used)
	for ; s.cutNext < end; s.cutNext++ {
		if s.isBefore(s.slots.at(s.cutNext), s.cutNext, c) {
			s.sendBack(s.cutNext, c)
		}
	}
	if s.cutNext < s.slots.used {
		return false
	}
	s.cutNext = 0
	return true
}

// isBefore reports whether a slot would be led over the cut. One that waits for the
// history, or will, goes through it anyway.
func (s *shard) isBefore(c *slot, i uint32, at *cut) bool {
	if c.fd < 0 || c.pos >= at.pos || c.state&slotResuming != 0 {
		return false
	}
	return c.state&slotPending == 0 || s.pending[i].then.kind != resumeID
}

// sendBack closes a stream and tells from where to resume: a client that has not got
// an event yet has no ID of its own.
func (s *shard) sendBack(i uint32, at *cut) {
	c := s.slots.at(i)
	if c.state&slotHeld == 0 {
		id, known := s.log.idAt(c.pos)
		if s.hasAll(c) && id.Less(at.after) {
			id, known = at.after, true
		}
		line := sseproto.AppendRetry(nil, s.retryDelay())
		if known {
			line = sseproto.AppendPosition(line, id)
		}
		_, _ = s.writeBytes(c, line)
	}
	s.closeSlot(i, CloseHistory)
}
