package engine

import (
	"time"

	"ssed/sseproto"
)

// span is a contiguous stretch of the feed: all messages with low < ID ≤ high.
type span struct {
	low   sseproto.ID // everything beyond it was seen; rises when the ring forgets
	high  sseproto.ID // open: the newest message; closed: as far as it can be trusted
	ready sseproto.ID // committed: numbered alike on all instances
	first uint64      // position of its first message
	end   uint64      // position after its last; open: 0
	cut   bool        // closed before its last message
}

func (s *span) open() bool { return s.end == 0 }

// contains reports whether the span can tell what follows id.
func (s *span) contains(id sseproto.ID) bool {
	return !id.Less(s.low) && (s.open() || id.Less(s.high))
}

// spanList is the spans that the ring still holds a part of, oldest first. The
// newest is kept even when it is empty.
type spanList struct {
	list []span
	high sseproto.ID // the furthest position ever reached by a message or a commit
}

func (sl *spanList) newest() *span {
	if n := len(sl.list); n > 0 {
		return &sl.list[n-1]
	}
	return nil
}

func (sl *spanList) current() *span {
	if s := sl.newest(); s != nil && s.open() {
		return s
	}
	return nil
}

// evicted tells that the ring starts at tail now; last is the newest ID that left.
func (sl *spanList) evicted(tail uint64, last sseproto.ID) {
	drop := 0
	for i := range sl.list {
		s := &sl.list[i]
		if !s.open() && s.end <= tail && i+1 < len(sl.list) {
			drop = i + 1
			continue
		}
		if s.first < tail {
			s.first = tail
			if s.low.Less(last) {
				s.low = last
			}
		}
	}
	sl.list = sl.list[drop:]
}

// OpenSpan starts a contiguous stretch: every message with an ID beyond low
// follows, until CloseSpan. Between the stretch before and this one messages may
// be missing; with a history, live subscribers get them from there first.
func (l *Log) OpenSpan(low sseproto.ID) {
	if after, isLoss := l.beginSpan(low); isLoss {
		l.tellLoss(after, low)
	}
}

// beginSpan opens the span, unless the live subscribers have to be told first that
// what lies between after and low is lost.
func (l *Log) beginSpan(low sseproto.ID) (after sseproto.ID, isLoss bool) {
	l.mu.Lock()
	defer l.unlock()
	l.stats.spans.Add(1)
	before := l.spans.newest()
	if before != nil {
		l.holes.Add(1)
	}
	switch {
	case l.stage.active() || l.mayFillLocked():
		l.stage.open(l, low)
	case before == nil:
		l.openLocked(low)
	default:
		l.setFillingLocked(true) // who resumes until the span is open is told by its shard
		return before.high, true
	}
	l.notifyLocked()
	return after, false
}

// tellLoss puts a gap event before a new span for everybody who is there. The feed
// waits meanwhile.
func (l *Log) tellLoss(after, low sseproto.ID) {
	p := newPage(l.dir.subscribed(), after)
	p.shared = true
	p.loseAll(sseproto.ReasonOutage)
	p.finish(low)
	l.putPage(p)
	l.mu.Lock()
	l.openLocked(low)
	l.notifyLocked()
	l.unlock()
	l.noteTold(p)
}

// openLocked starts a span in the ring.
func (l *Log) openLocked(low sseproto.ID) {
	head := l.head.Load()
	if l.spans.newest() == nil { // what a client has that came before the first message
		l.anchors.note(0, low)
	}
	l.spans.list = append(l.spans.list, span{low: low, high: low, ready: low, first: head})
	l.reachLocked(low)
	l.cover.Store(&coverage{from: low, first: head})
}

func (l *Log) reachLocked(id sseproto.ID) {
	if l.spans.high.Less(id) {
		l.spans.high = id
	}
}

// last is the furthest position reached by a message or a commit.
func (l *Log) last() sseproto.ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.spans.high
}

// Append adds a message of the open span. The strings are copied. It never
// blocks on readers.
func (l *Log) Append(id sseproto.ID, channel, payload string) {
	m := sseproto.Message{Data: payload}
	if l.envelope {
		m = l.read(payload) // before the lock: it can take as long as all the rest
	}
	l.mu.Lock()
	defer l.unlock()
	if l.stage.active() {
		l.stage.append(l, id, channel, &m)
		return
	}
	l.appendLocked(id, channel, &m)
}

// read turns a payload that may be an envelope into a message. It has its number by then: what
// is in a payload never changes which messages are counted.
func (l *Log) read(payload string) sseproto.Message {
	m, ok := sseproto.ParseEnvelope(payload)
	if ok {
		l.stats.unwrapped.Add(1)
		return m
	}
	if m.Check() != nil {
		l.stats.refused.Add(1)
	}
	return sseproto.Message{Data: payload}
}

func (l *Log) appendLocked(id sseproto.ID, channel string, m *sseproto.Message) {
	s := l.spans.current()
	if s == nil {
		return // a message after the end of its span: the feed reported the loss already
	}
	s.high = id
	l.putLocked(kindLive, id, channel, m)
	l.reachLocked(id)
	l.stats.appended.Add(1)
	l.stats.bytes.Add(uint64(len(m.Data)))
}

// Commit tells that all messages up to id have the same IDs on every instance,
// and how far the history is written.
func (l *Log) Commit(id, watermark sseproto.ID) {
	l.mu.Lock()
	defer l.unlock()
	l.heard = time.Now()
	if l.watermark.Load().Less(watermark) {
		l.watermark.Store(&watermark)
	}
	if l.stage.active() {
		l.stage.commit(id)
	} else if s := l.spans.current(); s != nil && s.ready.Less(id) {
		s.ready = id
		l.reachLocked(id)
	}
	l.notifyLocked()
}

// CloseSpan ends the open span. Messages up to through count; what came after it
// is not to be trusted, and its receivers are told.
func (l *Log) CloseSpan(through sseproto.ID) {
	l.mu.Lock()
	defer l.unlock()
	if l.stage.active() {
		l.stage.close(through)
	} else {
		l.closeLocked(through)
	}
	l.notifyLocked()
}

func (l *Log) closeLocked(through sseproto.ID) {
	s := l.spans.current()
	if s == nil {
		return
	}
	s.cut = through.Less(s.high)
	s.high, s.ready, s.end = through, through, l.head.Load()
}

// ReadCommitted calls visit for committed messages after `after`, ascending, at most
// limit of them and about limitBytes of data, but at least one if there is
// one. The strings are borrowed during the call. The log is complete over
// (after, through]. Low > after: it cannot tell what follows `after`, only what
// follows low; nothing was visited. For one caller at a time: the history writer.
func (l *Log) ReadCommitted(after sseproto.ID, limit, limitBytes int, visit func(id sseproto.ID, channel string, m sseproto.Message)) (through, low sseproto.ID) {
	r := l.collector
	r.cursor.Store(l.tail.Load()) // before the span is chosen: its names stay
	v := r.open()
	defer r.cursor.Store(noPosition)
	defer v.close()

	s, low := l.spanAfter(after)
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
	for pos := v.seek(s.first, after) + 1; pos < end; pos++ {
		e, seg := v.at(pos)
		if s.ready.Less(e.id) {
			break
		}
		if limit == 0 || limitBytes <= 0 {
			return through, after
		}
		if e.kind != kindLive {
			continue
		}
		name, ok := l.dir.nameOf(e.ch)
		if !ok {
			return through, after
		}
		var m sseproto.Message
		m, scratch = seg.message(e, scratch)
		visit(e.id, name, m)
		through = e.id
		limit--
		limitBytes -= len(m.Data)
	}
	if through.Less(s.ready) {
		through = s.ready
	}
	return through, after
}

// spanAfter finds the span that tells what follows `after`. If none does, low is
// the first position from which one does, or `after` when nothing is known yet.
func (l *Log) spanAfter(after sseproto.ID) (s span, low sseproto.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.spans.list {
		if s.contains(after) {
			return s, after
		}
		if after.Less(s.low) {
			return span{}, s.low
		}
	}
	if low, ok := l.stage.low(); ok && after.Less(low) {
		return span{}, low
	}
	return span{}, after
}

// localClock numbers messages in a process without Redis.
type localClock struct {
	ms  uint64
	seq uint64
}

// next returns an ID beyond all before.
func (c *localClock) next(now time.Time) sseproto.ID {
	if ms := uint64(now.UnixMilli()); ms > c.ms {
		c.ms, c.seq = ms, 0
	}
	c.seq++
	return sseproto.ID{Ms: c.ms, Seq: c.seq}
}

// OpenLocal starts the one span of a process without Redis: numbers come from
// the local clock, messages from Publish.
func (l *Log) OpenLocal() {
	l.mu.Lock()
	l.local.ms = uint64(time.Now().UnixMilli())
	low := sseproto.ID{Ms: l.local.ms}
	l.mu.Unlock()
	l.OpenSpan(low)
}

// Publish numbers a message, which has passed its Check, by the local clock, adds it
// and returns its ID. The strings are copied.
func (l *Log) Publish(channel string, m sseproto.Message) sseproto.ID {
	l.mu.Lock()
	defer l.unlock()
	id := l.local.next(time.Now())
	l.appendLocked(id, channel, &m)
	return id
}
