package engine

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"

	"ssed/sseproto"
)

// replay is what the history told about some channels between two IDs: shared,
// read-only, by all clients that asked for the same at the same time. It exists
// only until their shards have taken it: what a socket does not take at once is
// read again later.
type replay struct {
	page *page
	key  replayKey   // what it is for
	upTo sseproto.ID // where to go on behind it
	from startIDs    // from where the channels count, see resumePoint
	gaps uint64
	told []toldLoss // what the gap events say
	err  error

	refs  atomic.Int32
	taken chan struct{} // closed with the last release
}

func (r *replay) release() {
	if r.refs.Add(-1) == 0 {
		close(r.taken)
	}
}

// turn returns the frame up to which a slot gets the page in its next turn, of which it has those
// before from: at most so many bytes, but one frame at least. All gap events, which come first,
// go in one turn.
func (r *replay) turn(from, most int) (to int) {
	frames := r.page.frames
	end := r.endOf(from) + most
	to, _ = slices.BinarySearchFunc(frames, end, func(f frameRef, n int) int { return cmp.Compare(f.end, n+1) })
	to = min(max(to, from+1), len(frames))
	for to < len(frames) && frames[to].gap {
		to++
	}
	return to
}

// endOf is where the first frames of the page end.
func (r *replay) endOf(frames int) int {
	if frames == 0 {
		return 0
	}
	return r.page.frames[frames-1].end
}

// eventsIn is how many of the first frames are events.
func (r *replay) eventsIn(frames int) uint64 { return uint64(frames) - min(r.gaps, uint64(frames)) }

// rest finds the frame that byte n of the page belongs to: what is missing of it, where
// the client stands with it, and how many events are written then. Gap events go
// together: only the last one moves the client on.
func (r *replay) rest(n int) (missing []byte, p resumePoint, events uint64) {
	frames := r.page.frames
	k, _ := slices.BinarySearchFunc(frames, n, func(f frameRef, n int) int { return f.end - n - 1 })
	for frames[k].gap && k+1 < len(frames) && frames[k+1].gap {
		k++
	}
	p = resumePoint{kind: resumeID, id: frames[k].id, from: r.from, told: r.page.toldWith(frames[:k+1])}
	return r.page.buf[n:frames[k].end], p, r.eventsIn(k + 1)
}

// next is where a client goes on that has all of the page.
func (r *replay) next() resumePoint {
	return resumePoint{kind: resumeID, id: r.upTo, from: r.from, told: r.page.toldWith(r.page.frames)}
}

// read makes the page of what lies between the ID and the ring, or its first part.
func (r *replayer) read(q *replayRequest) (*replay, error) {
	upTo, ok := q.line.coveredFrom()
	if !ok {
		return nil, errNotYet
	}
	if !q.key.id.Less(upTo) { // the ring covers it by now
		return &replay{page: newPage(nil, upTo), upTo: q.key.id, from: q.key.from}, nil
	}
	written := *q.line.watermark.Load()
	isLate := !q.key.id.Less(written)
	switch {
	case isLate && !q.isDue:
		return nil, errNotYet
	case !isLate && written.Less(upTo):
		upTo = written // that much can be had at once
	}
	if !r.beginRead(q) {
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
	// After upTo: a discontinuity that lies before it is counted.
	p.discontinuities = q.line.discontinuities.Load()
	p.known, p.form, p.partial = q.key.told.asOf(p.discontinuities), q.key.form, r.log.isDivided()
	if q.key.from == "" {
		p.requested = q.key.id.String()
	}
	from, err := r.fromNewest(ctx, q, upTo)
	if err != nil {
		return nil, upTo, err
	}
	through, err := q.history.Merge(ctx, q.channels, from, q.key.id, upTo, r.limit, p)
	r.noteAnswer(q, err)
	r.bytes.Add(int64(len(p.buf)))
	return p, through, err
}

// fromNewest says from where each channel of a page counts: of a channel of SlowLatest from
// its newest message up to upTo, or from nowhere where the ring has a newer one that is
// committed. Nil: all count from the start of the page.
func (r *replayer) fromNewest(ctx context.Context, q *replayRequest, upTo sseproto.ID) ([]sseproto.ID, error) {
	var latest []string
	var places []int
	for k, name := range q.channels {
		if slowOf(r.policies, name) == SlowLatest {
			latest, places = append(latest, name), append(places, k)
		}
	}
	from := q.key.from.ids()
	if len(latest) == 0 {
		return from, nil
	}
	if from == nil {
		from = make([]sseproto.ID, len(q.channels))
	}
	covered, err := q.line.coverCommitted(ctx, latest)
	if err != nil {
		return nil, err
	}
	var names []string
	var counts []int
	asked := places[:0]
	for k, name := range latest {
		if covered[k] {
			from[places[k]] = sseproto.MaxID
			continue
		}
		names, counts, asked = append(names, name), append(counts, 1), append(asked, places[k])
	}
	if len(names) == 0 {
		return from, nil
	}
	newest, _, err := q.history.Starts(ctx, names, sseproto.StartPoint{Kind: sseproto.FromLast, Count: 1}, counts, upTo)
	r.noteAnswer(q, err)
	if err != nil {
		return nil, err
	}
	for k, id := range newest {
		if place := asked[k]; from[place].Less(id) {
			from[place] = id
		}
	}
	return from, nil
}

// coverCommitted tells of each channel whether the ring covers a committed message. One
// that is not committed may be taken back, at a failover, before the resume has come to it:
// then its reader would have neither that nor the newest one of the history.
//
// It looks back over what is not committed, at turnMessages of a channel at most. A busier
// channel counts as not covered: its reader gets one message more.
func (ln *Lineage) coverCommitted(ctx context.Context, channels []string) (covered []bool, err error) {
	l := ln.log
	select {
	case l.starting <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-l.starting }()
	r := l.starter
	r.cursor.Store(l.tail.Load()) // before the view, see ReadCommitted
	defer r.cursor.Store(noPosition)
	v := r.open()
	defer v.close()
	covered = make([]bool, len(channels))
	cov, ready := ln.readyFrom()
	if cov.backfilling || cov.from == sseproto.MaxID {
		return covered, nil
	}
	for k, name := range channels {
		index, known := l.dir.find(name)
		if !known {
			continue
		}
		looks := 0
		v.walkBack(index, func(pos uint64, e *entry) bool {
			looks++
			if pos < cov.first || looks > turnMessages {
				return false
			}
			covered[k] = !ready.Less(e.id)
			return !covered[k]
		})
	}
	return covered, nil
}

// readyFrom is what the ring covers, and up to where that is committed.
func (ln *Lineage) readyFrom() (cov coverage, ready sseproto.ID) {
	ln.log.mu.Lock()
	defer ln.log.mu.Unlock()
	if s := ln.spans.newest(); s != nil {
		ready = s.ready
	}
	return *ln.cover.Load(), ready
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
