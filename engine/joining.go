package engine

import (
	"slices"
	"time"

	"ssed/engine/internal/front"
	"ssed/engine/internal/sock"
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

	isCounted     bool // in the counters of resumes
	inShut, timed bool // it is in shard.shutJoins, or in shard.timedJoins
}

// joinPart is a partition of such a stream.
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

// joinWait is what gives a stream a turn for the sake of a partition.
type joinWait uint8

const (
	awaitsNothing joinWait = iota // a message of the partition does, or the page that is being read for it
	awaitsOpening
	awaitsTime
)

// joinChannel is a channel of such a stream.
type joinChannel struct {
	index uint32
	from  sseproto.ID // nothing up to here is for it
	next  uint64      // at the last look: its first message that is left; 0: none
}

// joiningPos is the pos of a slot that is joining, which stands at no position.
const joiningPos = 1 << 62

// answerMargin is how much earlier a stream starts in the partitions that its ID does not
// name: the ID that a publisher was told names one. Longer than two ticks are apart while
// Redis answers, and clocks of its servers differ.
const answerMargin = 10 * time.Second

// newJoining makes the state of a slot, with no place yet.
func (s *shard) newJoining(c *slot) *joining {
	j := &joining{places: make([]sseproto.ID, len(s.log.lines))}
	for n := c.sub; n != 0; n = s.subs.at(n).sibling {
		s.budget.looks++
		index := s.subs.at(n).ch
		line := s.log.lines[s.log.dir.at(index).part]
		p := j.partOf(line.part)
		if p == nil {
			j.parts = append(j.parts, joinPart{line: line})
			p = &j.parts[len(j.parts)-1]
		}
		p.channels = append(p.channels, joinChannel{index: index})
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

// isPlaced reports whether the places of all its partitions are known, so that an event ID can name them.
func (j *joining) isPlaced() bool {
	for k := range j.parts {
		if j.places[j.parts[k].line.part].IsZero() {
			return false
		}
	}
	return true
}

// appendPlaces extends dst with an event ID as a block of its own.
func appendPlaces(dst []byte, places []sseproto.ID) []byte {
	start := len(dst)
	dst = append(dst, "id: "...)
	if dst = appendVectorOf(dst, places); len(dst) == start+len("id: ") {
		return dst[:start]
	}
	return append(dst, "\n\n"...)
}

// appendVectorOf extends dst with an event ID for some places; with nothing when none is known.
func appendVectorOf(dst []byte, places []sseproto.ID) []byte {
	own := slices.IndexFunc(places, func(id sseproto.ID) bool { return !id.IsZero() })
	if own < 0 {
		return dst
	}
	return sseproto.AppendVector(dst, own, places)
}

// appendJoin is appendStart in a log of several partitions: it settles where a new slot
// starts, and whether it has to join.
func (s *shard) appendJoin(dst []byte, i uint32, c *slot, a *attachment) []byte {
	j := s.newJoining(c)
	j.client, j.sent = a.Client, a.LastEventID
	s.log.lookAt(j)
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

// isShut: the partition was never open, is being backfilled, or its last span ended before
// its last message. Nobody resumes in it now.
func (p *joinPart) isShut() bool { return p.cov.from == sseproto.MaxID || p.cov.backfilling }

// lookAt takes in how the partitions of a stream are, at one moment, and returns the head of
// the ring at that moment.
func (l *Log) lookAt(j *joining) (head uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k := range j.parts {
		p := &j.parts[k]
		p.cov, p.reach, p.began = *p.line.cover.Load(), l.reaches[p.line.part], p.line.began
	}
	return l.head.Load()
}

// join gives a slot that is joining a turn. Then it has joined, or is queued, or waits, or is
// blocked or closed.
func (s *shard) join(v *view, i uint32, c *slot) {
	j := s.joins[i]
	head := s.log.lookAt(j)
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
			if p.awaits = awaitsTime; !s.began.Before(p.again) {
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
				p.awaits = awaitsTime
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
			p.awaits = awaitsTime
		}
		if p.isServed {
			p.until = time.Time{}
		}
		all = all && p.isServed
	}
	return all, isHeld, false
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

// askFor lets the history of a partition be read, or where a stream starts in it be found.
func (s *shard) askFor(i uint32, c *slot, j *joining, p *joinPart) {
	if p.isAsked {
		return
	}
	if !j.isCounted {
		j.isCounted = true
		s.count.resumedHist.Add(1)
	}
	if j.client == 0 {
		j.client = front.ClientKey(sock.PeerOf(int(c.fd)).Addr(), int(c.fd))
	}
	names := make([]string, len(p.channels))
	for n := range p.channels {
		names[n] = s.log.dir.at(p.channels[n].index).name
	}
	p.isAsked = true
	from := resumePoint{start: p.start, from: p.from, told: p.told}
	if p.start.IsNow() {
		from.id = j.places[p.line.part]
	}
	s.engine.replayer.request(s, ref{i, c.gen}, j.client, p.line.part, names, 0, from)
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

// beyond returns the positions of a channel's first message with an ID beyond id, at or behind
// the position first, and of the one before it; none: 0. IDs ascend from first on. Lost: some have
// left the ring.
//
// It costs O(1) where there is none, and else O(log n) of the n messages that the ring has of
// the channel beyond id.
func (v *view) beyond(ch uint32, first uint64, id sseproto.ID) (next, before uint64, lost bool) {
	v.r.budget.looks++
	last := v.r.log.dir.at(ch).last.Load()
	if last == 0 || last < first {
		return 0, 0, false
	}
	if last >= v.head {
		v.refresh()
	}
	if last < v.tail {
		return 0, 0, true
	}
	e, _ := v.at(last)
	if !id.Less(e.id) {
		return 0, last, false
	}
	for low := max(first, v.tail); ; {
		if d := uint64(e.skip); d != 0 && last-d >= low {
			if further, _ := v.at(last - d); id.Less(further.id) {
				e, last = further, last-d
				continue
			}
		}
		d := uint64(e.prev)
		switch {
		case d == 0 || last-d < first:
			return last, 0, false
		case last-d < v.tail:
			return 0, 0, true
		}
		prev, _ := v.at(last - d)
		if !id.Less(prev.id) {
			return last, last - d, false
		}
		e, last = prev, last-d
	}
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

// takeOwnPage goes on with a slot for which the history of a partition was read, and reports
// whether there is more of the page for it. What its socket does not take is read again.
func (s *shard) takeOwnPage(v *view, i uint32, c *slot, l *command) (hasMore bool) {
	r, j := l.page, s.joins[i]
	if j == nil || l.done > 0 && l.joining != j { // it has joined meanwhile
		return false
	}
	p := j.partOf(r.key.part)
	if l.done == 0 && (!p.isAsked || p.start != r.key.start || p.start.IsNow() && r.key.id != j.places[r.key.part]) {
		return false // it was asked before the slot joined, and lost touch again
	}
	p.isAsked = false
	canWrite := !c.has(slotPending) && (c.phase == phaseJoining || c.phase == phaseQueued)
	switch {
	case r.err != nil && !p.start.IsNow():
		if len(j.parts) == 1 || !s.missStart(j, p) {
			s.closeSlot(i, CloseHistory)
			return false
		}
	case r.err != nil: // the others go on meanwhile
		p.isMissed = false
		p.again = s.began.Add(s.engine.cfg.HistoryWait)
	case !p.start.IsNow():
		// 0-0 is a place that is not known.
		j.places[p.line.part], p.start, p.from = later(r.upTo, sseproto.ID{Seq: 1}), sseproto.StartPoint{}, r.from
		for n, id := range r.from.ids() {
			p.channels[n].from = beforeID(id)
		}
	case l.done > 0 && r.page.frames[l.done-1].id != j.places[p.line.part]: // the ring has served it meanwhile
	case !canWrite:
		p.isMissed = true
	default:
		p.isMissed = false
		if !s.writeOwnPage(i, c, j, p, l) {
			return false
		}
		if hasMore = l.done < len(r.page.frames); hasMore {
			p.isAsked, l.joining = true, j
			return true
		}
	}
	if c.phase == phaseJoining {
		s.join(v, i, c)
	}
	return false
}

// writeOwnPage writes what one turn may have of a page to a slot that is joining. Not whole: the
// slot is blocked or closed.
func (s *shard) writeOwnPage(i uint32, c *slot, j *joining, p *joinPart, l *command) (whole bool) {
	r := l.page
	if l.done == 0 {
		s.noteGaps(r)
	}
	b, frames := &s.ownFrames, r.page.frames
	whole = true
	for bytes := 0; whole && l.done < len(frames) && bytes < s.pageTurn; {
		b.begin(c.form(), j)
		for k := l.done; k < len(frames) && !b.isFull() && bytes+len(b.buf) < s.pageTurn; k++ {
			f := &frames[k]
			b.add(p.line.part, f.id, r.page.buf[f.off:f.end], r.page.channels[f.channel], f.gap)
		}
		var n int
		n, whole = s.writeOwn(i, c, j)
		bytes += n
		l.done += b.done
	}
	if s.joins[i] != j { // it is closed
		return false
	}
	p.told = r.page.known.with(r.page.told, frames[:l.done])
	if whole && l.done == len(frames) {
		j.places[p.line.part] = r.upTo
	}
	return whole
}

// ownBatch is frames that are made for one stream.
type ownBatch struct {
	form   form
	places []sseproto.ID // behind the last frame
	buf    []byte
	frames []ownFrame
	done   int // frames that are written or pending, see writeOwn
}

type ownFrame struct {
	part uint8
	id   sseproto.ID // to which it moves the partition
	end  int         // in buf
	gap  bool
}

// ownCost is what it takes to make a frame for one stream, with a place in each of some partitions:
// two cores (EPYC, virtual) took 90 ns, and 10 for each partition.
func ownCost(partitions int) cost { return cost(90 + 10*partitions) }

// ownBytes is about how much is put together for one write of own frames.
const ownBytes = 64 << 10

func (b *ownBatch) begin(f form, j *joining) {
	b.form, b.done = f, 0
	b.places = append(b.places[:0], j.places...)
	b.buf, b.frames = b.buf[:0], b.frames[:0]
	if cap(b.buf) > 4*ownBytes {
		b.buf = nil
	}
}

func (b *ownBatch) isFull() bool { return len(b.buf) >= ownBytes || len(b.frames) == turnMessages }

// add puts a frame, as it is in the ring or in a page without a form, at the end, with the
// place that it moves the stream to.
func (b *ownBatch) add(part uint8, id sseproto.ID, frame []byte, channel string, gap bool) {
	start := len(b.buf)
	b.places[part] = id
	b.buf = sseproto.AppendVectorFrame(b.buf, int(part), b.places, frame)
	if b.form&formTold != 0 && !gap {
		if at, ok := sseproto.TellAt(b.buf[start:]); ok {
			b.buf = slices.Insert(b.buf, start+at, sseproto.AppendTellLine(nil, channel)...)
		}
	}
	b.buf = b.form.wrap(b.buf, start)
	b.frames = append(b.frames, ownFrame{part, id, len(b.buf), gap})
}

// writeOwn writes the own frames that were put together. Not whole: what is missing of the
// frame that was cut, and of gap events that go with it, is pending; or the slot is closed.
func (s *shard) writeOwn(i uint32, c *slot, j *joining) (n int, whole bool) {
	b := &s.ownFrames
	s.budget.looks += int64(ownCost(len(b.places)) * cost(len(b.frames)) / lookCost)
	n, res := s.writeBytes(c, b.buf)
	if res == sock.Failed {
		s.closeSlot(i, CloseError)
		return n, false
	}
	whole = n == len(b.buf)
	last := len(b.frames) - 1
	if !whole {
		last = slices.IndexFunc(b.frames, func(f ownFrame) bool { return f.end > n })
		for b.frames[last].gap && last+1 < len(b.frames) && b.frames[last+1].gap {
			last++
		}
		if !s.hasRoom() {
			s.closeSlot(i, CloseSlow)
			return n, false
		}
	}
	for _, f := range b.frames[:last+1] {
		j.places[f.part], j.own = f.id, int(f.part)
		if !f.gap {
			s.delivered++
		}
	}
	c.flags &^= slotNoID
	b.done = last + 1
	if !whole {
		s.keepPending(i, b.buf[n:b.frames[last].end], resumePoint{kind: resumeJoin})
		s.block(c)
	}
	return n, whole
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
	s.log.lookAt(j)
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

// leaveJoining forgets what a slot that is about to be closed was joining with.
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
