// Package throttle bounds what is logged. A client, a service or a network that fails in
// turns must not fill a disk, so each kind of line has a bound here:
//
//   - Line lets one line of its kind through in ten seconds.
//   - Outage tells of something that fails and works again, whatever the turns are.
//   - Handler bounds every kind of line of a logger, as a net under both.
package throttle

import (
	"sync"
	"time"
)

// Every is the least time between two lines of a kind.
const Every = 10 * time.Second

// Line lets one line through per Every. Ready when zero.
type Line struct {
	mu      sync.Mutex // guards the rest
	next    time.Time
	dropped int
}

// Allow reports whether to log now, and how many lines were left out since the last one.
func (l *Line) Allow() (dropped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.Before(l.next) {
		l.dropped++
		return 0, false
	}
	dropped = l.dropped
	l.dropped, l.next = 0, now.Add(Every)
	return dropped, true
}

// outageEvery is the least time between two lines that say that something fails.
const outageEvery = time.Minute

// Outage decides what to log of something that is tried again and again. The first
// failure is told, then one a minute with the number of failures since. A success is
// told when a failure was told before it. So there are two lines a minute at most, and
// the last one says how it is, or that it failed less than a minute ago. Ready when zero.
type Outage struct {
	mu       sync.Mutex // guards the rest
	told     bool       // a failure, and no success since
	failures int        // since the last line that told one
	next     time.Time  // for the next line that tells a failure
}

// Failed notes a failure. It reports whether to log it, and how many failures there
// were since the last line, this one among them.
func (o *Outage) Failed() (failures int, tell bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failures++
	now := time.Now()
	if now.Before(o.next) {
		return 0, false
	}
	failures = o.failures
	o.failures, o.told, o.next = 0, true, now.Add(outageEvery)
	return failures, true
}

// Worked notes a success, and reports whether to log it.
func (o *Outage) Worked() (tell bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	tell = o.told
	o.told = false
	return tell
}
