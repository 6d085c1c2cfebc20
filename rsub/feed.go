package rsub

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"ssed/internal/redisconn"
	"ssed/internal/throttle"
	"ssed/sseproto"
)

// Sink takes the ordered feed. One goroutine calls it at a time; it must not block.
type Sink interface {
	// OpenSpan begins a stretch without holes: every message of the patterns with
	// an ID greater than low follows, until CloseSpan.
	OpenSpan(low sseproto.ID)
	// Append adds a message. IDs ascend. The strings are borrowed.
	Append(id sseproto.ID, channel, payload string)
	// Oversize adds, like Append, the place of a message that is larger than
	// Config.MaxMessageBytes and is left out: who reads the channel is to be told.
	Oversize(id sseproto.ID, channel string)
	// Commit tells that all messages up to id, a tick, have the same IDs on every
	// instance. Watermark is how far the history is written.
	Commit(id, watermark sseproto.ID)
	// CloseSpan ends the stretch. What came up to through counts: everything when the
	// next one is of the same server, else only what was committed, because the
	// connection may have hung on a demoted primary. So it is called right before
	// OpenSpan, or at the end of Run, and not when the connection is lost.
	CloseSpan(through sseproto.ID)
}

// Feed is the ordered feed of one instance. Make it with New, run it once.
type Feed struct {
	// Fixed after construction.
	cfg                      Config
	patterns                 patternSet
	fingerprint, description string
	began                    time.Time
	client                   *redisconn.Client
	keys                     redisconn.Keys
	subscriptions            []*subscription
	merger                   *merger // nil with one subscription
	ticker                   *ticker

	// Locked by themselves, or atomic.
	counters   counters
	seen       seen
	results    *results
	committed  *reached     // of the sink
	origins    *origins     // of the sink
	clockSkew  atomic.Int64 // local ms minus Redis ms
	everSynced atomic.Bool
	trouble    atomic.Pointer[error]  // of the tick script
	epoch      atomic.Pointer[string] // of the clock, as the tick script told it last

	found                      findings
	logTicks, logSubscriptions throttle.Line
}

// New checks the configuration and names everything that is wrong with it. Redis
// is not needed yet.
func New(cfg Config, sink Sink) (*Feed, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	keys := redisconn.KeysOf(cfg.Client, cfg.Prefix, cfg.Partition)
	f := &Feed{
		cfg:      cfg,
		patterns: newPatternSet(cfg.Patterns),
		keys:     keys,
		began:    time.Now(),
		client:   cfg.Shared.Nodes("feed", cfg.Client).Client(keys.Slot),
	}
	f.description = f.patterns.describe(Rules{cfg.Envelope, cfg.Sharded, cfg.BatchChannel, cfg.Partition.Of})
	f.fingerprint = fingerprint(f.description)
	f.seen.feed = f
	f.results = newResults(&f.counters, cfg.Feeds)
	f.ticker = &ticker{
		feed: f, joins: make(chan struct{}, 1), asks: make(chan chan<- uint64), yields: make(chan struct{}, 1), inbox: inbox{feed: f},
	}
	if cfg.Feeds == 1 {
		out := &direct{sink: sink}
		f.committed, f.origins, f.subscriptions = &out.committed, &out.origins, []*subscription{newSubscription(f, out)}
		return f, nil
	}
	f.merger = newMerger(sink, cfg.Feeds)
	f.committed, f.origins = &f.merger.reached, &f.merger.origins
	for _, p := range f.merger.ports {
		f.subscriptions = append(f.subscriptions, newSubscription(f, p))
	}
	return f, nil
}

// Run feeds the sink until ctx ends, and then returns nil. Redis may be absent or
// go away: Run keeps trying. The one error is ErrConfigMismatch, when instances with
// other patterns hold the clock and this one was never synced. When Run returns
// the sink is not called any more.
func (f *Feed) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for _, sub := range f.subscriptions {
		wg.Go(func() { sub.run(ctx) })
	}
	err := f.ticker.run(ctx)
	cancel()
	wg.Wait()
	for _, sub := range f.subscriptions {
		sub.out.finish()
	}
	f.client.Close()
	return err
}

// State reports whether messages are numbered and ticks come, or in a few words
// why not.
func (f *Feed) State() (synced bool, reason string) {
	trouble := f.trouble.Load()
	if trouble != nil && errors.Is(*trouble, ErrConfigMismatch) {
		return false, (*trouble).Error()
	}
	for _, sub := range f.subscriptions {
		if sub.fresh() {
			return true, ""
		}
	}
	for _, sub := range f.subscriptions {
		if err := sub.trouble.Load(); err != nil {
			return false, "redis: " + (*err).Error()
		}
	}
	if !f.isCleared() {
		return false, "waiting to hear of the other instances"
	}
	if trouble != nil {
		return false, "no ticks: " + (*trouble).Error()
	}
	if f.everSynced.Load() {
		return false, "waiting for a tick"
	}
	return false, "waiting for the first tick"
}

// isCleared reports whether the feed may tick and publish.
func (f *Feed) isCleared() bool {
	if f.cfg.Cleared == nil {
		return true
	}
	select {
	case <-f.cfg.Cleared:
		return true
	default:
		return false
	}
}

// Began reports whether messages were ever numbered.
func (f *Feed) Began() bool { return f.everSynced.Load() }

// Leads reports whether this instance sends the ticks.
func (f *Feed) Leads() bool { return f.counters.leading.Load() }

// Yield gives the lead of the ticks up if this instance has it: another one takes it, or
// this one again if nobody does. It does not wait for that. For use while Run does.
func (f *Feed) Yield() {
	select {
	case f.ticker.yields <- struct{}{}:
	default: // asked for already
	}
}

// View is how a feed stands.
type View struct {
	Node   string        // address of the Redis server; "" while there is no connection
	Leader string        // the instance that sends the ticks; "" while it is not known
	Last   sseproto.ID   // the newest tick; zero: none
	Lag    time.Duration // how long that one was under way
}

// View tells how the feed stands.
func (f *Feed) View() View {
	v := View{Node: f.client.Addr(), Lag: time.Duration(f.counters.lastLag.Load())}
	v.Last.Ms, _, _ = f.seen.latest()
	if name := f.seen.leader.Load(); name != nil {
		v.Leader = *name
	}
	return v
}

// InboxTrouble tells why this instance, which leads the ticks, cannot move the entries of
// the inbox; "" when it can or need not.
func (f *Feed) InboxTrouble() string {
	if text := f.ticker.inbox.trouble.Load(); text != nil {
		return *text
	}
	return ""
}

// Stats returns the counters.
func (f *Feed) Stats() Stats {
	s := f.counters.snapshot()
	s.ClockSkew = time.Duration(f.clockSkew.Load()) * time.Millisecond
	s.Inbox = f.ticker.inbox.counts.snapshot()
	if f.merger != nil {
		s.Delivered = f.merger.passed.Load()
	}
	for _, sub := range f.subscriptions {
		if sub.synced.Load() {
			s.SubscriptionsSynced++
		}
	}
	return s
}

// Config is what the feed runs with: defaults are filled in.
func (f *Feed) Config() Config { return f.cfg }

// Fingerprint returns the fingerprint of the patterns, of Config.Envelope and of
// Config.BatchChannel, short and readable.
func (f *Feed) Fingerprint() (short, readable string) { return f.fingerprint, f.description }

var errNoTick = errors.New("rsub: no tick")

// CommitNow publishes a tick and waits until the sink has it, or ctx ends: what was
// published before is committed then, and need not wait for the next tick. For use
// while Run does.
func (f *Feed) CommitNow(ctx context.Context) error {
	asked := make(chan uint64, 1)
	select {
	case f.ticker.asks <- asked:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case t := <-asked:
		if t == 0 {
			return errNoTick
		}
		return f.committed.wait(ctx, t)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// elapsed is the time since New, which no change of the clock disturbs.
func (f *Feed) elapsed() time.Duration { return time.Since(f.began) }

// expect tells all subscriptions that tick t was published on node. After a failover the
// commands may be at the new primary while a subscription still stands to the old one, for
// as long as nobody closes it: its messages are then those of nobody else.
func (f *Feed) expect(t uint64, node string) {
	for _, sub := range f.subscriptions {
		if to := sub.subscribedTo.Load(); to != nil && *to != node {
			sub.disconnect(CauseNode)
			continue
		}
		sub.expect(t)
	}
}

// hangsOn tells the tick script whether a subscription hangs on a server.
func (f *Feed) hangsOn(runID string) string {
	for _, sub := range f.subscriptions {
		if to := sub.subscribedTo.Load(); to != nil && *to == runID {
			return "1"
		}
	}
	return ""
}

// Recheck looks for the primary anew: the history may be on another server than the feed.
// Where that is so the tick which it asks for ends the subscriptions. It does not wait.
func (f *Feed) Recheck() {
	f.client.DiscardCurrent()
	f.ticker.join()
}

// readOnly is called when a replica answered the tick script: what hangs on the same
// server has to go. A subscription that was made through another client may hang on the
// primary already, and one that gets good ticks does: they are left alone.
func (f *Feed) readOnly(client rueidis.Client) {
	limit := leadIntervals * f.cfg.TickInterval
	for _, sub := range f.subscriptions {
		if via := sub.client.Load(); via == nil || *via != client {
			continue
		}
		if !sub.synced.Load() || f.elapsed()-time.Duration(sub.tickAt.Load()) > limit {
			sub.disconnect(CauseReadOnly)
		}
	}
}

// noteTick takes a good tick of any subscription. It ends whatever was wrong with the
// script: the clock is ours and is going.
func (f *Feed) noteTick(t tick, last interval) {
	f.trouble.Store(nil)
	f.ticker.inbox.memory.note(t)
	if f.seen.note(t, last) {
		lag := time.Now().UnixMilli() - f.clockSkew.Load() - int64(t.t)
		f.counters.lag(time.Duration(max(lag, 0)) * time.Millisecond)
	}
}

// reached is the newest tick that the sink has.
type reached struct {
	mu    sync.Mutex
	t     uint64
	moved chan struct{} // closed at the next tick; nil: nobody waits
}

func (p *reached) reach(t uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.t = max(p.t, t)
	if p.moved != nil {
		close(p.moved)
		p.moved = nil
	}
}

// wait returns when tick t or a later one is there.
func (p *reached) wait(ctx context.Context, t uint64) error {
	for {
		p.mu.Lock()
		if p.t >= t {
			p.mu.Unlock()
			return nil
		}
		if p.moved == nil {
			p.moved = make(chan struct{})
		}
		moved := p.moved
		p.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// seen is the newest good tick of all subscriptions.
type seen struct {
	feed *Feed

	mu   sync.Mutex
	t    uint64
	node string   // run_id of the server that made it
	last interval // the complete interval before it
	at   time.Duration

	// leader is who sends the ticks: who has sent two in a row, or who Redis says it is. Who
	// subscribes sends one as well. Stored under mu.
	leader atomic.Pointer[string]
	caller string // of the newest tick
}

// note takes a tick, with the interval before it, and reports whether this is the first to
// bring it.
func (s *seen) note(t tick, last interval) bool {
	at := s.feed.elapsed()
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.t <= s.t {
		return false
	}
	s.t, s.node, s.last, s.at = t.t, t.node, last, at
	if t.caller == s.caller {
		s.ledByLocked(t.caller)
	}
	s.caller = t.caller
	return true
}

// ledBy notes who leads, as Redis says.
func (s *seen) ledBy(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledByLocked(name)
}

func (s *seen) ledByLocked(name string) {
	if known := s.leader.Load(); known == nil || *known != name {
		leader := strings.Clone(name) // not the parameter, which would be on the heap in every call
		s.leader.Store(&leader)
	}
}

// latest returns the newest tick, the run_id of the server that made it, "" before there is
// one, and the interval before it.
func (s *seen) latest() (t uint64, node string, last interval) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.t, s.node, s.last
}

// age returns the time since the newest tick, or since New.
func (s *seen) age() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.feed.elapsed() - s.at
}
