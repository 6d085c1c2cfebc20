package rsub

import (
	"context"
	"errors"
	"fmt"
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
	// steadyAfter is how long a subscription must have lived for its loss to start the
	// backoff anew: a subscription that is cut again and again must not spin.
	steadyAfter = time.Second
	// overdue is how many probe timeouts a tick may be late on a subscription that does
	// bring something: it lags, and cutting it would lose what Redis has queued. Redis
	// itself cuts who is far behind for a minute (client-output-buffer-limit pubsub).
	overdue = 30
	// stallIntervals is the least distance of two ticks, in intervals, that counts as a stall of
	// a server that was silent.
	stallIntervals = 5
	// progressBytes is what has to come in to be a sign of life, if it is no whole message.
	progressBytes = 1024
	// reservedOverhead is more than what the protocol adds to a message.
	reservedOverhead = 64
)

var (
	errLost       = errors.New("connection lost")
	errUnasked    = errors.New("unsubscribed by the server")
	errNotPrimary = errors.New("connected to a server that is not the primary")
	errStalled    = errors.New("connection cut: the server stood still, another may be the primary")
	errConnecting = errors.New("connecting")
)

// subscription is one subscribed connection and its sequencer, over all reconnects.
type subscription struct {
	// Fixed after construction.
	feed        *Feed
	out         output
	connecting  *redisconn.Client
	disconnects chan Cause // room for one: the connection must go

	// Owned by the read loop of the connection while hooks are set, else by run.
	seq       sequencer
	node      string        // run_id of the connection's server
	term      string        // and its master_replid2 when the connection was made
	confirmed int           // subscriptions so far
	ready     chan struct{} // closed when all are there
	awaited   *publishBatch // of our own messages that come next; nil: none
	came      int           // how many of them have come
	entries   uint64        // how many messages behind the last tick are of the inbox

	// Atomic.
	client       atomic.Pointer[rueidis.Client] // of the commands when the connection was made; nil before the first
	subscribedTo atomic.Pointer[string]         // run_id of the connection, once it is subscribed; nil while there is none
	received     atomic.Uint64                  // messages but for reserved ones, to tell slow from silent
	bytes        atomic.Int64                   // read from the connection
	reserved     atomic.Int64                   // of these at most, of reserved messages
	silent       atomic.Bool                    // nothing has come for long; until the next good tick
	synced       atomic.Bool
	tickAt       atomic.Int64 // Feed.elapsed of the last good tick
	tickT        atomic.Uint64
	wanted       atomic.Uint64 // t of a tick known to be published and not seen yet; 0 is none
	wantedAt     atomic.Int64  // Feed.elapsed when it became known
	trouble      atomic.Pointer[error]
}

func newSubscription(f *Feed, out output) *subscription {
	s := &subscription{feed: f, out: out, disconnects: make(chan Cause, 1)}
	s.connecting = redisconn.NewSubscribing(f.cfg.Client, f.keys.Slot, &s.bytes)
	s.seq.fingerprint = f.fingerprint
	s.seq.stall = uint64(max(f.cfg.ProbeTimeout/2, stallIntervals*f.cfg.TickInterval).Milliseconds())
	s.trouble.Store(&errConnecting)
	return s
}

// run keeps the subscription alive until ctx ends.
func (s *subscription) run(ctx context.Context) {
	defer s.connecting.Close()
	for attempt := 0; ctx.Err() == nil; attempt++ {
		began := time.Now()
		err := s.session(ctx)
		s.trouble.Store(&err)
		if time.Since(began) > steadyAfter && s.tickT.Load() != 0 {
			attempt = 0
		}
		if dropped, ok := s.feed.logSubscriptions.Allow(); ok && ctx.Err() == nil {
			s.feed.cfg.Logger.Warn("redis: connection lost, reconnecting", "error", err, "dropped", dropped)
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
func (s *subscription) session(ctx context.Context) error {
	s.tickT.Store(0)
	client, err := s.feed.client.Get(ctx)
	if err != nil {
		return err
	}
	s.client.Store(&client)
	connecting, err := s.connecting.Get(ctx)
	if err != nil {
		return err
	}
	conn, _ := connecting.Dedicate()
	h := &hooks{subscription: s}
	lost, err := s.subscribe(ctx, conn, h)
	if err != nil {
		conn.Close()
		h.close()
		s.finish(CauseDisconnect)
		s.connecting.Lost(connecting)
		return err
	}
	s.feed.counters.connects.Add(1)
	cause, err := s.watch(ctx, lost, func(ctx context.Context) error { return conn.Do(ctx, conn.B().Ping().Build()).Error() })
	s.subscribedTo.Store(nil)
	conn.Close()
	h.close()
	s.finish(cause)
	s.feed.tell()
	if cause == CauseNode || cause == CauseReadOnly {
		s.feed.client.Discard(client)
		s.connecting.Discard(connecting)
	}
	s.connecting.Lost(connecting)
	return err
}

// hooks is what the read loop of one connection calls. The library has no way to wait
// for the end of that loop: to close a connection takes the hooks away from it and
// does not wait for the call that it may be in.
type hooks struct {
	subscription *subscription

	mu   sync.Mutex // held by the read loop during a call; nobody else wants it before the end
	over bool
}

func (h *hooks) onMessage(m rueidis.PubSubMessage) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.over {
		h.subscription.onMessage(m)
	}
}

func (h *hooks) onSubscription(s rueidis.PubSubSubscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.over {
		h.subscription.onSubscription(s)
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
func (s *subscription) subscribe(ctx context.Context, conn rueidis.DedicatedClient, h *hooks) (<-chan error, error) {
	info, err := conn.Do(ctx, conn.B().Info().Section("server", "replication").Build()).ToString()
	if err != nil {
		return nil, err
	}
	server := redisconn.ParseInfo(info)
	if err := server.Check(redisconn.IsCluster(s.feed.cfg.Client)); err != nil {
		return nil, err
	}
	select {
	case <-s.disconnects: // meant for an earlier connection
	default:
	}
	s.node, s.term, s.confirmed, s.ready = server.RunID(), server.Term(), 0, make(chan struct{})
	s.wanted.Store(0)
	lost := conn.SetPubSubHooks(rueidis.PubSubHooks{OnMessage: h.onMessage, OnSubscription: h.onSubscription})
	cmds := rueidis.Commands{conn.B().Subscribe().Channel(s.feed.keys.Control).Build()}
	if s.feed.cfg.Sharded {
		cmds = append(cmds, conn.B().Ssubscribe().Channel(s.feed.keys.Messages).Build())
	} else {
		cmds = append(cmds, conn.B().Psubscribe().Pattern(s.feed.patterns...).Build())
	}
	if earlier := s.feed.keys.EarlierControl; earlier != "" {
		// First, so that it is there when the rest is. Who may not needs no earlier versions.
		err := conn.Do(ctx, conn.B().Subscribe().Channel(earlier).Build()).Error()
		if err != nil && redisconn.Code(err) != redisconn.CodeNoPerm {
			return nil, fmt.Errorf("subscribe: %w", err)
		}
	}
	if s.feed.subscribesToBatches() {
		cmds = append(cmds, conn.B().Subscribe().Channel(s.feed.cfg.BatchChannel).Build())
	}
	for _, res := range conn.DoMulti(ctx, cmds...) {
		if err := res.Error(); err != nil {
			return nil, fmt.Errorf("subscribe: %w", err)
		}
	}
	return lost, nil
}

// watch waits for the end of the connection, asks for a tick while none has come, cuts
// the connection when it is silent or a published tick does not come, and logs what the
// read loop finds.
func (s *subscription) watch(ctx context.Context, lost <-chan error, ping func(context.Context) error) (Cause, error) {
	ctx, cancel := context.WithCancel(ctx)
	period := time.NewTicker(max(leadIntervals*s.feed.cfg.TickInterval, time.Millisecond))
	defer period.Stop()
	p := progress{subscription: s, pongs: make(chan error, 1)}
	p.look()
	p.at, p.aliveAt = s.feed.elapsed(), s.feed.elapsed()
	defer p.end(cancel)
	ready := s.ready
	for {
		select {
		case <-ctx.Done():
			return CauseShutdown, ctx.Err()
		case err, ok := <-lost:
			if !ok || err == nil {
				err = errLost
			}
			return CauseDisconnect, err
		case cause := <-s.disconnects:
			return cause, disconnectError(cause)
		case err := <-p.pongs:
			p.pong(err)
		case <-ready:
			ready = nil
			node := s.node // the field is that of the next connection one day
			s.subscribedTo.Store(&node)
			s.trouble.Store(nil)
			s.feed.ticker.join()
		case <-period.C:
			s.feed.tell()
			p.look()
			switch timeout := s.feed.cfg.ProbeTimeout; {
			case s.late(p.at):
				return CauseProbe, fmt.Errorf("connection cut: no tick within %v", timeout)
			case p.silence() > timeout:
				return CauseProbe, fmt.Errorf("connection cut: silent for %v", timeout)
			case p.silence() > timeout/2:
				// A server that lives answers a PING now, also one that takes no ticks.
				if p.silence() > timeout*3/4 {
					s.silent.Store(true)
				}
				p.ping(ctx, ping)
			}
			if ready == nil && !s.synced.Load() {
				s.feed.ticker.join()
			}
		}
	}
}

// progress is what comes in on a connection. Owned by watch, but for its pongs.
type progress struct {
	*subscription
	messages uint64
	bytes    int64
	at       time.Duration // Feed.elapsed of the last message for us, or part of one
	aliveAt  time.Duration // or answer to a PING, which a server that has no ticks gives as well
	pongs    chan error    // room for one
	pinging  bool
}

// look notes whether something has come since the last time.
func (p *progress) look() {
	messages, bytes := p.received.Load(), p.subscription.bytes.Load()-p.reserved.Load()
	if messages != p.messages || bytes > p.bytes+progressBytes {
		p.messages, p.bytes = messages, bytes
		p.at = p.feed.elapsed()
		p.aliveAt = p.at
	}
}

func (p *progress) silence() time.Duration { return p.feed.elapsed() - p.aliveAt }

// ping asks for a sign of life. The answer may have to wait behind messages: then these are one.
func (p *progress) ping(ctx context.Context, ping func(context.Context) error) {
	if !p.pinging {
		p.pinging = true
		go func() { p.pongs <- ping(ctx) }()
	}
}

// pong takes in the answer. An error of the server is a sign of life too: one that cannot
// save answers even a PING with MISCONF.
func (p *progress) pong(err error) {
	p.pinging = false
	if _, isAnswer := rueidis.IsRedisErr(err); err == nil || isAnswer {
		p.aliveAt = p.feed.elapsed()
	}
}

// end waits for the PING that is under way.
func (p *progress) end(cancel context.CancelFunc) {
	cancel()
	if p.pinging {
		<-p.pongs
	}
}

// disconnectError tells why a connection that still stood was given up.
func disconnectError(cause Cause) error {
	switch cause {
	case CauseNode, CauseReadOnly:
		return errNotPrimary
	case CauseProbe:
		return errStalled
	}
	return errUnasked
}

// late reports whether a tick that is known to be published has not come.
func (s *subscription) late(progressAt time.Duration) bool {
	wanted := s.wanted.Load()
	if wanted == 0 {
		return false
	}
	if s.tickT.Load() >= wanted {
		s.wanted.CompareAndSwap(wanted, 0)
		return false
	}
	now, timeout := s.feed.elapsed(), s.feed.cfg.ProbeTimeout
	waited := now - time.Duration(s.wantedAt.Load())
	return waited > timeout && (now-progressAt > timeout || waited > overdue*timeout)
}

// expect notes that tick t was published. Until it has come later ones are not
// noted, so that the wait is measured from the first.
func (s *subscription) expect(t uint64) {
	if s.tickT.Load() >= t {
		return
	}
	if w := s.wanted.Load(); w == 0 || s.tickT.Load() >= w {
		s.wantedAt.Store(int64(s.feed.elapsed()))
		s.wanted.Store(t)
	}
}

// disconnect asks run to end the connection. It does not block.
func (s *subscription) disconnect(cause Cause) {
	select {
	case s.disconnects <- cause:
	default: // about to go already
	}
}

// finish ends the span after the last hook.
func (s *subscription) finish(cause Cause) {
	s.stopAwaiting()
	s.ended(s.seq.stop(cause, cause == CauseNode || cause == CauseReadOnly))
}

// ended passes the end of a span on, if there was one.
func (s *subscription) ended(st step) {
	switch {
	case st.action == end && st.cause == CauseBus:
		s.out.discontinue(st.id)
	case st.action == end:
		s.out.end(st.id)
	case st.action == lose:
		s.out.lose(st.id)
	default:
		return
	}
	s.synced.Store(false)
	s.feed.counters.resyncs[st.cause].Add(1)
}

// fresh reports whether good ticks come on the subscription.
func (s *subscription) fresh() bool {
	limit := s.feed.cfg.ProbeTimeout + leadIntervals*s.feed.cfg.TickInterval
	return s.synced.Load() && s.feed.elapsed()-time.Duration(s.tickAt.Load()) <= limit
}
