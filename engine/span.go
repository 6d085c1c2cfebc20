package engine

import (
	"ssed/sseproto"
)

// span is a run of the feed without a discontinuity: all messages with low < ID ≤ high.
type span struct {
	low       sseproto.ID // everything beyond it was seen; rises when the ring forgets
	high      sseproto.ID // open: the newest message; closed: as far as it can be trusted
	ready     sseproto.ID // committed: numbered alike on all instances
	first     uint64      // position of its first message
	end       uint64      // position after its last; open: 0
	truncated bool        // closed before its last message
}

func (s *span) open() bool { return s.end == 0 }

// contains reports whether the span can tell what follows id.
func (s *span) contains(id sseproto.ID) bool {
	return !id.Less(s.low) && (s.open() || id.Less(s.high))
}

// spanList is the spans that the ring still holds a part of, oldest first. The
// newest is kept even when it is empty.
type spanList struct {
	list []span
	high sseproto.ID // the furthest position ever reached by a message or a commit
}

func (sl *spanList) newest() *span {
	if n := len(sl.list); n > 0 {
		return &sl.list[n-1]
	}
	return nil
}

func (sl *spanList) current() *span {
	if s := sl.newest(); s != nil && s.open() {
		return s
	}
	return nil
}

// firstBeyond returns the position from which on there can be messages beyond id before the
// newest span: of spans, and what was backfilled between them.
func (sl *spanList) firstBeyond(id sseproto.ID) (pos uint64) {
	for i := range sl.list[:len(sl.list)-1] {
		switch s := &sl.list[i]; {
		case !id.Less(s.high):
			pos = s.end
		case !id.Less(s.low):
			return s.first
		}
	}
	return pos
}

// evicted tells that the ring starts at tail now; last is the newest message that left.
func (sl *spanList) evicted(tail uint64, last indexedPosition) {
	drop := 0
	for i := range sl.list {
		s := &sl.list[i]
		if !s.open() && s.end <= tail && i+1 < len(sl.list) {
			drop = i + 1
			continue
		}
		if s.first < tail {
			if last.pos >= s.first && s.low.Less(last.id) {
				s.low = last.id
			}
			s.first = tail
		}
	}
	sl.list = sl.list[drop:]
}
