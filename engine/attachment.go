package engine

import (
	"ssed/engine/internal/front"
	"ssed/sseproto"
)

// resumeKind says what a client told about where it left off.
type resumeKind uint8

const (
	resumeNone    resumeKind = iota // no Last-Event-ID: start at now
	resumeStart                     // none either: start where it is asked for
	resumeID                        // a well-formed Last-Event-ID
	resumeUnknown                   // one that is not ours: a gap event, then now
	resumeJoin                      // in a log of several partitions: see joining
)

// resumePoint is where a stream goes on, or starts.
type resumePoint struct {
	kind resumeKind
	id   sseproto.ID
	raw  string // as sent, for the gap event
	// begins: the client has no ID of its own, it was told this one as its start. While
	// a discontinuity is being backfilled it waits for the ring.
	begins bool

	start sseproto.StartPoint // of resumeStart
	// from: behind id, a channel counts only from its own ID in it. "": all count.
	from startIDs

	client uint64     // whose turn it takes to read the history, see fairQueue; 0: not known yet
	told   toldLosses // while it reads the history page by page
}

// resumePointOf reads where the client of a stream left off.
func resumePointOf(a *front.Stream) resumePoint {
	switch {
	case a.Resumes:
	case a.Start != nil:
		return resumePoint{kind: resumeStart, start: *a.Start, client: a.Client}
	default:
		return resumePoint{}
	}
	p := resumePoint{kind: resumeUnknown, raw: a.LastEventID, client: a.Client}
	if id, _, err := sseproto.ParseEventID(a.LastEventID); err == nil {
		p.kind, p.id = resumeID, id
	}
	return p
}

// attachmentOf reads where the client of a stream left off, in a log of so many partitions.
func attachmentOf(a *front.Stream, partitions int) attachment {
	at := attachment{Stream: a, resume: resumePointOf(a)}
	if partitions == 1 || !a.Resumes {
		return at
	}
	at.resume.kind = resumeUnknown
	at.places = make([]sseproto.ID, partitions)
	if own, _, err := sseproto.ParseEventVector(a.LastEventID, at.places); err == nil {
		at.resume.kind, at.own = resumeID, own
	}
	return at
}

// attachment is a client that a shard has subscribed and not answered yet.
type attachment struct {
	*front.Stream
	resume resumePoint // where to start

	// of several partitions, with kind resumeID: the places that the ID names, and whose it is
	places []sseproto.ID
	own    int
}
