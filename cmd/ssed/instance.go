package main

import (
	"sync"
	"time"

	"ssed/internal/admin"
)

// meter makes rates of the counters of this instance.
type meter struct {
	mu   sync.Mutex
	last admin.Stats    // guarded by mu
	told admin.Instance // guarded by mu
}

// meterPeriod is the least time over which rates are taken.
const meterPeriod = time.Second

// self describes this instance for the fleet.
func (s *server) self() admin.Instance {
	m := &s.meter
	m.mu.Lock()
	defer m.mu.Unlock()
	now := s.snapshot()
	before := m.last.Now
	if before.IsZero() {
		before = s.started
	}
	if over := now.Now.Sub(before); over >= meterPeriod {
		m.told = rates(&m.last, &now, over)
		m.last = now
	}
	out := m.told
	out.Instance, out.Version, out.Started, out.Seen = now.Instance, now.Version, now.Started, now.Now
	out.Ready, out.Draining, out.Streams, out.Connections = now.Ready, now.Draining, now.Streams, now.Connections
	out.RSS, out.Self = now.Process.RSS, true
	if now.Redis != nil {
		out.Writer, out.Leading = now.Redis.Writer, now.Redis.Leading
	}
	return out
}

// rates is what happened per second.
func rates(from, to *admin.Stats, over time.Duration) admin.Instance {
	perSecond := func(a, b uint64) float64 { return float64(b-a) / over.Seconds() }
	out := admin.Instance{
		MessagesPerSecond:   perSecond(from.Totals.Messages, to.Totals.Messages),
		DeliveriesPerSecond: perSecond(from.Totals.Deliveries, to.Totals.Deliveries),
		CPU:                 (to.Process.CPU - from.Process.CPU) / over.Seconds(),
	}
	if n := to.Lag.Count() - from.Lag.Count(); n > 0 {
		out.Lag = (to.Lag.Sum - from.Lag.Sum) / float64(n)
	}
	return out
}
