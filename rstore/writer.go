package rstore

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"time"

	"ssed/internal/redisconn"
	"ssed/internal/throttle"
	"ssed/sseproto"
)

// Run writes until ctx ends, then flushes once more, for at most two seconds,
// even if it never had the lease, and gives the lease up. It retries for ever and returns the cause of ctx's end.
func (s *Store) Run(ctx context.Context) error {
	w := &writer{Store: s}
	timer := time.NewTimer(0)
	defer timer.Stop()
	asked := false
	for ctx.Err() == nil {
		changed := s.src.Changed() // before the look, so that nothing falls between
		o := w.step(ctx, asked)
		asked = false
		timer.Reset(o.wait)
		if !o.onLog {
			changed = nil
		}
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-changed:
		case <-s.tryLease:
			asked = true
		case <-s.yields:
			if w.state == writing {
				w.yield(ctx)
			}
		}
	}
	w.finish(context.WithoutCancel(ctx))
	return context.Cause(ctx)
}

// writerState is where the writer stands; the package's doc draws it. Only adopt,
// skip and release change it.
type writerState uint8

const (
	unknown  writerState = iota // no answer yet, or Redis has no clock
	watching                    // the truth is known, another instance or nobody writes
	offering                    // as watching; an offer to go on behind a gap stands
	writing                     // this instance holds the lease, as far as it knows
)

// writer is the state of the goroutine of Run.
type writer struct {
	*Store
	state writerState

	// What Redis said last; zero while unknown.
	epoch     string
	watermark sseproto.ID

	// covered: the log went on from this watermark at some time. Should it do so no
	// more, messages were lost here, and not in an outage.
	covered bool
	unsure  *gap // a marker that may have been written: the answer was cut off

	lookAt time.Time // watching, offering: next look at the lease of another

	queue   queue         // writing
	renewed time.Time     // writing: when the lease was last prolonged
	restTo  time.Time     // writing: no batch before
	took    time.Duration // writing: the last round trip with batches

	wantedAt  time.Time // watching: since when a lease that seems free is left to others; zero: it is not
	yieldedTo time.Time // until when it is left to others because this instance gave it up
	leaving   bool      // nothing is left to others any more

	failures int             // script runs that failed, in a row
	outage   throttle.Outage // of two in a row, for the log
	rejected rejections

	otherServer throttle.Line // of what was refused because two primaries give an order
}

// queue is what was read from the log in the writer's epoch and not sent yet:
// batches that continue each other.
type queue struct {
	batches []*batch
	more    bool // the log had more than fits: the writer is behind
}

// outcome is what the writer does after a round.
type outcome struct {
	again bool          // something was learned that can be acted on now
	wait  time.Duration // else: how long to wait
	onLog bool          // what comes into the log ends the wait
}

// again acts at once on what was learned.
func again() outcome { return outcome{again: true} }

// after waits, whatever comes into the log: backoff, pace, another's lease.
func after(d time.Duration) outcome { return outcome{wait: d} }

// retryIf acts at once if there is something to act on, else waits.
func retryIf(now bool, d time.Duration) outcome {
	if now {
		return again()
	}
	return after(d)
}

// maxRounds bounds one step, so that ctx gets a look in between.
const maxRounds = 16

// step does what can be done now. Asked: the lease may be free.
func (w *writer) step(ctx context.Context, asked bool) outcome {
	if left := time.Until(w.lookAt); w.state != writing && !asked && left > 0 {
		return after(left)
	}
	for range maxRounds {
		o := w.advance(ctx)
		if !o.again {
			w.lookAt = time.Time{}
			if w.state != writing && !o.onLog {
				w.lookAt = time.Now().Add(o.wait)
			}
			return o
		}
		if ctx.Err() != nil {
			break
		}
	}
	return after(0)
}

// advance is one round with Redis at most.
func (w *writer) advance(ctx context.Context) outcome {
	switch w.state {
	case unknown:
		return w.watch(ctx)
	case writing:
		return w.write(ctx)
	}
	through, low := w.glance()
	switch {
	case low != w.watermark:
		return w.uncovered(ctx, low)
	case through == w.watermark:
		return w.watch(ctx)
	}
	if left := w.deference(); left > 0 {
		return after(left)
	}
	return w.take(ctx)
}

// write is a round of the instance that holds the lease.
func (w *writer) write(ctx context.Context) outcome {
	if left := time.Until(w.restTo); left > 0 {
		return after(left)
	}
	switch low := w.read(); {
	case low != w.watermark:
		return w.uncovered(ctx, low)
	case len(w.queue.batches) > 0:
		return w.append(ctx)
	}
	w.covered = true
	w.count.behind.Store(0)
	if time.Since(w.renewed) > w.cfg.LeaseTTL {
		w.release() // run out: no ticks, or a log without a link
	}
	return outcome{wait: w.cfg.poll(), onLog: true}
}

// read fills the queue from the log, unless it goes on from the watermark already.
func (w *writer) read() (low sseproto.ID) {
	if q := w.queue.batches; len(q) > 0 && q[0].after == w.watermark {
		return w.watermark
	}
	w.queue, low = w.collect(w.watermark, w.depth())
	return low
}

// depth is how many full batches a writer that is behind takes at once.
func (w *writer) depth() int {
	if w.took > w.cfg.FlushInterval {
		return max(pipelineDepth, min(farDepth, maxBatch/w.cfg.BatchSize))
	}
	return pipelineDepth
}

// share is how many of the queued batches go into the next pipeline. All, when the
// writer is behind. Otherwise as few as get all steps of a tick through in one
// FlushInterval: one after the other on a near Redis, which gets to other work in
// between, and all at once where a round trip takes longer than that.
func (w *writer) share() int {
	n := len(w.queue.batches)
	if w.queue.more || w.took >= w.cfg.FlushInterval {
		return n
	}
	return min(n, 1+int(steps*w.took/w.cfg.FlushInterval))
}

// append sends a share of the queue in one pipeline. Each batch expects the watermark
// that the one before leaves, so after a failure the rest fails too.
func (w *writer) append(ctx context.Context) outcome {
	w.covered = true
	w.count.behind.CompareAndSwap(0, time.Now().UnixNano())
	n := w.share()
	batches, behind := w.queue.batches[:n], w.queue.more
	w.queue.batches = w.queue.batches[n:]
	calls := make([]redisconn.Call, n)
	for i, b := range batches {
		calls[i] = w.appendCall(w.epoch, b)
	}
	sent := time.Now()
	answers := w.run(ctx, appendScript, calls...)
	w.took = time.Since(sent)
	w.count.wrote(w.took)
	var failure *outcome
	for i, a := range answers {
		if failure != nil && (a.err != nil || a.status != statusOK) {
			continue // it failed with the one before
		}
		// One behind a refused batch counts if another writer moved the watermark to
		// where it begins.
		if o, ok := w.acknowledge(a, batches[i]); !ok {
			failure = &o
		}
	}
	if answers[0].status == statusServer {
		return w.leaveOut(ctx, batches[0].after)
	}
	if failure != nil {
		return *failure
	}
	if behind {
		return again()
	}
	rest := w.cfg.FlushInterval
	if len(w.queue.batches) > 0 {
		rest /= steps
	} else {
		w.count.behind.Store(0)
	}
	w.restTo = time.Now().Add(rest)
	return retryIf(rest == 0, rest)
}

// acknowledge takes in the answer to a batch. Not ok: the outcome is what to do about it.
func (w *writer) acknowledge(a answer, b *batch) (o outcome, ok bool) {
	if a.err != nil {
		return w.failed(a.err.Error(), redisconn.Code(a.err)), false
	}
	w.count.appended.Add(uint64(a.n))
	w.count.capped.Add(uint64(a.capped))
	if a.refused > 0 {
		w.count.refused.Add(uint64(a.refused))
		w.rejected.tell(w.log, a.refused)
	}
	if n := len(b.entries); a.status == statusOK && n > 0 {
		w.count.batch(n)
	} else if a.status == statusOK {
		w.count.advances.Add(1)
	}
	w.adopt(a) // behind the counts: who sees the watermark finds them
	switch a.status {
	case statusOK:
		if a.failure != "" {
			return w.failed(a.failure, redisconn.CodeOf(a.failure)), true
		}
		w.recovered()
		return again(), true
	case statusFailed:
		return w.failed(a.failure, redisconn.CodeOf(a.failure)), false
	}
	w.refusedBy(a)
	return again(), false
}

// rejections says in the log that streams rejected messages: a spoiled key would have
// a line for every batch.
type rejections struct {
	line   throttle.Line
	untold int64 // messages
}

func (r *rejections) tell(log *slog.Logger, n int64) {
	r.untold += n
	if _, ok := r.line.Allow(); ok {
		log.Warn("history: streams refused messages: their key has another type, or somebody added higher IDs by hand", "messages", r.untold)
		r.untold = 0
	}
}

// adopt takes over what Redis says.
func (w *writer) adopt(a answer) {
	if a.epoch != w.epoch || a.watermark != w.watermark {
		w.covered = false
	}
	if a.epoch != w.epoch {
		w.queue = queue{}
	}
	if g := w.unsure; g != nil {
		w.unsure = nil
		if a.watermark == g.to && a.writer == w.cfg.Instance {
			w.marked(*g)
		}
	}
	w.epoch, w.watermark = a.epoch, a.watermark
	w.count.watermark.Store(&a.watermark)
	w.count.noteHolder(a.holder)
	if a.holder != "" {
		w.wantedAt = time.Time{}
	}
	switch {
	case a.epoch == "":
		w.release()
		w.state = unknown
	case a.holder != w.cfg.Instance:
		w.release()
	default:
		w.state = writing
		w.count.writer.Store(true)
		if a.status == statusOK {
			w.renewed = time.Now()
		}
	}
}

// release notes that this instance does not write.
func (w *writer) release() {
	w.state, w.queue = watching, queue{}
	w.count.writer.Store(false)
	w.count.behind.Store(0)
}

func (w *writer) refusedBy(a answer) {
	switch a.status {
	case statusStale:
		w.count.stale.Add(1)
	case statusEpoch:
		w.count.epoch.Add(1)
	case statusServer:
		w.count.server.Add(1)
		if dropped, ok := w.otherServer.Allow(); ok {
			w.log.Warn("history: Redis refused what another server has numbered: there are two primaries, and the connections of this instance are made anew",
				"watermark", a.watermark, "dropped", dropped)
		}
	}
}

// failed counts an error. The first failure is tried again at once: most are a
// connection that was cut.
func (w *writer) failed(text, code string) outcome {
	w.count.failed(code)
	w.failures++
	if w.failures == 1 {
		return after(0)
	}
	if code == redisconn.CodeWrongType {
		text = fmt.Sprintf("one of the keys %s, %s, %s, %s holds another type: %s", w.keys.Clock, w.keys.Lease, w.keys.Gaps, w.keys.Rejected, text)
	}
	w.count.trouble.Store(&text)
	if failures, tell := w.outage.Failed(); tell {
		w.log.Error("history: cannot be written", "error", text, "failures", failures)
	}
	return after(min(w.cfg.poll(), time.Millisecond<<min(w.failures, 10)))
}

func (w *writer) recovered() {
	w.failures = 0
	w.count.trouble.Store(nil)
	if w.outage.Worked() {
		w.log.Info("history: is written again")
	}
}

// finish writes what is committed and gives the lease up. An instance that does not
// write takes the lease for that when it becomes free, unless somebody else has
// written up to what the log had at the beginning: it may go on growing.
func (w *writer) finish(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	w.leaving = true
	w.restTo = time.Time{} // what there is now is all there will be
	if w.state != writing {
		w.watch(ctx) // the last look may be a poll ago
	}
	epoch, end := w.epoch, w.end()
	for ctx.Err() == nil && w.state != unknown && w.leaves() {
		waited := w.state != writing
		if o := w.advance(ctx); !o.again {
			pause(ctx, min(o.wait, w.cfg.poll()/4))
		}
		if waited && w.state != writing && epoch == w.epoch && !w.watermark.Less(end) {
			break
		}
	}
	if w.epoch != "" { // else Redis never answered
		w.leave(ctx)
	}
}

// end returns up to where the log has something.
func (w *writer) end() sseproto.ID {
	end := w.watermark
	for range maxRounds { // a span of the log each, and the gap in front of it
		through, low := w.src.ReadCommitted(end, math.MaxInt, math.MaxInt, func(sseproto.ID, string, sseproto.Message, sseproto.ID) {})
		if low != end {
			through = low
		}
		if through == end || through == sseproto.MaxID {
			break
		}
		end = through
	}
	return end
}

// glance asks the log what follows the watermark without taking it.
func (w *writer) glance() (through, low sseproto.ID) {
	return w.src.ReadCommitted(w.watermark, 1, 1, func(sseproto.ID, string, sseproto.Message, sseproto.ID) {})
}

// leaves reports whether the log has something that the history lacks.
func (w *writer) leaves() bool {
	through, low := w.glance()
	return low != sseproto.MaxID && (low != w.watermark || through != w.watermark)
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// millis is a duration as Redis wants it, at least 1.
func millis(d time.Duration) string {
	return strconv.FormatInt(max(1, d.Milliseconds()), 10)
}
