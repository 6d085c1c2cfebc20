package engine

import "ssed/sseproto"

// Now returns a position with which a client misses nothing that is published from now on:
// all of it gets IDs beyond. What was published shortly before may have, too. Not ok: no
// span has begun yet. O(1).
//
// It is that of the last tick, which is the same on all instances; they come ten times a
// second. Where IDs are from a clock of this process it is that of the last message.
func (ln *lineage) Now() (id sseproto.ID, ok bool) {
	if ln.log.isLocal.Load() {
		return ln.last(), true
	}
	id = *ln.ticked.Load()
	return id, !id.IsZero()
}
