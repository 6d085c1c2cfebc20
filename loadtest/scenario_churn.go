//go:build linux

package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"ssed/loadtest/report"
	"ssed/loadtest/swarm"
	"ssed/loadtest/target"
)

// churn connects and disconnects while residents listen.
type churn struct {
	Cycles    int `help:"Connections, each closed when its response head is there; twice: without messages and beside them." default:"20000"`
	Residents int `help:"Connections that stay and must not lose a message." default:"100"`
	Rate      int `help:"Messages per second to the residents." default:"100"`
}

func (ch *churn) describe(o *options) report.Scenario {
	return report.Scenario{
		Name:   "churn",
		About:  "Connections come and go at once: first beside silent residents of their channel, then beside residents that get messages.",
		Params: []report.Param{param("cycles", ch.Cycles), param("at once", o.Window), param("residents", ch.Residents)},
		Metrics: append([]report.Metric{
			{Key: "cycles_per_s", Label: "connect and disconnect per second", Unit: "1/s", Better: report.More, Plot: true},
			{Key: "cycle_cpu_us", Label: "server CPU each", Unit: "µs", Better: report.Less, Plot: true},
			{Key: "connect_p99", Label: "connect to response head, p99", Unit: "ms", Better: report.Less},
			{Key: "fds_left", Label: "descriptors more than before", Unit: "", Better: report.Less},
			{Key: "rss_growth", Label: "user memory more than before", Unit: "MiB"},
		}, latencyMetrics("", "residents' latency,", true)...),
	}
}

func (ch *churn) load(o *options) (conns, bytes int) {
	return ch.Residents + o.Window, orDefault(o.Bytes, 128)
}

func (ch *churn) run(ctx context.Context, s *stage) error {
	if err := s.warmUp(ctx); err != nil {
		return err
	}
	prefix := s.prefix()
	// Two processes, so that residents are read while the other one connects.
	residents, err := s.crew(prefix, closely, swarm.Group{Count: ch.Residents, Channels: 1})
	if err != nil {
		return err
	}
	passing, err := s.crew(prefix, here, swarm.Group{Count: s.opts.Window, Channels: 1})
	if err != nil {
		return err
	}
	if _, err := s.open(ctx, residents, 0, swarm.OpenSpec{}, "connecting residents"); err != nil {
		return err
	}
	f, err := s.feed(prefix, 0, 1)
	if err != nil {
		return err
	}
	// A message that went through shows that the server has accepted the publisher too.
	if _, err := s.broadcast(ctx, residents, f, 0); err != nil {
		return err
	}
	fds := s.fds()
	before, _ := target.ReadMemory(s.target.PIDs)
	if err := ch.cost(ctx, s, passing); err != nil {
		return err
	}
	if err := ch.beside(ctx, s, passing, f); err != nil {
		return err
	}
	if err := s.awaitLast(ctx, residents, f); err != nil {
		return err
	}
	st, err := s.collect(ctx, residents, "residents")
	if err != nil {
		return err
	}
	s.percentiles("", st)
	if err := s.awaitFDs(ctx, fds); err != nil || fds == 0 {
		return err
	}
	s.set("fds_left", float64(s.fds()-fds))
	after, err := target.ReadMemory(s.target.PIDs)
	s.set("rss_growth", float64(after.RSS-before.RSS)/(1<<20))
	return err
}

// cost lets connections pass while the residents are silent: what the server does
// is theirs.
func (ch *churn) cost(ctx context.Context, s *stage, passing *swarm.Crew) error {
	cost := s.meter()
	opened, err := s.open(ctx, passing, 0, swarm.OpenSpec{Churn: ch.Cycles}, "connecting and disconnecting")
	if err != nil {
		return err
	}
	if cpu, _, ok := cost.read(); ok {
		s.set("cycle_cpu_us", cpu.Total.Seconds()*1e6/float64(ch.Cycles))
	}
	s.set("cycles_per_s", float64(ch.Cycles)/opened.Elapsed().Seconds())
	s.set("connect_p99", ms(opened.Latency.Quantile(0.99)))
	s.run.Latency = latencies{"connect": &opened.Latency}
	return nil
}

// beside lets them pass again while the residents get messages.
func (ch *churn) beside(ctx context.Context, s *stage, passing *swarm.Crew, f *feed) error {
	sending, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	var sendErr error
	wg.Go(func() {
		sendErr = f.pace(sending, time.Second/time.Duration(ch.Rate), int(s.opts.Limit.Seconds()*float64(ch.Rate)))
	})
	_, err := s.open(ctx, passing, 0, swarm.OpenSpec{Churn: ch.Cycles}, "connecting and disconnecting beside messages")
	stop()
	wg.Wait()
	return errors.Join(err, unlessCancelled(sendErr))
}

// unlessCancelled is err without the end that its loop was told to make.
func unlessCancelled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
