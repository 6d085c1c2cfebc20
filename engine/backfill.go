package engine

import (
	"context"
	"errors"
	"time"

	"ssed/sseproto"
)

// setBackfillingLocked tells resumes to wait until what lies behind the coverage is
// in the ring, or that it is.
func (ln *Lineage) setBackfillingLocked(backfilling bool) {
	cov := *ln.cover.Load()
	cov.backfilling = backfilling
	ln.cover.Store(&cov)
	ln.log.turns.Add(1)
}

// mayBackfillLocked reports whether something is missing before the next span that
// somebody waits for, or that somebody was told wrong things about.
func (ln *Lineage) mayBackfillLocked() bool {
	before := ln.spans.newest()
	return ln.log.backfills && before != nil && (before.truncated || ln.log.dir.hasSubscribers(ln.part))
}

// errManyGaps: the history is read, and has lost messages of too many channels.
var errManyGaps = errors.New("engine: more channels lost messages than the ring has room to tell of")

// errPageFull: what was lost is too much for the ring, but the history has it.
var errPageFull = errors.New("engine: more was lost than fits into half of the ring")

// backfiller backfills discontinuities for the live subscribers. One goroutine.
type backfiller struct {
	line    *Lineage
	history History
	wait    time.Duration
	onError func(err error, after, low sseproto.ID)
}

// run works until ctx ends.
func (f *backfiller) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.line.holdback.kick:
		}
		for ctx.Err() == nil {
			held := f.line.oldestHeld()
			if held == nil {
				break
			}
			f.backfill(ctx, held)
		}
	}
}

// backfill reads what is missing before held from the history, and puts it and held into the ring.
func (f *backfiller) backfill(ctx context.Context, held *heldSpan) {
	page := newPage(f.line.log.dir.subscribed(f.line.part), held.after)
	page.shared, page.lost = true, f.line.untrusted(held.after)
	err := f.gather(ctx, page, held)
	if err != nil && ctx.Err() != nil {
		return // shutting down: the streams are closing
	}
	if err != nil {
		f.onError(err, held.after, held.low)
		f.line.log.stats.abandoned.Add(1)
	}
	if errors.Is(err, errPageFull) || err != nil && !f.line.log.hasRoomForGaps(page.channels) {
		f.line.endBackfill(held, true)
		return
	}
	if err != nil {
		page.reset()
		page.loseAll(sseproto.ReasonUnavailable)
	}
	page.finish(held.low)
	if !f.line.log.hasRoomForGaps(page.toldChannels()) {
		f.onError(errManyGaps, held.after, held.low)
		f.line.endBackfill(held, true)
		return
	}
	f.line.putPage(page)
	f.line.endBackfill(held, false)
	f.line.log.noteTold(page)
}

// gapBytes is what a gap event takes of the ring beside the name of its channel.
const gapBytes = 128 + ringOverhead

// hasRoomForGaps reports whether gap events for all of the channels may be put into the
// ring: a quarter of it. With more of them the ring would forget for their sake what
// everybody else resumes from.
func (l *Log) hasRoomForGaps(channels []string) bool {
	left := l.shareOf(l.ringBytes / 4)
	for _, name := range channels {
		if left -= int64(len(name)) + gapBytes; left < 0 {
			return false
		}
	}
	return true
}

// gather gets what the history has of it, as long as what comes meanwhile can
// be held back.
func (f *backfiller) gather(ctx context.Context, page *page, held *heldSpan) error {
	ctx, done := f.line.whileRoom(ctx)
	defer done()
	err := f.invalidate(ctx, page, held)
	if err == nil {
		err = f.read(ctx, page, held)
	}
	if ctx.Err() != nil && err != nil && !errors.Is(err, errPageFull) {
		return context.Cause(ctx)
	}
	return err
}

// invalidate warns those who left with an ID that was given out after the span
// should have ended.
func (f *backfiller) invalidate(ctx context.Context, page *page, held *heldSpan) error {
	if page.lost == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, f.wait)
	defer cancel()
	return f.history.Invalidate(ctx, held.after, held.low)
}

func (f *backfiller) read(ctx context.Context, page *page, held *heldSpan) error {
	if err := f.line.awaitWritten(ctx, time.Now().Add(f.wait), f.history, held.low); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, f.wait)
	defer cancel()
	page.limit, page.full = f.line.log.shareOf(f.line.log.ringBytes/2), cancel // the rest need not be read
	err := f.history.Range(ctx, page.channels, held.after, held.low, page)
	if page.refused {
		return errPageFull
	}
	return err
}

// untrusted names the channels that got messages beyond after in the span that
// was truncated at it, or before it when all of it is void, with the reason to tell them. Nil
// when it was not truncated.
func (ln *Lineage) untrusted(after sseproto.ID) map[string]string {
	ln.log.mu.Lock()
	defer ln.log.mu.Unlock()
	s := ln.spans.newest()
	if s == nil || !s.truncated {
		return nil
	}
	lost := make(map[string]string)
	for pos, low := s.end, ln.spanFromLocked(s, after); pos > low; pos-- {
		e := ln.log.entryLocked(pos - 1)
		if e.part != ln.part || e.kind == kindGap {
			continue
		}
		if !after.Less(e.id) {
			break
		}
		if name, ok := ln.log.dir.nameOf(e.ch); ok {
			lost[name] = sseproto.ReasonOutage
		}
	}
	return lost
}

// spanFromLocked returns the position from which on a closed span can have messages beyond id.
// In a log of several partitions it does not look at those of the others before: a quiet
// partition may have its last message before that a whole ring away.
func (ln *Lineage) spanFromLocked(s *span, id sseproto.ID) uint64 {
	low := max(s.first, ln.log.tail.Load())
	if !ln.log.isDivided() || low >= s.end {
		return low
	}
	v := view{refs: *ln.log.index.Load()}
	return max(low, v.segmentOf(ln, low, id).first)
}

// endBackfill puts the held span into the ring, behind what was backfilled or, if that
// was too much, behind a barrier.
func (ln *Lineage) endBackfill(held *heldSpan, barrier bool) {
	ln.log.mu.Lock()
	if barrier {
		ln.barrierLocked(held.after, held.low)
	}
	ln.openLocked(held.low)
	ln.setBackfillingLocked(true) // until all is there
	ln.log.unlock()
	for !ln.endBackfillPart(held) {
	}
}

// endBackfillPart does what one turn of the lock may, and ends the held span when nothing
// of it waits any more. What comes between two turns waits behind the rest.
func (ln *Lineage) endBackfillPart(held *heldSpan) (done bool) {
	ln.log.mu.Lock()
	defer ln.log.unlock()
	n := 0
	for bytes := int64(0); n < min(len(held.messages), putSlice) && bytes < putBytes; n++ {
		m := &held.messages[n]
		ln.appendLocked(m.id, m.channel, &m.message, m.encoded)
		bytes += m.cost()
	}
	ln.holdback.take(held.messages[:n])
	if held.messages = held.messages[n:]; len(held.messages) > 0 {
		return false
	}
	if s := ln.spans.current(); s.ready.Less(held.ready) {
		s.ready = held.ready
		ln.reachLocked(held.ready)
		ln.tickedLocked(held.ready)
	}
	if held.closed {
		ln.closeLocked(held.through)
	}
	ln.holdback.spans = ln.holdback.spans[1:]
	ln.setBackfillingLocked(ln.holdback.active())
	ln.log.wake = ^uint64(0) // for the slots that wait for the log to get on
	ln.notifyLocked()
	return true
}

// putSlice messages, and about putBytes, are put into the ring in one turn of the lock,
// which the feed and the loops need too: 1 ms.
const (
	putSlice = 1000
	putBytes = 1 << 20
)

// putPage puts a page into the ring, before a new span. Whoever resumes meanwhile waits,
// as the log is backfilling.
func (ln *Lineage) putPage(p *page) {
	for left := p.frames; len(left) > 0; {
		left = left[ln.putFrames(p, left):]
	}
}

// putFrames puts frames of a page into the ring, as many as one turn of the lock may, and
// returns their number.
func (ln *Lineage) putFrames(p *page, frames []frameRef) (n int) {
	ln.log.mu.Lock()
	defer ln.log.unlock()
	for bytes := 0; n < min(len(frames), putSlice) && bytes < putBytes; n++ {
		f := &frames[n]
		kind := kindBackfill
		if f.gap {
			kind = kindGap
		} else {
			ln.log.stats.backfilled.Add(1)
		}
		ln.log.putFrameLocked(kind, ln.part, f.id, p.channels[f.channel], p.buf[f.off:f.end])
		bytes += f.end - f.off
	}
	return n
}

// noteTold records what live streams were told by a page.
func (l *Log) noteTold(p *page) {
	now := time.Now()
	for _, t := range p.sumUp() {
		l.gaps.noteLive(now, t.reason, t.channel, len(t.channels), l.dir.subscriptions(t.channels))
	}
}
