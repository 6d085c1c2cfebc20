package rsub

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"ssed/internal/redisconn"
)

const (
	// The first attempt after a loss is immediate; the pauses between further
	// ones grow from minBackoff to maxBackoff, which is chosen so that delivery is
	// back within a second of a restart of Redis.
	minBackoff = 10 * time.Millisecond
	maxBackoff = 500 * time.Millisecond
	// steadyAfter is how long a link must have lived for its loss to start the
	// backoff anew: a link that is cut again and again must not spin.
	steadyAfter = time.Second
	// overdue is how many probe timeouts a tick may be late on a link that does
	// bring messages: it lags, and cutting it would lose what Redis has queued.
	overdue = 5
)

var (
	errLost       = errors.New("connection lost")
	errUnasked    = errors.New("unsubscribed by the server")
	errNotPrimary = errors.New("connected to a server that is not the primary")
	errUnlinked   = errors.New("connecting")
)

// link is one subscribed connection and its sequencer, over all reconnects.
type link struct {
	// Fixed after construction.
	feed *Feed
	out  output
	cuts chan Cause // room for one: the connection must go

	// Owned by the read loop of the connection while hooks are set, else by run.
	seq       sequencer
	node      string        // run_id of the connection
	confirmed int           // subscriptions so far
	ready     chan struct{} // closed when all are there
	claimed   *parcel       // of our own messages that come next; nil: none
	claims    int           // how many of them have come
	entries   uint64        // how many messages behind the last tick are of the inbox

	// Atomic.
	client   atomic.Pointer[rueidis.Client] // through which the connection is made; nil before the first
	linked   atomic.Pointer[string]         // run_id of the connection, once it is subscribed; nil while there is none
	received atomic.Uint64                  // messages but for reserved ones, to tell slow from silent
	synced   atomic.Bool
	tickAt   atomic.Int64 // Feed.elapsed of the last good tick
	tickT    atomic.Uint64
	wanted   atomic.Uint64 // t of a tick known to be published and not seen yet; 0 is none
	wantedAt atomic.Int64  // Feed.elapsed when it became known
	trouble  atomic.Pointer[error]
}

func newLink(f *Feed, out output) *link {
	l := &link{feed: f, out: out, cuts: make(chan Cause, 1)}
	l.seq.fingerprint = f.fingerprint
	l.trouble.Store(&errUnlinked)
	return l
}

// run keeps the link alive until ctx ends.
func (l *link) run(ctx context.Context) {
	for attempt := 0; ctx.Err() == nil; attempt++ {
		began := time.Now()
		err := l.session(ctx)
		l.trouble.Store(&err)
		if time.Since(began) > steadyAfter && l.tickT.Load() != 0 {
			attempt = 0
		}
		if dropped, ok := l.feed.logLinks.Allow(); ok && ctx.Err() == nil {
			l.feed.cfg.Logger.Warn("rsub: link lost, connecting again", "error", err, "dropped", dropped)
		}
		sleep(ctx, backoff(attempt))
	}
}

// backoff returns the pause after so many attempts in a row.
func backoff(attempt int) time.Duration {
	if attempt == 0 {
		return 0
	}
	return jitter(min(minBackoff<<min(attempt-1, 10), maxBackoff))
}

func sleep(ctx context.Context, d time.Duration) {
	if d == 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// session is the life of one connection; the error tells how it ended.
func (l *link) session(ctx context.Context) error {
	l.tickT.Store(0)
	client, err := l.feed.client.Get(ctx)
	if err != nil {
		return err
	}
	l.client.Store(&client)
	conn, _ := client.Dedicate()
	h := &hooks{link: l}
	lost, err := l.subscribe(ctx, conn, h)
	if err != nil {
		conn.Close()
		h.close()
		l.finish(CauseDisconnect)
		return err
	}
	l.feed.counters.connects.Add(1)
	cause, err := l.watch(ctx, lost)
	l.linked.Store(nil)
	conn.Close()
	h.close()
	l.finish(cause)
	l.feed.tell()
	if cause == CauseNode || cause == CauseReadOnly {
		l.feed.client.Discard(client)
	}
	return err
}

// hooks is what the read loop of one connection calls. The library has no way to wait
// for the end of that loop: to close a connection takes the hooks away from it and
// does not wait for the call that it may be in.
type hooks struct {
	link *link

	mu   sync.Mutex // held by the read loop during a call; nobody else wants it before the end
	over bool
}

func (h *hooks) onMessage(m rueidis.PubSubMessage) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.over {
		h.link.onMessage(m)
	}
}

func (h *hooks) onSubscription(s rueidis.PubSubSubscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.over {
		h.link.onSubscription(s)
	}
}

// close waits for the call under way; there is none after it.
func (h *hooks) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
}

// subscribe learns the node of the connection and subscribes to everything. The
// channel tells of the end of the connection.
func (l *link) subscribe(ctx context.Context, conn rueidis.DedicatedClient, h *hooks) (<-chan error, error) {
	info, err := conn.Do(ctx, conn.B().Info().Section("server").Build()).ToString()
	if err != nil {
		return nil, err
	}
	server := redisconn.ParseInfo(info)
	if err := server.Check(); err != nil {
		return nil, err
	}
	select {
	case <-l.cuts: // meant for an earlier connection
	default:
	}
	l.node, l.confirmed, l.ready = server.RunID(), 0, make(chan struct{})
	l.wanted.Store(0)
	lost := conn.SetPubSubHooks(rueidis.PubSubHooks{OnMessage: h.onMessage, OnSubscription: h.onSubscription})
	for _, res := range conn.DoMulti(ctx,
		conn.B().Subscribe().Channel(l.feed.keys.Control).Build(),
		conn.B().Psubscribe().Pattern(l.feed.patterns...).Build(),
	) {
		if err := res.Error(); err != nil {
			return nil, fmt.Errorf("subscribe: %w", err)
		}
	}
	return lost, nil
}

// watch waits for the end of the connection, asks for a tick while there is no
// mark, cuts the connection when a published tick does not come, and logs what the
// read loop finds.
func (l *link) watch(ctx context.Context, lost <-chan error) (Cause, error) {
	period := time.NewTicker(max(leadIntervals*l.feed.cfg.TickInterval, time.Millisecond))
	defer period.Stop()
	ready := l.ready
	received, progressAt := uint64(0), l.feed.elapsed()
	for {
		select {
		case <-ctx.Done():
			return CauseShutdown, ctx.Err()
		case err, ok := <-lost:
			if !ok || err == nil {
				err = errLost
			}
			return CauseDisconnect, err
		case cause := <-l.cuts:
			return cause, cutError(cause)
		case <-ready:
			ready = nil
			node := l.node // the field is that of the next connection one day
			l.linked.Store(&node)
			l.trouble.Store(nil)
			l.feed.ticker.join()
		case <-period.C:
			l.feed.tell()
			if n := l.received.Load(); n != received {
				received, progressAt = n, l.feed.elapsed()
			}
			if l.late(progressAt) {
				return CauseProbe, fmt.Errorf("connection cut: no tick within %v", l.feed.cfg.ProbeTimeout)
			}
			if ready == nil && !l.synced.Load() {
				l.feed.ticker.join()
			}
		}
	}
}

// cutError tells why a connection that still stood was given up.
func cutError(cause Cause) error {
	switch cause {
	case CauseNode, CauseReadOnly:
		return errNotPrimary
	}
	return errUnasked
}

// late reports whether a tick that is known to be published has not come.
func (l *link) late(progressAt time.Duration) bool {
	wanted := l.wanted.Load()
	if wanted == 0 {
		return false
	}
	if l.tickT.Load() >= wanted {
		l.wanted.CompareAndSwap(wanted, 0)
		return false
	}
	now, timeout := l.feed.elapsed(), l.feed.cfg.ProbeTimeout
	waited := now - time.Duration(l.wantedAt.Load())
	return waited > timeout && (now-progressAt > timeout || waited > overdue*timeout)
}

// expect notes that tick t was published. Until it has come later ones are not
// noted, so that the wait is measured from the first.
func (l *link) expect(t uint64) {
	if l.tickT.Load() >= t {
		return
	}
	if w := l.wanted.Load(); w == 0 || l.tickT.Load() >= w {
		l.wantedAt.Store(int64(l.feed.elapsed()))
		l.wanted.Store(t)
	}
}

// cut asks run to end the connection. It does not block.
func (l *link) cut(cause Cause) {
	select {
	case l.cuts <- cause:
	default: // about to go already
	}
}

// finish ends the span after the last hook.
func (l *link) finish(cause Cause) {
	l.unclaim()
	l.ended(l.seq.stop(cause, cause == CauseNode || cause == CauseReadOnly))
}

// ended passes the end of a span on, if there was one.
func (l *link) ended(st step) {
	switch st.action {
	case end:
		l.out.end(st.id)
	case lose:
		l.out.lose(st.id)
	default:
		return
	}
	l.synced.Store(false)
	l.feed.counters.resyncs[st.cause].Add(1)
}

// onSubscription counts the confirmations, which come in order with the messages.
func (l *link) onSubscription(s rueidis.PubSubSubscription) {
	switch s.Kind {
	case "subscribe", "psubscribe":
		if l.confirmed++; l.confirmed == 1+len(l.feed.patterns) {
			l.seq.subscribe(l.node)
			close(l.ready)
		}
	default:
		l.cut(CauseDisconnect)
	}
}

// onMessage is the way of every message. It allocates nothing.
func (l *link) onMessage(m rueidis.PubSubMessage) {
	c := &l.feed.counters
	if m.Pattern != "" && Reserved(m.Channel) {
		// No sign of life: a sentinel says hello on every server, the wrong one too.
		c.reserved.Add(1)
		return
	}
	l.received.Add(1)
	switch {
	case m.Pattern == "":
		l.onControl(m.Message)
		return
	case !l.feed.patterns.canonical(m.Pattern, m.Channel):
		c.overlaps.Add(1)
		return
	}
	id, ok := l.seq.message(m.Channel, m.Message)
	if !ok {
		c.unnumbered.Add(1)
		return
	}
	if l.claimed != nil {
		l.claim(id, m.Channel)
	}
	// An entry of the inbox had the limit of the instance that published it, and does
	// not come again: it is delivered whatever the limit is here.
	if limit := l.feed.cfg.MaxMessageBytes; limit > 0 && len(m.Message) > limit && id.Seq > l.entries {
		c.oversize.Add(1)
		l.feed.found.oversize.note(outsized{id, len(m.Message)})
		return
	}
	c.passed.Add(1)
	l.out.append(id, m.Channel, m.Message)
}

// onControl takes a message of the control channel.
func (l *link) onControl(text string) {
	switch word, rest, _ := strings.Cut(text, " "); word {
	case wordSent:
		l.onSent(rest)
	case wordFree:
		l.feed.cfg.OnFree()
	case wordTick:
		t, err := parseTick(text)
		if err != nil {
			l.refused(step{action: refuse, cause: CauseMalformed}, tick{})
			return
		}
		l.onTick(t)
	default:
		if words := strings.Fields(text); len(words) > 0 {
			l.feed.counters.notices.Add(1)
			l.feed.cfg.OnNotice(words)
		}
	}
}

func (l *link) onTick(t tick) {
	l.unclaim()
	st := l.seq.tick(t)
	switch st.action {
	case open:
		l.good(t, st)
		l.out.open(l.node, st.id)
		l.synced.Store(true)
		l.feed.everSynced.Store(true)
	case commit:
		l.good(t, st)
		l.out.commit(st.id, t.watermark)
	case end, lose:
		l.ended(st)
		l.refused(st, t)
	case refuse:
		l.refused(st, t)
	}
}

// good notes an accepted tick.
func (l *link) good(t tick, st step) {
	f := l.feed
	f.counters.ticksSeen.Add(1)
	if st.newEpoch {
		f.counters.epochChanges.Add(1)
		f.found.epochs.note(t.epoch)
	}
	if st.differs {
		f.counters.checkMismatches.Add(1)
		f.found.mismatches.note(mismatch{t, st.own})
	}
	l.entries = t.entries()
	l.tickT.Store(t.t)
	l.tickAt.Store(int64(f.elapsed()))
	f.noteTick(t, l.seq.past.last())
}

// refused counts a tick that is no mark and does what its cause asks for.
func (l *link) refused(st step, t tick) {
	f := l.feed
	f.counters.refused[st.cause].Add(1)
	switch st.cause {
	case CauseNode:
		l.cut(CauseNode)
	case CauseOrder:
		f.ticker.join()
	}
	f.found.refused.note(refusal{st.cause, t, l.node})
}

// fresh reports whether good ticks come on the link.
func (l *link) fresh() bool {
	limit := l.feed.cfg.ProbeTimeout + leadIntervals*l.feed.cfg.TickInterval
	return l.synced.Load() && l.feed.elapsed()-time.Duration(l.tickAt.Load()) <= limit
}
