package engine

import (
	"time"

	"ssed/sseproto"
)

const (
	// sweepEvery is how often a shard with connections looks at the clock. Heartbeats
	// go out in bursts of what is due in a sweep: measured at 10,000 connections,
	// one in a burst costs half of one alone.
	sweepEvery = time.Second
	// drainEvery is the same while draining, so that closes are spread evenly.
	drainEvery = 100 * time.Millisecond
	// sweepsPerBeat is the number of times a slot is looked at in one heartbeat
	// period: silence lasts between 7/8 of the period and the whole.
	sweepsPerBeat = 8
	// sweepCalls bounds the system calls of one pass for what is due, before the shard
	// looks at new messages again: about a millisecond of heartbeats, two of ends. With
	// 100,000 streams in a shard a sweep of heartbeats is 15 ms.
	sweepCalls = 512
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
	if w.draining() {
		return min(w.every, drainEvery)
	}
	return w.every
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
	if w.isOwed() {
		s.visitSome(v, now)
	}
	if due && w.draining() {
		s.drainSome(now, elapsed)
	}
}

// isOwed reports whether a slot is due to be looked at.
func (w *sweeper) isOwed() bool { return w.owed >= 1 }

// visitSome looks at the slots that are due, as many as one pass may.
func (s *shard) visitSome(v *view, now time.Time) {
	w := &s.sweeper
	second, over := s.engine.second(now), w.over(now)
	for calls := 0; w.isOwed() && calls < sweepCalls; w.owed-- {
		if w.next++; w.next >= s.slots.used {
			w.next = 0
			continue
		}
		if c := s.slots.at(w.next); c.fd >= 0 {
			calls += s.visit(v, w.next, c, second, over)
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

// visit looks after one connection and returns the system calls that it took.
func (s *shard) visit(v *view, i uint32, c *slot, second, over uint32) (calls int) {
	if c.idle < 255 {
		c.idle++
	}
	switch {
	case c.expires != 0 && c.expires <= second, s.credentials.isOver(i, over):
		s.disconnect(i, c, CloseExpired)
		return 2
	case c.state&slotPending != 0 && c.idle > stuckVisits, c.state&slotBlocked != 0 && s.lostTouch(v, c):
		s.closeSlot(i, CloseSlow)
		return 1
	case c.state&slotNotLive&^slotResuming == 0 && c.idle >= sweepsPerBeat && !s.sweeper.silent:
		s.heartbeat(i, c)
		return 1
	}
	return 0
}

// lostTouch reports whether a slot's next message has left the ring.
func (s *shard) lostTouch(v *view, c *slot) bool {
	if c.state&(slotPending|slotResuming) != 0 {
		return false // its position is not set yet
	}
	for n := c.sub; n != 0; n = s.subs.at(n).sibling {
		if _, lost := v.follow(s.subs.at(n).ch, c.pos); lost {
			return true
		}
	}
	return false
}

// heartbeatOf is what is sent on a silent stream: a comment, or an event of the
// given type. It has no id line, so Last-Event-ID stays what it was.
func heartbeatOf(eventType string) []byte {
	if eventType == "" {
		return []byte(sseproto.Heartbeat)
	}
	return []byte("event: " + eventType + "\ndata: \n\n")
}

func (s *shard) heartbeat(i uint32, c *slot) {
	heartbeat := s.engine.heartbeat
	n, res := s.writeBytes(c, heartbeat)
	switch {
	case res == ioFailed:
		s.closeSlot(i, CloseError)
		return
	case n < len(heartbeat) && c.state&slotResuming != 0: // what it waits for must not come in between
		s.closeSlot(i, CloseSlow)
		return
	case n == 0:
		s.block(c)
	case n < len(heartbeat):
		s.keepPending(i, c, heartbeat[n:], resumePoint{})
		s.block(c)
	}
	s.count.heartbeats.Add(1)
}

// drainSome closes as many connections as keep the pace to the deadline, each
// with a new reconnect delay.
func (s *shard) drainSome(now time.Time, elapsed time.Duration) {
	w := &s.sweeper
	left := w.deadline.Sub(now)
	quota := s.open
	if left > elapsed {
		quota = int(float64(s.open)*float64(elapsed)/float64(left)) + 1
	}
	for visited := uint32(0); quota > 0 && visited < s.slots.used; visited++ {
		if w.victim++; w.victim >= s.slots.used {
			w.victim = 0
			continue
		}
		if c := s.slots.at(w.victim); c.fd >= 0 {
			s.disconnect(w.victim, c, CloseDrain)
			quota--
		}
	}
}
