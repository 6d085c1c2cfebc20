package rstore

import (
	"slices"
	"sync/atomic"
	"time"

	"ssed/internal/redisconn"
	"ssed/sseproto"
)

// Stats is a snapshot of counters and state.
type Stats struct {
	// Appended messages, Batches that carried them, and Advances of the
	// watermark over quiet time, by this instance.
	Appended, Batches, Advances uint64
	// RefusedStale and RefusedEpoch: script runs that did nothing because
	// another instance moved the watermark, or because Redis lost its data. RefusedServer:
	// because another server had taken over from the one that the log is of.
	RefusedStale, RefusedEpoch, RefusedServer uint64
	// RefusedMessages could not be added to their stream (another type, or
	// higher IDs added by hand). Readers of the channel are told.
	RefusedMessages uint64
	// GapMarkers written by this instance, Invalidations among them.
	GapMarkers, Invalidations uint64
	// Capped: how often a stream lost messages younger than Config.Window to Config.Cap.
	Capped uint64
	// Deleted messages, by Delete on this instance.
	Deleted uint64
	// SavedMessages of stretches that were given up went into the history
	// nevertheless, because they had come through the inbox.
	SavedMessages uint64
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
	// BatchSizes counts batches by their messages: as many as SizeBounds, and one
	// beyond all of them. BatchMessages is the sum.
	BatchSizes    []uint64
	BatchMessages uint64
	// WriteTimes counts the round trips to Redis with batches or advances, answered
	// or not: as many as TimeBounds, and one beyond all of them. Up to eight batches
	// go in one. WriteTime is the sum.
	WriteTimes []uint64
	WriteTime  time.Duration
}

// Plus returns the counts of two stores together. Writer is that of either, Lag the longer
// one, and Watermark the lower one: up to there both are written.
func (s Stats) Plus(o Stats) Stats {
	for _, pair := range []struct{ sum, of *uint64 }{
		{&s.Appended, &o.Appended},
		{&s.Batches, &o.Batches},
		{&s.Advances, &o.Advances},
		{&s.RefusedStale, &o.RefusedStale},
		{&s.RefusedEpoch, &o.RefusedEpoch},
		{&s.RefusedServer, &o.RefusedServer},
		{&s.RefusedMessages, &o.RefusedMessages},
		{&s.GapMarkers, &o.GapMarkers},
		{&s.Invalidations, &o.Invalidations},
		{&s.Capped, &o.Capped},
		{&s.Deleted, &o.Deleted},
		{&s.SavedMessages, &o.SavedMessages},
		{&s.TakeOvers, &o.TakeOvers},
		{&s.BatchMessages, &o.BatchMessages},
		{&s.Errors.Link, &o.Errors.Link},
		{&s.Errors.Memory, &o.Errors.Memory},
		{&s.Errors.ReadOnly, &o.Errors.ReadOnly},
		{&s.Errors.Other, &o.Errors.Other},
	} {
		*pair.sum += *pair.of
	}
	s.Writer = s.Writer || o.Writer
	if o.Watermark.Less(s.Watermark) {
		s.Watermark = o.Watermark
	}
	s.Lag = max(s.Lag, o.Lag)
	s.BatchSizes, s.WriteTimes = addCounts(s.BatchSizes, o.BatchSizes), addCounts(s.WriteTimes, o.WriteTimes)
	s.WriteTime += o.WriteTime
	return s
}

// addCounts adds counts into a new slice; a may be nil.
func addCounts(a, b []uint64) []uint64 {
	all := slices.Clone(b)
	for i, n := range a {
		all[i] += n
	}
	return all
}

// SizeBounds are the upper bounds of the counts in Stats.BatchSizes, not to be changed.
var SizeBounds = [...]uint64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000}

// TimeBounds are the upper bounds of the counts in Stats.WriteTimes, not to be changed.
var TimeBounds = [...]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
	250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 10 * time.Second,
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
	appended, batches, advances, stale, epoch, server, refused atomic.Uint64
	gaps, invalidations, saved, takeOvers, deleted, capped     atomic.Uint64
	errLink, errMemory, errReadOnly, errOther                  atomic.Uint64

	sizes        [len(SizeBounds) + 1]atomic.Uint64
	sizeSum      atomic.Uint64
	times        [len(TimeBounds) + 1]atomic.Uint64
	timeSumNanos atomic.Int64

	trouble   atomic.Pointer[string] // why the writer does not get on; nil: it does
	writer    atomic.Bool
	holder    atomic.Pointer[string] // of the lease; nil: not known
	watermark atomic.Pointer[sseproto.ID]
	behind    atomic.Int64 // Unix ns since when messages wait, 0 when none do
}

// Trouble tells in a few words why this instance cannot write the history, or look whether
// it has to; "" when it can. Safe for concurrent use.
func (s *Store) Trouble() string {
	if text := s.count.trouble.Load(); text != nil {
		return *text
	}
	return ""
}

// Stats returns a snapshot. Safe for concurrent use.
func (s *Store) Stats() Stats {
	c := &s.count
	st := Stats{
		Appended: c.appended.Load(), Batches: c.batches.Load(), Advances: c.advances.Load(),
		RefusedStale: c.stale.Load(), RefusedEpoch: c.epoch.Load(), RefusedServer: c.server.Load(), RefusedMessages: c.refused.Load(),
		GapMarkers: c.gaps.Load(), Invalidations: c.invalidations.Load(), SavedMessages: c.saved.Load(),
		TakeOvers: c.takeOvers.Load(), Deleted: c.deleted.Load(), Capped: c.capped.Load(),
		Errors: ErrorCounts{
			Link: c.errLink.Load(), Memory: c.errMemory.Load(),
			ReadOnly: c.errReadOnly.Load(), Other: c.errOther.Load(),
		},
		Writer: c.writer.Load(), Watermark: s.Watermark(),
		BatchSizes: snapshot(c.sizes[:]), BatchMessages: c.sizeSum.Load(),
		WriteTimes: snapshot(c.times[:]), WriteTime: time.Duration(c.timeSumNanos.Load()),
	}
	if since := c.behind.Load(); since != 0 {
		st.Lag = max(0, time.Since(time.Unix(0, since)))
	}
	return st
}

// Watermark returns how far the history is written, as far as this instance
// knows; zero before the first answer. Safe for concurrent use.
func (s *Store) Watermark() sseproto.ID {
	if id := s.count.watermark.Load(); id != nil {
		return *id
	}
	return sseproto.ID{}
}

func snapshot(counts []atomic.Uint64) []uint64 {
	all := make([]uint64, len(counts))
	for i := range counts {
		all[i] = counts[i].Load()
	}
	return all
}

// batch counts a batch of n messages, at least one.
func (c *counters) batch(n int) {
	c.batches.Add(1)
	bucket, _ := slices.BinarySearch(SizeBounds[:], uint64(n))
	c.sizes[bucket].Add(1)
	c.sizeSum.Add(uint64(n))
}

// wrote counts a round trip.
func (c *counters) wrote(took time.Duration) {
	bucket, _ := slices.BinarySearch(TimeBounds[:], took)
	c.times[bucket].Add(1)
	c.timeSumNanos.Add(int64(took))
}

func (c *counters) noteHolder(name string) {
	if known := c.holder.Load(); known == nil || *known != name {
		held := name // not the parameter, which would be on the heap in every call
		c.holder.Store(&held)
	}
}

func (c *counters) failed(code string) {
	switch code {
	case "":
		c.errLink.Add(1)
	case redisconn.CodeOOM:
		c.errMemory.Add(1)
	case redisconn.CodeReadOnly:
		c.errReadOnly.Add(1)
	default:
		c.errOther.Add(1)
	}
}
