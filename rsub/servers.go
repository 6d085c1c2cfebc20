package rsub

import (
	"strconv"
	"strings"
	"sync"

	"ssed/sseproto"
)

// servers is which server gave the order from which tick on, oldest first, as the clock has it:
// "<run_id>:<t>", with commas between. The first one may be older than is told, and has 0 then.
// "" where there was no other than the present one.
type servers string

// cut takes the oldest off.
func (s servers) cut() (runID string, from uint64, rest servers) {
	first, after, _ := strings.Cut(string(s), ",")
	runID, text, _ := strings.Cut(first, ":")
	from, _ = strconv.ParseUint(text, 10, 64)
	return runID, from, servers(after)
}

// newest is the first tick of the newest.
func (s servers) newest() (from uint64) {
	for s != "" {
		_, from, s = s.cut()
	}
	return from
}

// end returns up to where a span that began at low on a server is part of the order: another
// server gave it from there on. MaxID: no other is known.
func (s servers) end(runID string, low sseproto.ID) sseproto.ID {
	end := sseproto.MaxID
	for isIts := false; s != ""; {
		var name string
		var from uint64
		name, from, s = s.cut()
		switch {
		case name == runID && from <= low.Ms:
			isIts, end = true, sseproto.MaxID
		case isIts && name != runID && from > 0:
			isIts, end = false, sseproto.ID{Ms: from - 1, Seq: beyondAll}
		}
	}
	return end
}

// beyondAll is a number that no message behind a tick has.
const beyondAll = 1 << 32

// maxSpans is how many spans are remembered, to tell which server they are of.
const maxSpans = 64

// origins is what a feed knows of the servers: who gave the order, and which one its own spans
// were read from. Ready when zero.
type origins struct {
	mu    sync.Mutex // guards the rest
	known servers
	spans []ownSpan // ascending
}

// ownSpan is where a span began, and on which server.
type ownSpan struct {
	low   sseproto.ID
	runID string
}

// learn takes what a clock says. A former primary knows less.
func (o *origins) learn(told servers) {
	if told == "" {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if told != o.known && told.newest() >= o.known.newest() {
		o.known = servers(strings.Clone(string(told)))
	}
}

// open notes that a span begins. The node is as output.open has it.
func (o *origins) open(node string, low sseproto.ID) {
	runID, _, _ := strings.Cut(node, ":")
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.spans) == maxSpans {
		o.spans = append(o.spans[:0], o.spans[1:]...)
	}
	o.spans = append(o.spans, ownSpan{low, strings.Clone(runID)})
}

// through returns up to where the newest span, which ends at an ID of its own server, is part
// of the order.
func (o *origins) through(id sseproto.ID) sseproto.ID {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := len(o.spans); n > 0 {
		if end := o.known.end(o.spans[n-1].runID, o.spans[n-1].low); end.Less(id) {
			return end
		}
	}
	return id
}

// server returns the run_id of the server that the span with an ID was read from, "" when it is
// not known.
func (o *origins) server(id sseproto.ID) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := len(o.spans) - 1; i >= 0; i-- {
		if !id.Less(o.spans[i].low) {
			return o.spans[i].runID
		}
	}
	return ""
}

// ServerOf returns the run_id of the Redis server whose order the sink has behind a position;
// "" when that is not known, or was too long ago.
func (f *Feed) ServerOf(after sseproto.ID) string { return f.origins.server(after) }
