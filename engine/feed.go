package engine

import (
	"time"

	"ssed/sseproto"
)

// OpenSpan starts a span: every message with an ID beyond low
// follows, until CloseSpan. Between the span before and this one messages may
// be missing; with a history, live subscribers get them from there first.
func (ln *Lineage) OpenSpan(low sseproto.ID) {
	if after, isLoss := ln.beginSpan(low); isLoss {
		ln.tellLoss(after, low)
	}
}

// beginSpan opens the span, unless the live subscribers have to be told first that
// what lies between after and low is lost.
func (ln *Lineage) beginSpan(low sseproto.ID) (after sseproto.ID, isLoss bool) {
	ln.log.mu.Lock()
	defer ln.log.unlock()
	ln.log.stats.spans.Add(1)
	ln.heard = arrival{}
	ln.hearLocked(low)
	before := ln.spans.newest()
	if before != nil {
		ln.discontinuities.Add(1)
	}
	switch {
	case ln.holdback.active() || ln.mayBackfillLocked():
		ln.holdback.open(ln, low)
	case before == nil:
		ln.openLocked(low)
	default:
		ln.setBackfillingLocked(true) // who resumes until the span is open is told by its shard
		return before.high, true
	}
	ln.notifyLocked()
	return after, false
}

// tellLoss puts a gap event before a new span for everybody who is there, or a barrier
// where there are too many channels for that. The feed waits meanwhile.
func (ln *Lineage) tellLoss(after, low sseproto.ID) {
	names := ln.log.dir.subscribed(ln.part)
	if !ln.log.hasRoomForGaps(names) {
		ln.log.mu.Lock()
		defer ln.log.unlock()
		ln.barrierLocked(after, low)
		ln.openLocked(low)
		ln.notifyLocked()
		return
	}
	p := newPage(names, after)
	p.shared = true
	p.loseAll(sseproto.ReasonOutage)
	p.finish(low)
	ln.putPage(p)
	ln.log.mu.Lock()
	ln.openLocked(low)
	ln.notifyLocked()
	ln.log.unlock()
	ln.log.noteTold(p)
}

// openLocked starts a span in the ring.
func (ln *Lineage) openLocked(low sseproto.ID) {
	if ln.log.isDivided() { // it may be before what came last and was taken back: from here on placeAt goes by this
		ln.log.reachedLocked(ln.part, low)
		ln.log.skipLocked(ln.part, low)
	}
	head := ln.log.head.Load()
	if ln.spans.newest() == nil { // what a client has that came before the first message
		ln.began = low
		if ln.log.isDivided() {
			defer ln.begunLocked()
		} else {
			ln.log.positions.note(0, low)
		}
	}
	ln.spans.list = append(ln.spans.list, span{low: low, high: low, ready: low, first: head})
	ln.reachLocked(low)
	ln.cover.Store(&coverage{from: low, first: head})
	ln.log.turns.Add(1)
}

// begunLocked tells who waits that the partition is open for the first time.
func (ln *Lineage) begunLocked() {
	ln.isBegun.Store(true)
	ln.log.unbegun.Add(-1)
	ln.log.wake = ^uint64(0)
}

// hearLocked notes a tick.
func (ln *Lineage) hearLocked(id sseproto.ID) {
	ln.ticked.Store(&id)
	ln.heard.note(id, time.Now())
	if ln.log.isDivided() {
		ticks := make([]sseproto.ID, len(ln.log.lines))
		copy(ticks, *ln.log.ticks.Load())
		ticks[ln.part] = id
		ln.log.ticks.Store(&ticks)
	}
}

// tickedLocked moves the place of the partition at the end of the ring to a tick.
func (ln *Lineage) tickedLocked(id sseproto.ID) {
	if ln.log.isDivided() && ln.log.reaches[ln.part].Less(id) {
		ln.log.reaches[ln.part] = id
	}
}

// arrival is when the last tick came, and how late. Ticks tell the time of Redis, which
// says nothing beside the clock of this machine. But the tick of a span that was the least
// late tells how late the others are: on a link with a backlog they come seconds later.
type arrival struct {
	at    time.Time
	last  uint64        // ms of the last tick
	lag   time.Duration // behind the least late tick of the span
	first time.Time     // when the least late tick came
	tick  uint64        // and its ms
}

// note takes a tick. One that lies a millisecond beyond the one before tells nothing: ticks do
// so while they are ahead of the clock of Redis, behind a failover or when it was set back.
func (a *arrival) note(id sseproto.ID, now time.Time) {
	if !a.first.IsZero() && id.Ms == a.last+1 {
		a.first = a.first.Add(now.Sub(a.at) - time.Millisecond)
	}
	a.last = id.Ms
	a.at, a.lag = now, now.Sub(a.first)-time.Duration(int64(id.Ms-a.tick))*time.Millisecond
	if a.first.IsZero() || a.lag < 0 {
		a.first, a.tick, a.lag = now, id.Ms, 0
	}
}

// behind is how far the log may be behind other instances, as far as ticks tell.
func (a *arrival) behind(now time.Time) time.Duration { return max(now.Sub(a.at), 0) + a.lag }

func (ln *Lineage) reachLocked(id sseproto.ID) {
	if ln.spans.high.Less(id) {
		ln.spans.high = id
	}
}

// last is the furthest position reached by a message or a commit.
func (ln *Lineage) last() sseproto.ID {
	ln.log.mu.Lock()
	defer ln.log.mu.Unlock()
	return ln.spans.high
}

// Append adds a message of the open span. The strings are copied. It never
// blocks on readers.
func (ln *Lineage) Append(id sseproto.ID, channel, payload string) {
	m, isMarked := sseproto.ParseMarked(payload)
	switch {
	case isMarked:
	case ln.log.envelope:
		m = ln.log.read(payload) // before the lock: it can take as long as all the rest
	default:
		m = sseproto.Message{Data: payload}
	}
	e := ln.log.encode(&m) // before the lock, too
	ln.log.mu.Lock()
	defer ln.log.unlock()
	if ln.holdback.active() {
		ln.holdback.append(ln.log, id, channel, &m, e)
		return
	}
	ln.appendLocked(id, channel, &m, e)
}

// Oversize adds, like Append, a gap event in the place of a message that is too large to
// be delivered. It goes into the history as one.
func (ln *Lineage) Oversize(id sseproto.ID, channel string) {
	m := sseproto.Oversize(channel)
	ln.log.mu.Lock()
	if ln.holdback.active() {
		ln.holdback.append(ln.log, id, channel, &m, nil)
	} else {
		ln.appendLocked(id, channel, &m, nil)
	}
	ln.log.unlock()
	ln.log.gaps.noteLive(time.Now(), sseproto.ReasonOversize, channel, 1, ln.log.dir.subscriptions([]string{channel}))
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
func (ln *Lineage) appendLocked(id sseproto.ID, channel string, m *sseproto.Message, e *encoded) {
	s := ln.spans.current()
	if s == nil {
		return // a message after the end of its span: the feed reported the loss already
	}
	s.high = id
	data := len(m.Data)
	if e != nil {
		data = e.data
		ln.log.putEncodedLocked(ln.part, id, channel, e)
	} else {
		ln.log.putLocked(ln.part, id, channel, m)
	}
	ln.reachLocked(id)
	ln.log.stats.appended++
	ln.log.stats.bytes += uint64(data)
}

// Commit tells that all messages up to id have the same IDs on every instance,
// and how far the history is written.
func (ln *Lineage) Commit(id, watermark sseproto.ID) {
	ln.log.mu.Lock()
	defer ln.log.unlock()
	ln.hearLocked(id)
	if ln.watermark.Load().Less(watermark) {
		ln.watermark.Store(&watermark)
	}
	if ln.holdback.active() {
		ln.holdback.commit(id)
	} else if s := ln.spans.current(); s != nil && s.ready.Less(id) {
		s.ready = id
		ln.reachLocked(id)
		ln.tickedLocked(id)
	}
	ln.notifyLocked()
}

// CloseSpan ends the open span. Messages up to through count, which may lie before all of it;
// what came after it is not to be trusted, and its receivers are told.
func (ln *Lineage) CloseSpan(through sseproto.ID) {
	ln.log.mu.Lock()
	defer ln.log.unlock()
	if ln.holdback.active() {
		ln.holdback.close(through)
	} else {
		ln.closeLocked(through)
	}
	ln.notifyLocked()
}

func (ln *Lineage) closeLocked(through sseproto.ID) {
	s := ln.spans.current()
	if s == nil {
		return
	}
	s.truncated = through.Less(s.high)
	if through.Less(s.low) { // all of it was numbered by a server that another one had replaced, and some before
		s.low, s.first = through, ln.spans.firstBeyond(through)
	}
	s.high, s.ready, s.end = through, through, ln.log.head.Load()
	if s.truncated { // nobody may resume into what was taken back: it is told of before the next span
		ln.setBackfillingLocked(true)
	}
}
