package ssed

import (
	"context"
	"log/slog"
	"time"
)

const (
	// readyInterval is the time between two looks at whether the gateway is ready, and
	// steadyInterval that while it is. Each wakes a sleeping process, for some 0.2 ms of CPU:
	// ten a second were as much as the heartbeats of 5,000 streams.
	readyInterval  = 100 * time.Millisecond
	steadyInterval = time.Second
	// startGrace is how long a start may take without a line that it is not ready.
	startGrace = time.Second
	// reasonInterval is the least time between two lines with different reasons.
	reasonInterval = 10 * time.Second
)

// logReadiness tells when the gateway begins and ceases to be ready, until ctx ends. A
// drain is no news: who asked for it is told elsewhere.
func (g *Gateway) logReadiness(ctx context.Context) {
	r := readiness{log: g.cfg.Logger, since: time.Now()}
	for {
		ok, reason := g.Ready()
		if ctx.Err() != nil || g.draining.Load() {
			return
		}
		r.look(time.Now(), ok, reason)
		pause := readyInterval
		if ok {
			pause = steadyInterval
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// readiness is what was seen and told of it.
type readiness struct {
	log    *slog.Logger
	ready  bool
	since  time.Time // when that began
	reason string    // told last; "": none since it was ready
	next   time.Time // for another reason
}

func (r *readiness) look(now time.Time, ready bool, reason string) {
	switch {
	case ready && !r.ready:
		r.log.Info("ssed: ready", "after", now.Sub(r.since).Round(time.Millisecond))
		r.ready, r.since, r.reason = true, now, ""
	case ready:
	case r.ready:
		r.ready, r.since = false, now
		r.tell(now, reason)
	case r.reason == "" && now.Sub(r.since) < startGrace: // it starts
	case reason != r.reason && !now.Before(r.next):
		r.tell(now, reason)
	}
}

func (r *readiness) tell(now time.Time, reason string) {
	r.log.Warn("ssed: not ready", "reason", reason)
	r.reason, r.next = reason, now.Add(reasonInterval)
}
