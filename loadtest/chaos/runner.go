//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ssed/sseproto"
)

// row is one fault and what was seen of it.
type row struct {
	Scenario string        `json:"scenario"`
	Fault    string        `json:"fault"`
	Lossless bool          `json:"lossless"` // nothing may be lost
	Began    time.Duration `json:"began"`
	Ended    time.Duration `json:"ended"`   // of the damage
	Settled  time.Duration `json:"settled"` // every instance ready, history written
	Hit      []int         `json:"hit"`     // instances
	// Longest times without delivery until Settled: on the instances that were
	// hit, on the best of the others, and of the history.
	HitSilent     time.Duration `json:"hitSilent"`
	OthersSilent  time.Duration `json:"othersSilent"`
	HistorySilent time.Duration `json:"historySilent"`
	// AfterAnswer is from the first answer of a Redis that was away to delivery on
	// the last instance.
	AfterAnswer time.Duration `json:"afterAnswer"`
	Gaps        int           `json:"gaps"` // gap events until the next fault
	Note        string        `json:"note,omitempty"`
	Error       string        `json:"error,omitempty"`
}

// result is one scenario.
type result struct {
	Name     string        `json:"name"`
	Seed     uint64        `json:"seed"`
	Took     time.Duration `json:"took"`
	Setup    string        `json:"setup"`
	Lossless bool          `json:"lossless"`
	Mixed    bool          `json:"mixed"` // faults over each other
	Rows     []row         `json:"rows"`
	Verdict  *verdict      `json:"verdict"`
	Errors   []string      `json:"errors,omitempty"`
	Dir      string        `json:"-"`
}

// wrong is the number of findings that fail the run.
func (r *result) wrong() int {
	n := len(r.Errors) + len(r.findings())
	if r.Verdict != nil {
		n += r.Verdict.wrong() + r.Verdict.UnfinishedClient
	}
	return n
}

// findings are what fails the run beside the verdict.
func (r *result) findings() (list []string) {
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	failed := 0
	for _, row := range r.Rows {
		if row.Lossless && row.Gaps > 0 {
			add("%d gap events after %s, which loses nothing", row.Gaps, row.Fault)
		}
		if row.Error == "" {
			continue
		}
		if failed++; !r.Mixed {
			add("%s: %s", row.Fault, row.Error)
		}
	}
	// Among others a fault may find nothing left to break, but not most of the time.
	if r.Mixed && (len(r.Rows) == 0 || 2*failed > len(r.Rows)) {
		add("%d of %d faults could not be done", failed, len(r.Rows))
	}
	if n := r.gapsUnderLosslessMix(); n > 0 {
		add("%d gap events under faults that lose nothing", n)
	}
	if v := r.Verdict; v != nil && (v.Received == 0 || 2*v.Unplaced >= v.Clients) {
		add("%d receipts, %d of %d clients without a position: that shows nothing", v.Received, v.Unplaced, v.Clients)
	}
	return list
}

// gapsUnderLosslessMix are gap events where no fault loses anything, also when they
// come together.
func (r *result) gapsUnderLosslessMix() int {
	if r.Verdict == nil || !r.Lossless {
		return 0
	}
	return r.Verdict.GapEvents
}

// runner is one scenario at work.
type runner struct {
	opts     *options
	scenario scenario
	rng      *rand.Rand
	clock    clock
	say      func(format string, args ...any)

	cluster    *cluster
	primaries  []primary // by partition
	publishers []*publisher
	finale     *publisher
	clients    []*client
	watermark  timelines // by partition
	result     *result

	mu sync.Mutex // guards result.Rows while faults overlap
}

// Times of a scenario.
const (
	calm = 1500 * time.Millisecond // before each fault
	// aftermath is how long after a fault its gap events may come.
	aftermath     = time.Second
	longestRun    = 5 * time.Minute
	finaleTimeout = 20 * time.Second
	watchInterval = 20 * time.Millisecond
)

// runScenario runs one scenario from the start of Redis to the verdict.
func runScenario(ctx context.Context, o *options, s scenario, dir string, say func(string, ...any)) *result {
	res := &result{Name: s.name, Seed: o.Seed, Dir: dir, Lossless: s.lossless(), Mixed: s.mixed > 0, Setup: s.setup.text()}
	r := &runner{opts: o, scenario: s, result: res, say: say, clock: clock{time.Now()}}
	r.rng = rand.New(rand.NewPCG(o.Seed, hash(s.name)))
	ctx, cancel := context.WithTimeoutCause(ctx, longestRun, errors.New("chaos: the scenario takes too long"))
	defer cancel()
	if err := r.run(ctx); err != nil {
		res.Errors = append(res.Errors, err.Error())
	}
	res.Took = r.clock.now()
	return res
}

func hash(text string) (h uint64) {
	for _, b := range []byte(text) {
		h = h*31 + uint64(b)
	}
	return h
}

// lossless reports whether none of the faults may lose anything.
func (s *scenario) lossless() bool {
	for _, f := range slices.Concat(s.faults, s.beside) {
		if !f.lossless {
			return false
		}
	}
	return true
}

func (s setup) text() string {
	words := []string{fmt.Sprintf("%d ssed", s.instances)}
	for _, w := range []struct {
		is   bool
		text string
	}{
		{s.feeds == 2, "two feeds each"},
		{s.proxied, "proxies in between"},
		{s.persist, "append-only file"},
		{s.sentinel && !s.divisible, "replica and sentinel"},
		{s.sentinel && s.divisible, "two replicas and three sentinels"},
		{s.cluster, "cluster of three primaries and three replicas"},
		{s.sharded && s.partitions < 2, "messages by the shard channel"},
		{s.partitions > 1, fmt.Sprintf("%d partitions", s.partitions)},
		{s.divisible, "a network that can be divided"},
		{s.joiner, "one joiner"},
		{s.inbox, "half by the inbox"},
		{s.old, "of an earlier commit at first"},
		{s.ttl > 0, "history of " + s.ttl.String()},
		{s.ring != "", "rings of " + s.ring},
	} {
		if w.is {
			words = append(words, w.text)
		}
	}
	return strings.Join(words, ", ")
}

func (r *runner) run(ctx context.Context) error {
	return r.within(ctx, func() error { return r.attend(ctx) })
}

// within starts the processes and publishers around a piece of work.
func (r *runner) within(ctx context.Context, work func() error) (err error) {
	// What an earlier run has left there must not be loaded.
	if err := errors.Join(os.RemoveAll(r.result.Dir), os.MkdirAll(r.result.Dir, 0o755)); err != nil {
		return err
	}
	if r.cluster, err = startCluster(ctx, r.opts, r.scenario.setup, r.result.Dir, longestRun); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.cluster.close()) }()
	r.watermark = newTimelines(len(r.cluster.parts), longestRun)
	r.makePublishers()
	defer func() {
		for _, p := range append(r.publishers, r.finale) {
			p.close()
		}
	}()
	return work()
}

// channels is how many there are.
func (r *runner) channels() int {
	if r.scenario.wide {
		return wideChannels
	}
	return r.opts.Channels
}

// every is the time between two messages of one publisher.
func (r *runner) every() time.Duration {
	return time.Second * time.Duration(len(r.publishers)) / time.Duration(r.opts.Rate)
}

// attend runs everybody: publishers until the faults are over, clients until
// the last messages have come.
func (r *runner) attend(ctx context.Context) error {
	begun, begin := context.WithCancel(context.Background())
	defer begin()
	final := &finale{begun: begun, publisher: r.finale.index, channels: r.channels()}
	clientCtx, stopClients := context.WithCancel(ctx)
	publishCtx, stopPublishers := context.WithCancel(ctx)
	watchCtx, stopWatch := context.WithCancel(ctx)
	defer stopClients()
	defer stopPublishers()
	defer stopWatch()

	var clients, publishers, watch sync.WaitGroup
	watch.Go(func() { r.watch(watchCtx) })
	r.makeClients(final)
	unfinished := atomic.Int64{}
	for _, c := range r.clients {
		clients.Go(func() {
			c.run(clientCtx)
			if !c.done() {
				unfinished.Add(1)
			}
		})
	}
	for _, p := range r.publishers {
		publishers.Go(func() { p.run(publishCtx, r.every(), r.pickChannel) })
	}
	err := r.faults(ctx)
	stopPublishers()
	publishers.Wait()
	if err == nil {
		err = r.end(ctx, final, begin, &clients)
	}
	stopClients()
	clients.Wait()
	stopWatch()
	watch.Wait()
	if err != nil {
		return err
	}
	return r.verdict(int(unfinished.Load()))
}

// quietTurns is how many groups of channels get messages in turns, where most channels
// are to be quiet.
const quietTurns = 10

// pickChannel is the channel of the next message.
func (r *runner) pickChannel(rng *rand.Rand) int {
	ttl := r.scenario.setup.ttl
	if ttl == 0 {
		return rng.IntN(r.channels())
	}
	turn := ttl / 3 // so that a channel is quiet for three times its history's life
	group := int(r.clock.now()/turn) % quietTurns
	return group + quietTurns*rng.IntN(r.channels()/quietTurns)
}

// end publishes the last messages and waits until every client has its own.
func (r *runner) end(ctx context.Context, final *finale, begin func(), clients *sync.WaitGroup) error {
	if err := r.cluster.awaitReady(ctx); err != nil {
		return err
	}
	if err := r.emptyInbox(ctx); err != nil {
		return err
	}
	err := poll(ctx, readyTimeout, func() error {
		final.round.Store(int64(len(r.finale.messages) / r.channels()))
		for ch := range r.channels() {
			if m := r.finale.publish(ch); !m.acked || m.receivers == 0 {
				// The round has to be whole: the place in it is the channel.
				for len(r.finale.messages)%r.channels() != 0 {
					r.finale.messages = append(r.finale.messages, message{channel: len(r.finale.messages) % r.channels()})
				}
				return errors.New("chaos: a last message was not taken")
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := r.cluster.awaitReady(ctx); err != nil {
		return err
	}
	begin()
	all := make(chan struct{})
	go func() { clients.Wait(); close(all) }()
	select {
	case <-all:
	case <-time.After(finaleTimeout):
	case <-ctx.Done():
	}
	return ctx.Err()
}

// emptyInbox waits until the history has all of the inbox: it was added before the
// last messages, and has to come before them.
func (r *runner) emptyInbox(ctx context.Context) error {
	return poll(ctx, readyTimeout, func() error {
		for q, keys := range r.cluster.parts {
			length, err := r.cluster.do(q, "XLEN", inboxOf(keys))
			if err == nil && length != int64(0) {
				err = fmt.Errorf("chaos: %v entries are left in the inbox of partition %d", length, q)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// busDelay is long: processes of a cluster wait for each other on a machine of few cores.
const busDelay = 500 * time.Millisecond

func (r *runner) verdict(unfinished int) error {
	e := evidence{channels: r.channels(), clients: r.clients, forgets: r.scenario.setup.ttl > 0, divided: r.scenario.setup.divisible}
	if r.scenario.setup.cluster {
		e.late = busDelay
		if r.isAnywhere() {
			e.later = nodeTimeout
		}
	}
	for _, p := range append(r.publishers, r.finale) {
		e.messages = append(e.messages, p.messages)
	}
	for q, keys := range r.cluster.parts {
		primary := r.cluster.primary(q)
		h, err := readHistory(primary, keys, r.channels(), func(ch int) bool { return partitionOf(ch, len(r.cluster.parts)) == q })
		if err != nil {
			return err
		}
		e.histories = append(e.histories, h)
	}
	r.result.Verdict = passJudgement(e)
	r.result.Verdict.UnfinishedClient = unfinished
	r.countGaps()
	return nil
}

// makePublishers makes the publishers; the last one is for the finale.
func (r *runner) makePublishers() {
	r.primaries = make([]primary, len(r.cluster.parts))
	r.lookUpPrimaries()
	for i := range r.opts.Publishers + 1 {
		keeps := r.scenario.setup.inbox && i%2 == 0 && i < r.opts.Publishers
		s := r.scenario.setup
		p := &publisher{
			index: i, keeps: keeps, replicated: s.sentinel || s.cluster, sharded: s.sharded,
			lanes: r.lanes(publisherHost(i), keeps), rng: r.fork(), clock: r.clock,
		}
		if r.isAnywhere() && !keeps && i < r.opts.Publishers {
			p.anywhere, p.lanes[0].primary = true, &primary{}
			addr := r.cluster.nodes.Nodes[i%len(r.cluster.nodes.Nodes)].Addr()
			p.lanes[0].primary.addr.Store(&addr)
		}
		r.publishers = append(r.publishers, p)
	}
	r.finale = r.publishers[r.opts.Publishers]
	r.publishers = r.publishers[:r.opts.Publishers:r.opts.Publishers]
}

// lanes are the ways into all partitions. WAIT takes longer than publishing on a node.
func (r *runner) lanes(from host, keeps bool) (list []lane) {
	timeout := publishTimeout
	if r.scenario.setup.cluster && !keeps {
		timeout = publishTimeoutNode
	}
	for q, keys := range r.cluster.parts {
		list = append(list, lane{host: from, network: r.cluster.network, keys: keys, primary: &r.primaries[q], timeout: timeout})
	}
	return list
}

// lookUpPrimaries asks who takes writes now.
func (r *runner) lookUpPrimaries() {
	for q := range r.primaries {
		addr := r.cluster.primary(q).Addr()
		r.primaries[q].addr.Store(&addr)
	}
}

// isAnywhere tells whether messages are published on all nodes of a cluster.
func (r *runner) isAnywhere() bool { return r.scenario.setup.cluster && !r.scenario.setup.sharded }

// fork returns a generator for one goroutine.
func (r *runner) fork() *rand.Rand { return fork(r.rng) }

func fork(rng *rand.Rand) *rand.Rand { return rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64())) }

func (r *runner) makeClients(final *finale) {
	n := r.opts.Clients
	if r.scenario.wide {
		n = r.scenario.setup.instances * wideChannels / widePerClient
	}
	for i := range n {
		rng := r.fork()
		c := &client{
			index: i, settled: i%2 == 0, home: anywhere, away: pauseMean, partitions: len(r.cluster.parts),
			rng: rng, clock: r.clock, fleet: r.cluster.fleet, final: final,
		}
		if !c.settled && r.scenario.setup.ttl > 0 {
			c.away = r.scenario.setup.ttl
		}
		if r.scenario.wide {
			c.home = i % r.scenario.setup.instances
			for ch := range widePerClient {
				c.channels = append(c.channels, i/r.scenario.setup.instances*widePerClient+ch)
			}
		} else {
			c.channels = pickChannels(rng, r.channels(), mostChannels)
		}
		r.clients = append(r.clients, c)
	}
}

// mostChannels of a client.
const mostChannels = 8

// A wide scenario has every one of so many channels open on every instance.
const (
	wideChannels  = 20_000
	widePerClient = 32 // the default of --max-channels-per-connection
)

// watch follows the watermarks of the history, and the primaries.
func (r *runner) watch(ctx context.Context) {
	reader := &publisher{lanes: r.lanes(everywhere, false)}
	defer reader.close()
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if r.scenario.setup.sentinel || r.scenario.setup.cluster {
			r.lookUpPrimaries()
		}
		for q := range reader.lanes {
			l := &reader.lanes[q]
			reply, err := l.ask("HGET", l.keys.Clock, "watermark")
			text, ok := reply.(string)
			if err != nil || !ok {
				continue // a fault, or nothing written yet
			}
			if id, err := sseproto.ParseID(text); err == nil {
				r.watermark[q].advance(id, r.clock.now())
			}
		}
	}
}

// faults goes through the plan.
func (r *runner) faults(ctx context.Context) error {
	if r.scenario.mixed > 0 {
		return r.mix(ctx)
	}
	for range r.scenario.rounds {
		for _, f := range r.scenario.faults {
			if err := r.pause(ctx, calm); err != nil {
				return err
			}
			if err := r.inject(ctx, f, r.fork()); err != nil {
				return err
			}
		}
	}
	return r.pause(ctx, calm)
}

func (r *runner) pause(ctx context.Context, t time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(t):
		return nil
	}
}

// inject does one fault and measures until everything is well again.
func (r *runner) inject(ctx context.Context, f fault, rng *rand.Rand) error {
	d := newDamage(r.cluster, rng, r.clock)
	w := row{Scenario: r.scenario.name, Fault: f.name, Lossless: f.lossless && r.scenario.setup.ttl == 0, Began: r.clock.now()}
	if err := f.inject(ctx, d); err != nil {
		w.Error = err.Error()
	}
	w.Ended, w.Hit, w.Note = r.clock.now(), d.hit, d.note
	if err := r.cluster.awaitReady(ctx); err != nil {
		return fmt.Errorf("after %s: %w", f.name, err)
	}
	if err := r.pause(ctx, aftermath); err != nil {
		return err
	}
	w.Settled = r.clock.now()
	r.measure(&w, d.answered)
	r.say("%-32s %5.1f s  silent: hit %v, others %v, history %v", f.name, (w.Settled - w.Began).Seconds(), w.HitSilent, w.OthersSilent, w.HistorySilent)
	for _, text := range []string{w.Note, w.Error} {
		if text != "" {
			r.say("  %s", text)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Rows = append(r.result.Rows, w)
	return nil
}

// measure reads the timelines.
func (r *runner) measure(w *row, answered time.Duration) {
	hit := make(map[int]bool)
	for _, i := range w.Hit {
		hit[i] = true
		w.HitSilent = max(w.HitSilent, r.cluster.fleet.lines[i].silence(w.Began, w.Settled))
	}
	w.HistorySilent = r.watermark.silence(w.Began, w.Settled)
	others := false
	for i := range r.scenario.setup.instances {
		line := r.cluster.fleet.lines[i]
		if !hit[i] {
			silent := line.silence(w.Began, w.Settled)
			if others {
				silent = min(silent, w.OthersSilent)
			}
			w.OthersSilent, others = silent, true
		}
		if answered > 0 {
			if at, ok := line.next(answered); ok {
				w.AfterAnswer = max(w.AfterAnswer, at-answered)
			} else {
				w.AfterAnswer = w.Settled - answered
			}
		}
	}
}

// mix starts faults at random moments, two at once at most: of four instances
// two are then always well. Those beside them come one after the other.
func (r *runner) mix(ctx context.Context) error {
	var mixes []*mixture
	if len(r.scenario.beside) > 0 {
		mixes = append(mixes, &mixture{runner: r, faults: r.scenario.beside, rng: r.fork(), places: 1})
	}
	if len(r.scenario.faults) > 0 {
		mixes = append(mixes, &mixture{runner: r, faults: r.scenario.faults, rng: r.rng, places: 2})
	}
	errs := make([]error, len(mixes))
	end := r.clock.now() + r.scenario.mixed
	var running sync.WaitGroup
	for i, m := range mixes {
		running.Go(func() { errs[i] = m.run(ctx, end) })
	}
	running.Wait()
	for _, in := range r.cluster.fleet.running() {
		_ = in.signal(syscall.SIGCONT)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return r.pause(ctx, calm)
}

// mixture is faults at random moments, as many at once as there are places.
type mixture struct {
	*runner
	faults []fault
	rng    *rand.Rand
	places int
}

func (m *mixture) run(ctx context.Context, end time.Duration) error {
	var running sync.WaitGroup
	defer running.Wait()
	places := make(chan struct{}, m.places)
	var failed atomic.Pointer[error]
	for m.clock.now() < end && failed.Load() == nil {
		if err := m.pause(ctx, time.Duration(m.rng.ExpFloat64()*float64(700*time.Millisecond))); err != nil {
			return err
		}
		f := m.faults[m.rng.IntN(len(m.faults))]
		rng := fork(m.rng)
		places <- struct{}{}
		running.Go(func() {
			defer func() { <-places }()
			if err := m.injectMixed(ctx, f, rng); err != nil {
				failed.Store(&err)
			}
		})
	}
	running.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// injectMixed does one fault among others. What it found may be down already, and
// its own time without delivery tells nothing.
func (r *runner) injectMixed(ctx context.Context, f fault, rng *rand.Rand) error {
	d := newDamage(r.cluster, rng, r.clock)
	w := row{Scenario: r.scenario.name, Fault: f.name, Began: r.clock.now()}
	err := f.inject(ctx, d)
	w.Ended = r.clock.now()
	w.Settled, w.Hit = w.Ended, d.hit
	r.say("%-32s %5.1f s", f.name, (w.Ended - w.Began).Seconds())
	if err != nil && ctx.Err() == nil {
		w.Error = err.Error()
		r.say("  %s", w.Error)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Rows = append(r.result.Rows, w)
	return ctx.Err()
}

// countGaps attributes the gap events to the faults before them.
func (r *runner) countGaps() {
	for _, c := range r.clients {
		for _, rec := range c.records {
			if rec.kind != recordGap || !rec.isPlaced() {
				continue
			}
			for i := len(r.result.Rows) - 1; i >= 0; i-- {
				if r.result.Rows[i].Began <= rec.at {
					r.result.Rows[i].Gaps++
					break
				}
			}
		}
	}
}

// newDir returns a directory for a scenario.
func newDir(base, name string) string { return filepath.Join(base, strings.ReplaceAll(name, " ", "-")) }
