package engine

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"ssed/engine/internal/front"
	"ssed/sseproto"
)

// entryKind tells how a message came into the log.
type entryKind uint8

const (
	kindLive     entryKind = iota // from the feed; goes into the history
	kindBackfill                  // backfilled from the history after a lost link
	kindGap                       // a gap event for the live subscribers of one channel
	kindBarrier                   // no message, of no channel: see barrier. In a log of several partitions also where a span begins
)

// entry is the index record of one frame. All but next is fixed once published.
//
// The messages of a channel are a list in both directions. Besides, each leads further
// back by skip: the list is a row of trees as in a skew-binary number, a message is the
// root of its tree (rank 0: alone, rank r+1: itself on two trees of rank r), and skip
// leads to the root of the next tree. So the first message behind a position is found in
// O(log n) steps, and a message is added in O(1).
type entry struct {
	id   sseproto.ID
	off  uint32        // where the frame starts in its segment
	size uint32        // bytes of the frame
	raw  uint32        // bytes of the data behind the frame; 0 when the frame tells them exactly
	ch   uint32        // directory index
	prev uint32        // distance back to the channel's message before; 0: none known
	skip uint32        // distance back to the next tree; 0: none known
	next atomic.Uint32 // distance to the channel's next message; 0: none yet
	kind entryKind
	rank uint8 // of its tree
	then uint8 // rank of the next tree, where skip leads
	part uint8 // partition
}

const entryBytes = int(unsafe.Sizeof(entry{}))

// coverage is the part of the log that vouches for completeness: every message
// with an ID beyond from is at position first or later.
type coverage struct {
	from        sseproto.ID
	first       uint64
	backfilling bool // a discontinuity is being backfilled: what lies behind from is not in the ring yet
}

// Log is the ordered tail of all messages that this instance has seen: a ring of
// encoded frames, and a lineage for each partition that they come from. With one partition
// the log is that lineage. Positions count entries
// and never repeat. The log takes messages from a feed for each partition and is read through views without locks: by any number of shards,
// the writer of each history, and one at a
// time of those who look at the channels, and of those who look for where a stream starts.
type Log struct {
	// fixed after construction
	ringBytes    int64
	segmentBytes int
	backfills    bool              // a history is there to backfill discontinuities from
	envelope     bool              // payloads of the feed may be envelopes
	onAppend     func(mask uint64) // wakes the shards with subscribers; ^0: all
	readers      []*reader
	inspector    *reader // of who holds a place in inspecting
	dir          *directory
	starter      *reader       // of who holds a place in starting
	inspecting   chan struct{} // capacity 1
	starting     chan struct{} // capacity 1
	lines        []*Lineage    // of each partition

	// read by everybody, written under mu
	head    atomic.Uint64 // the next position
	tail    atomic.Uint64 // the first position still in the ring
	index   atomic.Pointer[[]segmentRef]
	ticks   atomic.Pointer[[]sseproto.ID] // of a log of several partitions: the last tick of each
	turns   atomic.Uint64                 // grows when a partition opens or is shut, see Lineage.isShut
	unbegun atomic.Int32                  // partitions that were never open; 0 in a log of one

	Lineage // the first partition

	mu        sync.Mutex    // orders writers; never held across a system call, see unlock
	size      int64         // bytes of all segments in the ring
	free      []*segment    // of the common size, seen by no reader
	retired   []segmentRef  // left the ring; a reader may still see them. first: the tail since then
	unused    []*segment    // to give back once mu is released
	wake      uint64        // shards to wake once mu is released
	positions positionIndex // IDs of positions, also of evicted ones
	local     localClock
	barrier   *barrier      // the newest, at first one before all
	reaches   []sseproto.ID // of a log of several partitions: the place of each at the end of the ring; else nil

	scratch []byte     // a frame that gets a vector
	left    leftPlaces // in the place of positions in such a log

	gaps *gapLedger // has a lock of its own

	isLocal atomic.Bool // IDs come from the clock of this process
	stats   logCounters
}

type logCounters struct {
	appended, bytes                       uint64 // guarded by Log.mu
	evicted, spans, backfilled, abandoned atomic.Uint64
	unwrapped, refused                    atomic.Uint64
}

// LogStats is a snapshot of the log.
type LogStats struct {
	Appended, AppendedBytes uint64        // messages from the feed, and the bytes of their data
	Unwrapped, Refused      uint64        // envelopes that were taken apart, and those that say what is not allowed and were taken as they are
	Evicted                 uint64        // messages that left the ring
	Spans                   uint64        // spans opened
	Backfilled              uint64        // messages backfilled after a lost link
	Gaps                    GapCounts     // gap events put to live subscribers
	Abandoned               uint64        // backfills given up: history too slow, or too much to hold
	RingBytes, LimitBytes   int64         // memory in use, and its bound
	Oldest                  time.Duration // age of the oldest message in the ring; 0: it is empty
	Head, Tail              uint64
	Watermark, Last         sseproto.ID
}

// newLog makes an empty log with a reader for each shard.
func newLog(ringBytes int64, segmentBytes, shards int, backfills bool, onAppend func(mask uint64)) *Log {
	l := &Log{ringBytes: ringBytes, segmentBytes: segmentBytes, backfills: backfills, onAppend: onAppend, barrier: &barrier{}, gaps: newGapLedger()}
	for range shards {
		l.addReader()
	}
	l.Lineage.init(l)
	l.inspector, l.inspecting = l.addReader(), make(chan struct{}, 1)
	l.starter, l.starting = l.addReader(), make(chan struct{}, 1)
	l.dir = newDirectory(l)
	l.head.Store(1)
	l.tail.Store(1)
	l.index.Store(&[]segmentRef{})
	return l
}

// addReader makes a reader. Only before the log is used.
func (l *Log) addReader() *reader {
	r := &reader{log: l}
	r.cursor.Store(noPosition)
	r.pin.Store(noPosition)
	l.readers = append(l.readers, r)
	return r
}

// Stats returns a snapshot.
func (l *Log) Stats() LogStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return LogStats{
		Appended: l.stats.appended, AppendedBytes: l.stats.bytes, Evicted: l.stats.evicted.Load(),
		Unwrapped: l.stats.unwrapped.Load(), Refused: l.stats.refused.Load(),
		Spans: l.stats.spans.Load(), Backfilled: l.stats.backfilled.Load(), Gaps: l.gaps.counts(true),
		Abandoned: l.stats.abandoned.Load(), RingBytes: l.size, Head: l.head.Load(), Tail: l.tail.Load(),
		Watermark: l.leastWritten(), Last: l.furthestLocked(), LimitBytes: l.ringBytes, Oldest: l.oldestLocked(),
	}
}

// leastWritten is how far the histories of all partitions are written.
func (l *Log) leastWritten() sseproto.ID {
	least := *l.watermark.Load()
	for _, ln := range l.lines[1:] {
		if id := *ln.watermark.Load(); id.Less(least) {
			least = id
		}
	}
	return least
}

// furthestLocked is the furthest place that any partition has reached.
func (l *Log) furthestLocked() sseproto.ID {
	id := l.spans.high
	for _, ln := range l.lines[1:] {
		id = later(id, ln.spans.high)
	}
	return id
}

// oldestLocked is the age of the oldest message in the ring.
func (l *Log) oldestLocked() time.Duration {
	if refs := *l.index.Load(); len(refs) > 0 && refs[0].seg.n > 0 {
		return time.Since(refs[0].seg.born)
	}
	return 0
}

// Position is the position of the newest message; 0 before the first.
func (l *Log) Position() uint64 { return l.head.Load() - 1 }

// standing is where the log stands now. The discontinuities come first: a position from behind
// one that counts as a position from before it is only looked at twice.
func (l *Log) standing() front.Standing {
	tick, discontinuities := *l.ticked.Load(), l.discontinuities.Load()
	since := front.Standing{Discontinuities: discontinuities, Tick: tick}
	if l.isDivided() {
		since.Ticks = l.ticks.Load()
		since.Discontinuities = l.allDiscontinuities()
	}
	since.Position = l.Position()
	return since
}

// allDiscontinuities counts those of all partitions.
func (l *Log) allDiscontinuities() (n uint64) {
	for _, ln := range l.lines {
		n += ln.discontinuities.Load()
	}
	return n
}

// safePosition is the lowest position that a reader may still look at.
func (l *Log) safePosition() uint64 {
	low := l.head.Load()
	for _, r := range l.readers {
		low = min(low, r.cursor.Load())
	}
	return low
}

// putLocked encodes a message into the ring and publishes it.
func (l *Log) putLocked(part uint8, id sseproto.ID, name string, m *sseproto.Message) {
	raw := 0
	if !sseproto.Lossless(m.Data) {
		raw = len(m.Data)
	}
	seg := l.roomLocked(len(m.Event) + len(m.ID) + len(m.Data) + raw)
	space := seg.space()
	var buf []byte
	if l.isDivided() {
		buf = sseproto.AppendVectorEvent(space, int(part), l.reachedLocked(part, id), *m)
	} else {
		buf = sseproto.AppendEvent(space, id, *m)
	}
	size := len(buf)
	if raw > 0 {
		buf = append(buf, m.Data...)
	}
	if len(buf) > cap(space) { // many line ends or invalid bytes: it grew out of the segment
		seg = l.segmentLocked(len(buf))
		copy(seg.buf, buf)
	}
	l.publishLocked(seg, kindLive, part, id, name, size, raw)
}

// putFrameLocked takes over a frame that is already encoded. In a log of several partitions
// it gets the places of all, but for a gap event, which has no ID and moves nothing.
func (l *Log) putFrameLocked(kind entryKind, part uint8, id sseproto.ID, name string, frame []byte) uint64 {
	if l.isDivided() && kind == kindBackfill {
		l.scratch = sseproto.AppendVectorFrame(l.scratch[:0], int(part), l.reachedLocked(part, id), frame)
		frame = l.scratch
	}
	seg := l.roomLocked(len(frame))
	copy(seg.buf[seg.used:], frame)
	return l.publishLocked(seg, kind, part, id, name, len(frame), 0)
}

// reachedLocked moves the place of a partition to a message that is about to come into the
// ring, and returns the places of all.
func (l *Log) reachedLocked(part uint8, id sseproto.ID) []sseproto.ID {
	l.reaches[part] = id
	return l.reaches
}

// publishLocked writes the record of a frame and makes it visible. The order of
// the stores is what readers rely on: record, link from the channel's message
// before, channel's newest, head.
func (l *Log) publishLocked(seg *segment, kind entryKind, part uint8, id sseproto.ID, name string, size, raw int) uint64 {
	pos := l.head.Load()
	index := l.dir.touch(name)
	ch := l.dir.at(index)

	e := &seg.entries[seg.n]
	e.id, e.off, e.size, e.raw, e.ch, e.kind, e.part = id, uint32(seg.used), uint32(size), uint32(raw), index, kind, part
	seg.n++
	seg.used += size + raw
	l.linkLocked(e, pos, ch.last.Load())
	ch.last.Store(pos)
	l.head.Store(pos + 1)
	l.wake |= ch.shards.Load()
	return pos
}

// linkLocked links a new message at pos to those of its channel before, the last of which
// is at last; 0: there is none.
func (l *Log) linkLocked(e *entry, pos, last uint64) {
	e.prev, e.skip, e.rank, e.then = 0, 0, 0, 0
	e.next.Store(0)
	if last == 0 {
		return
	}
	e.prev = uint32(min(pos-last, math.MaxUint32))
	tail := l.tail.Load()
	if last < tail {
		return
	}
	before := l.entryLocked(last)
	before.next.Store(e.prev)
	e.skip, e.then = e.prev, before.rank
	if before.then != before.rank || before.skip == 0 {
		return
	}
	root := last - uint64(before.skip) // of the second of two trees of one rank: both are one now
	if root < tail {
		return
	}
	second := l.entryLocked(root)
	e.rank, e.skip, e.then = before.rank+1, 0, 0
	if second.skip != 0 && pos-root+uint64(second.skip) <= math.MaxUint32 {
		e.skip, e.then = uint32(pos-root)+second.skip, second.then
	}
}

// skipLocked publishes a position without a message. The index 0 is no channel's.
func (l *Log) skipLocked(part uint8, id sseproto.ID) {
	seg := l.roomLocked(0)
	pos := l.head.Load()
	e := &seg.entries[seg.n]
	e.id, e.off, e.size, e.raw, e.ch, e.prev, e.kind, e.part = id, uint32(seg.used), 0, 0, noChannel, 0, kindBarrier, part
	e.next.Store(0)
	seg.n++
	l.head.Store(pos + 1)
}

// entryLocked finds the record of a position in the ring.
func (l *Log) entryLocked(pos uint64) *entry {
	refs := *l.index.Load()
	i := findSegment(refs, pos)
	return &refs[i].seg.entries[pos-refs[i].first]
}

// findSegment returns the index of the segment that holds pos, which must not
// lie before the first.
func findSegment(refs []segmentRef, pos uint64) int {
	lo, hi := 0, len(refs)
	for hi-lo > 1 {
		mid := (lo + hi) / 2
		if refs[mid].first <= pos {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

// frameOverhead is the space of a frame beyond type, publisher's id and data when
// that is one line: position, retry, field names and the blank line.
const frameOverhead = 64

// roomLocked returns the segment to write to: the newest if a plain frame fits.
func (l *Log) roomLocked(payload int) *segment {
	if refs := *l.index.Load(); len(refs) > 0 {
		seg := refs[len(refs)-1].seg
		if seg.n < len(seg.entries) && len(seg.buf)-seg.used >= payload+frameOverhead {
			return seg
		}
	}
	return l.segmentLocked(payload + frameOverhead)
}

// segmentLocked opens a new segment with room for size bytes and makes the ring
// forget old ones until it is within its bound.
func (l *Log) segmentLocked(size int) *segment {
	seg := l.takeSegmentLocked(size)
	l.pushSegmentLocked(seg)
	return seg
}

// pushSegmentLocked makes an empty segment the newest of the ring.
func (l *Log) pushSegmentLocked(seg *segment) {
	seg.born = time.Now()
	seg.base = append(seg.base[:0], l.reaches...)
	refs := *l.index.Load()
	if n := len(refs); n > 0 && refs[n-1].seg.n == 0 {
		l.size -= refs[n-1].seg.bytes()
		l.recycleLocked(refs[n-1].seg, l.head.Load())
		refs = refs[:n-1]
	}
	l.size += seg.bytes()
	evict := 0
	for evict < len(refs) && l.size > l.ringBytes {
		l.size -= refs[evict].seg.bytes()
		evict++
	}
	kept := make([]segmentRef, 0, len(refs)-evict+1)
	kept = append(append(kept, refs[evict:]...), segmentRef{first: l.head.Load(), seg: seg})
	if evict > 0 {
		l.evictLocked(refs[:evict], kept[0].first)
	}
	l.index.Store(&kept)
	for _, ref := range refs[:evict] {
		l.recycleLocked(ref.seg, kept[0].first)
	}
	l.wake = ^uint64(0) // no shard's cursor stays behind by more than a segment
}

// takeSegmentLocked returns an empty segment, one that was in use before when one of the
// common size will do.
func (l *Log) takeSegmentLocked(size int) *segment {
	if size > l.segmentBytes { // one large frame gets a segment of its own
		return newSegment(size, 1)
	}
	if n := len(l.free); n > 0 {
		seg := l.free[n-1]
		l.free = l.free[:n-1]
		seg.used, seg.n = 0, 0
		return seg
	}
	seg := newSegment(l.segmentBytes, max(l.segmentBytes/frameBytesPerEntry, 16))
	seg.common = true
	return seg
}

// evictLocked takes the segments off the ring: new tail first, so that readers
// either see it or are seen by recycleLocked.
func (l *Log) evictLocked(refs []segmentRef, tail uint64) {
	l.tail.Store(tail)
	if l.isDivided() {
		l.noteLeftLocked(refs, tail)
	}
	last := indexedPosition{pos: tail - 1}
	for _, ref := range refs {
		for i := range ref.seg.n {
			e := &ref.seg.entries[i]
			last.id = e.id
			if !l.isDivided() {
				l.positions.note(ref.first+uint64(i), last.id)
			}
			if l.dir.at(e.ch).last.Load() == ref.first+uint64(i) {
				l.dir.evicted(e.ch)
			}
		}
		l.stats.evicted.Add(uint64(ref.seg.n))
	}
	if !l.isDivided() {
		l.evicted(tail, last)
	}
}

// poolSegments bounds the segments kept for reuse: one to fill, one in reserve.
const poolSegments = 2

// recycleLocked gives a segment back that left the ring when its tail became this one: to
// be filled again, or to the system. While a reader may look at it, it waits.
func (l *Log) recycleLocked(seg *segment, tail uint64) {
	l.retired = append(l.retired, segmentRef{tail, seg})
	l.reclaimLocked()
}

// reclaimLocked gives back those of the retired segments that no reader can see any more.
func (l *Log) reclaimLocked() {
	pinned := uint64(noPosition)
	for _, r := range l.readers {
		pinned = min(pinned, r.pin.Load())
	}
	kept := l.retired[:0]
	for _, ref := range l.retired {
		switch {
		case pinned < ref.first:
			kept = append(kept, ref)
		case ref.seg.common && len(l.free) < poolSegments:
			l.free = append(l.free, ref.seg)
		default:
			l.unused = append(l.unused, ref.seg)
		}
	}
	clear(l.retired[len(kept):])
	l.retired = kept
}

// reclaim gives back what readers kept when the ring turned last.
func (l *Log) reclaim() {
	l.mu.Lock()
	defer l.unlock()
	l.reclaimLocked()
}

// unlock ends a writer's turn. Then it wakes the shards that have something to do, and
// gives memory back.
func (l *Log) unlock() {
	wake, unused := l.wake, l.unused
	l.wake, l.unused = 0, nil
	l.mu.Unlock()
	for _, seg := range unused {
		seg.release()
	}
	if wake != 0 {
		l.onAppend(wake)
	}
}

func (l *Log) newestBarrier() *barrier {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.barrier
}
