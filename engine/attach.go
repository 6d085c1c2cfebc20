package engine

import (
	"slices"
	"time"

	"github.com/valyala/bytebufferpool"

	"ssed/engine/internal/front"
	"ssed/engine/internal/sock"
	"ssed/sseproto"
)

// newcomer is a slot that is subscribed and not yet answered.
type newcomer struct {
	ref
	from attachment
}

// maxNewcomers bounds the slots that are subscribed and not yet answered.
const maxNewcomers = 256

// admitSome gives new connections a slot. It comes before the pass opens its view:
// directory numbers given out now are not met in it with an older meaning.
func (s *shard) admitSome() {
	s.budget.begin(s.shares.admit)
	for !s.arrivals.empty() && s.newcomers.len() < maxNewcomers {
		s.admit(s.arrivals.pop())
		if s.budget.spent() {
			return
		}
	}
}

// admit gives a new connection a slot, parks its descriptor and subscribes it.
// The answer follows in sendHead.
func (s *shard) admit(a *front.Stream) {
	i, c := s.newSlot(a.FD)
	c.peer = a.Peer
	s.credentials.set(i, a)
	s.budget.calls++
	if err := s.poller.park(a.FD, i, c.gen); err != nil {
		s.closeSlot(i, CloseNoMemory)
		return
	}
	c.pos = a.Since.Position
	from := attachmentOf(a, len(s.log.lines))
	if from.resume.kind == resumeNone || from.resume.kind == resumeStart {
		c.flags |= slotNoID
	}
	if a.TakesID {
		c.flags |= slotTakesID
	}
	c.flags |= formOf(a.Chunked, a.Told).flags()
	c.expires = s.engine.second(a.Expires)
	c.idle = uint8(s.rng.UintN(sweepsPerBeat)) // spreads the heartbeats of a storm of connects
	for _, name := range a.Channels {
		s.subscribe(i, name)
	}
	if all := s.engine.cfg.BroadcastChannel; all != "" && !slices.Contains(a.Channels, all) {
		s.subscribe(i, all)
	}
	if s.subs.at(c.sub).sibling != 0 {
		c.flags |= slotMany
	}
	if len(a.Channels) >= crowd {
		c.flags |= slotCrowd
	}
	s.setPace(i, c)
	n := newcomer{ref{i, c.gen}, from}
	if !s.log.hasBegun() && !s.canBegin(c, &from) {
		s.awaitBegin(c, n)
		return
	}
	s.count.attached.Add(1)
	s.newcomers.push(n)
}

// answerSome answers those who came.
func (s *shard) answerSome(v *view) {
	s.budget.begin(s.shares.answer)
	for !s.newcomers.empty() {
		n := s.newcomers.pop()
		if c := s.slots.at(n.slot); c.gen == n.gen {
			s.sendHead(v, n.slot, c, &n.from)
		}
		if s.budget.spent() {
			return
		}
	}
}

// takePages goes on with those whose history was read.
func (s *shard) takePages(v *view) {
	s.budget.begin(s.shares.pages)
	for !s.pages.empty() {
		p := s.pages.pop()
		s.takePage(v, p)
		if s.budget.spent() {
			return
		}
	}
}

// sendHead writes the response head and what the ring has for the client.
func (s *shard) sendHead(v *view, i uint32, c *slot, a *attachment) {
	buf := bytebufferpool.Get()
	defer bytebufferpool.Put(buf)
	buf.B = append(buf.B, a.Head...)
	buf.B = sseproto.AppendRetry(buf.B, s.retryDelay())
	if s.log.isDivided() {
		buf.B = s.appendJoin(buf.B, i, c, a)
	} else {
		buf.B = s.appendStart(buf.B, v, c, a)
	}
	buf.B = c.form().wrap(buf.B, len(a.Head))
	if s.writeWhole(i, c, buf.B, a.resume) {
		s.resumeFrom(v, i, c, a.resume)
	}
}

// writeWhole writes bytes outside the ring. Not ok: the slot is closed, or what its socket
// did not take is pending, to go on with then.
func (s *shard) writeWhole(i uint32, c *slot, b []byte, then resumePoint) (ok bool) {
	n, res := s.writeBytes(c, b)
	switch {
	case res == sock.Failed:
		s.closeSlot(i, CloseError)
		return false
	case n < len(b):
		s.keepPending(i, b[n:], then)
		s.block(c)
		return false
	}
	return true
}

// appendStart decides where a new slot starts, and extends dst with a gap event where
// that is not where its client left off, or with the position of a client that wants it.
func (s *shard) appendStart(dst []byte, v *view, c *slot, a *attachment) []byte {
	switch {
	case a.resume.kind == resumeUnknown:
		return s.appendNow(dst, v, c, a, sseproto.ReasonUnknownID)
	case a.resume.kind == resumeID, a.resume.kind == resumeStart:
		return dst
	case !s.missesNothing(v, c, a):
		id, known := s.log.idAt(c.pos)
		if !known {
			return s.appendNow(dst, v, c, a, sseproto.ReasonTrimmed)
		}
		a.resume = resumePoint{kind: resumeID, id: id}
		return s.appendStartID(dst, c, a, id)
	case !a.TakesID:
		return dst
	}
	id, covered := s.log.startAt(a.Since)
	if !covered {
		a.resume = resumePoint{kind: resumeID, id: id, begins: true}
	}
	return s.appendStartID(dst, c, a, id)
}

// appendStartID names the position behind which a new stream gets everything, so that
// its client can come back before its first event and miss nothing.
func (s *shard) appendStartID(dst []byte, c *slot, a *attachment, id sseproto.ID) []byte {
	if !a.TakesID || id.IsZero() { // zero: no span has begun yet
		return dst
	}
	c.flags &^= slotNoID
	return sseproto.AppendPosition(dst, id)
}

// appendNow lets a slot start where this pass stands, and its client be told.
func (s *shard) appendNow(dst []byte, v *view, c *slot, a *attachment, reason string) []byte {
	raw := a.resume.raw
	a.resume = resumePoint{}
	var id sseproto.ID
	c.pos, id = s.now(v)
	return s.appendGap(dst, id, reason, raw, sseproto.ID{})
}

// missesNothing reports whether a slot may go on from the position at which its request
// was read. An Authorizer may have taken seconds since. What left the ring meanwhile is
// known only for channels that had a subscriber, and of a discontinuity only their
// messages are backfilled.
func (s *shard) missesNothing(v *view, c *slot, a *attachment) bool {
	return a.Since.Discontinuities == s.log.discontinuities.Load() && c.pos+1 >= v.coverage().first
}

func (s *shard) appendGap(dst []byte, id sseproto.ID, reason, requested string, oldest sseproto.ID) []byte {
	s.log.gaps.noteStart(s.began, reason, "")
	return sseproto.AppendGap(dst, sseproto.Gap{ID: id, Reason: reason, Requested: requested, Oldest: oldest})
}

// now is the end of what this pass sees of the log: its position, and an ID from
// which a client resumes right there.
func (s *shard) now(v *view) (uint64, sseproto.ID) {
	if v.head > v.tail {
		e, _ := v.at(v.head - 1)
		return v.head - 1, e.id
	}
	return v.head - 1, s.log.last()
}

// resumeFrom starts a slot behind a position: in the ring, or through the
// history, or when the log gets there.
func (s *shard) resumeFrom(v *view, i uint32, c *slot, p resumePoint) {
	switch p.kind {
	case resumeID:
	case resumeStart:
		s.startFrom(v, i, c, p)
		return
	case resumeJoin:
		s.join(v, i, c)
		return
	default:
		s.catchUp(v, i, c)
		return
	}
	last := s.log.last() // before the coverage: what it has reached is then in the ring, or behind it
	cov := v.coverage()
	switch {
	case cov.from == sseproto.MaxID, cov.backfilling && p.begins:
		s.wait(i, c, p)
	case !cov.backfilling && !p.id.Less(cov.from) && last.Less(p.id):
		if s.log.explains(p.id, s.began, s.engine.cfg.HistoryWait) {
			s.wait(i, c, p)
		} else {
			s.startNow(v, i, c, p)
		}
	case !cov.backfilling && !p.id.Less(cov.from):
		s.count.resumedRing.Add(1)
		c.pos = v.seek(cov.first, p.id)
		s.startEach(v, i, c, cov.first, p.from)
		s.catchUp(v, i, c)
	case s.engine.cfg.History != nil:
		s.count.resumedHist.Add(1)
		s.askReplayer(i, c, p)
	default:
		s.resumeWithGap(v, i, c, p, cov)
	}
}

// askReplayer lets a slot wait for an answer of the replayer.
func (s *shard) askReplayer(i uint32, c *slot, p resumePoint) {
	s.enter(c, phaseResuming)
	if p.client == 0 {
		p.client = front.ClientKey(sock.PeerOf(int(c.fd)).Addr(), int(c.fd))
	}
	s.engine.replayer.request(s, ref{i, c.gen}, p.client, 0, s.namesOf(c), c.form(), p)
}

// resumeWithGap serves all that the ring still has behind the ID, without a
// history to ask.
func (s *shard) resumeWithGap(v *view, i uint32, c *slot, p resumePoint, cov *coverage) {
	c.pos = v.seek(v.tail, p.id)
	s.startEach(v, i, c, v.tail, p.from)
	from := p.id
	if c.pos+1 == cov.first && from.Less(cov.from) {
		from = cov.from // nothing is left before: who resumes from here is not told again
	}
	buf := c.form().wrap(s.appendGap(nil, from, sseproto.ReasonTrimmed, p.raw, cov.from), 0)
	if s.writeWhole(i, c, buf, resumePoint{}) {
		s.catchUp(v, i, c)
	}
}

// namesOf returns the channels of a slot.
func (s *shard) namesOf(c *slot) []string {
	var names []string
	for n := c.sub; n != 0; n = s.subs.at(n).sibling {
		s.budget.looks++
		names = append(names, s.log.dir.at(s.subs.at(n).ch).name)
	}
	return names
}

// takePage goes on with a slot whose history was read. A page may have many times what one
// turn may: the rest comes behind the pages of others.
func (s *shard) takePage(v *view, l command) {
	i, c := l.to.slot, s.slots.at(l.to.slot)
	hasMore := false
	switch {
	case c.gen != l.to.gen:
	case s.log.isDivided():
		hasMore = s.takeOwnPage(v, i, c, &l)
	case l.page.err != nil:
		s.closeSlot(i, CloseHistory)
	default:
		hasMore = s.writePage(v, i, c, &l)
	}
	if hasMore {
		s.pages.push(l)
	} else {
		l.page.release()
	}
}

// writePage writes what one turn may have of a page, and reports whether there is more. What the
// socket does not take is not kept: only the event that was cut is, and when there is room again
// the slot goes on behind it.
func (s *shard) writePage(v *view, i uint32, c *slot, l *command) (hasMore bool) {
	r := l.page
	from, to := l.done, r.turn(l.done, s.pageTurn)
	if from == 0 {
		s.noteGaps(r)
	}
	start, end := r.endOf(from), r.endOf(to)
	if start < end {
		n, res := s.writeBytes(c, r.page.buf[start:end])
		c.flags &^= slotNoID
		if res == sock.Failed {
			s.closeSlot(i, CloseError)
			return false
		}
		if n < end-start {
			s.keepRest(i, c, l, start+n)
			return false
		}
	}
	s.delivered += r.eventsIn(to) - r.eventsIn(from)
	if l.done = to; to < len(r.page.frames) {
		return true
	}
	p := r.next()
	p.client = l.client
	s.resumeFrom(v, i, c, p)
	return false
}

// keepRest blocks a slot whose socket took n bytes of a page.
func (s *shard) keepRest(i uint32, c *slot, l *command, n int) {
	missing, p, events := l.page.rest(n)
	p.client = l.client
	s.delivered += events - l.page.eventsIn(l.done)
	if !s.hasRoom() {
		s.closeSlot(i, CloseSlow)
		return
	}
	s.keepPending(i, missing, p)
	s.block(c)
}

const (
	// staleVisits is how long a slot has taken no byte that has to go when others need the
	// memory: an eighth of a heartbeat period at least.
	staleVisits = 2
	// roomTries bounds the slots that are looked at to find one.
	roomTries = 16
)

// hasRoom reports whether a further event may be held for a socket that does not take
// it: many clients that do not read a large one would get a copy each. Those who take
// nothing go first, or they would keep out for long who reads as fast as it can.
func (s *shard) hasRoom() bool {
	tries := roomTries
	for i := range s.pending { // which ones come first is left to chance
		if s.pendingSize < s.maxPending || tries == 0 {
			break
		}
		tries--
		if s.slots.at(i).idle >= staleVisits {
			s.closeSlot(i, CloseSlow)
		}
	}
	return s.pendingSize < s.maxPending
}

// noteGaps counts the gap events of a page, one for each reason. They all reach the
// client: those that its socket does not take at once are kept.
func (s *shard) noteGaps(r *replay) {
	for _, loss := range r.told {
		s.log.gaps.noteStart(s.began, loss.reason, loss.channel)
	}
}

// retryDelay draws the reconnect delay of one client.
func (s *shard) retryDelay() time.Duration {
	lo, hi := s.engine.cfg.RetryMin, s.engine.cfg.RetryMax
	return lo + time.Duration(s.rng.Int64N(int64(hi-lo)+1))
}
