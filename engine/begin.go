package engine

import "time"

// A partition that was never open has no place that an event ID could name, and nobody knows
// how long that lasts: its Redis may be away since before this process began. A new stream
// with one of its channels waits without an answer, for Config.HistoryWait. Then it is turned
// away, as all are by an engine that is not ready, and comes back later or elsewhere. One
// that comes back with an ID has a place. It is served what has begun, and waits only if
// nothing has.

// unbegunSlot is a slot that waits for that.
type unbegunSlot struct {
	newcomer
	until time.Time
}

// canBegin reports whether the partitions of a slot have begun: all of them, or one of a
// stream that comes back. O(n) for n channels.
func (s *shard) canBegin(c *slot, from *attachment) bool {
	all, any := true, false
	for n := c.sub; n != 0; n = s.subs.at(n).sibling {
		s.budget.looks++
		isBegun := s.log.lines[s.log.dir.at(s.subs.at(n).ch).part].isBegun.Load()
		all, any = all && isBegun, any || isBegun
	}
	return all || any && from.resume.kind == resumeID
}

// awaitBegin lets a slot wait for its partitions. Those who left are taken out before they are
// more than those who wait.
func (s *shard) awaitBegin(c *slot, n newcomer) {
	s.enter(c, phaseUnbegun)
	s.unbegunOpen++
	q := &s.unbegun
	if s.unbegunNext == q.len() { // this one was looked at just now
		s.unbegunNext++
	}
	q.push(unbegunSlot{n, s.began.Add(s.engine.cfg.HistoryWait)})
	if q.len() <= 2*s.unbegunOpen+tableChunk {
		return
	}
	for n := q.len(); n > 0; n-- {
		if w := q.pop(); s.isUnbegun(w.ref) {
			q.push(w)
		}
	}
	s.unbegunNext = 0
}

// isUnbegun reports whether a slot of the queue has neither left nor begun.
func (s *shard) isUnbegun(r ref) bool {
	c := s.slots.at(r.slot)
	return c.gen == r.gen && c.phase == phaseUnbegun
}

// lookAtUnbegun goes on with the slots whose partitions have begun, and turns those away that
// have waited for too long; all of them while the engine drains. It looks at all when a
// partition has begun, which each does once: at as many in a pass as the budget allows.
func (s *shard) lookAtUnbegun() {
	q := &s.unbegun
	if s.unbegunOpen == 0 {
		*q, s.unbegunNext = queue[unbegunSlot]{}, 0
		return
	}
	if left := s.log.unbegun.Load(); left != s.seenUnbegun {
		s.seenUnbegun, s.unbegunNext = left, 0
	}
	s.budget.begin(s.shares.answer)
	for ; s.unbegunNext < q.len() && !s.budget.spent(); s.unbegunNext++ { // before those who came later
		s.budget.slots++
		s.beginSlot(q.at(s.unbegunNext))
	}
	for !q.empty() && !s.budget.spent() && (s.sweeper.draining() || !s.began.Before(q.first().until)) {
		w := q.pop()
		s.unbegunNext = max(s.unbegunNext-1, 0)
		s.budget.slots++
		if s.isUnbegun(w.ref) {
			s.turnAway(w.slot, s.slots.at(w.slot), &w.from)
		}
	}
}

// beginSlot lets a slot of the queue be answered, if its partitions have begun. It keeps its place
// in the queue, which is in the order of time, until its time is over.
func (s *shard) beginSlot(w *unbegunSlot) {
	c := s.slots.at(w.slot)
	if !s.isUnbegun(w.ref) || !s.canBegin(c, &w.from) {
		return
	}
	s.unbegunOpen--
	s.enter(c, phaseArriving)
	s.count.attached.Add(1)
	s.newcomers.push(w.newcomer)
	w.from = attachment{}
}

// turnAway refuses a slot that is not answered, and closes it.
func (s *shard) turnAway(i uint32, c *slot, from *attachment) {
	if from.Refusal != nil {
		_, _ = s.writeBytes(c, s.engine.front.TurnAway(from.Refusal))
	}
	s.closeSlot(i, CloseHistory)
}
