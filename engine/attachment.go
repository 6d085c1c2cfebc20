package engine

import (
	"time"

	"ssed/sseproto"
)

// resumeKind says what a client told about where it left off.
type resumeKind uint8

const (
	resumeNone    resumeKind = iota // no Last-Event-ID: start at now
	resumeID                        // a well-formed Last-Event-ID
	resumeUnknown                   // one that is not ours: a gap event, then now
)

// resumePoint is the Last-Event-ID of a request.
type resumePoint struct {
	kind resumeKind
	id   sseproto.ID
	raw  string // as sent, for the gap event; kept only while attaching
}

// attachment is a client on its way from the front to a shard: the request is
// read and admitted, the descriptor has left netpoll.
type attachment struct {
	fd       int         // owned by the attachment, then by its slot
	head     []byte      // response head, written first; never modified
	channels []string    // owned; at least one, no duplicates
	resume   resumePoint // where to start
	expires  time.Time   // close at this time; zero: never
	peer     uint32      // the front's handle for its address, given back at close; 0: none
	since    standing    // when the request was read: "now" of a client without Last-Event-ID
}

// standing is where the log stood at some moment.
type standing struct {
	pos             uint64 // of the newest message
	discontinuities uint64 // how often something had been missed until then
}
