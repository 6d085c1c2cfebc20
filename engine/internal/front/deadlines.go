package front

import (
	"sync"
	"time"
)

// deadlines ends handshakes that take too long. All have the same time, so a list
// in the order of arming is sorted by deadline: one goroutine looks at its front
// and no connection needs a timer.
type deadlines struct {
	// fixed after construction
	timeout time.Duration
	grain   time.Duration    // the sweeper sleeps at least this long, and so ends many at once
	expire  func(*handshake) // called with mu held: until it returns, h is not closed
	wake    chan struct{}

	mu             sync.Mutex
	oldest, newest *handshake
	isIdle         bool // the sweeper sleeps without a timer, so arm has to wake it
	isClosed       bool
}

func newDeadlines(timeout time.Duration, expire func(*handshake)) *deadlines {
	return &deadlines{
		timeout: timeout,
		grain:   min(timeout/50, 50*time.Millisecond), // 2 % late at most
		expire:  expire,
		wake:    make(chan struct{}, 1),
	}
}

// arm gives h the whole time from now on. It reports false after close.
func (d *deadlines) arm(h *handshake) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.isClosed {
		return false
	}
	d.removeLocked(h)
	h.due = time.Now().Add(d.timeout)
	h.older = d.newest
	if d.newest != nil {
		d.newest.newer = h
	} else {
		d.oldest = h
	}
	d.newest = h
	if d.isIdle {
		d.isIdle = false
		d.signal()
	}
	return true
}

// disarm lets h live on. Afterwards nobody touches its descriptor from here.
func (d *deadlines) disarm(h *handshake) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.removeLocked(h)
}

// close ends all that are in the list at once and those that come later.
func (d *deadlines) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.isClosed = true
	d.signal()
}

// run ends handshakes as their time comes, until close.
func (d *deadlines) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wait, more := d.sweep(time.Now())
		if !more {
			return
		}
		if wait > 0 {
			timer.Reset(wait)
		}
		select {
		case <-timer.C:
		case <-d.wake:
		}
	}
}

// sweep ends what is due and returns how long the next one has, 0 for none. More is
// false after close, when all were due.
func (d *deadlines) sweep(now time.Time) (wait time.Duration, more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for h := d.oldest; h != nil && (d.isClosed || !h.due.After(now)); h = d.oldest {
		d.removeLocked(h)
		d.expire(h)
		d.mu.Unlock() // nobody waits for more than one
		d.mu.Lock()
	}
	d.isIdle = d.oldest == nil
	if !d.isIdle {
		wait = max(d.oldest.due.Sub(now), d.grain)
	}
	return wait, !d.isClosed
}

func (d *deadlines) removeLocked(h *handshake) {
	if h.due.IsZero() {
		return
	}
	if h.older != nil {
		h.older.newer = h.newer
	} else {
		d.oldest = h.newer
	}
	if h.newer != nil {
		h.newer.older = h.older
	} else {
		d.newest = h.older
	}
	h.due, h.older, h.newer = time.Time{}, nil, nil
}

func (d *deadlines) signal() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}
