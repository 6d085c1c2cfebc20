package engine

import (
	"sync/atomic"

	"ssed/sseproto"
)

// lineage is what the log knows of one partition, a stream of IDs from one feed: its spans
// and coverage, what is held back, how far its history is written. IDs ascend within a
// lineage. The ring that they share has frames of all, in the order in which they came.
//
// The log has one lineage and embeds it, so that its methods are the log's. What a log of
// several needs beside more of them is told and tried in partitions_model_test.go: events
// then name a place in each partition (sseproto.AppendVector).
type lineage struct {
	// fixed after construction
	log       *Log
	committed *reader // of ReadCommitted

	// read by everybody, written under Log.mu
	cover           atomic.Pointer[coverage]
	discontinuities atomic.Uint64 // spans that did not go on where the one before ended; counted before the discontinuity is dealt with

	// guarded by Log.mu
	spans    spanList
	barrier  *barrier // the newest, at first one before all
	holdback holdback
	heard    arrival // of the last tick

	ticked    atomic.Pointer[sseproto.ID] // the last tick, also of a span that is held back
	watermark atomic.Pointer[sseproto.ID] // how far the history is written, as far as is known
	watchers  atomic.Int32                // who waits for it to move
	watched   chan struct{}               // capacity 1: somebody began to wait
}

// init makes a lineage that has seen nothing. Only before the log is used.
func (ln *lineage) init(l *Log) {
	ln.log, ln.committed = l, l.addReader()
	ln.barrier = &barrier{}
	ln.holdback.kick, ln.watched = make(chan struct{}, 1), make(chan struct{}, 1)
	ln.cover.Store(&coverage{from: sseproto.MaxID, first: 1})
	ln.watermark.Store(&sseproto.ID{})
	ln.ticked.Store(&sseproto.ID{})
}

// evicted tells that the ring starts at tail now; last is the newest ID that left.
func (ln *lineage) evicted(tail uint64, last sseproto.ID) {
	ln.spans.evicted(tail, last)
	if cov := ln.cover.Load(); cov.first < tail {
		ln.cover.Store(&coverage{from: last, first: tail, backfilling: cov.backfilling})
	}
}
