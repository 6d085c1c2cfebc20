package engine

import (
	"time"

	"ssed/sseproto"
)

// In a log of several partitions the frames of the ring name the place of each, and each
// instance has them in an order of its own. So who comes back from another instance stands
// at no position of this ring: of one partition it has more, of another less than lies before
// any position. It joins. It gets frames of its own, in which its own place stands, and each
// partition is served by itself, from the history and from the ring. From there on where all that
// is left of its channels is new to it, and nothing before, it gets the frames of the ring. A
// partition that cannot be served now holds up nobody's others.

// joining is a stream that has not joined yet: shard.joins. All that it is sent has a place.
type joining struct {
	places []sseproto.ID // of each partition, up to where it was sent all; zero: not known
	own    int           // the partition that its last frame was of
	parts  []joinPart    // those of its channels
	sent   string        // its Last-Event-ID, for gap events
	client uint64        // whose turn it takes to read the history, see fairQueue; 0: not known yet

	isCounted     bool      // in the counters of resumes
	inShut, timed bool      // it is in shard.shutJoins, or in shard.timedJoins
	due           time.Time // before that there is no need for a turn from timedJoins
}

// joinPart is a partition of such a stream. Each turn finds which of these it is, the first that
// applies (placeParts, serveParts), and what gives the stream a turn for its sake:
//
//	          told by            the next turn comes
//	lost      isLost             at once, when all have a place: a gap event is sent
//	shut      isShut             when it opens
//	starting  start is not now   with the answer of the replayer; when that fails, at again
//	ahead     reach before it    when ticks come to its place; after until there is a gap event
//	served    isServed           with a message of it: the ring has all behind its place
//	behind    none of these      with the page of its history; when that fails, at again
//
// A page that comes while the socket is full is missed (isMissed) and asked for again. Until it
// has come, nothing else is sent. A stream can join when all its partitions are served.
type joinPart struct {
	line     *Lineage
	channels []joinChannel
	from     startIDs            // of the channels, for the history
	start    sseproto.StartPoint // not now: it is not known yet where it starts
	told     toldLosses
	isAsked  bool      // the history is being read for it
	isMissed bool      // what was read came while the socket was full
	isLost   bool      // where it starts could not be found, and its client is to be told
	asked    time.Time // when that was asked for first
	again    time.Time // the history has failed, and is not asked before
	until    time.Time // it lies ahead of the log, and waits for so long; zero: it does not
	last     time.Time // and never longer

	// as it was at the last look
	cov      coverage
	reach    sseproto.ID
	began    sseproto.ID // low of its first span
	isServed bool        // from the ring
	awaits   joinWait
}

// joinChannel is a channel of such a stream.
type joinChannel struct {
	index uint32
	from  sseproto.ID // nothing up to here is for it
	next  uint64      // at the last look: its first message that is left; 0: none
}

// joiningPos is the pos of a slot that is joining, which stands at no position.
const joiningPos = 1 << 62

// newJoining makes the state of a slot, with no place yet. O(channels + partitions): it counts
// the channels of each partition first, so that no list has to grow. With lists that grew, and a
// search for the partition of each channel, 1,024 channels of 64 partitions took 115 µs in place
// of 42 (EPYC, virtual), and 351 allocations in place of 4.
func (s *shard) newJoining(c *slot) *joining {
	partitions := len(s.log.lines)
	var counts [sseproto.MaxPartitions]int // channels of each partition that has no place in j.parts yet
	all := 0
	for n := c.sub; n != 0; n = s.subs.at(n).sibling {
		counts[s.log.dir.at(s.subs.at(n).ch).part]++
		all++
	}
	s.budget.looks += int64(2*all + partitions)
	j := &joining{places: make([]sseproto.ID, partitions), parts: make([]joinPart, 0, min(all, partitions))}
	left := make([]joinChannel, all)
	var number [sseproto.MaxPartitions]uint8 // of each partition in j.parts
	for n := c.sub; n != 0; n = s.subs.at(n).sibling {
		ch := s.subs.at(n).ch
		part := s.log.dir.at(ch).part
		if count := counts[part]; count > 0 {
			number[part], counts[part] = uint8(len(j.parts)), 0
			j.parts = append(j.parts, joinPart{line: s.log.lines[part], channels: left[:0:count]})
			left = left[count:]
		}
		p := &j.parts[number[part]]
		p.channels = append(p.channels, joinChannel{index: ch})
	}
	j.own = int(j.parts[0].line.part)
	return j
}

// partOf returns one of its partitions; nil: it is none.
func (j *joining) partOf(part uint8) *joinPart {
	for k := range j.parts {
		if j.parts[k].line.part == part {
			return &j.parts[k]
		}
	}
	return nil
}

// isPlaced reports whether the places of all its partitions are known, so that an event ID can name them.
func (j *joining) isPlaced() bool {
	for k := range j.parts {
		if j.places[j.parts[k].line.part].IsZero() {
			return false
		}
	}
	return true
}

// canResume reports whether a client that is sent away may come back with its places. Who asks
// for a start, and has not got to the end of it, asks for it again: the places lie before
// some of what it did not ask for.
func (j *joining) canResume() bool {
	for k := range j.parts {
		if p := &j.parts[k]; p.isLost || p.from != "" {
			return false
		}
	}
	return j.isPlaced()
}

// isShut: the partition was never open, is being backfilled, or its last span ended before
// its last message. Nobody resumes in it now.
func (p *joinPart) isShut() bool { return p.cov.from == sseproto.MaxID || p.cov.backfilling }

// lookAt takes in how the partitions of a stream are, at one moment, and returns the head of
// the ring at that moment. O(its partitions): with it count the other looks of a turn at each.
func (s *shard) lookAt(j *joining) (head uint64) {
	s.budget.looks += partLooks * int64(len(j.parts))
	l := s.log
	l.mu.Lock()
	defer l.mu.Unlock()
	for k := range j.parts {
		p := &j.parts[k]
		p.cov, p.reach, p.began = *p.line.cover.Load(), l.reaches[p.line.part], p.line.began
	}
	return l.head.Load()
}

// partLooks is what a turn of a stream takes for each of its partitions, beside their channels:
// two cores (EPYC, virtual) took 31 to 37 ns.
const partLooks = 2

// join gives a slot that is joining, and has no pending bytes, a turn. Then it has joined, or is
// queued, or waits, or is blocked or closed.
func (s *shard) join(v *view, i uint32, c *slot) {
	j := s.joins[i]
	head := s.lookAt(j)
	v.refresh()
	if !s.placeParts(v, i, c, j) {
		s.awaitTurn(i, c, j)
		return
	}
	all, isHeld, sent := s.serveParts(i, c, j)
	switch {
	case sent: // a gap event
		return
	case isHeld:
		s.awaitTurn(i, c, j)
		return
	}
	end, ok := s.findNext(v, j, head)
	if !ok { // the ring has turned meanwhile
		s.later(i)
		return
	}
	if all {
		at, first := head, end
		for k := range j.parts {
			for n := range j.parts[k].channels {
				if next := j.parts[k].channels[n].next; next != 0 {
					at = min(at, next)
				}
			}
			first = max(first, j.parts[k].cov.first)
		}
		if at >= first {
			s.joined(v, i, c, j, at)
			return
		}
		end = first
	} else {
		end = head
	}
	s.sendOwn(v, i, c, j, end, head)
}

// serveParts looks which partitions of a slot the ring can serve, and sees to the others.
// All: it can serve all of them. Held: a page was missed, and nothing is sent before it has come
// again. Sent: the slot was sent a gap event, and has another turn.
func (s *shard) serveParts(i uint32, c *slot, j *joining) (all, isHeld, sent bool) {
	all = true
	for k := range j.parts {
		p := &j.parts[k]
		at := &j.places[p.line.part]
		p.isServed, p.awaits = false, awaitsNothing
		switch {
		case p.isLost:
			p.isLost = false
			s.tellPart(i, c, j, p, sseproto.ReasonUnavailable, *at, sseproto.ID{})
			return false, false, true
		case p.isShut():
			p.until, p.awaits = time.Time{}, awaitsOpening
		case p.reach.Less(*at):
			if s.isAhead(p, *at) {
				p.awaits = awaitsTicks
				break
			}
			s.tellPart(i, c, j, p, sseproto.ReasonUnknownID, p.reach, sseproto.ID{})
			return false, false, true
		case !at.Less(p.cov.from):
			p.isServed, p.told = true, "" // what is lost from here on is another loss
		case s.engine.cfg.historyOf(p.line.part) == nil:
			s.tellPart(i, c, j, p, sseproto.ReasonTrimmed, p.cov.from, p.cov.from)
			return false, false, true
		case !s.began.Before(p.again):
			s.askFor(i, c, j, p)
			isHeld = isHeld || p.isMissed
		default:
			p.awaits = awaitsAgain
		}
		if p.isServed {
			p.until = time.Time{}
		}
		all = all && p.isServed
	}
	return all, isHeld, false
}

// isAhead reports whether a partition may come to a place that lies ahead of it here, and
// has some time left for that. See explains.
func (s *shard) isAhead(p *joinPart, at sseproto.ID) bool {
	wait := s.engine.cfg.HistoryWait
	if p.until.IsZero() {
		if !p.line.explains(at, s.began, wait) {
			return false
		}
		p.until, p.last = s.began.Add(wait), s.began.Add(maxBehind*wait)
	} else if p.line.isBehind(s.began, wait/2) {
		p.until = s.began.Add(wait)
	}
	return s.began.Before(p.until) && s.began.Before(p.last)
}

// tellPart tells a slot of a loss in a partition, and moves it behind that.
func (s *shard) tellPart(i uint32, c *slot, j *joining, p *joinPart, reason string, to, oldest sseproto.ID) {
	gap := sseproto.Gap{Reason: reason, Requested: j.sent, Oldest: oldest}
	if len(j.parts) > 1 {
		for n := range p.channels {
			gap.Channels = append(gap.Channels, s.log.dir.at(p.channels[n].index).name)
		}
		if len(gap.Channels) == 1 {
			gap.Channel = gap.Channels[0]
		}
	}
	s.log.gaps.noteStart(s.began, reason, gap.Channel)
	p.until = time.Time{}
	b := &s.ownFrames
	b.begin(c.form(), j)
	b.add(p.line.part, to, sseproto.AppendGap(nil, gap), "", true)
	if _, whole := s.writeOwn(i, c, j); whole {
		s.later(i)
	}
}

// joined lets a slot take the frames of the ring from a position on.
func (s *shard) joined(v *view, i uint32, c *slot, j *joining, at uint64) {
	if !j.isCounted {
		s.count.resumedRing.Add(1)
	}
	s.leaveJoining(i, c)
	c.pos, c.off = at-1, 0
	if c.flags&(slotNoID|slotTakesID) == slotNoID|slotTakesID {
		c.flags &^= slotNoID
		if !s.writeWhole(i, c, c.form().wrap(appendPlaces(nil, j.places), 0), resumePoint{}) {
			return
		}
	}
	s.catchUp(v, i, c)
}

// rejoin lets a slot that has lost touch with the ring join again. One whose place is
// forgotten comes back with its Last-Event-ID; one that has none yet is told of a gap.
func (s *shard) rejoin(v *view, i uint32, c *slot) {
	places, known := s.reader.placeAt(c.pos)
	if c.off > 0 || !known && !c.has(slotNoID) {
		s.closeSlot(i, CloseSlow)
		return
	}
	s.count.reattached.Add(1)
	s.catchUpAgain(i, c)
	j := s.newJoining(c)
	j.isCounted = true
	s.joins[i] = j
	c.pos = joiningPos
	if known {
		copy(j.places, places)
		s.join(v, i, c)
		return
	}
	s.lookAt(j)
	for k := range j.parts {
		p := &j.parts[k]
		j.places[p.line.part] = later(*p.line.ticked.Load(), sseproto.ID{Ms: 1})
		if !p.isShut() {
			j.places[p.line.part] = p.reach
		}
	}
	b := &s.ownFrames
	b.begin(c.form(), j)
	p := &j.parts[0]
	b.add(p.line.part, j.places[p.line.part], s.appendGap(nil, sseproto.ID{}, sseproto.ReasonTrimmed, "", sseproto.ID{}), "", true)
	if _, whole := s.writeOwn(i, c, j); whole {
		s.join(v, i, c)
	}
}

// leaveJoining forgets the state of a slot that has joined, or is about to be closed: the replayer
// reads nothing more for it.
func (s *shard) leaveJoining(i uint32, c *slot) {
	j := s.joins[i]
	if j == nil {
		return
	}
	for k := range j.parts {
		if p := &j.parts[k]; p.isAsked {
			s.engine.replayer.leave(s, ref{i, c.gen}, p.line.part)
		}
	}
	delete(s.joins, i)
}
