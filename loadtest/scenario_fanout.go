//go:build linux

package main

import (
	"context"

	"ssed/loadtest/hist"
	"ssed/loadtest/report"
	"ssed/loadtest/swarm"
)

// fanout sends broadcasts one by one: the next when all have the last.
type fanout struct {
	Messages int `help:"Broadcasts that count." default:"20"`
}

// warmBroadcasts go before those that count: the first write to a socket
// allocates its buffers.
const warmBroadcasts = 2

func (f *fanout) describe(o *options) report.Scenario {
	conns, bytes := f.load(o)
	return report.Scenario{
		Name:   "fanout",
		About:  "Broadcasts to one channel, each sent when all members have the one before.",
		Params: []report.Param{param("connections", conns), param("messages", f.Messages), param("bytes", bytes)},
		Metrics: append([]report.Metric{
			metricPerCPU, metricPerWall, metricCPU, metricUser, metricRedis, metricLoad,
			{Key: "complete_p50", Label: "until the last member has it, p50", Unit: "ms", Better: report.Less, Plot: true},
		}, latencyMetrics("", "latency", false)...),
	}
}

func (f *fanout) load(o *options) (conns, bytes int) {
	return orDefault(o.Conns, 15000), orDefault(o.Bytes, 128)
}

// room opens one channel with conns connections, warm and ready to be measured.
func (s *stage) room(ctx context.Context, prefix string, conns int) (*swarm.Crew, *feed, error) {
	if err := s.warmUp(ctx); err != nil {
		return nil, nil, err
	}
	c, err := s.crew(prefix, here, swarm.Group{Count: conns, Channels: 1})
	if err != nil {
		return nil, nil, err
	}
	if _, err := s.open(ctx, c, 0, swarm.OpenSpec{}, "connecting"); err != nil {
		return nil, nil, err
	}
	f, err := s.feed(prefix, 0, 1)
	if err != nil {
		return nil, nil, err
	}
	s.watch(c, "warming up the connections")
	for range warmBroadcasts {
		if _, err := s.broadcast(ctx, c, f, 0); err != nil {
			return nil, nil, err
		}
	}
	// What a warm-up repeats or mixes up is counted like the rest.
	if _, err := s.collect(ctx, c, ""); err != nil {
		return nil, nil, err
	}
	return c, f, mark(ctx, c, f)
}

func (f *fanout) run(ctx context.Context, s *stage) error {
	c, feed, err := s.room(ctx, s.prefix(), s.conns)
	if err != nil {
		return err
	}
	s.watch(c, "broadcasting")
	var complete hist.Histogram
	cost := s.meter()
	for range f.Messages {
		took, err := s.broadcast(ctx, c, feed, 0)
		if err != nil {
			return err
		}
		complete.Record(took)
	}
	s.quantile("complete_p50", &complete, 0.5)
	return s.finish(ctx, c, feed, cost)
}

// finish records deliveries, latencies and faults of one channel group.
func (s *stage) finish(ctx context.Context, c *swarm.Crew, f *feed, cost meter) error {
	st, err := c.Stats(ctx)
	if err != nil {
		return err
	}
	cost.deliveries(st.Delivered)
	if err := c.Audit(ctx, 0, f.seqs); err != nil {
		return err
	}
	if st, err = s.collect(ctx, c, "all deliveries"); err != nil {
		return err
	}
	s.percentiles("", st)
	return nil
}

// burst sends many messages at once.
type burst struct {
	Messages int `help:"Messages back to back in a burst." default:"100"`
	Bursts   int `help:"Bursts, each sent when all members have the one before." default:"5"`
}

func (b *burst) describe(o *options) report.Scenario {
	conns, bytes := b.load(o)
	return report.Scenario{
		Name:   "burst",
		About:  "Messages back to back to one channel: a server may join what one member gets.",
		Params: []report.Param{param("connections", conns), param("messages per burst", b.Messages), param("bursts", b.Bursts), param("bytes", bytes)},
		Metrics: append([]report.Metric{
			metricPerCPU, metricPerWall, metricCPU, metricUser, metricRedis, metricLoad,
			{Key: "complete_p50", Label: "until the last member has the last, p50", Unit: "ms", Better: report.Less, Plot: true},
		}, latencyMetrics("", "latency", false)...),
	}
}

func (b *burst) load(o *options) (conns, bytes int) {
	return orDefault(o.Conns, 5000), orDefault(o.Bytes, 128)
}

func (b *burst) run(ctx context.Context, s *stage) error {
	c, feed, err := s.room(ctx, s.prefix(), s.conns)
	if err != nil {
		return err
	}
	s.watch(c, "sending bursts")
	var complete hist.Histogram
	cost := s.meter()
	for range b.Bursts {
		due := swarm.Now()
		for range b.Messages {
			if err := feed.send(0, due); err != nil {
				return err
			}
		}
		if err := feed.pub.Flush(); err != nil {
			return err
		}
		last, err := s.awaitAll(ctx, c, feed, 0, "a burst")
		if err != nil {
			return err
		}
		complete.Record(nanos(last - due))
	}
	s.quantile("complete_p50", &complete, 0.5)
	return s.finish(ctx, c, feed, cost)
}
