package rsub

import (
	"sync"
	"sync/atomic"

	"ssed/sseproto"
)

// output takes what one subscription says. Of one only one goroutine calls at a time.
type output interface {
	// open begins a span of a connection to node: a run of a server in one term.
	open(node string, low sseproto.ID)
	append(id sseproto.ID, channel, payload string)
	// oversize is append for a message that is left out because it is too large.
	oversize(id sseproto.ID, channel string)
	commit(id, watermark sseproto.ID)
	// end closes the span, of which only what came up to through counts.
	end(through sseproto.ID)
	// discontinue is end where every subscription of the node finds the same, each when it
	// reads the tick that tells it.
	discontinue(through sseproto.ID)
	// lose tells that the span has ended with through. What came since the last good
	// tick may be of another node, whose tick was not read any more: it counts if the
	// next span is of the same node, so the span is held open until then.
	lose(through sseproto.ID)
	// finish closes a span that is still held: there is no next one to judge it by.
	finish()
}

// direct gives a single subscription to the sink.
type direct struct {
	sink      Sink
	node      string // of the span
	undecided bool   // lost and not closed yet
	through   sseproto.ID
	committed reached
	origins   origins
}

func (d *direct) open(node string, low sseproto.ID) {
	d.resolve(node)
	d.node = node
	d.origins.open(node, low)
	d.sink.OpenSpan(low)
	d.committed.reach(low.Ms)
}

func (d *direct) append(id sseproto.ID, channel, payload string) { d.sink.Append(id, channel, payload) }
func (d *direct) oversize(id sseproto.ID, channel string)        { d.sink.Oversize(id, channel) }
func (d *direct) end(through sseproto.ID)                        { d.sink.CloseSpan(d.origins.through(through)) }
func (d *direct) discontinue(through sseproto.ID)                { d.end(through) }
func (d *direct) lose(through sseproto.ID)                       { d.undecided, d.through = true, through }
func (d *direct) finish()                                        { d.resolve("") }

func (d *direct) commit(id, watermark sseproto.ID) {
	d.sink.Commit(id, watermark)
	d.committed.reach(id.Ms)
}

// resolve closes an undecided span when the node of the next one is known.
func (d *direct) resolve(next string) {
	if !d.undecided {
		return
	}
	d.undecided = false
	if next != d.node {
		d.through.Seq = 0 // the last good tick
		d.through = d.origins.through(d.through)
	}
	d.sink.CloseSpan(d.through)
}

// What a waiting port may hold until the others have come up to where it began.
// It waits for the time between two reads of the same tick, as a rule less than
// a millisecond; the bounds are for a subscription that lags far behind.
const (
	maxBuffered      = 16384
	maxBufferedBytes = 16 << 20
)

// merger joins subscriptions that number alike: every message goes to the sink once, from
// whichever subscription brings it first. It relies on one thing: a subscription that covers the
// head has everything after it, in order, so the next message beyond the head
// that it brings is the one that follows the head.
type merger struct {
	sink    Sink
	passed  atomic.Uint64
	reached reached
	origins origins

	mu        sync.Mutex // guards the rest and the ports; held across calls of the sink, which do not block
	ports     []*port
	spanOpen  bool        // some port covers it
	undecided bool        // lost and not closed yet
	node      string      // of the span
	head      sseproto.ID // greatest position that the sink knows
	committed sseproto.ID
}

// portState is how a subscription stands to the span.
type portState uint8

const (
	closed   portState = iota // has no span
	covering                  // has everything after the head
	waiting                   // began beyond the head, or on another node: its messages are buffered
	detached                  // buffered too much, or began below the head: waits for its next tick
)

// port is the place of one subscription in the merger.
type port struct {
	m             *merger
	state         portState
	node          string
	low, last     sseproto.ID
	buffered      []bufferedEvent
	bufferedBytes int
}

// bufferedEvent is a message, or the place of one that is too large, or a commit with its
// watermark.
type bufferedEvent struct {
	kind             eventKind
	id, watermark    sseproto.ID
	channel, payload string
}

type eventKind uint8

const (
	isMessage eventKind = iota
	isOversize
	isCommit
)

func newMerger(sink Sink, subscriptions int) *merger {
	m := &merger{sink: sink}
	for range subscriptions {
		m.ports = append(m.ports, &port{m: m})
	}
	return m
}

func (p *port) open(node string, low sseproto.ID) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	p.openLocked(node, low)
	p.m.promoteLocked()
}

func (p *port) openLocked(node string, low sseproto.ID) {
	p.node, p.low, p.last = node, low, low
	p.release()
	p.state = waiting
}

func (p *port) append(id sseproto.ID, channel, payload string) {
	p.add(bufferedEvent{id: id, channel: channel, payload: payload})
}

func (p *port) oversize(id sseproto.ID, channel string) {
	p.add(bufferedEvent{kind: isOversize, id: id, channel: channel})
}

func (p *port) add(e bufferedEvent) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	p.last = e.id
	switch p.state {
	case covering:
		p.m.appendLocked(&e)
		p.m.promoteLocked()
	case waiting:
		p.buffer(e)
	}
}

func (p *port) commit(id, watermark sseproto.ID) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	p.last = id
	switch p.state {
	case covering:
		p.m.commitLocked(id, watermark)
	case waiting:
		p.buffer(bufferedEvent{kind: isCommit, id: id, watermark: watermark})
	case detached:
		p.openLocked(p.node, id)
	}
	p.m.promoteLocked()
}

func (p *port) end(through sseproto.ID) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.closeLocked() == covering {
		p.m.truncateLocked(through)
	}
	p.m.promoteLocked()
}

// discontinue leaves alone a span that another port has begun behind the same tick, or a
// later one.
func (p *port) discontinue(through sseproto.ID) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.closeLocked() == covering && !through.Less(p.m.committed) {
		p.m.truncateLocked(through)
	}
	p.m.promoteLocked()
}

func (p *port) lose(sseproto.ID) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.closeLocked() == covering && !p.m.coveredLocked() {
		p.m.spanOpen, p.m.undecided = false, true
	}
	p.m.promoteLocked()
}

func (p *port) closeLocked() (was portState) {
	was, p.state = p.state, closed
	p.release()
	return was
}

func (p *port) finish() {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	p.m.resolveLocked("")
}

// buffer keeps an event of a waiting port. The strings are not copied: rueidis
// makes them anew for each message.
func (p *port) buffer(e bufferedEvent) {
	p.buffered = append(p.buffered, e)
	p.bufferedBytes += len(e.channel) + len(e.payload)
	if len(p.buffered) > maxBuffered || p.bufferedBytes > maxBufferedBytes {
		p.release()
		p.state = detached
	}
}

func (p *port) release() { p.buffered, p.bufferedBytes = nil, 0 }

func (m *merger) appendLocked(e *bufferedEvent) {
	if !m.head.Less(e.id) {
		return
	}
	m.head = e.id
	if e.kind == isOversize {
		m.sink.Oversize(e.id, e.channel)
		return
	}
	m.passed.Add(1)
	m.sink.Append(e.id, e.channel, e.payload)
}

func (m *merger) commitLocked(id, watermark sseproto.ID) {
	if m.head.Less(id) {
		m.head = id
	}
	if m.committed.Less(id) {
		m.committed = id
		m.sink.Commit(id, watermark)
		m.reached.reach(id.Ms)
	}
}

// coveredLocked reports whether some port has everything after the head.
func (m *merger) coveredLocked() bool {
	for _, p := range m.ports {
		if p.state == covering {
			return true
		}
	}
	return false
}

// truncateLocked ends the span. What came after through does not count, from whichever
// subscription it came, and the other subscriptions begin anew at their next tick: they hang on the
// same node.
func (m *merger) truncateLocked(through sseproto.ID) {
	if through.Less(m.committed) {
		through = m.committed
	}
	for _, p := range m.ports {
		if p.state == covering {
			p.state = detached
		}
	}
	m.spanOpen = false
	m.sink.CloseSpan(m.origins.through(through))
}

// resolveLocked closes an undecided span when the node of the next one is known.
func (m *merger) resolveLocked(next string) {
	if !m.undecided {
		return
	}
	m.undecided = false
	through := m.head
	if next != m.node {
		through = m.origins.through(m.committed)
	}
	m.sink.CloseSpan(through)
}

// promoteLocked lets waiting ports take part as soon as they can, and begins a
// span when there is none.
func (m *merger) promoteLocked() {
	for {
		p := m.firstWaitingLocked()
		if p == nil {
			return
		}
		switch {
		case !m.spanOpen && p.low.Less(m.head):
			// Another node's order, behind what the sink has: IDs never go back.
			p.release()
			p.state = detached
		case !m.spanOpen:
			m.resolveLocked(p.node)
			m.spanOpen, m.node = true, p.node
			m.head, m.committed = p.low, p.low
			m.origins.open(p.node, p.low)
			m.sink.OpenSpan(p.low)
			m.reached.reach(p.low.Ms)
			m.coverLocked(p)
		case p.node == m.node && !m.head.Less(p.low):
			m.coverLocked(p)
		default:
			return
		}
	}
}

// firstWaitingLocked returns the waiting port that began first.
func (m *merger) firstWaitingLocked() *port {
	var first *port
	for _, p := range m.ports {
		if p.state == waiting && (first == nil || p.low.Less(first.low)) {
			first = p
		}
	}
	return first
}

// coverLocked makes a port covering and catches up with what it buffered.
func (m *merger) coverLocked(p *port) {
	p.state = covering
	buffered := p.buffered
	p.release()
	for _, e := range buffered {
		if e.kind == isCommit {
			m.commitLocked(e.id, e.watermark)
		} else {
			m.appendLocked(&e)
		}
	}
}
