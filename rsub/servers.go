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

// term is the first tick of the last term of a server; 0: it is not told, or from before that was noted.
func (s servers) term(runID string) (from uint64) {
	for s != "" {
		var name string
		var t uint64
		if name, t, s = s.cut(); name == runID {
			from = t
		}
	}
	return from
}

// end returns up to where a span is part of the order: another server gave it from there on.
// MaxID: no other is known. A server with old data may not know the term in which the span
// began, but an earlier one, and who ended that.
func (s servers) end(span ownSpan) sseproto.ID {
	term, isKnown := span.term, span.term > 0
	for rest := s; rest != ""; {
		var name string
		var from uint64
		if name, from, rest = rest.cut(); name == span.runID && from <= span.low.Ms {
			term, isKnown = max(term, from), true
		}
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
	term  uint64 // as the server's own clock had it, see servers.term
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
	o.spans = append(o.spans, ownSpan{low, strings.Clone(runID), max(o.known.term(runID), o.told.term(runID))})
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
