//go:build linux

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"
)

// bound is a measured promise.
type bound struct {
	Name     string `json:"name"`
	Measured string `json:"measured"`
	Promised string `json:"promised"`
	OK       bool   `json:"ok"`
}

// Promises, with Redis up and at least one instance linked.
const (
	promisedLink     = 300 * time.Millisecond
	promisedTakeOver = 1500 * time.Millisecond
	promisedAnswer   = time.Second
	promisedResync   = 2 * time.Second
	promisedTicks    = 11 // per second; 10 and the end of an interval
	// promisedGrowth is for four instances against one. What grows is not per
	// message: each instance looks at the lease five times a second.
	promisedGrowth = 1.25
)

// silenceBounds are those that the faults have shown.
func (r *report) silenceBounds() (list []bound) {
	add := func(name string, promised time.Duration, of func(row) time.Duration, faults ...fault) {
		longest, seen := time.Duration(0), 0
		for _, s := range r.Scenarios {
			for _, row := range s.Rows {
				for _, f := range faults {
					if row.Fault == f.name && row.Settled > row.Ended && (f.name != killLink.name || (s.Name == wideName) == (promised == promisedResync)) {
						longest, seen = max(longest, of(row)), seen+1
					}
				}
			}
		}
		if seen > 0 {
			list = append(list, bound{name, fmt.Sprintf("%s, longest of %d", ms(longest), seen), "≤ " + ms(promised), longest <= promised})
		}
	}
	hit := func(r row) time.Duration { return r.HitSilent }
	add("link of one instance killed: its streams go on", promisedLink, hit, killLink)
	add("the same with 20,000 open channels", promisedResync, hit, killLink)
	add("one of two feeds of the only instance killed", promisedLink, hit, killOneFeed)
	add("writer killed: another one writes", promisedTakeOver, func(r row) time.Duration { return r.HistorySilent }, killWriter)
	add("Redis restarted: delivery after its first answer", promisedAnswer, func(r row) time.Duration { return r.AfterAnswer },
		restartKept, crashKept, restartEmpty)
	add("node of the clock failed over: delivery after the promotion", promisedAnswer, func(r row) time.Duration { return r.AfterAnswer },
		clockPromoted, clockKilled, clockFrozen)
	return list
}

// cost is what messages cost Redis.
type cost struct {
	messages int
	perSec   float64
	ticks    float64            // per second
	calls    map[string]float64 // per message
}

// measureBounds counts commands and ticks for one and four instances.
func (o *options) measureBounds(ctx context.Context, dir string, say func(string, ...any)) (list []bound, err error) {
	costs := make(map[int]*cost)
	for _, n := range []int{1, 4} {
		if costs[n], err = o.measureCost(ctx, n, newDir(dir, fmt.Sprintf("cost-%d", n))); err != nil {
			return nil, err
		}
		say("cost with %d instances: %s", n, costs[n].text())
	}
	growth := costs[4].total() / costs[1].total()
	for _, n := range []int{1, 4} {
		list = append(list, bound{
			Name:     fmt.Sprintf("commands that Redis runs for a message, N = %d (at %.0f messages/s)", n, costs[n].perSec),
			Measured: costs[n].text(), Promised: "XADD 1, no growth with N",
			OK: costs[n].calls["xadd"] < 1.01 && growth <= promisedGrowth,
		})
	}
	list = append(list, bound{
		Name: "ticks of 4 instances together", Measured: fmt.Sprintf("%.1f/s", costs[4].ticks), Promised: "10/s",
		OK: costs[4].ticks <= promisedTicks && costs[4].ticks >= promisedTicks-3,
	})
	return list, nil
}

func (c *cost) total() (sum float64) {
	for name, calls := range c.calls {
		if name != "publish" {
			sum += calls
		}
	}
	return sum
}

// text names the commands that matter.
func (c *cost) text() string {
	other := c.total()
	var b strings.Builder
	for _, name := range []string{"xadd", "pexpire", "evalsha"} {
		other -= c.calls[name]
		fmt.Fprintf(&b, "%s %.3f, ", strings.ToUpper(name), c.calls[name])
	}
	fmt.Fprintf(&b, "all others %.3f", other)
	return b.String()
}

const costTime = 5 * time.Second

// measureCost publishes for some seconds and reads INFO commandstats.
func (o *options) measureCost(ctx context.Context, n int, dir string) (*cost, error) {
	r := &runner{opts: o, result: &result{Dir: dir}, clock: clock{time.Now()}, rng: rand.New(rand.NewPCG(o.Seed, uint64(n)))}
	r.scenario.setup = setup{instances: n, historyMax: plenty, ring: "64MiB"}
	var c *cost
	err := r.within(ctx, func() (err error) {
		c, err = r.measureCost(ctx)
		return err
	})
	return c, err
}

func (r *runner) measureCost(ctx context.Context) (*cost, error) {
	if _, err := r.cluster.do(0, "CONFIG", "RESETSTAT"); err != nil {
		return nil, err
	}
	ticksBefore, err := r.ticks()
	if err != nil {
		return nil, err
	}
	began := r.clock.now()
	publishCtx, stop := context.WithTimeout(ctx, costTime)
	defer stop()
	var publishers sync.WaitGroup
	for _, p := range r.publishers {
		publishers.Go(func() { p.run(publishCtx, r.every(), r.pickChannel) })
	}
	publishers.Wait()
	took := (r.clock.now() - began).Seconds()
	ticks, err := r.ticks()
	if err != nil {
		return nil, err
	}
	if err := r.cluster.awaitReady(ctx); err != nil {
		return nil, err
	}
	c := &cost{ticks: (ticks - ticksBefore) / took, calls: make(map[string]float64)}
	for _, p := range r.publishers {
		c.messages += len(p.messages)
	}
	c.perSec = float64(c.messages) / took
	c.readStats(r.cluster.text(0, "INFO", "commandstats"))
	return c, nil
}

// ticks is how many the instances have sent.
func (r *runner) ticks() (sum float64, err error) {
	for _, in := range r.cluster.fleet.running() {
		n, err := in.metric("ssed_feed_sent_ticks_total")
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// readStats reads lines of "cmdstat_xadd:calls=12,usec=…", but for what the
// measurement itself asked.
func (c *cost) readStats(text string) {
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
		number, _, _ := strings.Cut(rest, ",")
		calls, err := strconv.ParseFloat(number, 64)
		if ok && err == nil && name != "info" && name != "config|resetstat" {
			c.calls[name] += calls / float64(max(c.messages, 1))
		}
	}
}
