package engine

import (
	"sync/atomic"

	"ssed/sseproto"
)

// Lineage is what the log knows of one partition, a stream of IDs from one feed: its spans
// and coverage, what is held back, how far its history is written. IDs ascend within a
// lineage. The ring that they share has frames of all, in the order in which they came.
//
// It takes the messages of its feed (OpenSpan, Append, Oversize, Commit, CloseSpan), and the
// writer of its history reads from it (ReadCommitted, Changed). What a log of several has
// to do is told and tried in partitions_model_test.go: its events name a place in each
// partition (sseproto.AppendVector).
type Lineage struct {
	// fixed after construction
	log       *Log
	part      uint8   // its number
	committed *reader // of ReadCommitted

	// read by everybody, written under Log.mu
	cover           atomic.Pointer[coverage]
	discontinuities atomic.Uint64 // spans that did not go on where the one before ended; counted before the discontinuity is dealt with
	isBegun         atomic.Bool   // of a log of several: it has had a span

	// guarded by Log.mu
	spans    spanList
	holdback holdback
	heard    arrival         // of the last tick
	lastLeft indexedPosition // of a log of several: its newest message that has left the ring
	began    sseproto.ID     // low of its first span
	changed  chan struct{}   // closed and replaced at each commit, open and close

	ticked    atomic.Pointer[sseproto.ID] // the last tick, also of a span that is held back
	watermark atomic.Pointer[sseproto.ID] // how far the history is written, as far as is known
	watchers  atomic.Int32                // who waits for it to move
	watched   chan struct{}               // capacity 1: somebody began to wait
}

// init makes a lineage that has seen nothing. Only before the log is used.
func (ln *Lineage) init(l *Log) {
	ln.log, ln.part, ln.committed = l, uint8(len(l.lines)), l.addReader()
	ln.holdback.kick, ln.watched = make(chan struct{}, 1), make(chan struct{}, 1)
	ln.changed = make(chan struct{})
	ln.cover.Store(&coverage{from: sseproto.MaxID, first: 1})
	ln.watermark.Store(&sseproto.ID{})
	ln.ticked.Store(&sseproto.ID{})
	l.lines = append(l.lines, ln)
}

// divide makes a log one of several partitions. Only before it is used.
func (l *Log) divide(partitions int) {
	if partitions <= 1 {
		return
	}
	for len(l.lines) < partitions {
		new(Lineage).init(l)
	}
	l.reaches = make([]sseproto.ID, partitions)
	l.unbegun.Store(int32(partitions))
	l.ticks.Store(&[]sseproto.ID{})
	l.dir.divide(partitions)
}

// Partitions is the number of partitions.
func (l *Log) Partitions() int { return len(l.lines) }

// Partition returns a partition, from 0: the log itself is the first one.
func (l *Log) Partition(n int) *Lineage { return l.lines[n] }

// isDivided reports whether there are several partitions.
func (l *Log) isDivided() bool { return l.reaches != nil }

// hasBegun reports whether all partitions have been open.
func (l *Log) hasBegun() bool { return l.unbegun.Load() == 0 }

// Changed returns a channel that is closed at the next Commit, OpenSpan or
// CloseSpan.
func (ln *Lineage) Changed() <-chan struct{} {
	ln.log.mu.Lock()
	defer ln.log.mu.Unlock()
	return ln.changed
}

// notifyLocked wakes who waits on Changed.
func (ln *Lineage) notifyLocked() {
	close(ln.changed)
	ln.changed = make(chan struct{})
}

// evicted tells that the ring starts at tail now; last is the newest message that left.
func (ln *Lineage) evicted(tail uint64, last indexedPosition) {
	ln.spans.evicted(tail, last)
	cov := *ln.cover.Load()
	if cov.first >= tail {
		return
	}
	if last.pos >= cov.first && cov.from.Less(last.id) {
		cov.from = last.id
	}
	cov.first = tail
	ln.cover.Store(&cov)
}
