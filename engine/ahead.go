package engine

import (
	"time"

	"ssed/sseproto"
)

// aheadPoll is how often a loop with somebody who waits looks how far the log is: a tick
// wakes nobody.
const aheadPoll = 20 * time.Millisecond

// waiting is a slot whose Last-Event-ID lies ahead of the log: another instance
// was quicker, or the log has not begun. It starts when the log gets there.
type waiting struct {
	ref
	from resumePoint
}

// waitingHeap has the one whose ID comes first at its top, so a pass costs O(1) however
// many wait. Slots that were closed meanwhile are taken out when they are as many as the
// others.
type waitingHeap struct {
	list  []waiting
	gone  int  // of the list, at most
	isDue bool // the last look left some that may start

	ends   queue[waitEnd] // when each has waited for too long, in that order
	shutAt time.Time      // when a look last found that the log could not get on: a wait counts from then on
}

// waitEnd is when a slot has waited for too long.
type waitEnd struct {
	waiting
	at time.Time
}

func (h *waitingHeap) push(w waiting) {
	h.list = append(h.list, w)
	for k := len(h.list) - 1; k > 0; {
		parent := (k - 1) / 2
		if !h.less(k, parent) {
			return
		}
		h.list[k], h.list[parent] = h.list[parent], h.list[k]
		k = parent
	}
}

func (h *waitingHeap) pop() waiting {
	first, last := h.list[0], len(h.list)-1
	h.list[0] = h.list[last]
	h.list[last] = waiting{}
	h.list = h.list[:last]
	h.down(0)
	return first
}

func (h *waitingHeap) less(a, b int) bool { return h.list[a].from.id.Less(h.list[b].from.id) }

func (h *waitingHeap) down(k int) {
	for {
		child := 2*k + 1
		if child >= len(h.list) {
			return
		}
		if child+1 < len(h.list) && h.less(child+1, child) {
			child++
		}
		if !h.less(child, k) {
			return
		}
		h.list[k], h.list[child] = h.list[child], h.list[k]
		k = child
	}
}

// leave notes that a slot of the list is about to be closed.
func (h *waitingHeap) leave(s *shard) {
	if h.gone++; 2*h.gone <= len(h.list)+64 {
		return
	}
	kept := h.list[:0]
	for _, w := range h.list {
		if s.isWaiting(w.ref) {
			kept = append(kept, w)
		}
	}
	clear(h.list[len(kept):])
	h.list, h.gone = kept, 1 // the one that is about to leave
	for k := len(kept)/2 - 1; k >= 0; k-- {
		h.down(k)
	}
	for n := h.ends.len(); n > 0; n-- {
		if e := h.ends.pop(); s.isWaiting(e.ref) {
			h.ends.push(e)
		}
	}
}

func (s *shard) isWaiting(r ref) bool {
	c := s.slots.at(r.slot)
	return c.gen == r.gen && c.phase == phaseAhead
}

// wait lets a slot start when the log has come to its ID, or when that takes too long.
func (s *shard) wait(i uint32, c *slot, p resumePoint) {
	s.enter(c, phaseAhead)
	w := waiting{ref{i, c.gen}, p}
	s.ahead.push(w)
	s.ahead.ends.push(waitEnd{w, s.began.Add(s.engine.cfg.HistoryWait)})
}

// startNow lets a slot start where this pass stands, and tells its client that its ID is
// not known. To wait for an ID that no instance can have given, or for longer than any
// is behind, would be to take for seen what comes meanwhile.
func (s *shard) startNow(v *view, i uint32, c *slot, p resumePoint) {
	var id sseproto.ID
	c.pos, id = s.now(v)
	reason := sseproto.ReasonUnknownID
	if p.kind == resumeStart {
		reason = sseproto.ReasonUnavailable
	}
	gap := s.appendGap(nil, id, reason, p.raw, sseproto.ID{})
	if s.writeWhole(i, c, c.form().wrap(gap, 0), resumePoint{}) {
		s.catchUp(v, i, c)
	}
}

// endWaits starts the slots that have waited for too long.
func (s *shard) endWaits(v *view) {
	h := &s.ahead
	wait := s.engine.cfg.HistoryWait
	for !h.ends.empty() && !s.began.Before(h.ends.first().at) {
		if s.began.Before(h.shutAt.Add(wait)) && s.began.Before(h.ends.first().at.Add(maxBehind*wait)) {
			return
		}
		if s.budget.spent() {
			h.isDue = true
			return
		}
		w := h.ends.pop().waiting
		s.budget.slots++
		if s.isWaiting(w.ref) {
			h.leave(s)
			c := s.slots.at(w.slot)
			s.enter(c, phaseResuming) // it is out of the list, should its socket fail
			s.startNow(v, w.slot, c, w.from)
		}
	}
}

// lookAhead starts the slots that the log has caught up with.
func (s *shard) lookAhead(v *view) {
	if s.log.isDivided() {
		s.lookAtJoins(v)
		return
	}
	h := &s.ahead
	h.isDue = false
	if len(h.list) == 0 {
		h.ends = queue[waitEnd]{} // of slots that have started, or are closed
		return
	}
	cov := s.log.cover.Load()
	if cov.from == sseproto.MaxID || cov.backfilling {
		h.shutAt = s.began
		return
	}
	if s.log.isBehind(s.began, s.engine.cfg.HistoryWait/2) {
		h.shutAt = s.began
	}
	s.budget.begin(s.shares.ahead)
	for last := s.log.last(); len(h.list) > 0 && !last.Less(h.list[0].from.id); {
		if s.budget.spent() {
			h.isDue = true
			return
		}
		w := h.pop()
		s.budget.slots++
		if s.isWaiting(w.ref) {
			s.resumeFrom(v, w.slot, s.slots.at(w.slot), w.from)
		} else {
			h.gone--
		}
	}
	s.endWaits(v)
}
