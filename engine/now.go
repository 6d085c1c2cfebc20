package engine

import "ssed/sseproto"

// Now returns a position with which a client misses nothing that is published from now on:
// all of it gets IDs beyond. What was published shortly before may have, too. Not ok: no
// span has begun yet. O(1).
//
// It is that of the last tick, which is the same on all instances; they come ten times a
// second. Where IDs are from a clock of this process it is that of the last message.
func (ln *Lineage) Now() (id sseproto.ID, ok bool) {
	if ln.log.isLocal.Load() {
		return ln.last(), true
	}
	id = *ln.ticked.Load()
	return id, !id.IsZero()
}

// Place is Now as an event ID: in a log of several partitions it names a place in each. Not
// ok: a partition has not begun yet.
func (l *Log) Place() (text string, ok bool) {
	if !l.isDivided() {
		id, ok := l.Now()
		return id.String(), ok
	}
	ticks := *l.ticks.Load()
	for p := range l.lines {
		if p >= len(ticks) || ticks[p].IsZero() {
			return "", false
		}
	}
	return string(sseproto.AppendVector(nil, 0, ticks)), true
}
