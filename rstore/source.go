package rstore

import "ssed/sseproto"

// Source is the log that the writer reads. Its methods are called from one
// goroutine.
type Source interface {
	// ReadCommitted calls visit for committed messages after `after`, ascending, at
	// most max messages and maxBytes of data, but at least one. Prev is the position
	// of the channel's message before it, 0-0 when the log does not know. The strings are
	// borrowed during the call. Through: the log is complete over
	// (after, through] with what was visited; it advances over quiet time too
	// and equals after when nothing new is committed. Low is above after when
	// the log cannot vouch for what follows after; it is then the first
	// position from which it can, sseproto.MaxID when there is none (not linked
	// to Redis and nothing left), and nothing was visited. Otherwise low is after;
	// a log that knows nothing may also return after for both.
	ReadCommitted(after sseproto.ID, max, maxBytes int, visit func(id sseproto.ID, channel string, m sseproto.Message, prev sseproto.ID)) (through, low sseproto.ID)
	// Changed returns a channel that is closed when ReadCommitted may tell more.
	Changed() <-chan struct{}
}
