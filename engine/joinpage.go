package engine

import (
	"ssed/engine/internal/front"
	"ssed/engine/internal/sock"
	"ssed/sseproto"
)

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
	s.joinIfIdle(v, i, c)
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
		for k := l.done; k < len(frames); k++ {
			f := &frames[k]
			if !f.gap && (b.isFull() || bytes+len(b.buf) >= s.pageTurn) { // gap events, which come first, go together
				break
			}
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
	p.told = r.page.toldWith(frames[:l.done])
	if whole && l.done == len(frames) {
		j.places[p.line.part] = r.upTo
	}
	return whole
}
