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
	"time"

	"ssed/sseproto"
)

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
	if r.cluster, err = startCluster(ctx, r.opts, r.scenario.setup, r.result.Dir, r.clock, longestRun); err != nil {
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
		for i := range p.messages {
			m := &p.messages[i]
			m.astray = m.astray || m.cutOff != "" && r.primaries[partitionOf(m.channel, len(r.primaries))].wasReplaced(m.cutOff, m.answered)
		}
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
	var all sync.WaitGroup
	for q := range r.primaries {
		all.Go(func() { r.primaries[q].set(r.cluster.primary(q).Addr(), r.clock.now()) })
	}
	all.Wait()
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
