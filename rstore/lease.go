package rstore

import (
	"context"
	"time"

	"ssed/internal/redisconn"
	"ssed/sseproto"
)

// The lease is taken by an instance that has something to write, and prolonged
// by writing: over quiet time the watermark follows the ticks. An instance whose
// log stands still (its link is down) so neither takes it nor keeps it.

// take takes the lease, or learns why not. The script gives it only to an
// instance that knows the watermark: that is the one its log covers.
func (w *writer) take(ctx context.Context) outcome {
	a := w.run(ctx, leaseScript, redisconn.Call{
		Keys: []string{w.keys.Clock, w.keys.Lease},
		Args: []string{"take", w.cfg.Instance, millis(w.cfg.there()), w.epoch, w.watermark.String(), millis(w.cfg.LeaseTTL), w.cfg.ServerOf(w.watermark)},
	})[0]
	if a.err != nil {
		return w.failed(a.err.Error(), redisconn.Code(a.err))
	}
	w.recovered()
	w.adopt(a)
	switch a.status {
	case statusOK:
		w.tookOver(a)
		return again()
	case statusHeld:
		return after(w.cfg.poll())
	case statusServer:
		w.refusedBy(a)
		return w.leaveOut(ctx, w.watermark)
	}
	w.refusedBy(a) // and free: look whether the log covers this watermark
	return retryIf(a.epoch != "", w.cfg.poll())
}

// deference is for how long still this instance leaves the lease to others: for half of its
// time when it gave the lease up for them, else an eighth at most, the longer the more it
// holds. An instance that offers to go on behind a gap waits for longer than that.
func (w *writer) deference() time.Duration {
	if w.leaving {
		return 0
	}
	left := time.Until(w.yieldedTo)
	if held := w.cfg.Elsewhere(); held > 0 {
		if w.wantedAt.IsZero() {
			w.wantedAt = time.Now()
		}
		left = max(left, w.cfg.LeaseTTL*time.Duration(held)/time.Duration(8*w.cfg.Partition.Of)-time.Since(w.wantedAt))
	}
	return left
}

// yield gives the lease up for others.
func (w *writer) yield(ctx context.Context) {
	w.free(ctx)
	w.yieldedTo = time.Now().Add(w.cfg.LeaseTTL / 2)
}

// tookOver counts a lease that was won from another instance.
func (w *writer) tookOver(a answer) {
	if a.writer != "" && a.writer != w.cfg.Instance {
		w.count.takeOvers.Add(1)
		w.log.Info("history: this instance writes now, in the place of another one", "other", a.writer, "watermark", a.watermark)
	}
}

// free gives the lease up and tells the others. When it fails the lease expires.
func (w *writer) free(ctx context.Context) { w.giveUp(ctx, "free") }

// leave says that the instance goes for good, and gives the lease up if it has it.
// Nobody waits for its offer then.
func (w *writer) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	w.giveUp(ctx, "leave")
}

// leaveTimeout bounds the farewell, which only spares the others a wait.
const leaveTimeout = 500 * time.Millisecond

func (w *writer) giveUp(ctx context.Context, mode string) {
	w.release()
	a := w.run(ctx, leaseScript, redisconn.Call{
		Keys: []string{w.keys.Clock, w.keys.Lease},
		Args: []string{mode, w.cfg.Instance, millis(w.cfg.there()), w.keys.Control},
	})[0]
	if a.err != nil {
		w.count.failed(redisconn.Code(a.err))
		return
	}
	w.count.noteHolder(a.holder)
}

// uncovered is what to do when the log goes on only from low: let another
// write, and offer to go on from low with a gap marker.
func (w *writer) uncovered(ctx context.Context, low sseproto.ID) outcome {
	if w.state == writing {
		w.free(ctx)
	}
	if low == sseproto.MaxID {
		return w.watch(ctx)
	}
	return w.skip(ctx, low)
}

// watch learns the truth without wanting the lease. When it is free, the next
// thing in the log is worth a look.
func (w *writer) watch(ctx context.Context) outcome {
	a := w.run(ctx, leaseScript, redisconn.Call{
		Keys: []string{w.keys.Clock, w.keys.Lease},
		Args: []string{"look", w.cfg.Instance, millis(w.cfg.there())},
	})[0]
	if a.err != nil {
		return w.failed(a.err.Error(), redisconn.Code(a.err))
	}
	w.recovered()
	first := a.epoch != "" && a.epoch != w.epoch
	w.adopt(a)
	return outcome{again: first, wait: w.cfg.poll(), onLog: a.holder == "" && a.epoch != ""}
}
