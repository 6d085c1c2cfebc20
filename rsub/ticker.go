package rsub

import (
	"context"
	crand "crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"ssed/internal/redisconn"
	"ssed/internal/redislua"
)

var (
	//go:embed tick.lua
	tickLua string
	//go:embed inbox.lua
	inboxLua string

	tickScript = redisconn.NewScript(redisconn.AllowOOM, redislua.IDs, redislua.InboxNotes, inboxLua, tickLua)
)

// Modes of the tick script.
const (
	modeLead  = "lead"
	modeJoin  = "join"
	modeLeave = "leave"
)

const (
	// leadIntervals is how many intervals the lead lasts without a tick: one may
	// be late and one lost before another instance steps in.
	leadIntervals = 3
	// mismatchFor is how long after the last lead the fingerprint of the clock
	// refuses others: longer than any restart of the instance that led.
	mismatchFor = 5 * time.Second
	// maxTickBackoff bounds the pause between failing script calls.
	maxTickBackoff = 500 * time.Millisecond
	// tickWords come first in the answer of the script.
	tickWords = 9
	// takeOverRoom is by how much the first tick of a server that takes over lies beyond all
	// others: the one before it may live on, and instances that hang on it go on to number. They
	// find out within 1.5 s, as a rule in much less: each tick that one of them sends goes to the
	// new server. Less than the history is waited for by default (3 s), or who comes to an
	// instance that has not changed over yet would be told that nobody knows its ID.
	takeOverRoom = 2 * time.Second
	// leaveTimeout bounds the last call, which only spares the others a pause.
	leaveTimeout = 500 * time.Millisecond
)

// ErrConfigMismatch is returned by Run when instances with other patterns, another
// Config.Envelope or another Config.BatchChannel use the prefix.
var ErrConfigMismatch = errors.New("rsub: instances with other patterns, envelopes or batches use this prefix")

var (
	errReply = errors.New("rsub: unexpected reply of the tick script")
	errLate  = errors.New("rsub: the call of the tick script came too late, or the clock of Redis has been set")
)

// ticker calls the tick script: for this instance's subscriptions when they join, and at
// every interval while this instance leads. All its fields but the channels are owned by run.
type ticker struct {
	feed   *Feed
	joins  chan struct{}      // a subscription wants a tick now
	asks   chan chan<- uint64 // somebody wants a tick now, and its t; 0: failed
	yields chan struct{}      // the lead is to be given up

	at       uint64 // t of the last call
	leading  bool
	failures int
	inbox    inbox
}

// join asks for a tick now. It does not block.
func (t *ticker) join() {
	select {
	case t.joins <- struct{}{}:
	default: // asked for already
	}
}

// run ends with ctx, or with ErrConfigMismatch, ErrInboxOwned or ErrNoLinks before anything was ever synced.
func (t *ticker) run(ctx context.Context) error {
	if cleared := t.feed.cfg.Cleared; cleared != nil {
		select {
		case <-cleared:
		case <-ctx.Done():
			return nil
		}
	}
	timer := time.NewTimer(t.pause())
	defer timer.Stop()
	for {
		mode := modeLead
		var asked chan<- uint64
		select {
		case <-ctx.Done():
			t.leave()
			return nil
		case asked = <-t.asks:
			mode = modeJoin
		case <-t.joins:
			mode = modeJoin
		case <-t.yields:
			if t.leading {
				t.leave()
				timer.Reset(t.pause())
			}
			continue
		case <-timer.C:
		}
		t.at = 0
		if mode == modeJoin || t.leading || t.silent() || t.inbox.reclaims() || t.inbox.isToBeLookedAt() || t.failures > 0 {
			if err := t.call(ctx, mode); err != nil && t.judge(ctx, err) {
				t.leave()
				return err
			}
		}
		if asked != nil {
			asked <- t.at // room for one
		}
		timer.Reset(t.pause())
	}
}

// silent reports whether no tick has come for so long that the lead has run out.
func (t *ticker) silent() bool {
	return t.feed.seen.age() >= leadIntervals*t.feed.cfg.TickInterval
}

// pause returns the time until the script may have to be called again. Who does
// not lead waits a random bit longer than the lead lasts, so that not all try at once.
func (t *ticker) pause() time.Duration {
	interval := t.feed.cfg.TickInterval
	switch {
	case t.failures > 0:
		return jitter(min(interval<<min(t.failures-1, 10), maxTickBackoff))
	case t.inbox.reclaims():
		return t.inbox.reclaimPause(interval)
	case t.leading:
		return t.inbox.pause(interval)
	}
	// The lead is counted in whole milliseconds of another clock: a tenth of an
	// interval keeps this instance from asking just before it has run out.
	lead := leadIntervals*interval + interval/10 + rand.N(interval/2+1) + t.deference()
	if age := t.feed.seen.age(); age < leadIntervals*interval {
		return lead - age
	}
	return lead // just asked: another one leads, its ticks do not reach us
}

// deference is how much longer this instance leaves a clock without a leader to others, by
// how many of the other partitions it leads: two intervals at most.
func (t *ticker) deference() time.Duration {
	of := t.feed.cfg.Partition.Of
	if of <= 1 {
		return 0
	}
	return 2 * t.feed.cfg.TickInterval * time.Duration(t.feed.cfg.Elsewhere()) / time.Duration(of)
}

// jitter returns d shortened by up to a half.
func jitter(d time.Duration) time.Duration { return d - rand.N(d/2+1) }

// call runs the script and takes in its answer.
func (t *ticker) call(ctx context.Context, mode string) error {
	client, err := t.feed.client.Get(ctx)
	if err != nil {
		return err
	}
	before := time.Now()
	words, err := t.exec(ctx, client, mode)
	if redisconn.Code(err) == redisconn.CodeReadOnly {
		t.feed.readOnly(client)
		t.feed.client.Discard(client)
	}
	if redisconn.Code(err) == "NOLINKS" {
		err = fmt.Errorf("%w: %w", ErrNoLinks, err)
	}
	if redisconn.Code(err) == redisconn.CodeWrongType { // all else that it uses is in a pcall
		err = fmt.Errorf("key %s: %w", t.feed.keys.Clock, err)
	}
	if err != nil {
		return err
	}
	return t.take(words, before)
}

// exec calls the script. Redis looks at all keys before it runs one: who has no right to
// those of the inbox calls it once more without them, for ticks go on whatever is wrong
// with the inbox. While the slot of a cluster moves, keys that are not there may be at the
// other node: then it is the same, until the clock has moved.
func (t *ticker) exec(ctx context.Context, client rueidis.Client, mode string) ([]string, error) {
	keys, args := []string{t.feed.keys.Clock}, t.args(mode)
	in := &t.inbox
	in.denied = nil
	words, err := tickScript.Run(ctx, client, append(keys, in.keys()...), append(args, in.args()...)).AsStrSlice()
	if code := redisconn.Code(err); in.feed.cfg.Inbox == "" || code != redisconn.CodeNoPerm && code != redisconn.CodeTryAgain {
		return words, err
	}
	words, clockErr := tickScript.Run(ctx, client, keys, args).AsStrSlice()
	if clockErr == nil {
		in.denied = err
	}
	return words, clockErr
}

// args returns the arguments of the script that are about the clock.
func (t *ticker) args(mode string) []string {
	f := t.feed
	lastT, node, checksum := f.seen.latest()
	epoch := make([]byte, 8)
	_, _ = crand.Read(epoch)
	return []string{
		mode, f.cfg.Instance,
		strconv.FormatInt((leadIntervals * f.cfg.TickInterval).Milliseconds(), 10),
		strconv.FormatUint(lastT, 10),
		hex.EncodeToString(epoch),
		f.fingerprint, f.description, checksum.String(), f.keys.Control,
		strconv.FormatInt(f.cfg.ClockOffset.Milliseconds(), 10),
		strconv.FormatInt(mismatchFor.Milliseconds(), 10),
		f.keys.EarlierControl, f.keys.Instances, f.keys.Owners(),
		f.shardChannel(), f.clusterWords(time.Now()),
		node, f.hangsOn(node), strconv.FormatInt(takeOverRoom.Milliseconds(), 10),
	}
}

// take reads the answer of the script.
func (t *ticker) take(words []string, before time.Time) error {
	f := t.feed
	switch {
	case len(words) == 2 && words[0] == "late":
		t.noteClock(words[1], before)
		return errLate
	case len(words) == 3 && words[0] == "foreign":
		return fmt.Errorf("%w: theirs %s (%s), ours %s (%s): give all instances the same, or this one another prefix; to change them, stop all for %v",
			ErrConfigMismatch, words[1], words[2], f.fingerprint, f.description, mismatchFor)
	case len(words) < tickWords || words[0] != "tick" && words[0] != "led":
		return errReply
	}
	at, err := strconv.ParseUint(words[1], 10, 64)
	if err != nil || !t.noteClock(words[2], before) {
		return errReply
	}
	f.epoch.Store(&words[6])
	f.origins.learn(servers(words[8]))
	f.expect(at, words[4])
	t.at, t.inbox.lookedAt = at, f.elapsed()
	f.trouble.Store(nil)
	t.failures = 0
	if words[0] == "tick" {
		f.counters.ticksSent.Add(1)
	}
	t.lead(words[3] == f.cfg.Instance)
	f.seen.ledBy(words[3])
	t.inbox.answered(words[4], words[5] == "")
	if owner := words[7]; owner != "" {
		return t.inbox.belongsTo(owner)
	}
	t.inbox.accepted = true
	return t.inbox.take(words[tickWords:])
}

// noteClock takes the time of Redis out of an answer to a call.
func (t *ticker) noteClock(text string, before time.Time) bool {
	now, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return false
	}
	middle := before.Add(time.Since(before) / 2)
	t.feed.clockSkew.Store(middle.UnixMilli() - now + t.feed.cfg.ClockOffset.Milliseconds())
	return true
}

// lead notes who leads.
func (t *ticker) lead(mine bool) {
	if mine && !t.leading {
		t.feed.counters.takeOvers.Add(1)
	}
	t.leading = mine
	t.feed.counters.leading.Store(mine)
}

// judge notes a failed call and reports whether it is fatal.
func (t *ticker) judge(ctx context.Context, err error) bool {
	f := t.feed
	if ctx.Err() != nil {
		return false
	}
	t.failures++
	t.lead(false)
	f.counters.tickErrors.Add(1)
	f.trouble.Store(&err)
	foreign := errors.Is(err, ErrConfigMismatch)
	if foreign && !f.everSynced.Load() || errors.Is(err, ErrInboxOwned) || errors.Is(err, ErrNoLinks) && !f.everSynced.Load() {
		return true
	}
	level := f.cfg.Logger.Warn
	if foreign {
		level = f.cfg.Logger.Error
	}
	if dropped, ok := f.logTicks.Allow(); ok {
		level("redis: this instance cannot send ticks", "error", err, "dropped", dropped)
	}
	return false
}

// leave gives the lead up, so that others need not wait until it runs out.
func (t *ticker) leave() {
	client, err := t.feed.client.Current()
	if err != nil || !t.leading {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	_, _ = t.exec(ctx, client, modeLeave)
	t.lead(false)
}
