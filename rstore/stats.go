package rstore

import (
	"sync/atomic"
	"time"

	"ssed/sseproto"
)

// Stats is a snapshot of counters and state.
type Stats struct {
	// Appended messages, Batches that carried them, and Advances of the
	// watermark over quiet time, by this instance.
	Appended, Batches, Advances uint64
	// RefusedStale and RefusedEpoch: script runs that did nothing because
	// another instance moved the watermark, or because Redis lost its data.
	RefusedStale, RefusedEpoch uint64
	// RefusedMessages could not be added to their stream (another type, or
	// higher IDs added by hand). Readers of the channel are told.
	RefusedMessages uint64
	// GapMarkers written by this instance, Disputes among them.
	GapMarkers, Disputes uint64
	// Deleted messages, by Delete on this instance.
	Deleted uint64
	// TakeOvers from another instance.
	TakeOvers uint64
	// Errors by kind.
	Errors ErrorCounts
	// Writer: this instance holds the lease, as far as it knows.
	Writer bool
	// Watermark as last seen; an instance that does not write looks every
	// quarter of the lease.
	Watermark sseproto.ID
	// Lag is for how long committed messages have been waiting to be written
	// by this instance, 0 when none do or when it is not the writer.
	Lag time.Duration
}

// ErrorCounts counts failed script runs.
type ErrorCounts struct {
	Link     uint64 // no connection, cut, or no answer in time
	Memory   uint64 // OOM: maxmemory reached
	ReadOnly uint64 // the node is a replica
	Other    uint64 // any other answer of Redis
}

// counters is what Stats is made of; all fields are atomic.
type counters struct {
	appended, batches, advances, stale, epoch, refused atomic.Uint64
	gaps, disputes, takeOvers, deleted                 atomic.Uint64
	errLink, errMemory, errReadOnly, errOther          atomic.Uint64

	writer atomic.Bool
	mark   atomic.Pointer[sseproto.ID]
	behind atomic.Int64 // Unix ns since when messages wait, 0 when none do
}

// Stats returns a snapshot. Safe for concurrent use.
func (s *Store) Stats() Stats {
	c := &s.count
	st := Stats{
		Appended: c.appended.Load(), Batches: c.batches.Load(), Advances: c.advances.Load(),
		RefusedStale: c.stale.Load(), RefusedEpoch: c.epoch.Load(), RefusedMessages: c.refused.Load(),
		GapMarkers: c.gaps.Load(), Disputes: c.disputes.Load(), TakeOvers: c.takeOvers.Load(), Deleted: c.deleted.Load(),
		Errors: ErrorCounts{
			Link: c.errLink.Load(), Memory: c.errMemory.Load(),
			ReadOnly: c.errReadOnly.Load(), Other: c.errOther.Load(),
		},
		Writer: c.writer.Load(), Watermark: s.Watermark(),
	}
	if since := c.behind.Load(); since != 0 {
		st.Lag = max(0, time.Since(time.Unix(0, since)))
	}
	return st
}

// Watermark returns how far the history is written, as far as this instance
// knows; zero before the first answer. Safe for concurrent use.
func (s *Store) Watermark() sseproto.ID {
	if id := s.count.mark.Load(); id != nil {
		return *id
	}
	return sseproto.ID{}
}

func (c *counters) failed(code string) {
	switch code {
	case "":
		c.errLink.Add(1)
	case "OOM":
		c.errMemory.Add(1)
	case "READONLY":
		c.errReadOnly.Add(1)
	default:
		c.errOther.Add(1)
	}
}
