package engine

import (
	"context"
	"slices"
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
	from   startIDs    // from where the channels count, see resumePoint
	events uint64
	gaps   uint64
	told   []toldLoss // what the gap events say
	err    error

	refs  atomic.Int32
	taken chan struct{} // closed with the last release
}

func (r *replay) release() {
	if r.refs.Add(-1) == 0 {
		close(r.taken)
	}
}

// rest finds the frame that byte n of the page belongs to: what is missing of it, where
// the client stands with it, and how many events are written then. Gap events go
// together: only the last one moves the client on.
func (r *replay) rest(n int) (missing []byte, p resumePoint, events uint64) {
	frames := r.page.frames
	k, _ := slices.BinarySearchFunc(frames, n, func(f frameRef, n int) int { return f.end - n - 1 })
	for frames[k].gap && k+1 < len(frames) && frames[k+1].gap {
		k++
	}
	p = resumePoint{kind: resumeID, id: frames[k].id, from: r.from, told: r.page.known.with(r.page.told, frames[:k+1])}
	return r.page.buf[n:frames[k].end], p, uint64(k+1) - min(r.gaps, uint64(k+1))
}

// next is where a client goes on that has all of the page.
func (r *replay) next() resumePoint {
	return resumePoint{kind: resumeID, id: r.upTo, from: r.from, told: r.page.known.with(r.page.told, r.page.frames)}
}

// read makes the page of what lies between the ID and the ring, or its first part.
func (r *replayer) read(q *replayRequest) (*replay, error) {
	until := time.Now().Add(r.wait)
	ctx, cancel := context.WithDeadline(q.ctx, until)
	defer cancel()
	upTo, err := r.log.awaitCoverage(ctx)
	if err != nil {
		return nil, err
	}
	if !q.key.id.Less(upTo) { // the ring covers it by now
		return &replay{page: newPage(nil, upTo), upTo: q.key.id, from: q.key.from}, nil
	}
	isLate := false
	if written := *r.log.watermark.Load(); q.key.id.Less(written) && written.Less(upTo) {
		upTo = written // that much can be had at once
	} else {
		isLate = r.log.awaitWritten(q.ctx, until, r.history, upTo) != nil
	}
	if q.ctx.Err() != nil || !r.beginRead(q) {
		return nil, context.Canceled
	}
	p, through, err := r.readPage(q, upTo)
	if err != nil {
		return nil, err
	}
	if isLate && through == upTo { // the history is not written up to the ring, and will not be soon
		p.loseAll(sseproto.ReasonUnavailable)
	}
	p.finish(through)
	res := &replay{page: p, upTo: through, from: q.key.from}
	res.arrange()
	return res, nil
}

// minPageBytes is the least bound of one page: most histories fit whole.
const minPageBytes = 1 << 20

// readPage reads up to upTo or, when that is too much for one page, to where it is full.
func (r *replayer) readPage(q *replayRequest, upTo sseproto.ID) (*page, sseproto.ID, error) {
	ctx, cancel := context.WithTimeout(r.ctx, r.wait)
	defer cancel()
	p := newPage(q.channels, q.key.id)
	p.known, p.form = q.key.told, q.key.form
	if q.key.from == "" {
		p.requested = q.key.id.String()
	}
	from, err := r.fromNewest(ctx, q, upTo)
	if err != nil {
		return nil, upTo, err
	}
	through, err := r.history.Merge(ctx, q.channels, from, q.key.id, upTo, r.limit, p)
	r.bytes.Add(int64(len(p.buf)))
	return p, through, err
}

// fromNewest says from where each channel of a page counts: of a channel of SlowLatest from
// its newest message up to upTo, or from nowhere where the ring has a newer one. Nil: all
// count from the start of the page.
func (r *replayer) fromNewest(ctx context.Context, q *replayRequest, upTo sseproto.ID) ([]sseproto.ID, error) {
	from := q.key.from.ids()
	var names []string
	var counts, places []int
	for k, name := range q.channels {
		if slowOf(r.policies, name) != SlowLatest {
			continue
		}
		if from == nil {
			from = make([]sseproto.ID, len(q.channels))
		}
		if r.log.coversMessageOf(name) {
			from[k] = sseproto.MaxID
			continue
		}
		names, counts, places = append(names, name), append(counts, 1), append(places, k)
	}
	if len(names) == 0 {
		return from, nil
	}
	newest, _, err := r.history.Starts(ctx, names, sseproto.StartPoint{Kind: sseproto.FromLast, Count: 1}, counts, upTo)
	if err != nil {
		return nil, err
	}
	for k, id := range newest {
		if place := places[k]; from[place].Less(id) {
			from[place] = id
		}
	}
	return from, nil
}

// coversMessageOf reports whether the ring covers a message of the channel. Gap events lie
// before the coverage, but for those that have just come, while the log is backfilling. So the
// coverage is read after the channel's newest entry: an older one would take a new gap event
// for a message, and its reader would lack the newest one of the history.
func (l *Log) coversMessageOf(name string) bool {
	index, known := l.dir.find(name)
	if !known {
		return false
	}
	last := l.dir.at(index).last.Load()
	cov := l.cover.Load()
	return !cov.backfilling && last >= cov.first
}

// arrange brings the bytes of the page into the order of its frames, and counts them.
// The history gives the events in that order; only gap events come before them.
func (r *replay) arrange() {
	p := r.page
	size, inOrder := 0, true
	for k := range p.frames {
		inOrder = inOrder && p.frames[k].off == size
		size = p.frames[k].end
		if p.frames[k].gap {
			r.gaps++
		} else {
			r.events++
		}
	}
	r.told = p.sumUp()
	if inOrder {
		return
	}
	sorted := make([]byte, 0, len(p.buf))
	for k := range p.frames {
		f := &p.frames[k]
		sorted = append(sorted, p.buf[f.off:f.end]...)
		f.off, f.end = len(sorted)-(f.end-f.off), len(sorted)
	}
	p.buf = sorted
}

// awaitCoverage returns the ID from which the ring can serve, once nothing is
// being backfilled.
func (ln *lineage) awaitCoverage(ctx context.Context) (sseproto.ID, error) {
	for {
		changed := ln.log.Changed()
		if cov := ln.cover.Load(); !cov.backfilling && cov.from != sseproto.MaxID {
			return cov.from, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return sseproto.ID{}, ctx.Err()
		}
	}
}
