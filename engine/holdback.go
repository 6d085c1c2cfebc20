package engine

import (
	"context"
	"errors"
	"slices"
	"strings"

	"ssed/sseproto"
)

// heldMessage waits for the discontinuity before it to be backfilled.
type heldMessage struct {
	id      sseproto.ID
	channel string
	message sseproto.Message
	encoded *encoded // in place of the message when that is large
}

// heldSpan is a span whose messages wait outside the ring.
type heldSpan struct {
	after    sseproto.ID // end of the span before
	low      sseproto.ID
	ready    sseproto.ID
	through  sseproto.ID // set when closed
	closed   bool
	messages []heldMessage
}

// holdback keeps what the feed brings while a discontinuity is backfilled from the
// history, so that the ring stays in order. All fields are guarded by Log.mu.
type holdback struct {
	spans  []*heldSpan
	bytes  int64
	kick   chan struct{}           // capacity 1: there is a discontinuity to backfill
	giveUp context.CancelCauseFunc // ends what the backfiller waits for; nil: it does not wait
}

// ringOverhead is what a message takes of the ring at most beyond its bytes: its record,
// and the space of a frame of the size for which segments have records. Counted with
// less, half a ring of small messages that wait, or are backfilled, would not fit into the
// ring afterwards.
const ringOverhead = frameBytesPerEntry + int64(entryBytes)

// cost is what the message takes of the bound on waiting ones.
func (m *heldMessage) cost() int64 {
	cost := int64(len(m.channel)+len(m.message.Event)+len(m.message.ID)+len(m.message.Data)) + ringOverhead
	if m.encoded != nil {
		cost += int64(len(m.encoded.buf))
	}
	return cost
}

// checkRoom makes the backfiller give up when more waits than is good for the ring.
func (hb *holdback) checkRoom(l *Log) {
	if hb.bytes > l.shareOf(l.ringBytes/2) && hb.giveUp != nil {
		hb.giveUp(errHoldbackFull)
	}
}

// whileRoom returns a context that ends, with errHoldbackFull as its cause, when no more
// can be held back. The backfiller calls done when it has what it waited for.
func (ln *Lineage) whileRoom(ctx context.Context) (waiting context.Context, done func()) {
	waiting, giveUp := context.WithCancelCause(ctx)
	ln.log.mu.Lock()
	defer ln.log.mu.Unlock()
	ln.holdback.giveUp = giveUp
	ln.holdback.checkRoom(ln.log)
	return waiting, func() {
		ln.log.mu.Lock()
		defer ln.log.mu.Unlock()
		ln.holdback.giveUp = nil
		giveUp(nil)
	}
}

func (hb *holdback) active() bool { return len(hb.spans) > 0 }

// low is the start of the oldest held span: the history may go on from there.
func (hb *holdback) low() (low sseproto.ID, ok bool) {
	if !hb.active() {
		return low, false
	}
	return hb.spans[0].low, true
}

func (hb *holdback) newest() *heldSpan { return hb.spans[len(hb.spans)-1] }

func (hb *holdback) open(ln *Lineage, low sseproto.ID) {
	s := &heldSpan{low: low, ready: low}
	if hb.active() {
		s.after = hb.newest().through
	} else {
		s.after = ln.spans.newest().high
		ln.setBackfillingLocked(true)
	}
	hb.spans = append(hb.spans, s)
	select {
	case hb.kick <- struct{}{}:
	default:
	}
}

func (hb *holdback) append(l *Log, id sseproto.ID, channel string, m *sseproto.Message, e *encoded) {
	s := hb.newest()
	if s.closed {
		return
	}
	waiting := heldMessage{id: id, channel: strings.Clone(channel), encoded: e}
	if e == nil {
		waiting.message = sseproto.Message{
			Event: strings.Clone(m.Event), ID: strings.Clone(m.ID), Retry: m.Retry, Data: strings.Clone(m.Data),
		}
	}
	hb.bytes += waiting.cost()
	s.messages = append(s.messages, waiting)
	hb.checkRoom(l)
}

func (hb *holdback) commit(id sseproto.ID) {
	if s := hb.newest(); !s.closed && s.ready.Less(id) {
		s.ready = id
	}
}

func (hb *holdback) close(through sseproto.ID) {
	s := hb.newest()
	if s.closed {
		return
	}
	s.closed, s.through = true, through
	keep := slices.IndexFunc(s.messages, func(m heldMessage) bool { return through.Less(m.id) })
	if keep >= 0 { // nobody has seen the rest
		hb.take(s.messages[keep:])
		s.messages = s.messages[:keep]
	}
}

// take forgets messages that wait no longer.
func (hb *holdback) take(gone []heldMessage) {
	for i := range gone {
		hb.bytes -= gone[i].cost()
	}
	clear(gone)
}

var errHoldbackFull = errors.New("engine: too many messages came in while the history was read")

func (ln *Lineage) oldestHeld() *heldSpan {
	ln.log.mu.Lock()
	defer ln.log.mu.Unlock()
	if !ln.holdback.active() {
		return nil
	}
	return ln.holdback.spans[0]
}
