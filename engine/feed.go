package engine

import (
	"time"

	"ssed/sseproto"
)

// OpenSpan starts a span: every message with an ID beyond low
// follows, until CloseSpan. Between the span before and this one messages may
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
	l.heard = arrival{}
	l.hearLocked(low)
	before := l.spans.newest()
	if before != nil {
		l.discontinuities.Add(1)
	}
	switch {
	case l.holdback.active() || l.mayBackfillLocked():
		l.holdback.open(l, low)
	case before == nil:
		l.openLocked(low)
	default:
		l.setBackfillingLocked(true) // who resumes until the span is open is told by its shard
		return before.high, true
	}
	l.notifyLocked()
	return after, false
}

// tellLoss puts a gap event before a new span for everybody who is there, or a barrier
// where there are too many channels for that. The feed waits meanwhile.
func (l *Log) tellLoss(after, low sseproto.ID) {
	names := l.dir.subscribed()
	if !l.hasRoomForGaps(names) {
		l.mu.Lock()
		defer l.unlock()
		l.barrierLocked(after, low)
		l.openLocked(low)
		l.notifyLocked()
		return
	}
	p := newPage(names, after)
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
		l.positions.note(0, low)
	}
	l.spans.list = append(l.spans.list, span{low: low, high: low, ready: low, first: head})
	l.reachLocked(low)
	l.cover.Store(&coverage{from: low, first: head})
}

// hearLocked notes a tick.
func (l *Log) hearLocked(id sseproto.ID) {
	l.ticked.Store(&id)
	l.heard.note(id, time.Now())
}

// arrival is when the last tick came, and how late. Ticks tell the time of Redis, which
// says nothing beside the clock of this machine. But the tick of a span that was the least
// late tells how late the others are: on a link with a backlog they come seconds later.
type arrival struct {
	at    time.Time
	lag   time.Duration // behind the least late tick of the span
	first time.Time     // when the least late tick came
	tick  uint64        // and its ms
}

func (a *arrival) note(id sseproto.ID, now time.Time) {
	a.at, a.lag = now, now.Sub(a.first)-time.Duration(int64(id.Ms-a.tick))*time.Millisecond
	if a.first.IsZero() || a.lag < 0 {
		a.first, a.tick, a.lag = now, id.Ms, 0
	}
}

// behind is how far the log may be behind other instances, as far as ticks tell.
func (a *arrival) behind(now time.Time) time.Duration { return max(now.Sub(a.at), 0) + a.lag }

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
	m, isMarked := sseproto.ParseMarked(payload)
	switch {
	case isMarked:
	case l.envelope:
		m = l.read(payload) // before the lock: it can take as long as all the rest
	default:
		m = sseproto.Message{Data: payload}
	}
	e := l.encode(&m) // before the lock, too
	l.mu.Lock()
	defer l.unlock()
	if l.holdback.active() {
		l.holdback.append(l, id, channel, &m, e)
		return
	}
	l.appendLocked(id, channel, &m, e)
}

// Oversize adds, like Append, a gap event in the place of a message that is too large to
// be delivered. It goes into the history as one.
func (l *Log) Oversize(id sseproto.ID, channel string) {
	m := sseproto.Oversize(channel)
	l.mu.Lock()
	if l.holdback.active() {
		l.holdback.append(l, id, channel, &m, nil)
	} else {
		l.appendLocked(id, channel, &m, nil)
	}
	l.unlock()
	l.gaps.noteLive(time.Now(), sseproto.ReasonOversize, channel, 1, l.dir.subscriptions([]string{channel}))
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

// appendLocked puts a message into the ring: e if it is encoded already, else m.
func (l *Log) appendLocked(id sseproto.ID, channel string, m *sseproto.Message, e *encoded) {
	s := l.spans.current()
	if s == nil {
		return // a message after the end of its span: the feed reported the loss already
	}
	s.high = id
	data := len(m.Data)
	if e != nil {
		data = e.data
		l.putEncodedLocked(id, channel, e)
	} else {
		l.putLocked(id, channel, m)
	}
	l.reachLocked(id)
	l.stats.appended++
	l.stats.bytes += uint64(data)
}

// Commit tells that all messages up to id have the same IDs on every instance,
// and how far the history is written.
func (l *Log) Commit(id, watermark sseproto.ID) {
	l.mu.Lock()
	defer l.unlock()
	l.hearLocked(id)
	if l.watermark.Load().Less(watermark) {
		l.watermark.Store(&watermark)
	}
	if l.holdback.active() {
		l.holdback.commit(id)
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
	if l.holdback.active() {
		l.holdback.close(through)
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
	s.truncated = through.Less(s.high)
	s.high, s.ready, s.end = through, through, l.head.Load()
	if s.truncated { // nobody may resume into what was taken back: it is told of before the next span
		l.setBackfillingLocked(true)
	}
}
