package rsub

import (
	"maps"
	"sync/atomic"
	"time"
)

// Cause tells why a span ended, a connection was cut or a tick refused.
type Cause uint8

const (
	// CauseDisconnect: the connection was lost.
	CauseDisconnect Cause = iota
	// CauseNode: a tick of another node; the connection hangs on a demoted primary
	// or on a replica.
	CauseNode
	// CauseReadOnly: the server takes no ticks because it is a replica, and none came.
	CauseReadOnly
	// CauseProbe: a published tick did not come back in time.
	CauseProbe
	// CauseOrder: a tick that does not lie beyond the last one.
	CauseOrder
	// CauseConfigMismatch: a tick of instances with other patterns.
	CauseConfigMismatch
	// CauseMalformed: a tick that cannot be read.
	CauseMalformed
	// CauseBus: between two ticks a node of the cluster lost its link to the one that the
	// connection hangs on, and with it perhaps messages. Or, on the shard channel, a former
	// primary has sent late what it had to send.
	CauseBus
	// CauseShutdown: Run is ending.
	CauseShutdown

	causes // how many
)

var causeNames = [causes]string{"disconnect", "node", "readonly", "probe", "order", "foreign", "malformed", "bus", "shutdown"}

// String returns the label of the cause for metrics.
func (c Cause) String() string { return causeNames[c] }

// LagBounds are the upper bounds of Stats.LagCounts; the last count has none.
var LagBounds = [...]time.Duration{
	time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2 * time.Second, 5 * time.Second,
}

// Stats is a snapshot of counters since New. With two feeds those of
// messages and ticks count each feed's copy, except Delivered.
type Stats struct {
	Delivered  uint64 // messages given to the sink
	Numbered   uint64 // messages that got a position
	Unnumbered uint64 // came before the first tick of a connection
	Overlaps   uint64 // further copies of a message, for other patterns
	Reserved   uint64 // on channels that begin with "__", through a pattern
	Oversize   uint64 // numbered and left out, for which the sink got the place
	Unaskable  uint64 // numbered and left out: no client can ask for a channel of this name
	Unmatched  uint64 // of the shard channel or a batch, numbered and left out: none of the patterns has the channel, or it is reserved
	Unframed   uint64 // of the shard channel, numbered and left out: it names no channel
	Foreign    uint64 // of the shard channel or a batch, numbered and left out: the channel belongs to another partition

	Batches       uint64 // messages of Config.BatchChannel
	BrokenBatches uint64 // of these, ends that could not be read: their messages have no number and are lost

	TicksSeen           uint64            // accepted
	TicksSent           uint64            // published by this instance
	TickErrors          uint64            // script calls that failed
	TakeOvers           uint64            // times that this instance began to lead
	Leading             bool              // this instance sends the ticks
	RefusedTicks        map[string]uint64 // by cause
	Resyncs             map[string]uint64 // ended spans of a connection, by cause
	Connects            uint64            // subscriptions made, whether they synced or not
	EpochChanges        uint64            // Redis lost its data
	ChecksumMismatches  uint64            // another instance saw another interval: a bug
	SubscriptionsSynced int               // feeds that number messages now

	ResultsTold    uint64 // messages published here whose number became known
	ResultsLate    uint64 // whose number did not, within Config.NumberWait
	ResultsRefused uint64 // whose number was not waited for: too many waited already
	Notices        uint64 // control messages given to Config.OnNotice

	// ClockSkew is by how much the clock here is ahead of that of Redis, as this
	// instance last saw it when it sent a tick; 0 before.
	ClockSkew time.Duration

	Inbox InboxStats

	// Lag is the time from the tick script to the arrival of its tick, measured
	// against the clock of Redis as last seen by this instance.
	LastLag   time.Duration
	LagSum    time.Duration
	LagCounts [len(LagBounds) + 1]uint64
}

// Plus returns the counts of two feeds together. Leading is that of either, ClockSkew and
// LastLag are the larger ones.
func (s Stats) Plus(o Stats) Stats {
	for _, pair := range []struct{ sum, of *uint64 }{
		{&s.Delivered, &o.Delivered},
		{&s.Numbered, &o.Numbered},
		{&s.Unnumbered, &o.Unnumbered},
		{&s.Overlaps, &o.Overlaps},
		{&s.Reserved, &o.Reserved},
		{&s.Oversize, &o.Oversize},
		{&s.Unaskable, &o.Unaskable},
		{&s.Unmatched, &o.Unmatched},
		{&s.Unframed, &o.Unframed},
		{&s.Foreign, &o.Foreign},
		{&s.Batches, &o.Batches},
		{&s.BrokenBatches, &o.BrokenBatches},
		{&s.TicksSeen, &o.TicksSeen},
		{&s.TicksSent, &o.TicksSent},
		{&s.TickErrors, &o.TickErrors},
		{&s.TakeOvers, &o.TakeOvers},
		{&s.Connects, &o.Connects},
		{&s.EpochChanges, &o.EpochChanges},
		{&s.ChecksumMismatches, &o.ChecksumMismatches},
		{&s.ResultsTold, &o.ResultsTold},
		{&s.ResultsLate, &o.ResultsLate},
		{&s.ResultsRefused, &o.ResultsRefused},
		{&s.Notices, &o.Notices},
	} {
		*pair.sum += *pair.of
	}
	s.Leading = s.Leading || o.Leading
	s.SubscriptionsSynced += o.SubscriptionsSynced
	s.RefusedTicks, s.Resyncs = addCounts(s.RefusedTicks, o.RefusedTicks), addCounts(s.Resyncs, o.Resyncs)
	if o.ClockSkew.Abs() > s.ClockSkew.Abs() {
		s.ClockSkew = o.ClockSkew
	}
	s.Inbox = s.Inbox.plus(o.Inbox)
	s.LastLag, s.LagSum = max(s.LastLag, o.LastLag), s.LagSum+o.LagSum
	for i, n := range o.LagCounts {
		s.LagCounts[i] += n
	}
	return s
}

// addCounts adds counts by name into a new map.
func addCounts(a, b map[string]uint64) map[string]uint64 {
	all := map[string]uint64{}
	maps.Copy(all, a)
	for name, n := range b {
		all[name] += n
	}
	return all
}

// counters are the live form of Stats.
type counters struct {
	// A message is counted in one of these, once: no sum or snapshot goes back.
	passed, oversize, unaskable, unmatched, unframed, foreign, unnumbered, overlaps, reserved atomic.Uint64
	batches, brokenBatches                                                                    atomic.Uint64

	ticksSeen, ticksSent, tickErrors, takeOvers atomic.Uint64
	connects, epochChanges, checksumMismatches  atomic.Uint64
	resultsTold, resultsLate, resultsRefused    atomic.Uint64
	notices                                     atomic.Uint64
	leading                                     atomic.Bool
	refused, resyncs                            [causes]atomic.Uint64

	lastLag, lagSum atomic.Int64
	lagCounts       [len(LagBounds) + 1]atomic.Uint64
}

func (c *counters) lag(d time.Duration) {
	c.lastLag.Store(int64(d))
	c.lagSum.Add(int64(d))
	i := 0
	for i < len(LagBounds) && d > LagBounds[i] {
		i++
	}
	c.lagCounts[i].Add(1)
}

func (c *counters) snapshot() Stats {
	s := Stats{
		Delivered: c.passed.Load(), Oversize: c.oversize.Load(), Unaskable: c.unaskable.Load(), Unnumbered: c.unnumbered.Load(),
		Unmatched: c.unmatched.Load(), Unframed: c.unframed.Load(), Foreign: c.foreign.Load(), Overlaps: c.overlaps.Load(), Reserved: c.reserved.Load(),
		Batches: c.batches.Load(), BrokenBatches: c.brokenBatches.Load(),
		TicksSeen: c.ticksSeen.Load(), TicksSent: c.ticksSent.Load(), TickErrors: c.tickErrors.Load(),
		TakeOvers: c.takeOvers.Load(), Leading: c.leading.Load(),
		RefusedTicks: byCause(&c.refused), Resyncs: byCause(&c.resyncs),
		Connects: c.connects.Load(), EpochChanges: c.epochChanges.Load(), ChecksumMismatches: c.checksumMismatches.Load(),
		ResultsTold: c.resultsTold.Load(), ResultsLate: c.resultsLate.Load(),
		ResultsRefused: c.resultsRefused.Load(), Notices: c.notices.Load(),
		LastLag: time.Duration(c.lastLag.Load()), LagSum: time.Duration(c.lagSum.Load()),
	}
	s.Numbered = s.Delivered + s.Oversize + s.Unaskable + s.Unmatched + s.Unframed + s.Foreign
	for i := range c.lagCounts {
		s.LagCounts[i] = c.lagCounts[i].Load()
	}
	return s
}

func byCause(counts *[causes]atomic.Uint64) map[string]uint64 {
	m := make(map[string]uint64)
	for i := range counts {
		if n := counts[i].Load(); n > 0 {
			m[Cause(i).String()] = n
		}
	}
	return m
}
