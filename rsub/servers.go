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

// term is the first tick of the term of a server in which a span began at low; 0: from before that
// was noted.
func (s servers) term(runID string, low sseproto.ID) (from uint64, isKnown bool) {
	for s != "" {
		var name string
		var t uint64
		if name, t, s = s.cut(); name == runID && t <= low.Ms {
			from, isKnown = t, true
		}
	}
	return from, isKnown
}

// end returns up to where a span is part of the order: another server gave it from there on.
// MaxID: no other is known. A server with old data may not know the term in which the span
// began, but an earlier one, and who ended that.
func (s servers) end(span ownSpan) sseproto.ID {
	term, isKnown := s.term(span.runID, span.low)
	if term < span.term {
		term, isKnown = span.term, true
	}
	for isKnown && s != "" {
		var name string
		var from uint64
		if name, from, s = s.cut(); name != span.runID && from > term {
			return sseproto.ID{Ms: from - 1, Seq: beyondAll}
		}
	}
	return sseproto.MaxID
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
	told  servers   // by the last clock that was read
	spans []ownSpan // ascending
}

// ownSpan is where a span began, and on which server.
type ownSpan struct {
	low   sseproto.ID
	runID string
	term  uint64 // as it was known when the span began, see servers.term; 0: not
}

// learn takes what a clock says. A former primary knows less.
func (o *origins) learn(told servers) {
	if told == "" {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if told != o.told {
		o.told = servers(strings.Clone(string(told)))
	}
	if told != o.known && told.newest() >= o.known.newest() {
		o.known = o.told
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
	term, _ := o.known.term(runID, low)
	own, _ := o.told.term(runID, low)
	o.spans = append(o.spans, ownSpan{low, strings.Clone(runID), max(term, own)})
}

// through returns up to where the newest span, which ends at an ID of its own server, is part
// of the order.
func (o *origins) through(id sseproto.ID) sseproto.ID {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := len(o.spans); n > 0 {
		if end := o.known.end(o.spans[n-1]); end.Less(id) {
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
