package engine

import (
	"time"

	"ssed/engine/internal/front"
	"ssed/sseproto"
)

// startAt returns an ID behind which a stream gets everything that lies behind pos: to
// come back with it is to miss nothing. Not covered: a discontinuity is being backfilled,
// or no span is open. What comes of that belongs to those who were there before, and to
// name a position in front of it would promise it. Then the ID is the last tick before the
// request, up to which all instances number alike, and the stream starts there once the
// ring has it. Zero: no span has begun. O(log of the remembered positions).
func (ln *Lineage) startAt(since front.Standing) (id sseproto.ID, covered bool) {
	ln.log.mu.Lock()
	defer ln.log.mu.Unlock()
	pos, cov, s := since.Position, ln.cover.Load(), ln.spans.current()
	if s == nil || cov.backfilling || pos+1 < cov.first {
		return since.Tick, false
	}
	switch {
	case pos+1 == ln.log.head.Load(): // nothing since: a tick names a time that is not long past
		return later(s.high, s.ready), true
	case pos+1 == cov.first:
		return cov.from, true
	}
	if id, known := ln.log.idAtLocked(pos); known {
		return id, true
	}
	return since.Tick, false
}

func later(a, b sseproto.ID) sseproto.ID {
	if b.Less(a) {
		return a
	}
	return b
}

// explains reports whether an instance that numbers from the same ticks can have given
// an ID that lies ahead of this log. Such an ID was given before now: since the last tick
// that came here was made, or within wait before it. A log with a clock of its own has no
// other beside it.
func (ln *Lineage) explains(id sseproto.ID, now time.Time, wait time.Duration) bool {
	ln.log.mu.Lock()
	defer ln.log.mu.Unlock()
	if ln.log.local.ms != 0 {
		return !ln.spans.high.Less(id)
	}
	ahead := min(ln.heard.behind(now), maxBehind*wait) + wait
	return id.Ms <= ln.ticked.Load().Ms+uint64(ahead/time.Millisecond)
}

// maxBehind times Config.HistoryWait is how far a log may count as behind others. When the
// clock of Redis was set back, ticks are late for as long as that takes to catch up.
const maxBehind = 10

// isBehind reports whether the log may be behind other instances by more than that: ticks
// do not come, or come late. Then an ID that lies ahead may well be one of theirs.
func (ln *Lineage) isBehind(now time.Time, by time.Duration) bool {
	ln.log.mu.Lock()
	defer ln.log.mu.Unlock()
	return ln.heard.behind(now) > by
}
