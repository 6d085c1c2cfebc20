package engine

import (
	"math"
	"sync/atomic"

	"ssed/sseproto"
)

// noPosition stands for "reads nothing" in a reader.
const noPosition = math.MaxUint64

// reader is one party that reads the log without locks: a shard, the history writer, who
// looks at the channels (Log.inspector), or for where a stream starts (Log.starter). Its
// owner alone uses its view.
type reader struct {
	log *Log

	// cursor is the next position to be scanned; noPosition while the owner
	// reads nothing. Directory indexes met from there on keep their meaning.
	cursor atomic.Uint64
	// pin is the first position that the open view may touch, noPosition
	// when none is open: segments from there on are not reused.
	pin atomic.Uint64

	// owned by the owner
	budget budget    // what it has done, and may still do
	place  placeMemo // of a log of several partitions
}

// view is a reader's look at the ring for one pass. Frames found through it are
// valid until it is closed.
type view struct {
	r    *reader
	refs []segmentRef
	tail uint64 // first position that may be touched
	head uint64 // positions below are published
	near int    // index of the segment found last
}

// open pins the ring from its tail on. The pin is published before the tail is
// read again: the log either sees the pin or has published the tail before it.
func (r *reader) open() view {
	for {
		tail := r.log.tail.Load()
		r.pin.Store(tail)
		if r.log.tail.Load() == tail {
			v := view{r: r, tail: tail}
			v.refresh()
			return v
		}
	}
}

func (v *view) close() { v.r.pin.Store(noPosition) }

// refresh takes in what was published since the view was opened. The tail may
// rise: positions found before must be checked against it again.
func (v *view) refresh() {
	v.head = v.r.log.head.Load()
	v.refs = *v.r.log.index.Load()
	v.near = 0
	if len(v.refs) > 0 { // the ring may have turned since the tail was read
		v.tail = max(v.tail, v.refs[0].first)
	}
}

// at returns the record at pos, tail ≤ pos, and its segment.
func (v *view) at(pos uint64) (*entry, *segment) {
	v.r.budget.looks++
	if n := v.near; n < len(v.refs) && v.refs[n].first <= pos && (n+1 == len(v.refs) || pos < v.refs[n+1].first) {
		ref := &v.refs[n]
		return &ref.seg.entries[pos-ref.first], ref.seg
	}
	v.near = findSegment(v.refs, pos)
	ref := &v.refs[v.near]
	return &ref.seg.entries[pos-ref.first], ref.seg
}

// follow returns the position of a channel's first message after pos. None: 0.
// Lost means that such messages have left the ring.
//
// It costs O(1) where there is none and where pos is a message of the channel, and else
// O(log n) of the n messages that the ring has of the channel behind pos. Who needs one
// after the other goes on by entry.next.
func (v *view) follow(ch uint32, pos uint64) (next uint64, lost bool) {
	v.r.budget.looks++
	last := v.r.log.dir.at(ch).last.Load()
	if last <= pos {
		return 0, false
	}
	if last >= v.head {
		v.refresh()
	}
	if last < v.tail { // after the refresh: the ring may have forgotten it meanwhile
		return 0, true
	}
	if pos >= v.tail && pos < v.head {
		if e, _ := v.at(pos); e.ch == ch {
			if d := e.next.Load(); d != 0 {
				return pos + uint64(d), false
			}
		}
	}
	low := max(pos+1, v.tail) // nothing before it is looked at
	for {
		e, _ := v.at(last)
		if d := uint64(e.skip); d != 0 && last-d >= low {
			last -= d
			continue
		}
		d := uint64(e.prev)
		switch {
		case d == 0 || last-d <= pos:
			return last, false
		case last-d < v.tail:
			return 0, true
		}
		last -= d
	}
}

// seek returns the last position in [from, head) whose ID is not beyond id, and
// from-1 when there is none. IDs ascend within a span, and from span to span too, unless
// one was closed at an ID before its last messages (CloseSpan). Hence from is where a
// span or the coverage begins, but for who is told of a gap.
func (v *view) seek(from uint64, id sseproto.ID) uint64 {
	lo, hi := max(from, v.tail), v.head
	for lo < hi {
		mid := (lo + hi) / 2
		if e, _ := v.at(mid); id.Less(e.id) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo - 1
}

// run returns the segment of pos, the position of its first record, and where
// the run of records from pos on ends, end at the latest.
func (v *view) run(pos, end uint64) (seg *segment, first, stop uint64) {
	_, seg = v.at(pos)
	if next := v.near + 1; next < len(v.refs) {
		end = min(end, v.refs[next].first)
	}
	return seg, v.refs[v.near].first, end
}
