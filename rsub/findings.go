package rsub

import (
	"sync"
	"time"

	"ssed/internal/throttle"
	"ssed/sseproto"
)

// finding is something for the log that a read loop has come upon. It may not write the
// line itself: the reader of the log may be stuck, and then Redis would cut the subscription. So
// it notes the newest, and whoever may wait writes one line per throttle.Every. Ready when zero.
type finding[T any] struct {
	mu     sync.Mutex // guards the rest
	newest T
	count  int // since the last line
	next   time.Time
}

func (f *finding[T]) note(what T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.newest = what
	f.count++
}

// take returns the newest if there is to be a line now, and how many it leaves out.
func (f *finding[T]) take() (what T, dropped int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if f.count == 0 || now.Before(f.next) {
		return what, 0, false
	}
	what, dropped = f.newest, f.count-1
	f.count, f.next = 0, now.Add(throttle.Every)
	return what, dropped, true
}

// findings are those of all subscriptions.
type findings struct {
	epochs      finding[string]
	refused     finding[refusal]
	oversize    finding[outsized]
	mismatches  finding[mismatch]
	unframed    finding[int]    // bytes
	foreign     finding[string] // channel
	foreignTold sync.Once
	bus         finding[uint64]
	broken      finding[brokenBatch]
}

// maxToldBytes of a channel's name go into a line.
const maxToldBytes = 70

// refusal is a tick that was refused.
type refusal struct {
	cause        Cause
	tick         tick
	subscribedTo string // run_id of the connection
}

// outsized is a message over the limit.
type outsized struct {
	id    sseproto.ID
	bytes int
}

// mismatch is an interval in which two instances saw different messages.
type mismatch struct {
	tick tick
	own  interval
}

// tell writes what the read loops have found into the log.
func (f *Feed) tell() {
	log := f.cfg.Logger
	if epoch, dropped, ok := f.found.epochs.take(); ok {
		log.Warn("redis: Redis has lost its data: clients get a gap, and IDs still ascend", "epoch", epoch, "dropped", dropped)
	}
	if r, dropped, ok := f.found.refused.take(); ok {
		t := r.tick
		log.Error("redis: a tick of the common clock was refused", "cause", r.cause, "t", t.t, "caller", t.caller, "theirs", t.fingerprint,
			"ours", f.fingerprint, "node", t.node, "subscribedTo", r.subscribedTo, "dropped", dropped)
	}
	if m, dropped, ok := f.found.oversize.take(); ok {
		log.Warn("redis: a message is over the limit: clients get a gap in its place", "id", m.id, "bytes", m.bytes,
			"limit", f.cfg.MaxMessageBytes, "dropped", dropped)
	}
	if n, dropped, ok := f.found.unframed.take(); ok {
		log.Warn("redis: a message on the shard channel has no first line with its channel: it is lost",
			"shardChannel", f.keys.Messages, "bytes", n, "dropped", dropped)
	}
	if channel, dropped, ok := f.found.foreign.take(); ok {
		f.found.foreignTold.Do(func() {
			p := f.cfg.Partition
			log.Warn("redis: messages of another partition dropped: their publisher has the wrong shard channel (told once)",
				"shardChannel", f.keys.Messages, "partition", p.Number, "channel", channel[:min(len(channel), maxToldBytes)], "belongsTo", sseproto.PartitionOf(channel, p.Of), "dropped", dropped)
		})
	}
	if t, dropped, ok := f.found.bus.take(); ok {
		text := "redis: two nodes of the cluster lost their link: messages may be missing, and clients get a gap"
		if f.cfg.Sharded {
			text = "redis: messages came by the bus: a former primary has sent them late, or somebody publishes on a replica: clients get a gap"
		}
		log.Warn(text, "after", t, "dropped", dropped)
	}
	if b, dropped, ok := f.found.broken.take(); ok {
		log.Warn("redis: the end of a batch cannot be read: the messages in it are lost", "channel", f.cfg.BatchChannel,
			"bytes", b.bytes, "read", b.read, "limit", sseproto.MaxBatchBytes, "dropped", dropped)
	}
	if m, dropped, ok := f.found.mismatches.take(); ok {
		log.Error("redis: instances saw different messages: this is a bug, please report it", "caller", m.tick.caller,
			"theirs", m.tick.checksum, "ours", m.own, "dropped", dropped)
	}
}
