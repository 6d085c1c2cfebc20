package rsub

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/engine"
	"ssed/sseproto"
)

// A model of the whole mechanism: three instances with the real subscriptions,
// sequencers, mergers and logs, whose events and answers come from a model of
// Redis in one goroutine, in an order drawn from a seed. The writer and the
// clients restate the rules of rstore and engine in a few lines each, so that
// mistakes can be planted in every rule. (That rsub does not import engine holds
// for the package; this test needs the log that the feed really fills.)
//
// Left out, because the mechanism does not promise it:
//   - the loss of all data while ticks are ahead of the time (the clock was set back):
//     who has not seen the last tick may then give it out again, see sequencer.tick;
//   - clients that leave an instance whose connection hangs on a demoted primary, or
//     hung there when it ended, before the instance knows: nobody can know yet that
//     what came there is not to be trusted;
//   - a server that is replaced, and comes back before anybody has made a tick on its successor:
//     its run_id is that of the last tick, so it leaves itself no room;
//   - the loss of all data, or a second failover, while a client is away that was told for some
//     of its channels: the marker that would tell the rest is gone.

// mistake is a mutation of the model or of what surrounds the real parts. That the
// append script ignores the epoch is not among them: what has happened since the
// data was lost shows in the watermark, so it is a second lock on the same door.
type mistake string

const (
	ignoredWatermark mistake = "append ignores the watermark"
	tornAppend       mistake = "append can stop between the messages and the watermark"
	blindRetry       mistake = "a writer that was refused sends its batch again at the new watermark"
	blindSkip        mistake = "an offer is taken at any watermark"
	missingMarker    mistake = "the watermark moves over a hole without a marker"
	eagerWriter      mistake = "the writer takes messages that are not committed"
	numberedEarly    mistake = "messages are numbered before the first tick"
	carriedCount     mistake = "a joiner goes on with the count of the interval before"
	staleTick        mistake = "a tick counts although its t did not grow"
	anyNode          mistake = "a tick counts although another node sent it"
	keptTail         mistake = "what came from a demoted primary is not rolled back"
	hastyClose       mistake = "what came after the last tick counts although the next one is of another node"
	hiddenHole       mistake = "a span is not closed when the connection is lost"
	resumedLate      mistake = "a resume starts one message late"
	resumedEarly     mistake = "a resume starts one message early"
	ignoredMarkers   mistake = "a resume ignores the markers"
	impatientReplay  mistake = "a resume does not wait for the watermark"
	noBackfill       mistake = "live streams go on after a lost subscription without the history"
	hastyInbox       mistake = "entries of the inbox are deleted when the history has reached their tick"
	unnotedInbox     mistake = "it is not noted what of the inbox was published"
	lostInbox        mistake = "what the inbox has of a given-up stretch is not saved"
	wideInbox        mistake = "what the inbox has beyond a given-up stretch is saved too"
	movingGaps       mistake = "a gap event that all clients get puts their ID back"
	silentOversize   mistake = "nothing stands in the place of a message that is too large"
	keptHorizon      mistake = "who writes with another TTL leaves the horizon"
	trustedWriter    mistake = "a writer that notes no TTL is taken for one that does"
	forgottenTime    mistake = "the furthest time of a tick does not count for what expired"
	ownTTL           mistake = "a reader takes its own TTL for that of what was written"
	blindTick        mistake = "a tick notes the number of evicted keys and leaves the position"
	trustingReader   mistake = "a reader does not ask for evicted keys itself"
	anyServer        mistake = "the evicted keys of another server are taken for those of the one before"
	noRoom           mistake = "a server that takes over leaves the one before it no room"
	pushedClock      mistake = "a former primary ticks on behind the positions of the next one"
	trustedServer    mistake = "the history takes what another server has numbered"
	firstTerm        mistake = "of a server that came back the first term counts"
	anyTerm          mistake = "a server that was replaced and came back counts as if it had stayed"
)

// harmless changes nothing: not that there is a mistake may be found, but what it does.
const harmless mistake = "none"

var mistakes = []mistake{
	ignoredWatermark, tornAppend, blindRetry, blindSkip, missingMarker, eagerWriter,
	numberedEarly, carriedCount, staleTick, anyNode, keptTail, hastyClose, hiddenHole,
	resumedLate, resumedEarly, ignoredMarkers, impatientReplay, noBackfill,
	hastyInbox, unnotedInbox, lostInbox, wideInbox, movingGaps, silentOversize,
	keptHorizon, trustedWriter, forgottenTime, ownTTL, blindTick, trustingReader, anyServer,
	noRoom, pushedClock, trustedServer, firstTerm, anyTerm,
}

// foundBy are interleavings that have found the mistakes which few find: the search begins
// there. Where the model has changed it goes on with the others, and takes longer.
var foundBy = map[mistake]uint64{
	blindSkip: 533, eagerWriter: 216, staleTick: 46, lostInbox: 4, movingGaps: 1721, keptHorizon: 1519, trustedWriter: 8053,
	forgottenTime: 849, ownTTL: 138, blindTick: 3656, trustingReader: 662, anyServer: 2276,
	noRoom: 143, pushedClock: 2390, trustedServer: 7144, firstTerm: 1729, anyTerm: 155,
}

var modelChannels = []string{"a", "b", "c"}

// modelFleet is the logs that one run after the other uses: to make engines anew
// would take ten times as long as the run.
type modelFleet struct {
	logs [][]*engine.Log // small rings, and one small and two large ones
	base sseproto.ID     // everything of earlier runs lies below
}

const (
	modelInstances = 3
	smallRing      = 256 << 10
	largeRing      = 2 << 20 // more than a run publishes
)

// flood fills a small ring by itself.
var flood = strings.Repeat("x", smallRing+1)

// modelLimit lets a flood pass, and outsize not.
const modelLimit = smallRing + 100

var outsize = strings.Repeat("x", modelLimit)

func newModelFleet(t *testing.T) *modelFleet {
	f := &modelFleet{base: sseproto.ID{Ms: 1000}}
	for _, rings := range [][modelInstances]int64{{smallRing, smallRing, smallRing}, {smallRing, largeRing, largeRing}} {
		var logs []*engine.Log
		for _, ring := range rings {
			e, err := engine.New(engine.Config{Listen: []string{"127.0.0.1:0"}, Shards: 1, RingBytes: ring, Logger: quiet})
			require.NoError(t, err)
			t.Cleanup(func() {
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				require.NoError(t, e.Run(ctx))
			})
			logs = append(logs, e.Log())
		}
		f.logs = append(f.logs, logs)
	}
	return f
}

// modelWorld is one run.
type modelWorld struct {
	plant     mistake
	rng       *rand.Rand
	base      sseproto.ID
	redis     *modelRedis
	instances []*modelInstance
	conns     []*modelConn
	readers   []*modelReader
	zombies   []zombie
	sent      []message    // all, with their true positions; those in the inbox have none yet
	kept      map[int]bool // came by the inbox: the history must have them, gap or not
	astray    map[int]bool // published on a former primary: nobody need get them
	beyond    map[int]bool // of those the ones beyond the room that it was left: others may have their IDs
	early     []int        // published on a new one before its first tick
	problems  []string
	flushed   bool // this run may lose all data; then the clock is not set back
	forgets   bool // in this run keys expire and are evicted
}

// zombie is a batch that was collected and is sent later.
type zombie struct {
	in *modelInstance
	b  batch
}

func (w *modelWorld) problem(format string, args ...any) {
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

// run plays one interleaving and returns what is wrong.
func (f *modelFleet) run(seed uint64, plant mistake) []string {
	rng := rand.New(rand.NewPCG(seed, 3))
	w := &modelWorld{plant: plant, rng: rng, base: f.base, flushed: rng.IntN(2) == 0}
	w.redis = &modelRedis{plant: plant, now: f.base.Ms + 1000, demoted: func() bool { return rng.IntN(3) == 0 }}
	w.kept, w.astray, w.beyond = map[int]bool{}, map[int]bool{}, map[int]bool{}
	w.forgets = rng.IntN(2) == 0
	w.redis.gone = map[int]bool{}
	w.redis.published = func(n int, at sseproto.ID) {
		if w.sent[n].id != (sseproto.ID{}) {
			w.problem("inbox: message %d is published a second time", n)
		}
		w.sent[n].id = at
	}
	w.redis.took = func(before sseproto.ID) { // what nobody could number lies before the first tick
		for _, n := range w.early {
			before.Seq++
			w.sent[n].id = before
		}
		w.early = nil
	}
	w.redis.refuses = func(b batch) {
		if w.isWhole(b) && !w.hasOld() {
			w.problem("history: refused what belongs, from %v to %v", b.after, b.through)
		}
	}
	w.redis.flush()
	w.redis.failover(nil) // the first node
	logs, feeds := f.logs[rng.IntN(2)], 1+rng.IntN(2)
	for i, log := range logs {
		in := newModelInstance(w, fmt.Sprint("i", i), log, feeds)
		in.kind.ttl = 1e9
		if w.forgets {
			in.kind = writerKind{ttl: pick(rng, []uint64{15, 60, 1e9}), old: i == 1 && rng.IntN(3) == 0}
		}
		w.instances = append(w.instances, in)
		w.conns = append(w.conns, in.conns...)
	}
	for _, in := range w.instances[:2] { // the third one joins at some time
		for _, c := range in.conns {
			in.connect(c)
		}
	}
	w.instances[0].tick(true)
	for range 100 + rng.IntN(150) {
		w.step()
	}
	w.heal()
	w.check()
	for _, in := range w.instances { // for the next run
		in.w.plant = ""
		for _, c := range in.conns {
			in.cutLink(c, CauseShutdown)
		}
		in.log.CloseSpan(in.high)
		f.base.Ms = max(f.base.Ms, in.high.Ms+1, w.redis.t+1, w.redis.now+1)
	}
	return w.problems
}

func pick[T any](rng *rand.Rand, list []T) T { return list[rng.IntN(len(list))] }

// step is one thing that happens.
func (w *modelWorld) step() {
	rng := w.rng
	in := pick(rng, w.instances)
	c := pick(rng, in.conns)
	w.redis.now += rng.Uint64N(2)
	if w.redis.isSplitLong() {
		w.reunite()
	}
	switch p := rng.IntN(1000); {
	case p < 200:
		if rng.IntN(200) == 0 {
			w.publish(outsize)
		} else {
			w.publish("")
		}
	case p < 250:
		w.add()
	case p < 570:
		for range 1 + rng.IntN(6) {
			in.read(c)
		}
	case p < 660:
		in.tick(false)
	case p < 790:
		in.write()
	case p < 880:
		if len(w.readers) > 0 {
			w.poll(pick(rng, w.readers))
		}
	case p < 900:
		w.attach(in)
	case p < 930:
		if len(w.readers) > 0 {
			w.hop(pick(rng, w.readers), in)
		}
	case p < 960:
		in.connect(c)
	default:
		w.fault(in, c)
	}
}

func (w *modelWorld) publish(pad string) {
	n := len(w.sent)
	channel, payload := pick(w.rng, modelChannels), fmt.Sprint(n, " ", pad)
	redis := w.redis
	if redis.rival != nil && w.rng.IntN(2) == 0 {
		redis, w.astray[n] = redis.rival, true
	}
	at := redis.message(channel, payload)
	if redis == w.redis && redis.isUntimed {
		at, w.early = sseproto.ID{}, append(w.early, n)
	}
	w.beyond[n] = w.astray[n] && w.redis.isBeyondRoom(at)
	w.sent = append(w.sent, message{at, channel, payload})
}

// payloadAt is what was published at a position that all count alike.
func (w *modelWorld) payloadAt(id sseproto.ID) string {
	for _, m := range w.sent {
		if m.id == id {
			return m.payload
		}
	}
	w.problem("nobody published %v", id)
	return "0 "
}

// add puts a message into the inbox.
func (w *modelWorld) add() {
	n := len(w.sent)
	m := message{channel: pick(w.rng, modelChannels), payload: fmt.Sprint(n, " ")}
	w.sent, w.kept[n] = append(w.sent, m), true
	w.redis.inbox = append(w.redis.inbox, inboxEntry{n + 1, n, m.channel, m.payload})
}

func (w *modelWorld) fault(in *modelInstance, c *modelConn) {
	switch w.rng.IntN(24) {
	case 0, 1, 2:
		in.cutLink(c, CauseDisconnect)
	case 3:
		for _, in := range w.instances {
			for _, c := range in.conns {
				in.cutLink(c, CauseDisconnect)
			}
		}
	case 4, 5, 6: // collects, and is stopped
		if wr := in.writer; wr.epoch != "" {
			if messages, through, low := in.collect(wr.mark, modelBatch); low == wr.mark && through != wr.mark {
				w.zombies = append(w.zombies, zombie{in, batch{wr.epoch, wr.mark, through, in.feed.ServerOf(wr.mark), messages}})
			}
		}
	case 7, 8:
		w.wakeZombies()
	case 9:
		in.writer.holder = true // believes so
	case 10:
		w.redis.holder = "" // DEL
	case 11, 16:
		if w.redis.rival == nil {
			w.redis.failover(w.successor())
		}
	case 17:
		switch {
		case w.redis.rival == nil && w.rng.IntN(2) == 0:
			w.split()
		case w.redis.rival == nil:
			w.redis.failover(w.successor())
		default:
			w.reunite()
		}
	case 22, 23: // its commands go to the new primary
		in.redis = w.redis
	case 12:
		w.redis.echo(w.conns)
	case 13:
		in.forget(w.rng.IntN(8))
	case 14:
		if w.redis.rival != nil {
			break
		}
		if w.flushed {
			w.redis.flush()
			w.kept = map[int]bool{} // gone with all the rest
			w.readers = slices.DeleteFunc(w.readers, func(r *modelReader) bool { return r.partly })
		} else {
			w.redis.now -= 40
		}
	case 15:
		if w.rng.IntN(4) == 0 {
			w.publish(flood)
		}
	case 18, 19, 20:
		if w.forgets {
			w.catchUp(in)
			w.redis.evict(pick(w.rng, modelChannels))
			if w.redis.rival == nil && w.rng.IntN(3) == 0 {
				w.redis.failover(w.successor())
			}
			w.resume(in)
		}
	case 21:
		if w.forgets && !w.flushed && w.redis.rival == nil { // the clock is ahead for a tick
			w.catchUp(in)
			w.redis.now += 100
			in.tick(true)
			w.redis.expire()
			w.redis.now -= 100
			w.resume(in)
		}
	}
}

// successor is who takes over: often a server that was the primary before; nil: a new one.
func (w *modelWorld) successor() *redisNode {
	former := w.redis.nodes[:len(w.redis.nodes)-1]
	if len(former) > 0 && w.redis.primary().hasTicked && w.rng.IntN(2) == 0 {
		return pick(w.rng, former)
	}
	return nil
}

// hasOld reports whether an instance is of a version that does not note the servers.
func (w *modelWorld) hasOld() bool {
	return slices.ContainsFunc(w.instances, func(in *modelInstance) bool { return in.kind.old })
}

// isWhole reports whether a batch has messages, and all that were published in its stretch.
func (w *modelWorld) isWhole(b batch) bool {
	has := map[int]bool{}
	for _, m := range b.messages {
		n := number(m.payload)
		has[n] = w.sent[n].id == m.id
	}
	s := stretch{b.after, b.through}
	for n, m := range w.sent {
		if s.has(m.id) && !has[n] {
			return false
		}
	}
	return len(has) > 0
}

// catchUp lets the history be written, as a rule up to a tick of now.
func (w *modelWorld) catchUp(in *modelInstance) {
	if w.rng.IntN(3) == 0 {
		return
	}
	in.tick(true)
	w.readAll()
	for range 4 {
		for _, in := range w.instances {
			in.write()
		}
	}
}

// resume lets a client go on from the history of an instance whose ring has turned.
func (w *modelWorld) resume(in *modelInstance) {
	if len(w.readers) == 0 || w.rng.IntN(3) == 0 {
		return
	}
	r := pick(w.rng, w.readers)
	w.hop(r, in)
	in.forget(len(in.ring))
	w.poll(r)
}

func (w *modelWorld) wakeZombies() {
	for _, z := range w.zombies {
		z.in.send(z.b)
	}
	w.zombies = nil
}

// heal ends all faults and lets everything come to rest.
func (w *modelWorld) heal() {
	w.reunite()
	w.wakeZombies()
	for range 6 {
		w.redis.now += 10
		for _, in := range w.instances {
			for _, c := range in.conns {
				if c.node != nil && c.node != w.redis.primary() {
					in.cutLink(c, CauseDisconnect)
				}
				in.connect(c)
			}
		}
		pick(w.rng, w.instances).tick(true)
		w.readAll()
		w.publish("")
	}
	for range 200 {
		if len(w.redis.inbox) == 0 {
			break
		}
		w.redis.now += modelLead
		for _, in := range w.instances {
			in.tick(false)
			w.readAll()
			in.write()
		}
	}
	w.instances[0].tick(true)
	w.readAll()
	for range 100 {
		w.redis.now += modelLease
		for _, in := range w.instances {
			in.write()
		}
		if w.redis.mark == (sseproto.ID{Ms: w.redis.t}) {
			break
		}
	}
	for _, r := range w.readers {
		for range modelPatience + 1 {
			w.poll(r)
		}
	}
}

func (w *modelWorld) readAll() {
	for _, in := range w.instances {
		for _, c := range in.conns {
			for c.node != nil && c.next < len(c.node.events) {
				in.read(c)
			}
		}
	}
}

// check looks at the end: positions were compared while they were given.
func (w *modelWorld) check() {
	r := w.redis
	if want := (sseproto.ID{Ms: r.t}); r.mark != want {
		w.problem("history: written up to %v of %v", r.mark, want)
	}
	if r.refused > 0 {
		w.problem("history: %d messages offered again or too late", r.refused)
	}
	kept := map[int]bool{}
	for ch, s := range r.streams {
		var last sseproto.ID
		for _, e := range s.entries {
			m := w.sent[e.n]
			if !last.Less(e.id) || kept[e.n] || m.id != e.id || m.channel != ch {
				w.problem("history: message %d at %v after %v, should be at %v", e.n, e.id, last, m.id)
			}
			last, kept[e.n] = e.id, true
		}
	}
	if len(r.inbox) > 0 {
		w.problem("inbox: %d entries are left", len(r.inbox))
	}
	var last sseproto.ID
	given := map[sseproto.ID]int{}
	for n, m := range w.sent {
		if w.beyond[n] {
			continue
		}
		if other, ok := given[m.id]; ok && m.id != (sseproto.ID{}) {
			w.problem("messages %d and %d are both %v", other, n, m.id)
		}
		given[m.id] = n
		if w.kept[n] && !kept[n] && !r.gone[n] {
			w.problem("inbox: message %d at %v is not in the history", n, m.id)
		}
		if w.kept[n] && !last.Less(m.id) {
			w.problem("inbox: message %d at %v after %v", n, m.id, last)
		}
		if w.kept[n] {
			last = m.id
		}
		if m.id == (sseproto.ID{}) {
			continue
		}
		covered := kept[n] || r.gone[n] || w.astray[n]
		for _, g := range r.gaps {
			covered = covered || g.has(m.id)
		}
		if !covered {
			w.problem("history: message %d at %v is missing without a marker", n, m.id)
		}
	}
	for _, in := range w.instances {
		if s := in.feed.Stats(); s.ChecksumMismatches > 0 {
			w.problem("%s: instances saw different messages in an interval", in.name)
		}
	}
	for _, rd := range w.readers {
		w.checkReader(rd)
		if len(rd.at.ring) > 0 && rd.pos.Less(rd.at.ring[len(rd.at.ring)-1].id) {
			w.problem("reader: stands at %v of %v", rd.pos, rd.at.high)
		}
	}
}

var interleavings = flag.Uint64("interleavings", 6000, "how many TestModel plays, unless with -race or -short")

// TestModel: no interleaving breaks a promise.
func TestRandomFaultsOnTheModelBreakNoPromise(t *testing.T) {
	runs := *interleavings
	if raceEnabled || testing.Short() {
		runs = 500 // one goroutine: ten times as slow, and nothing more to find
	}
	f := newModelFleet(t)
	began := time.Now()
	for seed := range runs {
		require.Empty(t, f.run(seed, ""), "seed %d", seed)
	}
	t.Logf("%.0f interleavings per second", float64(runs)/time.Since(began).Seconds())
}

// TestModelFindsPlantedMistakes: the test above would fail with each of them.
func TestModelFindsPlantedMistakes(t *testing.T) {
	const most = 9000 // interleavings until it must be found
	f := newModelFleet(t)
	for _, m := range mistakes {
		t.Run(string(m), func(t *testing.T) {
			for i := range uint64(most) {
				seed := (foundBy[m] + i) % most
				if problems := f.run(seed, m); len(problems) > 0 {
					t.Logf("found by interleaving %d, tried %d: %s", seed, i+1, problems[0])
					require.Empty(t, f.run(seed, ""), "without the mistake")
					require.Empty(t, f.run(seed, harmless), "with one that changes nothing")
					return
				}
			}
			t.Fatalf("not found in %d interleavings", most)
		})
	}
}
