package engine

import "slices"

// findNext finds the first message that is left of each channel that is served, and the
// position behind the last one that is not: of them, and below head. Not ok: the ring has
// turned. O(log n) for each channel with n messages.
func (s *shard) findNext(v *view, j *joining, head uint64) (behind uint64, ok bool) {
	for k := range j.parts {
		p := &j.parts[k]
		for n := range p.channels {
			ch := &p.channels[n]
			ch.next = 0
			if !p.isServed {
				continue
			}
			next, seen, lost := v.beyond(ch.index, p.cov.first, later(ch.from, j.places[p.line.part]))
			if !lost && next != 0 && next < head && s.log.dir.at(ch.index).slow == SlowLatest {
				newest := uint64(0)
				if newest, lost = v.newest(ch.index, next-1, head-1); !lost && newest > next {
					e, _ := v.at(newest)
					ch.from = beforeID(e.id) // of what it lacks it gets the newest
					next, seen, lost = v.beyond(ch.index, p.cov.first, ch.from)
				}
			}
			if lost {
				return 0, false
			}
			if next < head {
				ch.next = next
			}
			behind = max(behind, seen+1)
		}
	}
	return behind, true
}

// sendOwn sends a slot what it lacks of the ring before a position, as many as one write
// may carry, and below head.
func (s *shard) sendOwn(v *view, i uint32, c *slot, j *joining, end, head uint64) {
	s.heads = s.heads[:0]
	for k := range j.parts {
		for n := range j.parts[k].channels {
			if next := j.parts[k].channels[n].next; next != 0 && next < end {
				s.heads = append(s.heads, next)
			}
		}
	}
	if len(s.heads) == 0 {
		s.noteServed(j)
		s.awaitTurn(i, c, j)
		return
	}
	if !s.mayWrite(i, c) {
		return
	}
	slices.Sort(s.heads) // a sorted list is a heap
	b := &s.ownFrames
	b.begin(c.form(), j)
	for len(s.heads) > 0 && !b.isFull() {
		pos := s.heads[0]
		if pos < v.tail { // the view has grown since
			break
		}
		e, seg := v.at(pos)
		b.add(e.part, e.id, seg.frame(e), s.log.dir.at(e.ch).name, false)
		if d := uint64(e.next.Load()); d != 0 && pos+d < end {
			s.heads[0] = pos + d
		} else {
			last := len(s.heads) - 1
			s.heads[0] = s.heads[last]
			s.heads = s.heads[:last]
		}
		siftDown(s.heads)
	}
	n, whole := s.writeOwn(i, c, j)
	if s.notePace(i, n); whole {
		s.later(i)
	}
}

// noteServed moves a slot to the end of the ring in the partitions of which it has all. The
// place that it names is then not older than need be.
func (s *shard) noteServed(j *joining) {
	for k := range j.parts {
		if p := &j.parts[k]; p.isServed {
			at := &j.places[p.line.part]
			*at = later(*at, p.reach)
		}
	}
}
