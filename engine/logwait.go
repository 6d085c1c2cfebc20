package engine

import (
	"container/list"
	"errors"
	"time"

	"ssed/sseproto"
)

// errNotYet: the log is not where a request needs it.
var errNotYet = errors.New("engine: the log is not there yet")

// logWaits are the requests that wait for the log: until the ring covers something, or
// until the history is written far enough. They have no reader meanwhile. When the history
// stood still, sixteen of them took all readers for Config.HistoryWait, the next sixteen
// after them, and whoever only wanted what is written waited behind. Guarded by replayer.mu,
// but for kick.
type logWaits struct {
	requests list.List     // of *replayRequest
	kick     chan struct{} // capacity 1: one has come
}

// waitForLog lets a taken request wait without its reader. Not ok: its time is over.
func (r *replayer) waitForLog(q *replayRequest) (ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if q.isDue {
		return false
	}
	if len(q.waiters) == 0 {
		return true // all have left, and it is forgotten
	}
	if q.until.IsZero() {
		q.until = time.Now().Add(r.wait)
	}
	if r.waits.requests.Len() == 0 {
		r.log.watch()
	}
	q.wait = r.waits.requests.PushBack(q)
	select {
	case r.waits.kick <- struct{}{}:
	default:
	}
	return true
}

// endWaitLocked takes a request off the list, if it is on it.
func (r *replayer) endWaitLocked(q *replayRequest) {
	if q.wait == nil {
		return
	}
	r.waits.requests.Remove(q.wait)
	q.wait = nil
	if r.waits.requests.Len() == 0 {
		r.log.unwatch()
	}
}

// watchLog gives requests back to the queue when the log is where they need it, or when
// they have waited for too long, until ctx ends.
func (r *replayer) watchLog() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for r.ctx.Err() == nil {
		changed := r.log.Changed() // before the look, so that nothing falls between
		until := r.queueReady(time.Time{})
		var over <-chan time.Time
		switch left := time.Until(until); {
		case until.IsZero():
			changed = nil
		case left <= 0:
			// A process that was stopped for a while finds this passed and the history written.
			if r.history != nil {
				_, _ = r.log.askWritten(r.ctx, r.history)
			}
			r.queueReady(time.Now())
			continue
		default:
			timer.Reset(left)
			over = timer.C
		}
		select {
		case <-changed:
		case <-over:
		case <-r.waits.kick:
		case <-r.ctx.Done():
		}
	}
}

// queueReady queues the requests for which the log is ready, and those whose time is over
// now. It returns when the next one's is; zero: nobody waits. O(requests that wait).
func (r *replayer) queueReady(now time.Time) (until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for place := r.waits.requests.Front(); place != nil; {
		q := place.Value.(*replayRequest)
		place = place.Next()
		q.isDue = !now.Before(q.until)
		if !q.isDue && !r.isReady(q) {
			if until.IsZero() || q.until.Before(until) {
				until = q.until
			}
			continue
		}
		r.endWaitLocked(q)
		q.isTaken = false
		for _, client := range q.waiters {
			r.queue.push(client, q)
		}
		r.some.Signal()
	}
	return until
}

// isReady reports whether the log is where a request needs it.
func (r *replayer) isReady(q *replayRequest) bool {
	from, ok := r.log.coveredFrom()
	if !ok {
		return false
	}
	written := *r.log.watermark.Load()
	if !q.key.start.IsNow() {
		return !written.Less(q.awaits)
	}
	return q.key.id.Less(written) || !q.key.id.Less(from)
}

// coveredFrom returns the ID from which the ring can serve. Not ok: no span has begun, or
// something is being backfilled.
func (ln *lineage) coveredFrom() (id sseproto.ID, ok bool) {
	cov := ln.cover.Load()
	return cov.from, !cov.backfilling && cov.from != sseproto.MaxID
}
