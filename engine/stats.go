package engine

import (
	"sync/atomic"
	"time"
)

// CloseReason names why a connection ended; the label of the close counter.
type CloseReason uint8

// The reasons, in the order of Stats.Closed.
const (
	CloseClient   CloseReason = iota // the peer closed or half-closed
	CloseError                       // the socket reported an error: a reset, or nothing acknowledged for PeerTimeout
	CloseSlow                        // its next message fell off the ring while the socket was full, or more is held for such than may be
	CloseHistory                     // the history could not be read for its resume, or it has to resume because too much was lost for all at once
	CloseDrain                       // the server drains
	CloseExpired                     // its time was up: maximum age or end of authorisation
	CloseAbuse                       // it went on sending after its request
	CloseNoMemory                    // the kernel refused to watch the socket
	CloseAdmin                       // an operator closed it
	numCloseReasons
)

var closeReasonNames = [numCloseReasons]string{"client", "error", "slow", "history", "drain", "expired", "abuse", "no-memory", "admin"}

// String is the name of the reason in metrics.
func (r CloseReason) String() string { return closeReasonNames[r] }

// CloseReasons lists all reasons, in the order of Stats.Closed.
func CloseReasons() []CloseReason {
	all := make([]CloseReason, numCloseReasons)
	for i := range all {
		all[i] = CloseReason(i)
	}
	return all
}

// counters are the engine's own numbers. Each shard has a set of its own, so
// that no two loops write to one cache line; Stats adds them up.
type counters struct {
	delivered   atomic.Uint64 // messages written to a client, whole
	sentBytes   atomic.Uint64
	writes      atomic.Uint64 // write system calls on streams
	blocked     atomic.Uint64 // writes that filled the socket
	heartbeats  atomic.Uint64
	attached    atomic.Uint64
	resumedRing atomic.Uint64 // attached with a Last-Event-ID or a start that the ring could serve
	resumedHist atomic.Uint64 // … that needed the history
	reattached  atomic.Uint64 // fell behind together with their shard, went through the history
	slow        atomic.Int64  // streams whose socket is full
	busy        atomic.Int64  // nanoseconds that the loop was not asleep
	lag         lagCounters
	closed      [numCloseReasons]atomic.Uint64
}

// Stats is a snapshot of the engine's counters and gauges.
type Stats struct {
	Streams     int64 // open event streams
	Connections int64 // open client connections, handshakes included
	Channels    int64 // channels with a subscriber or a message in the ring
	Slow        int64 // streams whose socket is full now

	Delivered, SentBytes, Writes, Blocked, Heartbeats uint64
	Attached, ResumedRing, ResumedHistory             uint64
	Reattached                                        uint64
	Gaps                                              GapCounts // gap events sent when a stream began
	Closed                                            [numCloseReasons]uint64

	// DeliveryLag has one observation for each message given to a stream whose socket
	// had room: the time from the message's entry into the log to the end of the
	// writes of that turn of the event loop. It errs upwards, by what a turn takes,
	// where the loop was at work when the message came. What waits for a full socket
	// is not in it, nor what a resume gets.
	DeliveryLag Histogram
	// ShardBusy is for each event loop the time that it was not asleep.
	ShardBusy []time.Duration

	Log   LogStats
	Front FrontStats
}

func (s *Stats) add(c *counters) {
	s.Delivered += c.delivered.Load()
	s.SentBytes += c.sentBytes.Load()
	s.Writes += c.writes.Load()
	s.Blocked += c.blocked.Load()
	s.Heartbeats += c.heartbeats.Load()
	s.Attached += c.attached.Load()
	s.ResumedRing += c.resumedRing.Load()
	s.ResumedHistory += c.resumedHist.Load()
	s.Reattached += c.reattached.Load()
	s.Slow += c.slow.Load()
	s.ShardBusy = append(s.ShardBusy, time.Duration(c.busy.Load()))
	s.DeliveryLag.add(&c.lag)
	for i := range c.closed {
		s.Closed[i] += c.closed[i].Load()
	}
}
