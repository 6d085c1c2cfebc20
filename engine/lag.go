package engine

import (
	"sync/atomic"
	"time"
)

// loopClock is what a loop knows about time, from one look at the clock for each
// pass and one more before each sleep. Messages carry no time of their own: a clock
// read for each would cost an eighth of an append.
type loopClock struct {
	// came is a moment before which nothing that the pass finds new was in the log. It
	// is exact when the loop slept: whoever brings the first message ends the sleep
	// and notes when. A loop at work looked at the log in a pass before.
	came    moment
	seen    sighting
	counted moment // up to here the time at work is counted
	slept   moment // begin of the last sleep
}

// sighting tells that messages from pos on came after a moment.
type sighting struct {
	pos uint64
	at  moment
}

// advance is called before each scan, with the position from which it goes on and
// the end of the log as it was at a moment.
func (c *loopClock) advance(cursor, head uint64, at moment) {
	if cursor >= c.seen.pos { // else the scan is behind, and has not come to what was sighted last
		c.came, c.seen = c.seen.at, sighting{head, at}
	}
}

// fallAsleep is called before a wait that may last.
func (s *shard) fallAsleep() {
	now := s.engine.moment(time.Now())
	s.count.busy.Add(int64(now - s.clock.counted))
	s.clock.counted, s.clock.slept = now, now
}

// wakeUp is called after each wait.
func (s *shard) wakeUp(slept bool, now time.Time) {
	at := s.engine.moment(now)
	if !slept {
		s.count.busy.Add(int64(at - s.clock.counted))
		s.clock.counted = at
		return
	}
	s.clock.counted = at
	if woken := moment(s.woken.Load()); woken > s.clock.slept { // and not that of a sleep before, noted late
		at = min(at, woken)
	}
	s.clock.seen = sighting{s.reader.cursor.Load(), at} // it slept with nothing left to scan
}

// lagBounds are the upper bounds of the buckets of DeliveryLag.
var lagBounds = [...]time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 10 * time.Second,
}

const numLagBounds = len(lagBounds)

// Histogram is a snapshot of a distribution of times.
type Histogram struct {
	Bounds []time.Duration // of the buckets, ascending, inclusive; not to be changed
	Counts []uint64        // observations by bucket; the last one is beyond all bounds
	// SumSeconds is the sum of all observations. As a time.Duration it would
	// overflow within weeks.
	SumSeconds float64
}

// lagCounters is a histogram that one loop writes.
type lagCounters struct {
	counts [numLagBounds + 1]atomic.Uint64
	micros atomic.Uint64 // sum
}

// observe counts n observations of the same lag.
func (l *lagCounters) observe(lag moment, n uint64) {
	if n == 0 {
		return
	}
	bucket := 0
	for bucket < numLagBounds && time.Duration(lag) > lagBounds[bucket] {
		bucket++
	}
	l.counts[bucket].Add(n)
	l.micros.Add(n * uint64(max(lag, 0)) / 1000)
}

func (h *Histogram) add(l *lagCounters) {
	if h.Counts == nil {
		h.Bounds, h.Counts = lagBounds[:], make([]uint64, numLagBounds+1)
	}
	for i := range l.counts {
		h.Counts[i] += l.counts[i].Load()
	}
	h.SumSeconds += float64(l.micros.Load()) / 1e6
}
