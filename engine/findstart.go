package engine

import (
	"context"
	"runtime"

	"ssed/sseproto"
)

// findStart finds where the channels of a request start. Its answer has an empty page: the
// slot goes on from there as if it resumed, but for the channels that start later.
func (r *replayer) findStart(q *replayRequest) (*replay, error) {
	found, err := r.findInRing(q)
	if err != nil {
		return nil, err
	}
	low := found.cov.from
	if q.history != nil {
		if !found.isWhole() && !q.isDue {
			// Else it would find older ones in the place of what is not written yet, or
			// begin before a log that is about to begin. If it takes too long, it goes by
			// what is written.
			if q.awaits.IsZero() {
				q.awaits = low
			}
			if q.line.watermark.Load().Less(q.awaits) {
				return nil, errNotYet
			}
		}
		if !r.beginRead(q) {
			return nil, context.Canceled
		}
		if low, err = r.findInHistory(q, found); err != nil {
			return nil, err
		}
	}
	ids := found.startingFrom(afterID(low))
	first := ids[0]
	for _, id := range ids {
		if id.Less(first) {
			first = id
		}
	}
	return &replay{page: newPage(nil, first), upTo: beforeID(first), from: makeStartIDs(ids)}, nil
}

// foundStarts is where channels start, as far as it is known.
type foundStarts struct {
	cov coverage
	ids []sseproto.ID // zero: not known
	// missing is how many messages are still to be found before the ring, of last=n.
	missing []int
}

func (f *foundStarts) isWhole() bool {
	for _, id := range f.ids {
		if id.IsZero() {
			return false
		}
	}
	return true
}

// startingFrom returns the IDs, with one for the channels that have none.
func (f *foundStarts) startingFrom(id sseproto.ID) []sseproto.ID {
	for k := range f.ids {
		if f.ids[k].IsZero() {
			f.ids[k] = id
		}
	}
	return f.ids
}

// findInHistory finds what is not known yet, and returns the position up to which nothing
// is there of the channels that are not found: what may come behind it is not in the history.
func (r *replayer) findInHistory(q *replayRequest, f *foundStarts) (low sseproto.ID, err error) {
	ctx, cancel := context.WithTimeout(r.ctx, r.wait)
	defer cancel()
	var channels []string
	var counts, places []int
	for k, id := range f.ids {
		if id.IsZero() {
			channels, counts, places = append(channels, q.channels[k]), append(counts, f.missing[k]), append(places, k)
		}
	}
	if len(channels) == 0 {
		return f.cov.from, nil
	}
	ids, written, err := q.history.Starts(ctx, channels, q.key.start, counts, f.cov.from)
	r.noteAnswer(q, err)
	if err != nil {
		return low, err
	}
	q.line.learnWatermark(written)
	low = f.cov.from
	if written.Less(low) {
		low = written
	}
	for k, id := range ids {
		if q.key.start.Kind == sseproto.FromTime && low.Less(id) {
			id = afterID(low) // a message behind may be of a tick before that time
		}
		f.ids[places[k]] = id
	}
	return low, nil
}

// findInRing finds, for last=n, the n-th newest message of each channel in what the ring
// covers. It looks at n messages of each channel at most, beside the loops.
func (r *replayer) findInRing(q *replayRequest) (*foundStarts, error) {
	f := &foundStarts{ids: make([]sseproto.ID, len(q.channels)), missing: make([]int, len(q.channels))}
	l := r.log
	select {
	case l.starting <- struct{}{}:
	case <-r.ctx.Done():
		return nil, r.ctx.Err()
	}
	defer func() { <-l.starting }()
	if !q.line.lookForStarts(f, q.channels, q.key.start) {
		return nil, errNotYet
	}
	return f, nil
}

// lookForStarts is one look of findInRing. Not ok: the ring covers nothing right now.
func (ln *Lineage) lookForStarts(f *foundStarts, channels []string, start sseproto.StartPoint) (ok bool) {
	l := ln.log
	r := l.starter
	r.cursor.Store(l.tail.Load()) // before the view, see ReadCommitted
	defer r.cursor.Store(noPosition)
	v := r.open()
	defer v.close()
	for f.look(ln, &v, channels, start) {
		if f.cov.first >= v.tail { // else the ring has turned meanwhile: it was counted from further on than the history is asked to
			return true
		}
	}
	return false
}

// look counts back from the end of the ring to where its coverage begins. Not ok: it covers
// nothing right now.
func (f *foundStarts) look(ln *Lineage, v *view, channels []string, start sseproto.StartPoint) (ok bool) {
	f.cov = *v.coverageOf(ln)
	if f.cov.from == sseproto.MaxID || f.cov.backfilling {
		return false
	}
	if start.Kind != sseproto.FromLast {
		return true
	}
	clear(f.ids)
	for k, name := range channels {
		f.missing[k] = start.Count
		index, known := ln.log.dir.find(name)
		if !known {
			continue
		}
		v.walkBack(index, func(pos uint64, e *entry) bool {
			if pos < f.cov.first {
				return false
			}
			if f.missing[k]--; f.missing[k] == 0 {
				f.ids[k] = e.id
			}
			return f.missing[k] > 0
		})
	}
	return true
}

// coverage is what the ring covers as the view sees it. While the ring turns, its tail is
// moved a moment before its coverage: a resume must not fall in between.
func (v *view) coverage() *coverage { return v.coverageOf(&v.r.log.Lineage) }

// coverageOf is coverage of a partition.
func (v *view) coverageOf(ln *Lineage) *coverage {
	v.refresh()
	for {
		if cov := ln.cover.Load(); cov.first >= v.tail {
			return cov
		}
		runtime.Gosched()
	}
}

// walkBack visits a channel's messages, the newest first, until visit returns false.
func (v *view) walkBack(index uint32, visit func(pos uint64, e *entry) bool) {
	pos := v.r.log.dir.at(index).last.Load()
	if pos >= v.head {
		v.refresh()
	}
	for pos != 0 && pos >= v.tail {
		e, _ := v.at(pos)
		if e.isMessage() && !visit(pos, e) || e.prev == 0 {
			return
		}
		pos -= uint64(e.prev)
	}
}
