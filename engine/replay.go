package engine

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ssed/sseproto"
)

// replay is what the history told about some channels between two IDs: shared,
// read-only, by all clients that asked for the same at the same time. It exists
// only until their shards have taken it: what a socket does not take at once is
// read again later.
type replay struct {
	page   *page
	upTo   sseproto.ID // where to go on behind it
	events uint64
	gaps   uint64
	told   []toldLoss // what the gap events say
	err    error

	refs atomic.Int32
	free func() // called with the last release
}

func (r *replay) release() {
	if r.refs.Add(-1) == 0 {
		r.free()
	}
}

// rest finds the frame that byte n of the page belongs to: what is missing of it,
// its ID, and how many events are written with it. Gap events go together: only the
// last one moves the client on.
func (r *replay) rest(n int) (missing []byte, id sseproto.ID, events uint64) {
	frames := r.page.frames
	k, _ := slices.BinarySearchFunc(frames, n, func(f frameRef, n int) int { return f.end - n - 1 })
	for frames[k].gap && k+1 < len(frames) && frames[k+1].gap {
		k++
	}
	return r.page.buf[n:frames[k].end], frames[k].id, uint64(k+1) - min(r.gaps, uint64(k+1))
}

// replayer reads the history for resuming clients: a bounded number at a time,
// and once for all who ask the same meanwhile.
type replayer struct {
	log     *Log
	history History
	wait    time.Duration
	places  chan struct{} // one for each page being read or not yet taken by its shards
	limit   int64         // bytes of one page

	ctx     context.Context // ends the readers
	running sync.WaitGroup

	mu    sync.Mutex
	asked map[string]*replayRequest // guarded by mu
}

// replayRequest is one read and who waits for it.
type replayRequest struct {
	key      string
	channels []string
	from     resumePoint
	waiters  []replayWaiter // guarded by replayer.mu
}

type replayWaiter struct {
	shard *shard
	to    ref
}

func newReplayer(ctx context.Context, log *Log, cfg *Config) *replayer {
	return &replayer{
		log:     log,
		history: cfg.History,
		wait:    cfg.HistoryWait,
		places:  make(chan struct{}, cfg.HistoryReaders),
		limit:   max(cfg.RingBytes/int64(cfg.HistoryReaders), minPageBytes),
		ctx:     ctx,
		asked:   make(map[string]*replayRequest),
	}
}

// request reads the history of the channels behind p and posts it to the shard.
// It never blocks.
func (r *replayer) request(s *shard, to ref, channels []string, p resumePoint) {
	key := p.id.String() + "\x00" + p.raw + "\x00" + strings.Join(channels, "\x00")
	r.mu.Lock()
	defer r.mu.Unlock()
	if q := r.asked[key]; q != nil {
		q.waiters = append(q.waiters, replayWaiter{s, to})
		return
	}
	q := &replayRequest{key: key, channels: channels, from: p, waiters: []replayWaiter{{s, to}}}
	r.asked[key] = q
	r.running.Go(func() { r.answer(q) })
}

// answer does one read and hands the result to all who wait for it.
func (r *replayer) answer(q *replayRequest) {
	res := &replay{free: func() { <-r.places }}
	select {
	case r.places <- struct{}{}:
		res.err = r.read(res, q)
	case <-r.ctx.Done():
		res.err = r.ctx.Err()
		res.free = func() {}
	}
	r.mu.Lock()
	delete(r.asked, q.key)
	waiters := q.waiters
	r.mu.Unlock()
	res.refs.Store(int32(len(waiters)))
	for _, w := range waiters {
		w.shard.post(command{page: res, to: w.to})
	}
}

// read fills res with what lies between the ID and the ring, or the first part.
func (r *replayer) read(res *replay, q *replayRequest) error {
	until := time.Now().Add(r.wait)
	ctx, cancel := context.WithDeadline(r.ctx, until)
	defer cancel()
	upTo, err := r.log.awaitCoverage(ctx)
	if err != nil {
		return err
	}
	if !q.from.id.Less(upTo) { // the ring covers it by now
		res.page, res.upTo = newPage(nil, upTo), q.from.id
		return nil
	}
	late := r.log.awaitWritten(r.ctx, until, r.history, upTo)
	if r.ctx.Err() != nil {
		return r.ctx.Err()
	}
	page, upTo, err := r.readPart(q, upTo)
	if err != nil {
		return err
	}
	if late != nil { // the history is not written up to the ring, and will not be soon
		page.loseAll(sseproto.ReasonUnavailable)
	}
	page.finish(upTo)
	res.page, res.upTo = page, upTo
	res.arrange()
	return nil
}

// minPageBytes is the least bound of one page: most histories fit whole.
const minPageBytes = 1 << 20

// readPart reads up to upTo, or, when that is too much for one page, up to an
// earlier ID, halving the number of messages until they fit. An event that is
// too much by itself is a page of its own.
func (r *replayer) readPart(q *replayRequest, upTo sseproto.ID) (*page, sseproto.ID, error) {
	ctx, cancel := context.WithTimeout(r.ctx, r.wait)
	defer cancel()
	for {
		p := newPage(q.channels, q.from.id)
		p.requested, p.limit = q.from.raw, r.limit
		if err := r.history.Range(ctx, q.channels, q.from.id, upTo, p); err != nil {
			return nil, upTo, err
		}
		if !p.overflowed() {
			return p, upTo, nil
		}
		if n := len(p.frames); n > 1 {
			slices.SortFunc(p.frames, func(a, b frameRef) int { return a.id.Compare(b.id) })
			upTo = p.frames[n/2-1].id
			continue
		}
		if first := p.frames[0].id; first.Less(p.refused) {
			return p, first, nil
		}
		upTo = p.refused // of another channel
	}
}

// arrange brings the bytes of the page into the order of its frames, and counts them.
func (r *replay) arrange() {
	p := r.page
	sorted := make([]byte, 0, len(p.buf))
	for k := range p.frames {
		f := &p.frames[k]
		sorted = append(sorted, p.buf[f.off:f.end]...)
		f.off, f.end = len(sorted)-(f.end-f.off), len(sorted)
		if f.gap {
			r.gaps++
		} else {
			r.events++
		}
	}
	p.buf = sorted
	r.told = p.sumUp()
}

// awaitCoverage returns the ID from which the ring can serve, once nothing is
// being backfilled.
func (l *Log) awaitCoverage(ctx context.Context) (sseproto.ID, error) {
	for {
		changed := l.Changed()
		if cov := l.cover.Load(); !cov.backfilling && cov.from != sseproto.MaxID {
			return cov.from, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return sseproto.ID{}, ctx.Err()
		}
	}
}
