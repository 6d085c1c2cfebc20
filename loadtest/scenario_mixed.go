//go:build linux

package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"ssed/loadtest/hist"
	"ssed/loadtest/report"
	"ssed/loadtest/swarm"
)

// mixed measures a small channel beside a large one.
type mixed struct {
	Members  int           `help:"Connections of the small channel." default:"3"`
	Rate     int           `help:"Messages per second to the small channel." default:"100"`
	Every    time.Duration `help:"Time between broadcasts to the large channel." default:"250ms"`
	Duration time.Duration `help:"How long, once without and once with broadcasts." default:"10s"`
}

func (m *mixed) describe(o *options) report.Scenario {
	conns, bytes := m.load(o)
	return report.Scenario{
		Name:  "mixed",
		About: "Latency of a small channel, alone and while broadcasts to a large one run.",
		Params: []report.Param{
			param("large channel", conns-m.Members), param("small channel", m.Members), param("messages per second", m.Rate),
			param("a broadcast every", m.Every), param("for", m.Duration), param("bytes", bytes),
		},
		Metrics: append(append(latencyMetrics("idle_", "alone,", false), latencyMetrics("busy_", "beside broadcasts,", true)...),
			report.Metric{Key: "added_p99", Label: "p99 that broadcasts add", Unit: "ms", Better: report.Less, Plot: true},
			report.Metric{Key: "complete_p50", Label: "broadcast until the last has it, p50", Unit: "ms", Better: report.Less},
			report.Metric{Key: "broadcasts", Label: "broadcasts", Unit: ""},
			metricLag),
	}
}

func (m *mixed) load(o *options) (conns, bytes int) {
	return orDefault(o.Conns, 15000) + m.Members, orDefault(o.Bytes, 128)
}

// sides are the two channels of a mixed run, each read by a process of its own: in
// one its messages would wait behind thousands of reads of this program. The
// sender is this process, which does nothing else meanwhile.
type sides struct {
	large, small         *swarm.Crew
	largeFeed, smallFeed *feed
}

func (m *mixed) run(ctx context.Context, s *stage) error {
	if err := s.warmUp(ctx); err != nil {
		return err
	}
	x, err := m.connect(ctx, s)
	if err != nil {
		return err
	}
	s.watch(x.small, "alone")
	if err := s.openLoop(ctx, x.small, x.smallFeed, m.Rate, m.Duration); err != nil {
		return err
	}
	idle, err := s.collect(ctx, x.small, "alone")
	if err != nil {
		return err
	}
	s.percentiles("idle_", idle)
	if err := mark(ctx, x.small, x.smallFeed); err != nil {
		return err
	}
	s.watch(x.large, "beside broadcasts")
	if err := m.both(ctx, s, x); err != nil {
		return err
	}
	busy, err := s.collect(ctx, x.small, "beside broadcasts")
	if err != nil {
		return err
	}
	s.percentiles("busy_", busy)
	if idle.Latency.Count() > 0 && busy.Latency.Count() > 0 {
		s.set("added_p99", ms(busy.Latency.Quantile(0.99)-idle.Latency.Quantile(0.99)))
	}
	s.lateness(x.smallFeed)
	return nil
}

func (m *mixed) connect(ctx context.Context, s *stage) (x sides, err error) {
	prefix := s.prefix()
	const largeChannel, smallChannel = 0, 1
	if x.large, err = s.crew(prefix, apart, swarm.Group{Count: s.conns - m.Members, First: largeChannel, Channels: 1}); err != nil {
		return x, err
	}
	if x.small, err = s.crew(prefix, closely, swarm.Group{Count: m.Members, First: smallChannel, Channels: 1}); err != nil {
		return x, err
	}
	if _, err = s.open(ctx, x.large, 0, swarm.OpenSpec{}, "connecting"); err != nil {
		return x, err
	}
	if _, err = s.open(ctx, x.small, 0, swarm.OpenSpec{}, "connecting the small channel"); err != nil {
		return x, err
	}
	if x.largeFeed, err = s.feed(prefix, largeChannel, 1); err != nil {
		return x, err
	}
	if x.smallFeed, err = s.feed(prefix, smallChannel, 1); err != nil {
		return x, err
	}
	for range warmBroadcasts {
		if _, err = s.broadcast(ctx, x.large, x.largeFeed, 0); err != nil {
			return x, err
		}
		if _, err = s.broadcast(ctx, x.small, x.smallFeed, 0); err != nil {
			return x, err
		}
	}
	return x, mark(ctx, x.small, x.smallFeed)
}

// both sends broadcasts for as long as the small channel is measured.
func (m *mixed) both(ctx context.Context, s *stage, x sides) error {
	sending, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	var broadcastErr error
	var complete hist.Histogram
	wg.Go(func() { broadcastErr = m.broadcasts(sending, s, x, &complete) })
	err := s.openLoop(ctx, x.small, x.smallFeed, m.Rate, m.Duration)
	stop()
	wg.Wait()
	if err = errors.Join(err, broadcastErr); err != nil {
		return err
	}
	s.quantile("complete_p50", &complete, 0.5)
	s.set("broadcasts", float64(complete.Count()))
	if err := x.large.Audit(ctx, 0, x.largeFeed.seqs); err != nil {
		return err
	}
	_, err = s.collect(ctx, x.large, "")
	return err
}

// broadcasts sends on the large channel until ctx ends; the last broadcast is
// waited for, so that its end is not taken for a loss.
func (m *mixed) broadcasts(ctx context.Context, s *stage, x sides, complete *hist.Histogram) error {
	tick := time.NewTicker(m.Every)
	defer tick.Stop()
	for ctx.Err() == nil {
		took, err := s.broadcast(context.WithoutCancel(ctx), x.large, x.largeFeed, 0)
		if err != nil {
			return err
		}
		complete.Record(took)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	return nil
}
