package engine

import (
	"maps"
	"sync"
	"time"

	"ssed/sseproto"
)

// GapCounts are numbers of gap events by reason, one of sseproto.Reasons. Every reason is
// there, so that a counter begins at 0 and not with its first event.
type GapCounts map[string]uint64

func newGapCounts() GapCounts {
	counts := make(GapCounts)
	for _, reason := range sseproto.Reasons() {
		counts[reason] = 0
	}
	return counts
}

// Total is the number of gap events for any reason.
func (c GapCounts) Total() (n uint64) {
	for _, k := range c {
		n += k
	}
	return n
}

// GapRecord tells that streams were told of lost messages. What is told for the same
// reason within ten seconds is one record.
type GapRecord struct {
	At      time.Time // the first time
	Channel string    // "" when there were several, or when it concerned all channels of a stream
	Reason  string    // as in the gap event
	Live    bool      // told to live streams, else at a resume
	Streams int       // that were told
}

const (
	// maxGapRecords bounds the records that are kept.
	maxGapRecords = 64
	// gapMerge is how long further gaps of the same kind count as the same one: a
	// whole fleet of clients has come back from an outage within --retry and the time
	// of the connects.
	gapMerge = 10 * time.Second
)

// gapLedger counts gap events and keeps the newest records. It is written when a stream is
// told of a loss, or once for all live streams.
type gapLedger struct {
	streams func() int64 // the open streams; fixed after construction, nil: not known

	mu          sync.Mutex
	ring        [maxGapRecords]GapRecord
	n           int       // records ever made
	start, live GapCounts // gap events sent when a stream began, and put into the ring
}

func newGapLedger() *gapLedger {
	return &gapLedger{start: newGapCounts(), live: newGapCounts()}
}

// noteStart records that a stream began with a gap event.
func (g *gapLedger) noteStart(now time.Time, reason, channel string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.start[reason]++
	g.noteLocked(GapRecord{At: now, Channel: channel, Reason: reason, Streams: 1})
}

// noteLive records that the subscribers of some channels were told, by so many gap events
// in the ring: one for each channel. Channel is "" for several. Who subscribes to several of
// them counts for each, but there are no more than all streams.
func (g *gapLedger) noteLive(now time.Time, reason, channel string, events int, subscriptions int64) {
	if g.streams != nil {
		subscriptions = min(subscriptions, g.streams())
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.live[reason] += uint64(events)
	g.noteLocked(GapRecord{At: now, Channel: channel, Reason: reason, Live: true, Streams: int(subscriptions)})
}

func (g *gapLedger) noteLocked(r GapRecord) {
	for k := g.n - 1; k >= max(g.n-maxGapRecords, 0); k-- {
		old := &g.ring[k%maxGapRecords]
		if r.At.Sub(old.At) > gapMerge {
			break
		}
		if old.Reason != r.Reason || old.Live != r.Live {
			continue
		}
		old.Streams += r.Streams
		if old.Channel != r.Channel {
			old.Channel = ""
		}
		return
	}
	g.ring[g.n%maxGapRecords] = r
	g.n++
}

// counts returns a copy of what was counted: of live streams, or of those that began.
func (g *gapLedger) counts(live bool) GapCounts {
	g.mu.Lock()
	defer g.mu.Unlock()
	if live {
		return maps.Clone(g.live)
	}
	return maps.Clone(g.start)
}

// list returns the records, newest first.
func (g *gapLedger) list() []GapRecord {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []GapRecord
	for k := g.n - 1; k >= max(g.n-maxGapRecords, 0); k-- {
		all = append(all, g.ring[k%maxGapRecords])
	}
	return all
}

// RecentGaps returns the newest records of gaps that streams were told of, at most
// 64, newest first.
func (e *Engine) RecentGaps() []GapRecord { return e.log.gaps.list() }
