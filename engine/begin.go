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
	q.push(unbegunSlot{n, s.began.Add(s.engine.cfg.HistoryWait)})
	if q.len() > 2*s.unbegunOpen+tableChunk {
		s.sortUnbegun()
	}
}

// sortUnbegun takes out of the queue who has left, and who can be answered.
func (s *shard) sortUnbegun() {
	q := &s.unbegun
	for n := q.len(); n > 0; n-- {
		w := q.pop()
		switch c := s.slots.at(w.slot); {
		case c.gen != w.gen:
		case s.canBegin(c, &w.from):
			s.unbegunOpen--
			s.enter(c, phaseArriving)
			s.count.attached.Add(1)
			s.newcomers.push(w.newcomer)
		default:
			q.push(w)
		}
	}
}

// lookAtUnbegun goes on with the slots whose partitions have begun, and turns those away that
// have waited for too long; all of them while the engine drains. It looks at all when a
// partition has begun, which each does once.
func (s *shard) lookAtUnbegun() {
	q := &s.unbegun
	if q.empty() {
		return
	}
	if left := s.log.unbegun.Load(); left != s.seenUnbegun {
		s.seenUnbegun = left
		s.sortUnbegun()
	}
	s.budget.begin(s.shares.answer)
	for !q.empty() && !s.budget.spent() && (s.sweeper.draining() || !s.began.Before(q.first().until)) {
		w := q.pop()
		s.budget.slots++
		if c := s.slots.at(w.slot); c.gen == w.gen {
			s.turnAway(w.slot, c, &w.from)
		}
	}
}

// turnAway refuses a slot that is not answered, and closes it.
func (s *shard) turnAway(i uint32, c *slot, from *attachment) {
	if from.Refusal != nil {
		_, _ = s.writeBytes(c, s.engine.front.TurnAway(from.Refusal))
	}
	s.closeSlot(i, CloseHistory)
}
