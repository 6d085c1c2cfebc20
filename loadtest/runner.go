//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"ssed/loadtest/report"
	"ssed/loadtest/target"
)

// scenario is one kind of load.
type scenario interface {
	// describe returns the name, a sentence, the settings and the figures.
	describe(o *options) report.Scenario
	// load returns how many connections the scenario holds at once, and the size
	// of its messages.
	load(o *options) (conns, bytes int)
	// run puts the load on one server and records the figures.
	run(ctx context.Context, s *stage) error
}

// runner runs scenarios against servers.
type runner struct {
	opts     *options
	servers  []server
	progress *progress
	quiet    target.Kernel // before the first run
}

// all runs every scenario; it ends early only when ctx does.
func (r *runner) all(ctx context.Context, list []scenario, out *report.Report) error {
	for _, sc := range list {
		result := sc.describe(r.opts)
		for _, srv := range r.servers {
			result.Targets = append(result.Targets, srv.name)
		}
		result.References = r.references()
		for round := 1; round <= r.opts.Rounds && ctx.Err() == nil; round++ {
			for _, srv := range r.order(round) {
				r.progress.begin(fmt.Sprintf("%s %d/%d %s", result.Name, round, r.opts.Rounds, srv.name))
				if r.calm(ctx) != nil {
					break
				}
				run := r.one(ctx, sc, srv, round)
				if ctx.Err() != nil {
					break // what was cut short is no result
				}
				result.Runs = append(result.Runs, run)
			}
		}
		out.Scenarios = append(out.Scenarios, result)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// order is that of the servers, backwards every second round: what the one before
// leaves behind in the kernel is not always the same one's.
func (r *runner) order(round int) []server {
	list := slices.Clone(r.servers)
	if round%2 == 0 {
		slices.Reverse(list)
	}
	return list
}

// What of the run before may be left when the next begins: less than a hundredth
// of what a scenario opens.
const (
	spareSockets   = 100
	spareTimeWaits = 1000
)

// calm waits until the sockets of the run before are gone and the kernel has
// forgotten its connections, as far as others of the machine let that be seen.
func (r *runner) calm(ctx context.Context) error {
	r.progress.show("waiting for the kernel to forget closed connections", nil)
	limited, cancel := context.WithTimeout(ctx, r.opts.Calm)
	defer cancel()
	tick := time.NewTicker(calmLook)
	defer tick.Stop()
	for {
		now, err := target.ReadKernel()
		if err != nil || now.Sockets <= r.quiet.Sockets+spareSockets && now.TimeWaits <= r.quiet.TimeWaits+spareTimeWaits {
			return context.Cause(ctx) // unreadable: nothing to wait for
		}
		select {
		case <-tick.C:
		case <-limited.Done():
			return context.Cause(ctx)
		}
	}
}

// calmLook is how often calm looks.
const calmLook = 200 * time.Millisecond

// references are what ratios are taken to: the floors, or the first target.
func (r *runner) references() (names []string) {
	for _, s := range r.servers {
		if s.name == "floor" || s.name == floorRedis {
			names = append(names, s.name)
		}
	}
	if len(names) == 0 {
		return []string{r.servers[0].name}
	}
	return names
}

// one runs a scenario against a freshly started server.
func (r *runner) one(ctx context.Context, sc scenario, srv server, round int) report.Run {
	run := report.Run{Target: srv.name, Round: round, Values: map[string]float64{}}
	var extra []string
	if picky, ok := sc.(interface{ ssedArgs() []string }); ok {
		extra = picky.ssedArgs()
	}
	t, stop, err := srv.start(ctx, extra...)
	if err != nil {
		run.Error = err.Error()
		return run
	}
	defer stop()
	s := &stage{opts: r.opts, target: t, progress: r.progress, run: &run}
	defer s.close()
	err = s.prepare(sc.load(r.opts))
	if err == nil {
		err = sc.run(ctx, s)
	}
	if err != nil {
		run.Error = err.Error()
	}
	return run
}

// reserve is how many files of a server stay free: listeners, epoll, logs, and
// what it keeps back itself (ssed: 256).
const reserve = 300

// serverRoom is how many connections a server's file limit allows; 0: unknown.
func serverRoom(t *target.Target) int {
	limit := target.FileLimit(t.PIDs) * len(t.PIDs)
	return max(limit-reserve, 0)
}
