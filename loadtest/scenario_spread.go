//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"ssed/loadtest/report"
	"ssed/loadtest/swarm"
)

func nanos(n int64) time.Duration { return time.Duration(n) }

// grace is how long the last deliveries of an open loop may take to arrive
// before they count as lost.
const grace = 5 * time.Second

// spread is steady traffic on many small channels.
type spread struct {
	Channels int           `help:"Channels." default:"1000"`
	Members  int           `help:"Connections per channel." default:"10"`
	Rate     int           `help:"Messages per second, over all channels in turn." default:"2000"`
	Duration time.Duration `help:"How long; a fifth more goes before as a warm-up." default:"10s"`
}

func (sp *spread) describe(o *options) report.Scenario {
	_, bytes := sp.load(o)
	return report.Scenario{
		Name:  "spread",
		About: "Many small channels in an open loop: messages are sent by schedule, and latency counts from the schedule.",
		Params: []report.Param{
			param("channels", sp.Channels), param("members each", sp.Members), param("messages per second", sp.Rate),
			param("for", sp.Duration), param("bytes", bytes),
		},
		Metrics: append(latencyMetrics("", "latency", true), metricPerCPU, metricCPU, metricUser, metricRedis, metricLoad, metricLag),
	}
}

func (sp *spread) load(o *options) (conns, bytes int) {
	return sp.Channels * sp.Members, orDefault(o.Bytes, 128)
}

func (sp *spread) run(ctx context.Context, s *stage) error {
	if err := s.warmUp(ctx); err != nil {
		return err
	}
	channels := min(sp.Channels, s.conns)
	prefix := s.prefix()
	c, err := s.crew(prefix, closely, swarm.Group{Count: s.conns, Channels: uint32(channels)})
	if err != nil {
		return err
	}
	if _, err := s.open(ctx, c, 0, swarm.OpenSpec{}, "connecting"); err != nil {
		return err
	}
	f, err := s.feed(prefix, 0, channels)
	if err != nil {
		return err
	}
	s.watch(c, "warming up the channels")
	if err := s.openLoop(ctx, c, f, sp.Rate, sp.Duration/5); err != nil {
		return err
	}
	if _, err := s.collect(ctx, c, ""); err != nil {
		return err
	}
	if err := mark(ctx, c, f); err != nil {
		return err
	}
	f.lag.Reset()
	s.watch(c, "sending")
	cost := s.meter()
	if err := s.openLoop(ctx, c, f, sp.Rate, sp.Duration); err != nil {
		return err
	}
	s.lateness(f)
	return s.finish(ctx, c, f, cost)
}

// openLoop sends by schedule for a time and waits for the deliveries; what is
// missing then counts as lost.
func (s *stage) openLoop(ctx context.Context, c *swarm.Crew, f *feed, rate int, d time.Duration) error {
	interval := time.Second / time.Duration(rate)
	if err := f.pace(ctx, interval, max(int(d/interval), 1)); err != nil {
		return err
	}
	return s.awaitLast(ctx, c, f)
}

// slow stops reading on a part of the connections.
type slow struct {
	Every    int           `help:"Every n-th reader stops." default:"10"`
	Rate     int           `help:"Broadcasts per second." default:"20"`
	Duration time.Duration `help:"How long, once with all reading and once with the stopped." default:"10s"`
}

func (sl *slow) describe(o *options) report.Scenario {
	conns, bytes := sl.load(o)
	return report.Scenario{
		Name:  "slow",
		About: "A part of the readers stops reading: the others must not notice. Stopped readers are not counted.",
		Params: []report.Param{
			param("connections", conns), param("one stops in", sl.Every), param("broadcasts per second", sl.Rate),
			param("for", sl.Duration), param("bytes", bytes),
		},
		Metrics: append(append(latencyMetrics("all_", "all reading,", false), latencyMetrics("some_", "some stopped,", true)...),
			report.Metric{Key: "p99_ratio", Label: "p99 with stopped / without", Unit: "×", Better: report.Less},
			report.Metric{Key: "full", Label: "stopped readers whose socket was full", Unit: "%"},
			report.Metric{Key: "cut", Label: "stopped readers the server closed", Unit: "%"},
			metricLag),
	}
}

func (sl *slow) load(o *options) (conns, bytes int) {
	// The sockets of a reader that stops hold about 20 messages of 4 KiB.
	return orDefault(o.Conns, 2000), orDefault(o.Bytes, 4096)
}

// readers are the two kinds of a slow run, on one channel. Those that stop have
// tight sockets and are counted apart: their own latency is not looked at.
type readers struct {
	steady, stopping *swarm.Crew
	count            int // of those who stop
	feed             *feed
}

func (sl *slow) connect(ctx context.Context, s *stage) (x readers, err error) {
	x.count = s.conns / max(sl.Every, 1)
	if x.count == 0 || x.count == s.conns {
		return x, fmt.Errorf("of %d readers one in %d can not stop", s.conns, sl.Every)
	}
	prefix := s.prefix()
	if x.steady, x.feed, err = s.room(ctx, prefix, s.conns-x.count); err != nil {
		return x, err
	}
	if x.stopping, err = s.crew(prefix, here, swarm.Group{Count: x.count, Channels: 1, Tight: true}); err != nil {
		return x, err
	}
	return x, sl.join(ctx, s, x)
}

// join connects those who stop.
func (sl *slow) join(ctx context.Context, s *stage, x readers) error {
	_, err := s.open(ctx, x.stopping, 0, swarm.OpenSpec{Seqs: x.feed.seqs}, "connecting those who stop")
	return err
}

// stop makes them come anew and read nothing. A connection that was read for a while
// has a larger window, and the kernel lets the server queue several times as much.
func (sl *slow) stop(ctx context.Context, s *stage, x readers) (stopped int, err error) {
	fds := s.fds()
	if err := x.stopping.Drop(ctx, 0, true); err != nil {
		return 0, err
	}
	if fds > 0 {
		if err := s.awaitFDs(ctx, max(fds-x.count, 1)); err != nil {
			return 0, err
		}
	}
	if err := sl.join(ctx, s, x); err != nil {
		return 0, err
	}
	return x.stopping.Pause(ctx, 0)
}

func (sl *slow) run(ctx context.Context, s *stage) error {
	x, err := sl.connect(ctx, s)
	if err != nil {
		return err
	}
	all, err := sl.phase(ctx, s, x, "all reading", "all_")
	if err != nil {
		return err
	}
	if err := s.awaitLast(ctx, x.stopping, x.feed); err != nil {
		return err
	}
	if _, err := s.collect(ctx, x.stopping, ""); err != nil {
		return err
	}
	stopped, err := sl.stop(ctx, s, x)
	if err != nil {
		return err
	}
	if err := mark(ctx, x.steady, x.feed); err != nil {
		return err
	}
	fds := s.fds()
	some, err := sl.phase(ctx, s, x, "some stopped", "some_")
	if err != nil {
		return err
	}
	if base := all.Latency.Quantile(0.99); base > 0 && some.Latency.Count() > 0 {
		s.set("p99_ratio", float64(some.Latency.Quantile(0.99))/float64(base))
	}
	if fds > 0 && stopped > 0 {
		s.set("cut", float64(fds-s.fds())/float64(stopped)*100)
	}
	s.lateness(x.feed)
	return sl.full(ctx, s, x, stopped)
}

// phase sends for a time and records the latencies of those who read throughout.
func (sl *slow) phase(ctx context.Context, s *stage, x readers, name, prefix string) (*swarm.Stats, error) {
	s.watch(x.steady, name)
	if err := s.openLoop(ctx, x.steady, x.feed, sl.Rate, sl.Duration); err != nil {
		return nil, err
	}
	st, err := s.collect(ctx, x.steady, name)
	if err != nil {
		return nil, err
	}
	s.percentiles(prefix, st)
	return st, nil
}

// full records how many of the stopped readers made the server wait. When none did,
// the run shows nothing.
func (sl *slow) full(ctx context.Context, s *stage, x readers, stopped int) error {
	sent := int64(x.feed.seqs[0]-x.feed.since[0]) * int64(s.bytes)
	if addr, err := s.target.Addr(); err != nil || !addr.Addr().IsLoopback() {
		s.note("whether the sockets of stopped readers were full can be seen on their server's host only")
		return err
	}
	full, err := x.stopping.Full(ctx, 0, sent)
	if err != nil {
		return err
	}
	s.set("full", float64(full)/float64(max(stopped, 1))*100)
	if full == 0 {
		return fmt.Errorf("no stopped reader had its socket full after %d bytes: send more", sent)
	}
	return nil
}
