package engine

import (
	"sync"
	"time"
)

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

// gapLedger keeps the newest records. It is written when a stream is told of a loss,
// or once for all live streams.
type gapLedger struct {
	streams func() int64 // the open streams; fixed after construction, nil: not known

	mu   sync.Mutex
	ring [maxGapRecords]GapRecord
	n    int // records ever made
}

// note records that a number of streams was told.
func (g *gapLedger) note(r GapRecord) {
	g.mu.Lock()
	defer g.mu.Unlock()
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

// noteLive records that the subscribers of some channels were told. Who subscribes to
// several of them counts for each, but there are no more than all streams.
func (g *gapLedger) noteLive(now time.Time, reason, channel string, subscriptions int64) {
	if g.streams != nil {
		subscriptions = min(subscriptions, g.streams())
	}
	g.note(GapRecord{At: now, Channel: channel, Reason: reason, Live: true, Streams: int(subscriptions)})
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
