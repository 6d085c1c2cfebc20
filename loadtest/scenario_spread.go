package main

import (
	"context"
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
			report.Metric{Key: "cut", Label: "stopped readers the server closed", Unit: "%"},
			metricLag),
	}
}

func (sl *slow) load(o *options) (conns, bytes int) {
	// 200 messages of 4 KiB are more than the buffers of both sockets hold.
	return orDefault(o.Conns, 2000), orDefault(o.Bytes, 4096)
}

func (sl *slow) run(ctx context.Context, s *stage) error {
	c, f, err := s.room(ctx)
	if err != nil {
		return err
	}
	s.watch(c, "all reading")
	if err := s.openLoop(ctx, c, f, sl.Rate, sl.Duration); err != nil {
		return err
	}
	all, err := s.collect(ctx, c, "all reading")
	if err != nil {
		return err
	}
	s.percentiles("all_", all)

	stopped, err := c.Pause(ctx, 0, sl.Every)
	if err != nil {
		return err
	}
	if err := mark(ctx, c, f); err != nil {
		return err
	}
	fds := s.fds()
	s.watch(c, "some stopped")
	if err := s.openLoop(ctx, c, f, sl.Rate, sl.Duration); err != nil {
		return err
	}
	some, err := s.collect(ctx, c, "some stopped")
	if err != nil {
		return err
	}
	s.percentiles("some_", some)
	if base := all.Latency.Quantile(0.99); base > 0 && some.Latency.Count() > 0 {
		s.set("p99_ratio", float64(some.Latency.Quantile(0.99))/float64(base))
	}
	if fds > 0 && stopped > 0 {
		s.set("cut", float64(fds-s.fds())/float64(stopped)*100)
	}
	s.lateness(f)
	return nil
}
