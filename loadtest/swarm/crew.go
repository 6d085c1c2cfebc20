//go:build linux

package swarm

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// member is a swarm in this process or in a child.
type member interface {
	Open(ctx context.Context, spec OpenSpec) (*OpenResult, error)
	Drop(ctx context.Context, first, count int, hard bool) error
	Pause(ctx context.Context, first, count int) (int, error)
	Full(ctx context.Context, first, count int, bytes int64) (int, error)
	Rest(ctx context.Context, each time.Duration) error
	Mark(ctx context.Context) error
	Audit(ctx context.Context, first, count int, firstChannel uint32, seqs []uint32) error
	Stats(ctx context.Context) (*Stats, error)
	Resumable(ctx context.Context) (int, error)
	Await(ctx context.Context, delivered uint64, limit time.Duration) (AwaitResult, error)
	Progress() (open int64, delivered uint64)
	Close()
}

// Plan describes the connections of a crew; see Config for the fields of the
// same name.
type Plan struct {
	Addr    netip.AddrPort
	Request []string
	Prefix  string
	Sources []netip.Addr
	Groups  []Group
	Boost   bool
	// Processes > 1 puts the connections into that many child processes, each
	// started by running Child with its first arguments.
	Processes int
	Child     []string
	// Apart puts them into a child process also when there is only one: what is
	// measured there does not wait for the other work of this process.
	Apart bool
}

// span is the part of a group that a member has: connection first of the swarm
// is connection offset of the group.
type span struct {
	first, count, offset int
}

// Crew is a set of swarms that is addressed by group.
type Crew struct {
	plan    Plan
	members []member
	spans   [][]span // [member][group]
	paused  []bool   // [group]
}

// Start makes the swarms of a plan; nothing is connected yet.
func Start(plan Plan) (*Crew, error) {
	c := &Crew{plan: plan, paused: make([]bool, len(plan.Groups))}
	for i := range max(plan.Processes, 1) {
		cfg, spans := plan.share(i)
		m, err := plan.start(cfg)
		if err != nil {
			c.Close()
			return nil, err
		}
		c.members = append(c.members, m)
		c.spans = append(c.spans, spans)
	}
	return c, nil
}

func (p *Plan) start(cfg Config) (member, error) {
	if p.Processes <= 1 && !p.Apart {
		return New(cfg)
	}
	return startWorker(p.Child, cfg)
}

// share cuts the part of process i out of every group.
func (p *Plan) share(i int) (Config, []span) {
	n := max(p.Processes, 1)
	cfg := Config{Addr: p.Addr, Request: p.Request, Prefix: p.Prefix, Boost: p.Boost}
	for k, a := range p.Sources {
		if len(p.Sources) < n || k%n == i {
			cfg.Sources = append(cfg.Sources, a)
		}
	}
	var spans []span
	first := 0
	for _, g := range p.Groups {
		from, to := g.Count*i/n, g.Count*(i+1)/n
		spans = append(spans, span{first: first, count: to - from, offset: from})
		first += to - from
		g.Offset += uint32(from)
		g.Count = to - from
		cfg.Groups = append(cfg.Groups, g)
	}
	return cfg, spans
}

// Close ends all swarms.
func (c *Crew) Close() {
	for _, m := range c.members {
		m.Close()
	}
}

// PIDs are the worker processes; none when the connections are in this one.
func (c *Crew) PIDs() (list []int) {
	for _, m := range c.members {
		if w, apart := m.(*worker); apart {
			list = append(list, w.process.Cmd.Process.Pid)
		}
	}
	return list
}

// each runs f for all members at once and returns their errors.
func (c *Crew) each(f func(i int, m member) error) error {
	errs := make(chan error)
	for i, m := range c.members {
		go func() { errs <- f(i, m) }()
	}
	var all error
	for range c.members {
		all = errors.Join(all, <-errs)
	}
	return all
}

// Open opens a group. Spec's range and first channel are filled in.
func (c *Crew) Open(ctx context.Context, group int, spec OpenSpec) (*OpenResult, error) {
	results := make([]*OpenResult, len(c.members))
	err := c.each(func(i int, m member) (err error) {
		sp := c.spans[i][group]
		own := spec
		own.First, own.Count, own.FirstChannel = sp.first, sp.count, c.plan.Groups[group].First
		own.Churn = spec.Churn*(i+1)/len(c.members) - spec.Churn*i/len(c.members)
		own.Window = max(spec.Window/len(c.members), 1)
		results[i], err = m.Open(ctx, own)
		return err
	})
	if err != nil {
		return nil, err
	}
	return mergeOpen(results), nil
}

// mergeOpen adds up the results of the members; the time runs from the first
// connect of any to the last head of any.
func mergeOpen(results []*OpenResult) *OpenResult {
	out := results[0]
	for _, r := range results[1:] {
		out.Opened += r.Opened
		out.Failed += r.Failed
		out.Start = min(out.Start, r.Start)
		out.End = max(out.End, r.End)
		if out.FirstError == "" {
			out.FirstError = r.FirstError
		}
		out.Latency.Merge(&r.Latency)
	}
	return out
}

// Elapsed is the time from the first connect to the last response head.
func (r *OpenResult) Elapsed() time.Duration { return time.Duration(r.End - r.Start) }

// Err returns why not all connections were opened, or nil.
func (r *OpenResult) Err() error {
	if r.Failed == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d connections failed, the first: %s", r.Failed, r.Failed+r.Opened, r.FirstError)
}

// Drop closes a group, see Swarm.Drop.
func (c *Crew) Drop(ctx context.Context, group int, hard bool) error {
	return c.each(func(i int, m member) error {
		return m.Drop(ctx, c.spans[i][group].first, c.spans[i][group].count, hard)
	})
}

// Pause stops reading a group, and returns how many connections that are; they
// count no longer.
func (c *Crew) Pause(ctx context.Context, group int) (int, error) {
	c.paused[group] = true
	return c.sum(func(i int, m member) (int, error) {
		return m.Pause(ctx, c.spans[i][group].first, c.spans[i][group].count)
	})
}

// Full returns how many connections of a paused group had no room for bytes, see
// Swarm.Full.
func (c *Crew) Full(ctx context.Context, group int, bytes int64) (int, error) {
	return c.sum(func(i int, m member) (int, error) {
		return m.Full(ctx, c.spans[i][group].first, c.spans[i][group].count, bytes)
	})
}

// sum adds up what f returns for the members.
func (c *Crew) sum(f func(i int, m member) (int, error)) (total int, err error) {
	counts := make([]int, len(c.members))
	err = c.each(func(i int, m member) (err error) {
		counts[i], err = f(i, m)
		return err
	})
	for _, n := range counts {
		total += n
	}
	return total, err
}

// Rest lets all connections be looked at only once each time, see Swarm.Rest.
func (c *Crew) Rest(ctx context.Context, each time.Duration) error {
	return c.each(func(_ int, m member) error { return m.Rest(ctx, each) })
}

// Mark forgets counts and latencies.
func (c *Crew) Mark(ctx context.Context) error {
	return c.each(func(_ int, m member) error { return m.Mark(ctx) })
}

// Audit counts as lost what a group has not received: seqs[i] is the last number
// published on the group's i-th channel.
func (c *Crew) Audit(ctx context.Context, group int, seqs []uint32) error {
	return c.each(func(i int, m member) error {
		sp := c.spans[i][group]
		return m.Audit(ctx, sp.first, sp.count, c.plan.Groups[group].First, seqs)
	})
}

// Stats returns what all members counted since the last Mark.
func (c *Crew) Stats(ctx context.Context) (*Stats, error) {
	parts := make([]*Stats, len(c.members))
	err := c.each(func(i int, m member) (err error) {
		parts[i], err = m.Stats(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, p := range parts[1:] {
		parts[0].Add(p)
	}
	return parts[0], nil
}

// Resumable returns how many connections know a last event id.
func (c *Crew) Resumable(ctx context.Context) (int, error) {
	return c.sum(func(_ int, m member) (int, error) { return m.Resumable(ctx) })
}

// Want is how many messages each channel of a group has got since the last Mark.
type Want struct {
	Group  int
	Counts []uint32
}

// Await returns when every connection that is read has got its messages, or
// after limit.
func (c *Crew) Await(ctx context.Context, limit time.Duration, wants ...Want) (AwaitResult, error) {
	results := make([]AwaitResult, len(c.members))
	err := c.each(func(i int, m member) (err error) {
		results[i], err = m.Await(ctx, c.deliveries(i, wants), limit)
		return err
	})
	out := AwaitResult{Reached: true}
	for _, r := range results {
		out.Reached = out.Reached && r.Reached
		out.Last = max(out.Last, r.Last)
	}
	return out, err
}

// deliveries is how many deliveries member i must see for wants to be met.
func (c *Crew) deliveries(i int, wants []Want) (n uint64) {
	for _, w := range wants {
		if c.paused[w.Group] {
			continue
		}
		g, sp := c.plan.Groups[w.Group], c.spans[i][w.Group]
		for k := range sp.count {
			n += uint64(w.Counts[(g.Offset+uint32(sp.offset+k))%g.Channels])
		}
	}
	return n
}

// Progress adds up what the members last told.
func (c *Crew) Progress() (open int64, delivered uint64) {
	for _, m := range c.members {
		o, d := m.Progress()
		open += o
		delivered += d
	}
	return open, delivered
}
