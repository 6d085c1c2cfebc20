package engine

import "ssed/sseproto"

// ReadCommitted calls visit for committed messages after `after`, ascending, at most
// limit of them and about limitBytes of data, but at least one if there is
// one. Prev is the position of the channel's message before it, 0-0 when the span at
// hand does not hold it. The strings are borrowed during the call. The log is complete over
// (after, through]. Low > after: it cannot tell what follows `after`, only what
// follows low; nothing was visited. For one caller at a time: the history writer.
func (ln *Lineage) ReadCommitted(after sseproto.ID, limit, limitBytes int, visit func(id sseproto.ID, channel string, m sseproto.Message, prev sseproto.ID)) (through, low sseproto.ID) {
	r := ln.committed
	r.cursor.Store(ln.log.tail.Load()) // before the span is chosen: its names stay
	v := r.open()
	defer r.cursor.Store(noPosition)
	defer v.close()

	s, low := ln.spanAfter(after)
	if s.first == 0 {
		return after, low
	}
	v.refresh() // everything up to s.ready is published now
	if s.first < v.tail {
		return after, after // evicted under our eyes; the next call will tell
	}
	through = after
	var scratch []byte
	end := s.end
	if s.open() {
		end = v.head
	}
	for pos := v.seekOf(ln, s.first, after) + 1; pos < end; pos++ {
		e, seg := v.at(pos)
		if e.part != ln.part {
			continue
		}
		if s.ready.Less(e.id) {
			break
		}
		if limit == 0 || limitBytes <= 0 {
			return through, after
		}
		if e.kind != kindLive {
			continue
		}
		name, ok := ln.log.dir.nameOf(e.ch)
		if !ok {
			return through, after
		}
		var m sseproto.Message
		m, scratch = seg.message(e, scratch)
		visit(e.id, name, m, v.before(pos, e, s.first))
		through = e.id
		limit--
		limitBytes -= len(m.Data)
	}
	if through.Less(s.ready) {
		through = s.ready
	}
	return through, after
}

// before returns the position of the channel's message before the one at pos, if it is
// at or behind a position of the same span, else 0-0. O(gap events between the two).
func (v *view) before(pos uint64, e *entry, from uint64) (id sseproto.ID) {
	for e.prev != 0 && uint64(e.prev) <= pos && pos-uint64(e.prev) >= max(from, v.tail) {
		pos -= uint64(e.prev)
		if e, _ = v.at(pos); e.kind == kindLive {
			return e.id
		}
	}
	return id
}

// spanAfter finds the span that tells what follows `after`. If none does, low is
// the first position from which one does, or `after` when nothing is known yet.
func (ln *Lineage) spanAfter(after sseproto.ID) (s span, low sseproto.ID) {
	ln.log.mu.Lock()
	defer ln.log.mu.Unlock()
	for _, s := range ln.spans.list {
		if s.contains(after) {
			return s, after
		}
		if after.Less(s.low) {
			return span{}, s.low
		}
	}
	if low, ok := ln.holdback.low(); ok && after.Less(low) {
		return span{}, low
	}
	return span{}, after
}
