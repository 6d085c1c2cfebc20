package engine

// joinWait is what gives a stream a turn for the sake of a partition.
type joinWait uint8

const (
	awaitsNothing joinWait = iota // a message of the partition does, or the page that is being read for it
	awaitsOpening
	awaitsTime
)

// awaitTurn lets a slot wait for what its partitions lack, as the last look at them says.
func (s *shard) awaitTurn(i uint32, c *slot, j *joining) {
	s.enter(c, phaseJoining)
	for k := range j.parts {
		switch awaits := j.parts[k].awaits; {
		case awaits == awaitsOpening && !j.inShut:
			j.inShut = true
			s.awaitOpen(ref{i, c.gen})
		case awaits == awaitsTime && !j.timed:
			j.timed = true
			s.timedJoins.push(ref{i, c.gen})
		}
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
		s.lookAtJoin(v, s.shutJoins.pop(), func(j *joining) { j.inShut = false })
	}
	for s.timedOwed > 0 && !s.budget.spent() {
		s.timedOwed--
		s.lookAtJoin(v, s.timedJoins.pop(), func(j *joining) { j.timed = false })
	}
}

func (s *shard) lookAtJoin(v *view, r ref, popped func(*joining)) {
	s.budget.slots++
	c, j := s.slots.at(r.slot), s.joins[r.slot]
	if c.gen != r.gen || j == nil {
		return
	}
	popped(j)
	if c.phase == phaseJoining {
		s.join(v, r.slot, c)
	}
}
