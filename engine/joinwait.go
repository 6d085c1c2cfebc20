package engine

import "time"

// joinWait is what gives a stream a turn for the sake of a partition.
type joinWait uint8

const (
	awaitsNothing joinWait = iota // a message of the partition does, or the page that is being read for it
	awaitsOpening
	awaitsTicks // looked for each aheadPoll: a tick wakes nobody
	awaitsAgain // joinPart.again
)

// awaitTurn lets a slot wait for what its partitions lack, as the last look at them says.
func (s *shard) awaitTurn(i uint32, c *slot, j *joining) {
	s.enter(c, phaseJoining)
	j.due = time.Time{}
	for k := range j.parts {
		switch p := &j.parts[k]; p.awaits {
		case awaitsOpening:
			if !j.inShut {
				j.inShut = true
				s.awaitOpen(ref{i, c.gen})
			}
		case awaitsTicks:
			j.due = s.began
		case awaitsAgain:
			if j.due.IsZero() || p.again.Before(j.due) {
				j.due = p.again
			}
		}
	}
	if !j.due.IsZero() && !j.timed {
		j.timed = true
		s.timedJoins.push(ref{i, c.gen})
	}
}

// awaitOpen lets a slot have a turn when a partition opens. While none does, clients come and
// go: those who left are taken out before they are more than those who wait.
func (s *shard) awaitOpen(r ref) {
	if q := &s.shutJoins; q.len() > 2*len(s.joins)+tableChunk {
		for n := q.len(); n > 0; n-- {
			if old := q.pop(); s.slots.at(old.slot).gen == old.gen {
				q.push(old)
			}
		}
		s.shutOwed = min(s.shutOwed, q.len())
	}
	s.shutJoins.push(r)
}

// lookAtJoins gives those a turn who wait for a partition to open, when one has, and who
// wait for a time or a place, now and then.
func (s *shard) lookAtJoins(v *view) {
	if s.shutJoins.empty() && s.timedJoins.empty() {
		s.shutOwed, s.timedOwed = 0, 0
		return
	}
	if turns := s.log.turns.Load(); s.shutOwed == 0 && turns != s.seenTurns {
		s.shutOwed, s.seenTurns = s.shutJoins.len(), turns
	}
	if s.timedOwed == 0 && s.began.Sub(s.timedAt) >= aheadPoll {
		s.timedOwed, s.timedAt = s.timedJoins.len(), s.began
	}
	s.budget.begin(s.shares.ahead)
	for s.shutOwed > 0 && !s.budget.spent() {
		s.shutOwed--
		r := s.shutJoins.pop()
		if c, j := s.joinOf(r); j != nil {
			j.inShut = false
			s.joinIfIdle(v, r.slot, c)
		}
	}
	for s.timedOwed > 0 && !s.budget.spent() {
		s.timedOwed--
		r := s.timedJoins.pop()
		switch c, j := s.joinOf(r); {
		case j == nil:
		case s.began.Before(j.due):
			s.timedJoins.push(r)
		default:
			j.timed = false
			s.joinIfIdle(v, r.slot, c)
		}
	}
}

// joinOf returns a slot of a queue, and its state; nil: it has joined, or left.
func (s *shard) joinOf(r ref) (c *slot, j *joining) {
	s.budget.slots++
	if c = s.slots.at(r.slot); c.gen != r.gen {
		return c, nil
	}
	return c, s.joins[r.slot]
}

// joinIfIdle gives a slot a turn that waits, and has none coming.
func (s *shard) joinIfIdle(v *view, i uint32, c *slot) {
	if c.phase == phaseJoining {
		s.join(v, i, c)
	}
}
