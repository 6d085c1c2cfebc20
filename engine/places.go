package engine

import (
	"slices"
	"sort"

	"ssed/sseproto"
)

// In a log of several partitions a place is an ID of each: up to there all is seen. The IDs
// of the ring do not ascend with positions, those of one partition do. So a place is found
// by what a segment began with (segment.base), and then by its entries.

// maxLeftEntries bounds the positions that have left the ring and whose place is still
// known: 1.5 MiB, 20 s of 3,000 messages a second. maxLeftSegments bounds the segments that
// they were in: a large message is alone in its one, which then takes 1 KiB of 64 partitions,
// and each eviction copies the list.
const (
	maxLeftEntries  = 1 << 16
	maxLeftSegments = 1 << 10
)

// leftPlaces tells the places at the positions that the ring has forgotten last.
type leftPlaces struct {
	segments []leftSegment // oldest first
	entries  int           // of all
}

// leftSegment is what is kept of a segment.
type leftSegment struct {
	first   uint64
	base    []sseproto.ID
	entries []leftEntry
}

type leftEntry struct {
	id    sseproto.ID
	part  uint8
	moves bool
}

// moves: it moves the place of its partition. A gap event does not.
func (e *entry) moves() bool { return e.kind != kindGap }

// noteLeftLocked takes in that segments leave the ring of a log of several partitions, which
// starts at tail then.
func (l *Log) noteLeftLocked(refs []segmentRef, tail uint64) {
	for _, ref := range refs {
		left := leftSegment{first: ref.first, base: slices.Clone(ref.seg.base), entries: make([]leftEntry, ref.seg.n)}
		for i := range left.entries {
			e := &ref.seg.entries[i]
			left.entries[i] = leftEntry{e.id, e.part, e.moves()}
			if e.kind == kindLive {
				l.lines[e.part].lastLeft = indexedPosition{ref.first + uint64(i), e.id}
			}
		}
		l.left.segments = append(l.left.segments, left)
		l.left.entries += len(left.entries)
	}
	drop := 0
	for drop+1 < len(l.left.segments) && (l.left.entries > maxLeftEntries || len(l.left.segments)-drop > maxLeftSegments) {
		l.left.entries -= len(l.left.segments[drop].entries)
		drop++
	}
	l.left.segments = append(l.left.segments[:0:0], l.left.segments[drop:]...)
	for _, ln := range l.lines {
		ln.evicted(tail, ln.lastLeft)
	}
}

// placeMemo is the place that a reader has found last in the ring.
type placeMemo struct {
	pos uint64
	ids []sseproto.ID
}

// orderedLooks is how many records that lie side by side cost as much as one that does not,
// see lookCost.
const orderedLooks = 4

// placeAt returns the place of a log of several partitions behind pos: of all that the ring
// holds, and of some before. The ID of a partition may be older than its last tick. The owner
// of the reader calls it while a view is open.
//
// It holds Log.mu for O(partitions): the feeds wait for that lock. Then it goes through the
// records of one segment up to pos, or from the position that it was last asked for if that
// lies before pos in the same segment. Those are counted.
func (r *reader) placeAt(pos uint64) (ids []sseproto.ID, known bool) {
	v := view{r: r, tail: r.pin.Load()} // the owner's stays as it is: it has found positions in it
	v.refresh()
	r.log.mu.Lock()
	isLast, left := pos+1 == r.log.head.Load(), r.log.left.segments // behind the refresh: what has left the view is there
	if isLast {
		ids = slices.Clone(r.log.reaches)
	}
	r.log.mu.Unlock()
	switch {
	case isLast:
		return ids, true
	case pos >= v.head:
		return nil, false
	case len(v.refs) > 0 && pos >= v.tail:
		return v.placeIn(v.refs[findSegment(v.refs, pos)], pos), true
	}
	return r.placeLeft(left, pos)
}

// placeIn is placeAt for a position in a segment.
func (v *view) placeIn(ref segmentRef, pos uint64) []sseproto.ID {
	memo, next := &v.r.place, ref.first
	if ref.first <= memo.pos && memo.pos <= pos {
		next = memo.pos + 1
	} else {
		memo.ids = append(memo.ids[:0], ref.seg.base...)
	}
	v.r.budget.looks += 1 + int64(pos+1-next)/orderedLooks
	for ; next <= pos; next++ {
		if e := &ref.seg.entries[next-ref.first]; e.moves() {
			memo.ids[e.part] = e.id
		}
	}
	memo.pos = pos
	return slices.Clone(memo.ids)
}

// placeLeft is placeAt for a position that has left the ring. The segments are not changed any
// more.
func (r *reader) placeLeft(segments []leftSegment, pos uint64) (ids []sseproto.ID, known bool) {
	k := sort.Search(len(segments), func(k int) bool { return segments[k].first > pos }) - 1
	if k < 0 || pos-segments[k].first >= uint64(len(segments[k].entries)) {
		return nil, false
	}
	before := segments[k].entries[:pos-segments[k].first+1]
	r.budget.looks += 1 + int64(len(before))/orderedLooks
	ids = slices.Clone(segments[k].base)
	for _, e := range before {
		if e.moves {
			ids[e.part] = e.id
		}
	}
	return ids, true
}

// seekOf is seek for what is of one partition.
func (v *view) seekOf(ln *Lineage, from uint64, id sseproto.ID) uint64 {
	if !ln.log.isDivided() {
		return v.seek(from, id)
	}
	from = max(from, v.tail)
	if len(v.refs) == 0 || from >= v.head {
		return from - 1
	}
	pos := max(from, v.segmentOf(ln, from, id).first)
	for ; pos < v.head; pos++ {
		if e, _ := v.at(pos); e.part == ln.part && e.isMessage() && id.Less(e.id) {
			break
		}
	}
	return pos - 1
}

// segmentOf returns the last segment from position from on, which the ring has, that began
// when a partition was not beyond id.
func (v *view) segmentOf(ln *Lineage, from uint64, id sseproto.ID) segmentRef {
	first := findSegment(v.refs, from)
	return v.refs[first+sort.Search(len(v.refs)-first-1, func(k int) bool { return id.Less(v.refs[first+1+k].seg.base[ln.part]) })]
}

// lastOf returns the newest place of a partition that is not beyond id, as far as the ring
// has any from position from on: that of a message, or of a tick. Zero: it has none.
func (v *view) lastOf(ln *Lineage, from uint64, id sseproto.ID) (last sseproto.ID) {
	if from = max(from, v.tail); len(v.refs) == 0 || from >= v.head {
		return last
	}
	ref := v.segmentOf(ln, from, id)
	if base := ref.seg.base[ln.part]; ref.first >= from && !id.Less(base) {
		last = base
	}
	_, _, end := v.run(max(from, ref.first), v.head)
	for pos := max(from, ref.first); pos < end; pos++ {
		if e, _ := v.at(pos); e.part == ln.part && e.isMessage() && !id.Less(e.id) {
			last = e.id
		}
	}
	return last
}

// beyond returns the positions of a channel's first message with an ID beyond id, at or behind
// the position first, and of the one before it; none: 0. IDs ascend from first on. Lost: some have
// left the ring.
//
// It costs O(1) where there is none, and else O(log n) of the n messages that the ring has of
// the channel beyond id.
func (v *view) beyond(ch uint32, first uint64, id sseproto.ID) (next, before uint64, lost bool) {
	v.r.budget.looks++
	last := v.r.log.dir.at(ch).last.Load()
	if last == 0 || last < first {
		return 0, 0, false
	}
	if last >= v.head {
		v.refresh()
	}
	if last < v.tail {
		return 0, 0, true
	}
	e, _ := v.at(last)
	if !id.Less(e.id) {
		return 0, last, false
	}
	for low := max(first, v.tail); ; {
		if d := uint64(e.skip); d != 0 && last-d >= low {
			if further, _ := v.at(last - d); id.Less(further.id) {
				e, last = further, last-d
				continue
			}
		}
		d := uint64(e.prev)
		switch {
		case d == 0 || last-d < first:
			return last, 0, false
		case last-d < v.tail:
			return 0, 0, true
		}
		prev, _ := v.at(last - d)
		if !id.Less(prev.id) {
			return last, last - d, false
		}
		e, last = prev, last-d
	}
}

// vectorBytes bounds what the places of the other partitions add to the text of an ID.
func (l *Log) vectorBytes() int {
	if !l.isDivided() {
		return 0
	}
	return sseproto.MaxVectorBytes(len(l.lines)) - sseproto.MaxVectorBytes(1)
}

// shareOf is what one partition may take of a bound.
func (l *Log) shareOf(n int64) int64 { return n / int64(len(l.lines)) }

// appendPlaces extends dst with an event ID as a block of its own.
func appendPlaces(dst []byte, places []sseproto.ID) []byte {
	start := len(dst)
	dst = append(dst, "id: "...)
	if dst = appendVectorOf(dst, places); len(dst) == start+len("id: ") {
		return dst[:start]
	}
	return append(dst, "\n\n"...)
}

// appendVectorOf extends dst with an event ID for some places; with nothing when none is known.
func appendVectorOf(dst []byte, places []sseproto.ID) []byte {
	own := slices.IndexFunc(places, func(id sseproto.ID) bool { return !id.IsZero() })
	if own < 0 {
		return dst
	}
	return sseproto.AppendVector(dst, own, places)
}
