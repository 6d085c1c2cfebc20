package engine

import (
	"time"

	"ssed/engine/internal/sock"
	"ssed/sseproto"
)

const (
	// sweepEvery is how often a shard with connections looks at the clock. Heartbeats
	// go out in bursts of what is due in a sweep: measured at 10,000 connections,
	// one in a burst costs half of one alone.
	sweepEvery = time.Second
	// drainEvery is the same while draining, so that closes are spread evenly. The last one is
	// at the deadline.
	drainEvery = 100 * time.Millisecond
	// sweepsPerBeat is the number of times a slot is looked at in one heartbeat
	// period: silence lasts between 7/8 of the period and the whole.
	sweepsPerBeat = 8
	// stuckVisits is how long a slot may hold memory of its own, the rest of a head
	// or of an event, without taking a byte: two heartbeat periods.
	stuckVisits = 2 * sweepsPerBeat
)

// sweeper spreads over time what is due for every slot: heartbeats, expiry, and
// closing at the end. It walks through the slots in the order of their numbers.
type sweeper struct {
	period time.Duration // one heartbeat period
	every  time.Duration // between two sweeps
	silent bool          // no heartbeats
	last   time.Time     // the last sweep
	next   uint32        // the slot to visit next
	owed   float64       // visits due, with the fraction of one

	deadline time.Time // of the drain; zero: none
	victim   uint32    // the slot to close next
	closes   float64   // closes due, with the fraction of one
}

func (w *sweeper) init(heartbeat time.Duration) {
	w.period, w.silent = heartbeat, heartbeat < 0
	if w.silent {
		w.period = 15 * time.Second
	}
	w.every = min(sweepEvery, max(w.period/sweepsPerBeat, time.Millisecond))
}

// interval is the time from one sweep to the next.
func (w *sweeper) interval() time.Duration {
	if !w.draining() {
		return w.every
	}
	every := min(w.every, drainEvery)
	if left := w.deadline.Sub(w.last); left > 0 {
		return min(every, left)
	}
	return every
}

func (w *sweeper) draining() bool { return !w.deadline.IsZero() }

// untilSweep is the time to the next sweep in milliseconds, rounded up.
func (w *sweeper) untilSweep() int {
	left := w.interval() - time.Since(w.last)
	return int(max(left+time.Millisecond-1, 0) / time.Millisecond)
}

// sweep does the share of the sweeper's work that is due, and what an earlier pass left.
func (s *shard) sweep(v *view, now time.Time) {
	w := &s.sweeper
	elapsed := min(now.Sub(w.last), 2*sweepEvery) // the first, or after a long sleep
	due := elapsed >= w.interval()
	if due {
		w.last = now
		slots := float64(s.slots.used)
		w.owed = min(w.owed+slots*sweepsPerBeat*float64(elapsed)/float64(w.period), slots)
	}
	if due && w.draining() {
		w.closes = min(w.closes+s.drainShare(now, elapsed), float64(s.open))
	}
	s.budget.begin(s.shares.sweep)
	s.drainSome()
	s.visitSome(v, now)
}

// isOwed reports whether a slot is due to be looked at, or to be closed.
func (w *sweeper) isOwed() bool { return w.owed >= 1 || w.closes >= 1 }

// visitSome looks at the slots that are due, as many as the budget allows.
func (s *shard) visitSome(v *view, now time.Time) {
	w := &s.sweeper
	second, over := s.engine.second(now), w.over(now)
	for ; w.owed >= 1 && !s.budget.spent(); w.owed-- {
		s.budget.slots++
		if w.next++; w.next >= s.slots.used {
			w.next = 0
			continue
		}
		if c := s.slots.at(w.next); c.isAnswered() {
			s.visit(v, w.next, c, second, over)
		}
	}
}

// over is the second of the wall clock up to which grants are closed now: before the
// next visit they end. Nothing is sent on a stream whose grant is over. The clock is
// that of the machine as it is set now.
func (w *sweeper) over(now time.Time) uint32 {
	untilNext := w.period/sweepsPerBeat + w.every // a sweep more: visits are spread over sweeps
	return wallSecond(now.Add(untilNext))
}

// visit looks after one connection.
func (s *shard) visit(v *view, i uint32, c *slot, second, over uint32) {
	if c.idle < 255 {
		c.idle++
	}
	switch {
	case c.expires != 0 && c.expires <= second, s.credentials.isOver(i, over):
		s.disconnect(i, c, CloseExpired)
	case c.has(slotPending) && c.idle > stuckVisits, c.phase.isSlow() && s.lostTouch(v, i):
		s.closeSlot(i, CloseSlow)
	case c.has(slotStarved):
		s.later(i)
	case c.takesHeartbeats() && c.idle >= sweepsPerBeat && !s.sweeper.silent:
		s.heartbeat(i, c)
	}
}

// takesHeartbeats: nothing is written to it half, and no turn of it is due.
func (c *slot) takesHeartbeats() bool {
	return c.phase == phaseLive || c.phase == phaseAhead || c.phase == phaseResuming || c.phase == phaseJoining
}

// heartbeatsOf is what is sent on a silent stream of each form: a comment, or an event of
// the given type. It has no id line, so Last-Event-ID stays what it was.
func heartbeatsOf(eventType string) (all [forms][]byte) {
	text := sseproto.Heartbeat
	if eventType != "" {
		text = "event: " + eventType + "\ndata: \n\n"
	}
	for f := range all {
		all[f] = form(f).wrap([]byte(text), 0)
	}
	return all
}

func (s *shard) heartbeat(i uint32, c *slot) {
	heartbeat := s.engine.heartbeats[c.form()]
	n, res := s.writeBytes(c, heartbeat)
	switch {
	case res == sock.Failed:
		s.closeSlot(i, CloseError)
		return
	case n < len(heartbeat) && c.phase != phaseLive: // what it waits for must not come in between
		s.closeSlot(i, CloseSlow)
		return
	case n < len(heartbeat):
		c.pos = s.upTo(i)
		if n > 0 {
			s.keepPending(i, heartbeat[n:], resumePoint{})
		}
		s.block(c)
	}
	s.count.heartbeats.Add(1)
}

// drainShare is how many connections to close keeps the pace to the deadline.
func (s *shard) drainShare(now time.Time, elapsed time.Duration) float64 {
	left := s.sweeper.deadline.Sub(now)
	if left <= elapsed {
		return float64(s.open)
	}
	return float64(s.open)*float64(elapsed)/float64(left) + 1
}

// drainSome closes the connections that are due, as many as the budget allows, each with
// a new reconnect delay. Who is not answered yet is left for later.
func (s *shard) drainSome() {
	w := &s.sweeper
	for visited := uint32(0); w.closes >= 1 && visited < s.slots.used; visited++ {
		s.budget.slots++
		if w.victim++; w.victim >= s.slots.used {
			w.victim = 0
			continue
		}
		if c := s.slots.at(w.victim); c.isAnswered() {
			s.disconnect(w.victim, c, CloseDrain)
			w.closes--
		}
		if s.budget.spent() {
			return
		}
	}
	w.closes = 0
}
