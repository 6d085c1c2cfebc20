package engine

import (
	"slices"
	"time"

	"ssed/sseproto"
)

// appendJoin is appendStart in a log of several partitions: it decides where a new slot
// starts, and whether it has to join.
func (s *shard) appendJoin(dst []byte, i uint32, c *slot, a *attachment) []byte {
	j := s.newJoining(c)
	j.client, j.sent = a.Client, a.LastEventID
	s.lookAt(j)
	switch a.resume.kind {
	case resumeID:
		copy(j.places, a.places)
		j.own = a.own
		j.complete()
	case resumeStart:
		for k := range j.parts {
			j.parts[k].start = *a.Start
		}
	case resumeUnknown:
		for k := range j.parts {
			p := &j.parts[k]
			j.places[p.line.part] = p.reach
			if p.isShut() {
				j.places[p.line.part] = *p.line.ticked.Load()
			}
		}
		gap := s.appendGap(nil, sseproto.ID{}, sseproto.ReasonUnknownID, a.LastEventID, sseproto.ID{})
		if !j.isPlaced() {
			dst = append(dst, gap...)
			break
		}
		dst = sseproto.AppendVectorFrame(dst, j.own, j.places, gap)
		c.flags &^= slotNoID
	default:
		isWhole := s.hasAllSince(j, c, a)
		places, known := []sseproto.ID(nil), false
		if isWhole && a.TakesID {
			places, known = s.reader.placeAt(c.pos)
		}
		j.isCounted = true
		if copy(j.places, places); !known && a.Since.Ticks != nil {
			copy(j.places, *a.Since.Ticks) // which all instances have alike
		}
		if a.TakesID && j.isPlaced() {
			dst = appendPlaces(dst, j.places)
			c.flags &^= slotNoID
		}
		if isWhole {
			a.resume = resumePoint{}
			return dst
		}
	}
	a.resume = resumePoint{kind: resumeJoin}
	s.joins[i] = j
	c.pos = joiningPos
	return dst
}

// hasAllSince is missesNothing in a log of several partitions, for those of a slot.
func (s *shard) hasAllSince(j *joining, c *slot, a *attachment) bool {
	if a.Since.Discontinuities != s.log.allDiscontinuities() {
		return false
	}
	for k := range j.parts {
		if p := &j.parts[k]; p.isShut() || c.pos+1 < p.cov.first {
			return false
		}
	}
	return true
}

// answerMargin is how much earlier a stream starts in the partitions that its ID does not
// name: the ID that a publisher was told names one. Longer than two ticks are apart while
// Redis answers, and clocks of its servers differ.
const answerMargin = 10 * time.Second

// complete gives the places that the ID of a client does not name.
func (j *joining) complete() {
	const margin = uint64(answerMargin / time.Millisecond)
	ms := j.places[j.own].Ms
	for k := range j.parts {
		if at := &j.places[j.parts[k].line.part]; at.IsZero() {
			at.Ms = max(ms, margin+1) - margin
		}
	}
}

// placeParts finds where a slot starts in its partitions, and reports whether that is known
// of all. Before it is, nothing may be sent: an event ID that names no place in a partition
// would let its client start there anywhere when it comes back.
func (s *shard) placeParts(v *view, i uint32, c *slot, j *joining) (done bool) {
	done = true
	for k := range j.parts {
		p := &j.parts[k]
		at := &j.places[p.line.part]
		p.awaits = awaitsNothing
		switch {
		case p.isShut():
			p.awaits = awaitsOpening
			done = done && !at.IsZero()
		case !p.start.IsNow() && !s.startInRing(v, p, at):
			if p.asked.IsZero() {
				p.asked = s.began
			}
			if p.awaits = awaitsAgain; !s.began.Before(p.again) {
				p.awaits = awaitsNothing
				s.askFor(i, c, j, p)
			}
			done = false
		case at.IsZero(): // it waited for the first span
			*at = p.began
		}
	}
	return done
}

// startInRing finds where a stream starts in a partition, where the ring tells. Else the
// replayer does.
func (s *shard) startInRing(v *view, p *joinPart, at *sseproto.ID) (ok bool) {
	switch {
	case p.start.Kind == sseproto.FromLast:
		return false
	case p.start.Kind == sseproto.FromTime:
		if id := s.tickBeforeOf(v, p, p.start.Time); !id.Less(p.cov.from) {
			*at, p.start = id, sseproto.StartPoint{}
			return true
		}
	}
	if s.engine.cfg.historyOf(p.line.part) != nil {
		return false
	}
	*at, p.start = p.cov.from, sseproto.StartPoint{}
	return true
}

// tickBeforeOf is tickBefore for a partition.
func (s *shard) tickBeforeOf(v *view, p *joinPart, ms uint64) sseproto.ID {
	tick := uint64(0)
	note := func(id sseproto.ID) {
		if id.Ms <= ms {
			tick = max(tick, id.Ms)
		}
	}
	note(p.cov.from)
	note(*p.line.ticked.Load())
	note(v.lastOf(p.line, p.cov.first, sseproto.ID{Ms: ms, Seq: 1<<64 - 1}))
	return sseproto.ID{Ms: tick}
}

// startsPerWait is how often within Config.HistoryWait a history that fails at once is asked
// where a stream starts: each 47 ms by default. Streams that ask the same share it.
const startsPerWait = 64

// missStart takes in that the history of a partition could not tell where a stream starts. It is
// asked again for a while. Then the stream starts at the last tick there, and its client is told:
// else one partition kept it from all others. Not ok: none could be found.
func (s *shard) missStart(j *joining, p *joinPart) (ok bool) {
	wait := s.engine.cfg.HistoryWait
	if s.began.Sub(p.asked) < wait {
		p.again = s.began.Add(wait / startsPerWait)
		return true
	}
	p.isLost, p.start = true, sseproto.StartPoint{}
	j.places[p.line.part] = later(*p.line.ticked.Load(), sseproto.ID{Ms: 1})
	return slices.ContainsFunc(j.parts, func(p joinPart) bool { return !p.isLost })
}
