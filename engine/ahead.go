package engine

import "ssed/sseproto"

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
		if s.isWaiting(w) {
			kept = append(kept, w)
		}
	}
	clear(h.list[len(kept):])
	h.list, h.gone = kept, 1 // the one that is about to leave
	for k := len(kept)/2 - 1; k >= 0; k-- {
		h.down(k)
	}
}

func (s *shard) isWaiting(w waiting) bool {
	c := s.slots.at(w.slot)
	return c.gen == w.gen && c.phase == phaseAhead
}

// lookAhead starts the slots that the log has caught up with.
func (s *shard) lookAhead(v *view) {
	h := &s.ahead
	h.isDue = false
	if len(h.list) == 0 {
		return
	}
	cov := s.log.cover.Load()
	if cov.from == sseproto.MaxID || cov.backfilling {
		return
	}
	s.budget.begin(s.shares.ahead)
	for last := s.log.last(); len(h.list) > 0 && !last.Less(h.list[0].from.id); {
		if s.budget.spent() {
			h.isDue = true
			return
		}
		w := h.pop()
		s.budget.slots++
		if s.isWaiting(w) {
			s.resumeFrom(v, w.slot, s.slots.at(w.slot), w.from)
		} else {
			h.gone--
		}
	}
}
