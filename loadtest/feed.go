//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"time"

	"ssed/loadtest/hist"
	"ssed/loadtest/payload"
	"ssed/loadtest/report"
	"ssed/loadtest/swarm"
	"ssed/loadtest/target"
)

// latencies are histograms by phase.
type latencies = map[string]*hist.Histogram

// feed publishes numbered messages on a range of channels.
type feed struct {
	pub   *target.Publisher
	names []string
	first uint32
	seqs  []uint32 // the last number by channel
	since []uint32 // seqs at the last mark
	size  int
	body  []byte
	lag   hist.Histogram // how late messages were sent
}

// feed opens a publisher for channels first to first+count; it ends with the stage.
func (s *stage) feed(prefix string, first uint32, count int) (*feed, error) {
	pub, err := target.NewPublisher(&s.target)
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, pub.Close)
	f := &feed{pub: pub, first: first, seqs: make([]uint32, count), since: make([]uint32, count), size: s.bytes}
	for i := range count {
		f.names = append(f.names, prefix+strconv.Itoa(int(first)+i))
	}
	return f, nil
}

// send publishes the next message on channel i, counted from the feed's first.
// It is on its way after the next flush of the publisher.
func (f *feed) send(i int, due int64) error {
	f.seqs[i]++
	f.body = payload.Append(f.body[:0], f.first+uint32(i), f.seqs[i], due, f.size)
	return f.pub.Publish(f.names[i], f.body)
}

// mark starts a new stretch for want.
func (f *feed) mark() { copy(f.since, f.seqs) }

// want is what a group that listens to all channels has got since the mark.
func (f *feed) want(group int) swarm.Want {
	w := swarm.Want{Group: group, Counts: make([]uint32, len(f.seqs))}
	for i := range f.seqs {
		w.Counts[i] = f.seqs[i] - f.since[i]
	}
	return w
}

// pace sends count messages, one each interval, on the channels in turn. Each is
// due at its place in the schedule, whether or not those before it were late: a
// server that stalls is not spared the messages that would have come meanwhile.
func (f *feed) pace(ctx context.Context, interval time.Duration, count int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer swarm.Boost()()
	f.pub.Quiet()
	start := swarm.Now() + int64(time.Millisecond)
	for n := range count {
		due := start + int64(n)*int64(interval)
		swarm.SleepUntil(due)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		f.lag.Record(time.Duration(swarm.Now() - due))
		if err := f.send(n%len(f.seqs), due); err != nil {
			return err
		}
		if err := f.pub.Flush(); err != nil {
			return err
		}
	}
	return f.pub.Settle()
}

// broadcast sends one message on the first channel and waits until every member
// of group has it, or the limit is over. It returns when the last one had it.
func (s *stage) broadcast(ctx context.Context, c *swarm.Crew, f *feed, group int) (took time.Duration, err error) {
	due := swarm.Now()
	if err := f.send(0, due); err != nil {
		return 0, err
	}
	if err := f.pub.Flush(); err != nil {
		return 0, err
	}
	last, err := s.awaitAll(ctx, c, f, group, "a broadcast")
	return nanos(last - due), err
}

// errMissing ends a run in which a step never ended: there is no time that it took.
var errMissing = errors.New("not everybody got")

// awaitAll returns when the last member of group got the last message. When not all
// have it at the end of the limit, they are counted, and the run is to end.
func (s *stage) awaitAll(ctx context.Context, c *swarm.Crew, f *feed, group int, what string) (last int64, err error) {
	r, err := c.Await(ctx, s.opts.Limit, f.want(group))
	if err != nil || r.Reached {
		return r.Last, err
	}
	err = fmt.Errorf("%w %s within %v", errMissing, what, s.opts.Limit)
	if auditErr := c.Audit(ctx, group, f.seqs); auditErr != nil {
		return 0, errors.Join(err, auditErr)
	}
	_, countErr := s.collect(ctx, c, "")
	return 0, errors.Join(err, countErr)
}

// awaitLast waits for the end of an open loop; what is missing then counts as lost.
func (s *stage) awaitLast(ctx context.Context, c *swarm.Crew, f *feed) error {
	limit := min(grace, s.opts.Limit)
	r, err := c.Await(ctx, limit, f.want(0))
	if err != nil {
		return err
	}
	if !r.Reached {
		s.note("%v after the last message not everybody had all: latencies are those of what arrived", limit)
	}
	return c.Audit(ctx, 0, f.seqs)
}

// mark starts a new stretch for a crew and its feed.
func mark(ctx context.Context, c *swarm.Crew, f *feed) error {
	f.mark()
	return c.Mark(ctx)
}

// lateNote is a lateness of the sender, p99, from which a remark goes with the
// results: on an idle machine it is below 0.3 ms.
const lateNote = 5 * time.Millisecond

// lateness records how late the sender itself was: above a fraction of the
// latencies, these are not the server's.
func (s *stage) lateness(f *feed) {
	late := f.lag.Quantile(0.99)
	s.set("send_lag_p99", ms(late))
	if late > lateNote {
		s.note("messages were sent late by more than %v (p99): the machine is too busy for these latencies to be the server's", lateNote)
	}
}

// Metrics that several scenarios have.
var (
	metricPerCPU  = report.Metric{Key: "deliveries_per_cpu_s", Label: "deliveries per server CPU second", Unit: "1/s", Better: report.More, Plot: true}
	metricPerWall = report.Metric{Key: "deliveries_per_s", Label: "deliveries per second", Unit: "1/s", Better: report.More}
	metricCPU     = report.Metric{Key: "cpu_share", Label: "server CPU while sending", Unit: "% of a core"}
	metricRedis   = report.Metric{Key: "redis_share", Label: "Redis CPU while sending", Unit: "% of a core"}
	metricUser    = report.Metric{Key: "user_share", Label: "of that in user mode", Unit: "%"}
	metricLoad    = report.Metric{Key: "load_share", Label: "the load's own CPU meanwhile", Unit: "% of a core"}
	metricLag     = report.Metric{Key: "send_lag_p99", Label: "sender late, p99", Unit: "ms"}
)

// latencyMetrics are the percentiles that stage.percentiles records.
func latencyMetrics(prefix, what string, plot bool) []report.Metric {
	m := func(key, label string, plot bool) report.Metric {
		return report.Metric{Key: prefix + key, Label: what + " " + label, Unit: "ms", Better: report.Less, Plot: plot}
	}
	return []report.Metric{
		m("p50", "p50", false), m("p90", "p90", false), m("p99", "p99", plot), m("p999", "p99.9", false), m("max", "max", false),
	}
}
