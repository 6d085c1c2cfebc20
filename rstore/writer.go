package rstore

import (
	"context"
	"log/slog"
	"math"
	"strconv"
	"time"

	"ssed/internal/throttle"
	"ssed/sseproto"
)

// Store writes and reads the history. Make it with New.
type Store struct {
	// fixed after construction
	cfg      Config
	keys     keys
	src      Source
	log      *slog.Logger
	tryLease chan struct{}

	write, read *link    // safe for concurrent use
	count       counters // atomic
}

// New checks the configuration, reporting every problem at once. Redis need
// not be there. Close the Store after use.
func New(cfg Config, src Source) (*Store, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(src); err != nil {
		return nil, err
	}
	s := &Store{
		cfg: cfg, keys: makeKeys(cfg.Prefix), src: src,
		log:      cfg.Logger.With("instance", cfg.Instance, "prefix", cfg.Prefix),
		tryLease: make(chan struct{}, 1),
		read:     &link{opt: cfg.Client},
	}
	// One connection keeps the pipeline of batches in order and out of the
	// way of large reads.
	one := cfg.Client
	one.PipelineMultiplex = -1
	s.write = &link{opt: one}
	return s, nil
}

// Close closes the connections, after Run has returned.
func (s *Store) Close() {
	s.write.close()
	s.read.close()
}

// TryLease makes a Store that does not write try to take the lease now: another
// instance said that it is free. Safe for concurrent use.
func (s *Store) TryLease() {
	select {
	case s.tryLease <- struct{}{}:
	default:
	}
}

// Run writes until ctx ends, then flushes once more, for at most two seconds,
// even if it never had the lease, and gives the lease up. It retries for ever and returns the cause of ctx's end.
func (s *Store) Run(ctx context.Context) error {
	w := &writer{Store: s}
	timer := time.NewTimer(0)
	defer timer.Stop()
	asked := false
	for ctx.Err() == nil {
		changed := s.src.Changed() // before the look, so that nothing falls between
		wait := w.step(ctx, asked)
		asked = false
		timer.Reset(wait)
		if !w.idle {
			changed = nil // the wait is meant: backoff, flush interval, another's lease
		}
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-changed:
		case <-s.tryLease:
			asked = true
		}
	}
	w.finish(context.WithoutCancel(ctx))
	return context.Cause(ctx)
}

// writer is the state of the goroutine of Run.
type writer struct {
	*Store
	epoch   string      // "" before the first answer
	mark    sseproto.ID // watermark
	covered bool        // the log has covered what follows mark

	holder  bool          // of the lease
	renewed time.Time     // when it was last prolonged
	pending []*batch      // read from the log in the epoch above, continuing each other, not sent yet
	more    bool          // the log had more than pending and what was sent with it
	flushed time.Time     // last append with the writer not behind
	rest    time.Duration // after it
	due     time.Time     // next look at the lease of another
	idle    bool          // nothing to write and nobody else at it: wait for the log

	unsaid int64     // refused messages since the last line about them
	told   time.Time // when that was

	failures int             // in a row
	outage   throttle.Outage // of two in a row, for the log
	unsure   *gap            // a marker that may have been written: the answer was cut off
}

// maxRounds bounds one step, so that ctx gets a look in between.
const maxRounds = 16

// step does what can be done now and returns how long to wait at most.
func (w *writer) step(ctx context.Context, asked bool) time.Duration {
	if left := time.Until(w.due); !w.holder && !asked && left > 0 {
		w.idle = false
		return left
	}
	for range maxRounds {
		again, wait := w.advance(ctx)
		if !again {
			w.due = time.Time{}
			if !w.holder && !w.idle {
				w.due = time.Now().Add(wait)
			}
			return wait
		}
		if ctx.Err() != nil {
			break
		}
	}
	return 0
}

// advance is one round with Redis at most. Again says that it has learned
// something to act on now.
func (w *writer) advance(ctx context.Context) (again bool, wait time.Duration) {
	w.idle = false
	if w.epoch == "" {
		return w.watch(ctx)
	}
	if !w.holder {
		through, low := w.glance()
		switch {
		case low != w.mark:
			return w.uncovered(ctx, low)
		case through == w.mark:
			return w.watch(ctx)
		}
		return w.take(ctx)
	}
	if left := w.rest - time.Since(w.flushed); left > 0 {
		return false, left
	}
	switch low := w.read(); {
	case low != w.mark:
		return w.uncovered(ctx, low)
	case len(w.pending) > 0:
		return w.append(ctx)
	}
	w.covered = true
	w.count.behind.Store(0)
	if time.Since(w.renewed) > w.cfg.LeaseTTL {
		w.hold(false) // run out: no ticks, or a log without a link
	}
	w.idle = true
	return false, w.cfg.poll()
}

// read fills pending from the log, unless it goes on from the watermark already.
func (w *writer) read() (low sseproto.ID) {
	if len(w.pending) > 0 && w.pending[0].after == w.mark {
		return w.mark
	}
	w.pending, w.more, low = w.collect(w.mark)
	return low
}

// append sends what is pending: the first batch, or, when the writer is behind, all in
// one pipeline. Each expects the watermark that the one before leaves, so after a
// failure the rest fails too, by itself.
func (w *writer) append(ctx context.Context) (again bool, wait time.Duration) {
	w.covered = true
	w.count.behind.CompareAndSwap(0, time.Now().UnixNano())
	n := 1
	if w.more {
		n = len(w.pending)
	}
	batches := w.pending[:n]
	w.pending = w.pending[n:]
	calls := make([]call, n)
	for i, b := range batches {
		calls[i] = w.appendCall(w.epoch, b)
	}
	sent := time.Now()
	answers := w.run(ctx, appendScript, calls...)
	w.count.wrote(time.Since(sent))
	for i, a := range answers {
		if again, wait, ok := w.settle(a, batches[i]); !ok {
			return again, wait
		}
	}
	if w.more {
		return true, 0
	}
	w.flushed, w.rest = time.Now(), w.cfg.FlushInterval
	if len(w.pending) > 0 {
		w.rest /= steps
	} else {
		w.count.behind.Store(0)
	}
	return w.rest == 0, w.rest
}

// settle takes in the answer to a batch. Not ok: the batches behind it failed too.
func (w *writer) settle(a answer, b *batch) (again bool, wait time.Duration, ok bool) {
	if a.err != nil {
		return false, w.failed(a.err.Error(), errorCode(a.err)), false
	}
	w.adopt(a)
	w.count.appended.Add(uint64(a.n))
	if a.refused > 0 {
		w.count.refused.Add(uint64(a.refused))
		w.tellRefused(a.refused)
	}
	switch a.status {
	case statusOK:
		if n := len(b.entries); n > 0 {
			w.count.batch(n)
		} else {
			w.count.advances.Add(1)
		}
		if a.failure != "" {
			return false, w.failed(a.failure, codeOf(a.failure)), true
		}
		w.recovered()
		return true, 0, true
	case statusFailed:
		return false, w.failed(a.failure, codeOf(a.failure)), false
	}
	w.refusedBy(a)
	return true, 0, false
}

// refusedEvery is the least time between two lines about refused messages: a
// spoiled key would have one for every batch.
const refusedEvery = 10 * time.Second

func (w *writer) tellRefused(n int64) {
	if w.unsaid += n; time.Since(w.told) < refusedEvery {
		return
	}
	w.log.Warn("rstore: streams refused messages: another type, or higher ids added by hand", "messages", w.unsaid)
	w.unsaid, w.told = 0, time.Now()
}

// adopt takes over what Redis says.
func (w *writer) adopt(a answer) {
	if a.epoch != w.epoch || a.mark != w.mark {
		w.covered = false
	}
	if a.epoch != w.epoch {
		w.pending = nil
	}
	if g := w.unsure; g != nil {
		w.unsure = nil
		if a.mark == g.to && a.writer == w.cfg.Instance {
			w.marked(*g)
		}
	}
	w.epoch, w.mark = a.epoch, a.mark
	w.count.mark.Store(&a.mark)
	w.hold(a.holder == w.cfg.Instance)
	if w.holder && a.status == statusOK {
		w.renewed = time.Now()
	}
}

func (w *writer) hold(holder bool) {
	w.holder = holder
	w.count.writer.Store(holder)
	if !holder {
		w.pending = nil
		w.count.behind.Store(0)
	}
}

func (w *writer) refusedBy(a answer) {
	switch a.status {
	case statusStale:
		w.count.stale.Add(1)
	case statusEpoch:
		w.count.epoch.Add(1)
	}
}

// failed counts an error and returns how long to wait before the next try. The
// first failure is tried again at once: most are a connection that was cut.
func (w *writer) failed(text, code string) time.Duration {
	w.count.failed(code)
	w.failures++
	if w.failures == 1 {
		return 0
	}
	if failures, tell := w.outage.Failed(); tell {
		w.log.Error("rstore: history is not written", "error", text, "failures", failures)
	}
	return min(w.cfg.poll(), time.Millisecond<<min(w.failures, 10))
}

func (w *writer) recovered() {
	w.failures = 0
	if w.outage.Worked() {
		w.log.Info("rstore: history is written again")
	}
}

// finish writes what is committed and gives the lease up. An instance that does not
// write takes the lease for that when it becomes free, unless somebody else has
// written up to what the log had at the beginning: it may go on growing.
func (w *writer) finish(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	w.flushed = time.Time{} // what there is now is all there will be
	if !w.holder {
		w.watch(ctx) // the last look may be a poll ago
	}
	epoch, end := w.epoch, w.end()
	for ctx.Err() == nil && w.epoch != "" && w.leaves() {
		waited := !w.holder
		if again, wait := w.advance(ctx); !again {
			pause(ctx, min(wait, w.cfg.poll()/4))
		}
		if waited && !w.holder && epoch == w.epoch && !w.mark.Less(end) {
			break
		}
	}
	if w.holder {
		w.free(ctx)
	}
}

// end returns up to where the log has something.
func (w *writer) end() sseproto.ID {
	end := w.mark
	for range maxRounds { // a span of the log each, and the gap in front of it
		through, low := w.src.ReadCommitted(end, math.MaxInt, math.MaxInt, func(sseproto.ID, string, sseproto.Message) {})
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
	return w.src.ReadCommitted(w.mark, 1, 1, func(sseproto.ID, string, sseproto.Message) {})
}

// leaves reports whether the log has something that the history lacks.
func (w *writer) leaves() bool {
	through, low := w.glance()
	return low != sseproto.MaxID && (low != w.mark || through != w.mark)
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
