package rsub

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"ssed/internal/redisconn"
	"ssed/internal/throttle"
	"ssed/sseproto"
)

// Bounds of the inbox.
const (
	// inboxBatch and inboxBatchBytes bound what one tick moves, for Redis does
	// nothing else meanwhile: about 2 ms for a full batch of small messages.
	inboxBatch      = 500
	inboxBatchBytes = 1 << 20
	// inboxBatches is how many batches may be moved and not yet in the history. All
	// together stay below the 8 MiB that a subscriber may have waiting for a minute
	// (client-output-buffer-limit pubsub), and keep the writer busy while the next
	// tick is on its way.
	inboxBatches = 4
	// inboxRefused is how many refused entries are kept for somebody to look at.
	inboxRefused = 1000
	// inboxPace is the pause between ticks while there is something to move but less
	// than a batch: single entries wait a fifth of a tick interval, and instances
	// have fifty ticks a second at most to read for it.
	inboxPace = 20 * time.Millisecond
	// inboxSettle is for how long after another server has taken over, or the same one
	// has started again, nothing is moved: every instance has subscribed to it by then
	// (half a second of backoff, and the finding of the primary) and has reclaimed what
	// the server has forgotten.
	inboxSettle = 1500 * time.Millisecond
	// inboxMemory is how many published entries an instance remembers, 32 bytes each.
	// What a failover loses is what was published in a fraction of a second.
	inboxMemory = 1 << 14
	// reclaimEntries bounds the entries of one call's reclaims, as inboxBatch does.
	reclaimEntries = inboxBatch
)

// Reasons for which entries of the inbox are refused, as they stand in the stream
// of refused ones. The last four are found by the script.
const (
	refusedFields    = "fields"    // no channel or no data
	refusedChannel   = "channel"   // reserved, too long, or none of the patterns has it
	refusedPartition = "partition" // the channel belongs to another partition, which has an inbox of its own
	refusedEnvelope  = "envelope"  // an event type, id or retry, without Config.Envelope
	refusedType      = "type"      // an event type, id or retry that is not allowed
	refusedSize      = "size"      // over Config.MaxMessageBytes
	refusedDenied    = "denied"    // the user may not publish on the channel
	refusedUTF8      = "utf8"      // data of an envelope that is not UTF-8
	refusedStream    = "stream"    // published, but the channel's history refuses it: a key of another type, or higher IDs added by hand
)

var inboxReasons = [...]string{refusedFields, refusedChannel, refusedPartition, refusedEnvelope, refusedType, refusedSize, refusedDenied, refusedUTF8, refusedStream}

// InboxReasons returns the reasons for which entries of the inbox are refused, the
// keys of InboxStats.Refused.
func InboxReasons() []string { return inboxReasons[:] }

// inbox is what this instance knows of the inbox. Owned by ticker.run but for what has
// a lock and for the counters.
type inbox struct {
	feed      *Feed
	verdicts  []string // id and verdict of what comes next, in order
	pace      pace
	node      string        // run_id of the server that answered last
	reclaimed uint64        // t of the newest reclaim of the last call
	stuck     bool          // the server would not take the reclaims
	accepted  bool          // it was nobody else's when it was first asked for
	lookedAt  time.Duration // Feed.elapsed of the last call
	denied    error         // why the last call had to leave the inbox out; nil: it did not

	memory   inboxMemories
	counts   inboxCounts
	trouble  atomic.Pointer[string] // why the last look at the inbox failed; nil: it did not
	logEntry throttle.Line
	logFail  throttle.Line
}

// pace is how soon there should be another tick for the sake of the inbox.
type pace uint8

const (
	paceInterval pace = iota // nothing to move, or it cannot be moved
	paceSoon                 // less than a batch, or the history has to catch up
	paceNow                  // a whole batch, or the first entry after a silence
)

// ErrInboxOwned is returned by Run when instances with another prefix take from Config.Inbox.
var ErrInboxOwned = errors.New("rsub: the inbox belongs to another prefix")

// inboxLook is how often an instance that does not lead looks whether who does moves the
// entries, or does without the inbox: then it takes the lead.
const inboxLook = 2 * time.Second

// isToBeLookedAt reports whether it is time to see who moves the entries.
func (in *inbox) isToBeLookedAt() bool {
	return in.feed.cfg.Inbox != "" && in.feed.elapsed()-in.lookedAt >= inboxLook
}

// belongsTo takes in that instances with another prefix take from the inbox. It is an
// error for who has just begun; else only the inbox stands still.
func (in *inbox) belongsTo(owner string) error {
	err := fmt.Errorf("%w: %s belongs to prefix %s, ours is %s", ErrInboxOwned, in.key(), owner, in.feed.keys.Prefix)
	if !in.accepted {
		return err
	}
	in.failed(err.Error())
	return nil
}

// key is the stream that backends add to.
func (in *inbox) key() string { return in.feed.keys.Inbox(in.feed.cfg.Inbox) }

// keys returns the keys of the script behind the clock.
func (in *inbox) keys() []string {
	if in.feed.cfg.Inbox == "" {
		return nil
	}
	key := in.key()
	return []string{in.feed.keys.InboxNotes, key, redisconn.Refused(key), in.feed.keys.Rejected}
}

// args returns the arguments of the script behind those of the clock.
func (in *inbox) args() []string {
	cfg := &in.feed.cfg
	if cfg.Inbox == "" {
		return nil
	}
	envelope := "0"
	if cfg.Envelope {
		envelope = "1"
	}
	args := []string{
		strconv.Itoa(inboxBatch), strconv.Itoa(inboxBatchBytes), strconv.Itoa(inboxBatches), strconv.Itoa(inboxRefused),
		strconv.Itoa(cfg.MaxMessageBytes), envelope,
		in.feed.keys.Prefix, strconv.FormatInt(inboxSettle.Milliseconds(), 10), cfg.BatchChannel,
	}
	reclaims, newest := in.memory.reclaims(in.node)
	in.reclaimed = newest
	args = append(append(args, strconv.Itoa(len(reclaims)/2)), reclaims...)
	return append(args, in.verdicts...)
}

// answered takes the run_id of the server that has run the script, with the reclaims
// that args had, and whether it took them. One that it did not expect gets its reclaims
// with the next call.
func (in *inbox) answered(node string, taken bool) {
	taken = taken && in.denied == nil
	if in.node == node && taken {
		in.memory.acknowledge(node, in.reclaimed)
	}
	in.node, in.stuck = node, !taken
}

// reclaims reports whether the server that answered last is to be told something.
func (in *inbox) reclaims() bool {
	return in.node != "" && in.feed.cfg.Inbox != "" && in.memory.hasReclaims(in.node)
}

// reclaimPause returns how long to wait with the next reclaims: not at all, unless the
// server would not take the last ones.
func (in *inbox) reclaimPause(interval time.Duration) time.Duration {
	if in.stuck {
		return interval
	}
	return 0
}

const (
	// reportWords come first in the report of the script: failure, length, batches,
	// moved, acknowledged, kept, refused.
	reportWords = 7
	// askedWords are told of each entry that wants a verdict: id, channel, whether
	// it has data, event_type, id, retry.
	askedWords = 6
)

// take reads the report of the script. There is none when another instance leads.
func (in *inbox) take(words []string) error {
	if in.denied != nil {
		in.failed(in.denied.Error())
		return nil
	}
	if len(words) == 0 {
		in.idle()
		in.trouble.Store(nil)
		return nil
	}
	if len(words) < reportWords {
		return errReply
	}
	var n [reportWords - 1]int64
	for i := range n {
		var err error
		if n[i], err = strconv.ParseInt(words[1+i], 10, 64); err != nil {
			return errReply
		}
	}
	length, batches, moved, acknowledged, kept, refused := n[0], n[1], n[2], n[3], n[4] != 0, int(n[5])
	failure, words := words[0], words[reportWords:]
	if refused < 0 || len(words) < refused || (len(words)-refused)%askedWords != 0 {
		return errReply
	}
	in.counts.moved.Add(uint64(moved))
	in.counts.acknowledged.Add(uint64(acknowledged))
	in.tellRefused(words[:refused])
	if failure != "" {
		in.failed(failure)
		return nil
	}
	in.trouble.Store(nil)
	in.counts.length.Store(length)
	in.counts.batches.Store(batches)
	if kept {
		in.pace = paceOfKept(batches)
		return nil
	}
	asked := words[refused:]
	in.pace = in.paceOf(len(asked)/askedWords, int(batches), moved+int64(refused) > 0)
	in.judge(asked)
	return nil
}

// paceOfKept is the pace while the entries that have a verdict have to wait: for the
// history, or until the server has been told what it forgot.
func paceOfKept(batches int64) pace {
	if batches >= inboxBatches {
		return paceSoon
	}
	return paceInterval
}

// paceOf tells how soon the entries asked about want to be moved, when so many
// batches are under way and progress was made with those asked about before.
func (in *inbox) paceOf(asked, batches int, progress bool) pace {
	silent := len(in.verdicts) == 0
	switch {
	case asked == 0:
		return paceInterval
	case batches >= inboxBatches:
		return paceSoon
	case silent, progress && asked >= inboxBatch:
		return paceNow
	case progress:
		return paceSoon
	}
	return paceInterval
}

// judge finds the verdicts for the entries that the script has asked about.
func (in *inbox) judge(asked []string) {
	in.verdicts = in.verdicts[:0]
	in.counts.oldest.Store(0)
	if len(asked) > 0 {
		if id, err := sseproto.ParseID(asked[0]); err == nil {
			in.counts.oldest.Store(id.Ms)
		}
	}
	for ; len(asked) > 0; asked = asked[askedWords:] {
		in.verdicts = append(in.verdicts, asked[0], in.verdict(asked[1], asked[2] != "", asked[3], asked[4], asked[5]))
	}
}

// verdict returns why an entry cannot be delivered, or "".
func (in *inbox) verdict(channel string, hasData bool, event, id, retry string) string {
	switch {
	case channel == "" || !hasData:
		return refusedFields
	case !sseproto.IsChannel(channel) || !in.feed.delivers(channel):
		return refusedChannel
	case !in.feed.owns(channel):
		return refusedPartition
	case event == "" && id == "" && retry == "":
		return ""
	case !in.feed.cfg.Envelope:
		return refusedEnvelope
	case !mayBeTyped(event, id, retry):
		return refusedType
	}
	return ""
}

// mayBeTyped reports whether a message may have this type, id and retry (ms).
func mayBeTyped(event, id, retry string) bool {
	m := sseproto.Message{Event: event, ID: id}
	if retry != "" {
		ms, err := strconv.ParseUint(retry, 10, 31)
		if err != nil || ms == 0 || retry[0] == '0' {
			return false
		}
		m.Retry = time.Duration(ms) * time.Millisecond
	}
	return m.Check() == nil
}

// idle forgets what was known: another instance leads, or nobody can.
func (in *inbox) idle() {
	in.verdicts, in.pace = in.verdicts[:0], paceInterval
	in.counts.length.Store(0)
	in.counts.batches.Store(0)
	in.counts.oldest.Store(0)
}

// pause returns how long to wait until the next tick, which is due after interval.
func (in *inbox) pause(interval time.Duration) time.Duration {
	switch in.pace {
	case paceNow:
		return 0
	case paceSoon:
		return min(inboxPace, interval)
	}
	return interval
}

func (in *inbox) failed(text string) {
	in.idle()
	in.trouble.Store(&text)
	in.counts.failures.Add(1)
	if dropped, ok := in.logFail.Allow(); ok {
		in.feed.cfg.Logger.Error("inbox: Redis refused a command: entries wait until it takes them", "key", in.key(), "error", text, "dropped", dropped)
	}
}

func (in *inbox) tellRefused(reasons []string) {
	for _, reason := range reasons {
		in.counts.refuse(reason)
		if dropped, ok := in.logEntry.Allow(); ok {
			in.feed.cfg.Logger.Warn("inbox: an entry cannot be delivered: it was moved to another stream", "kept", redisconn.Refused(in.key()), "reason", reason, "dropped", dropped)
		}
	}
}

// InboxStats is what this instance has done with the inbox while it led the ticks.
// What tells a state is zero where another one leads.
type InboxStats struct {
	Moved        uint64            // entries published
	Acknowledged uint64            // entries removed because the history has them, whoever published them
	Refused      map[string]uint64 // entries set aside, by reason
	Failures     uint64            // times that Redis refused to work on the inbox
	Length       int64             // entries of the inbox, those included that are moved and not yet in the history
	Batches      int64             // in how many batches the latter were moved
	Oldest       time.Time         // when the first entry that waits to be moved was added, by the clock of Redis; zero for none
}

// plus returns the counts of two inboxes together; Oldest is the older one.
func (s InboxStats) plus(o InboxStats) InboxStats {
	s.Moved, s.Acknowledged, s.Failures = s.Moved+o.Moved, s.Acknowledged+o.Acknowledged, s.Failures+o.Failures
	s.Length, s.Batches, s.Refused = s.Length+o.Length, s.Batches+o.Batches, addCounts(s.Refused, o.Refused)
	if s.Oldest.IsZero() || !o.Oldest.IsZero() && o.Oldest.Before(s.Oldest) {
		s.Oldest = o.Oldest
	}
	return s
}

// inboxCounts are the live form of InboxStats; all fields are atomic.
type inboxCounts struct {
	moved, acknowledged, failures atomic.Uint64
	refused                       [len(inboxReasons)]atomic.Uint64
	length, batches               atomic.Int64
	oldest                        atomic.Uint64 // ms
}

func (c *inboxCounts) snapshot() InboxStats {
	s := InboxStats{
		Moved: c.moved.Load(), Acknowledged: c.acknowledged.Load(), Failures: c.failures.Load(),
		Length: c.length.Load(), Batches: c.batches.Load(), Refused: make(map[string]uint64),
	}
	if ms := c.oldest.Load(); ms != 0 {
		s.Oldest = time.UnixMilli(int64(ms))
	}
	for i, reason := range inboxReasons {
		s.Refused[reason] = c.refused[i].Load()
	}
	return s
}

// refuse counts a refused entry; one for a reason of a later version is not counted.
func (c *inboxCounts) refuse(reason string) {
	if i := slices.Index(inboxReasons[:], reason); i >= 0 {
		c.refused[i].Add(1)
	}
}
