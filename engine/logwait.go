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
	waits := &r.parts[q.key.part].waits
	if waits.requests.Len() == 0 {
		q.line.watch()
	}
	q.wait = waits.requests.PushBack(q)
	select {
	case waits.kick <- struct{}{}:
	default:
	}
	return true
}

// endWaitLocked takes a request off the list, if it is on it.
func (r *replayer) endWaitLocked(q *replayRequest) {
	if q.wait == nil {
		return
	}
	waits := &r.parts[q.key.part].waits
	waits.requests.Remove(q.wait)
	q.wait = nil
	if waits.requests.Len() == 0 {
		q.line.unwatch()
	}
}

// watchLog gives requests of a partition back to the queue when the log is where they need it, or when
// they have waited for too long, until ctx ends.
func (r *replayer) watchLog(p *replayPart) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for r.ctx.Err() == nil {
		changed := p.line.Changed() // before the look, so that nothing falls between
		until := r.queueReady(p, time.Time{})
		var over <-chan time.Time
		switch left := time.Until(until); {
		case until.IsZero():
			changed = nil
		case left <= 0:
			// A process that was stopped for a while finds this passed and the history written.
			if h := r.cfg.historyOf(p.line.part); h != nil {
				_, _ = p.line.askWritten(r.ctx, h)
			}
			r.queueReady(p, time.Now())
			continue
		default:
			timer.Reset(left)
			over = timer.C
		}
		select {
		case <-changed:
		case <-over:
		case <-p.waits.kick:
		case <-r.ctx.Done():
		}
	}
}

// readyAtOnce bounds the requests that are looked at in one turn of replayer.mu: loops wait for
// it when a stream resumes or leaves. After an outage there may be one for each client.
const readyAtOnce = 256

// queueReady queues the requests of a partition for which the log is ready, and those whose time is over
// now. It returns when the next one's is; zero: nobody waits. O(requests that wait).
func (r *replayer) queueReady(p *replayPart, now time.Time) (until time.Time) {
	r.mu.Lock()
	left := p.waits.requests.Len()
	r.mu.Unlock()
	for ; left > 0; left -= readyAtOnce {
		if next := r.queueSome(p, now, min(left, readyAtOnce)); until.IsZero() || !next.IsZero() && next.Before(until) {
			until = next
		}
	}
	return until
}

// queueSome is queueReady for the first few. Those that go on waiting are the last ones then.
func (r *replayer) queueSome(p *replayPart, now time.Time, few int) (until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ; few > 0 && p.waits.requests.Len() > 0; few-- {
		place := p.waits.requests.Front()
		q := place.Value.(*replayRequest)
		q.isDue = !now.Before(q.until)
		if !q.isDue && !r.isReady(q) {
			if until.IsZero() || q.until.Before(until) {
				until = q.until
			}
			p.waits.requests.MoveToBack(place)
			continue
		}
		r.endWaitLocked(q)
		q.isTaken = false
		for _, client := range q.waiters {
			p.queue.push(client, q)
		}
		r.some.Signal()
	}
	return until
}

// isReady reports whether the log is where a request needs it.
func (r *replayer) isReady(q *replayRequest) bool {
	from, ok := q.line.coveredFrom()
	if !ok {
		return false
	}
	written := *q.line.watermark.Load()
	if !q.key.start.IsNow() {
		return !written.Less(q.awaits)
	}
	return q.key.id.Less(written) || !q.key.id.Less(from)
}

// coveredFrom returns the ID from which the ring can serve. Not ok: no span has begun, or
// something is being backfilled.
func (ln *Lineage) coveredFrom() (id sseproto.ID, ok bool) {
	cov := ln.cover.Load()
	return cov.from, !cov.backfilling && cov.from != sseproto.MaxID
}
