package rsub

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"ssed/sseproto"
)

// What Redis does in the model, restated from tick.lua and from the scripts of
// rstore (append, lease, skip, invalidate). Each method is one script and so one
// moment. What only concerns the inbox's memory, trimming and keys of a wrong type is
// left out: the tests of rstore have it, against real servers.

// redisEvent is what subscribers of a node get, in order.
type redisEvent struct {
	channel, payload string // no channel: the control channel
	echo             bool   // a tick that was published a second time
}

// redisNode is a server with its one order of messages.
type redisNode struct {
	id        string
	term      int  // how often it was promoted
	hasTicked bool // since then
	events    []redisEvent
	evicted   int // keys, as INFO counts them
}

// hasTick reports whether a good tick was published since.
func (n *redisNode) hasTick(since int) bool {
	return slices.ContainsFunc(n.events[since:], func(e redisEvent) bool { return e.channel == "" && !e.echo })
}

// termText is its term as INFO and ticks have it.
func (n *redisNode) termText() string { return fmt.Sprint(n.term) }

// run is a run of it in one term, as the feed names it.
func (n *redisNode) run() string { return n.id + ":" + n.termText() }

// stored is a message in a stream.
type stored struct {
	id sseproto.ID
	n  int
}

// stream is the key of a channel.
type stream struct {
	entries []stored
	expires uint64
}

// stretch is (from, to].
type stretch struct{ from, to sseproto.ID }

func (s stretch) has(id sseproto.ID) bool { return s.from.Less(id) && !s.to.Less(id) }

func (s stretch) overlaps(after, upTo sseproto.ID) bool { return after.Less(s.to) && s.from.Less(upTo) }

// inboxEntry is a message that a backend added.
type inboxEntry struct {
	id               int
	n                int
	channel, payload string
}

// inboxNote is what was published behind a tick.
type inboxNote struct {
	t       uint64
	entries []inboxEntry
}

func (n inboxNote) at(i int) sseproto.ID { return sseproto.ID{Ms: n.t, Seq: uint64(i + 1)} }

// offer is who would go on from where, see skip.lua.
type offer struct {
	mark, low sseproto.ID
	by        string
	since     uint64
	offered   map[string]bool
}

// Times of the model, in its milliseconds.
const (
	modelLead    = 20
	modelLease   = 30
	modelGapWait = 15
	modelNotes   = 2
	modelRoom    = 25
)

type modelRedis struct {
	plant   mistake
	now     uint64
	nodes   []*redisNode // the last one is the primary
	servers int          // that there ever were
	demoted func() bool  // whether a demoted primary misses an event: a silent hole

	rival     *modelRedis // the former primary, which lives on; nil: there is none
	isUntimed bool        // no tick has come since it was split off
	tookOver  uint64      // t of that tick
	overstay  uint64      // how far the rival may go on behind it
	took      func(before sseproto.ID)
	refuses   func(b batch) // is told what does not belong into the history

	// The clock hash.
	t      uint64
	orders []modelOrder // of the servers, oldest first
	noted  bool         // the last tick has noted them
	epoch  string
	mark   sseproto.ID
	leader string
	until  uint64
	offer  *offer

	ttl         uint64 // 0: nobody has noted one
	horizon     sseproto.ID
	horizonMark sseproto.ID
	evicted     int // as the node counted them at the last tick that looked
	evictedNode string
	evictedTo   sseproto.ID

	holder  string // of the lease
	expires uint64
	gaps    []stretch
	streams map[string]*stream
	gone    map[int]bool // messages whose key expired or was evicted
	refused int          // XADDs with an ID that is not beyond the newest

	inbox     []inboxEntry // ascending
	notes     []inboxNote
	published func(n int, at sseproto.ID) // tells the position of an entry

	epochs int
	at     sseproto.ID // position of the newest message: what every instance should say
}

func (r *modelRedis) primary() *redisNode { return r.nodes[len(r.nodes)-1] }

// publish hands e to the subscribers of the primary, and through replication to
// those that still hang on demoted ones.
func (r *modelRedis) publish(e redisEvent) {
	for i, n := range r.nodes {
		if i == len(r.nodes)-1 || !r.demoted() {
			n.events = append(n.events, e)
		}
	}
}

// expire removes the keys whose time is over.
func (r *modelRedis) expire() {
	for ch, s := range r.streams {
		if s.expires < r.now {
			r.remove(ch)
		}
	}
}

func (r *modelRedis) remove(channel string) {
	for _, e := range r.streams[channel].entries {
		r.gone[e.n] = true
	}
	delete(r.streams, channel)
}

// evict removes a stream to make room.
func (r *modelRedis) evict(channel string) {
	if r.streams[channel] != nil {
		r.remove(channel)
	}
	r.primary().evicted++ // another key, if not that one
}

// add is XADD and PEXPIRE.
func (r *modelRedis) add(channel string, e stored, expires uint64) (ok bool) {
	s := r.streams[channel]
	if s == nil {
		s = &stream{}
		r.streams[channel] = s
	}
	if n := len(s.entries); n > 0 && !s.entries[n-1].id.Less(e.id) {
		return false
	}
	s.entries, s.expires = append(s.entries, e), expires
	return true
}

// expiry is when a key expires that gets messages up to an ID.
func (r *modelRedis) expiry(ttl uint64, through sseproto.ID) uint64 {
	return max(r.now, through.Ms) + ttl
}

// note keeps the horizon for a write behind the watermark, see new_horizon in common.lua.
func (r *modelRedis) note(by writerKind, through sseproto.ID) {
	if by.old {
		return
	}
	unknown := r.ttl == 0 || r.horizonMark != r.mark && r.plant != trustedWriter
	if unknown || r.ttl != by.ttl && r.plant != keptHorizon {
		r.horizon = r.mark
	}
	r.ttl, r.horizonMark = by.ttl, through
}

// writerKind is the settings of an instance.
type writerKind struct {
	ttl uint64
	old bool // a version that does not note its TTL, and whose ticks do not look for evictions
}

// expiredTo and evictedUpTo are clock.expired and clock.evicted of rstore.
func (r *modelRedis) expiredTo() sseproto.ID {
	if r.ttl == 0 || r.horizonMark != r.mark && r.plant != trustedWriter {
		return r.mark
	}
	latest := max(r.now, r.t)
	if r.plant == forgottenTime {
		latest = r.now
	}
	if latest > r.ttl && r.horizon.Less(sseproto.ID{Ms: latest - r.ttl}) {
		return sseproto.ID{Ms: latest - r.ttl}
	}
	return r.horizon
}

func (r *modelRedis) evictedUpTo() sseproto.ID {
	node := r.primary()
	same := r.evictedNode == node.id || r.plant == anyServer && r.evicted == node.evicted
	if same && r.evicted == node.evicted || r.evictedNode == "" && node.evicted == 0 || r.plant == trustingReader {
		return r.evictedTo
	}
	return r.mark
}

// lookForEvictions is what a tick does about them. All servers may evict.
func (r *modelRedis) lookForEvictions() {
	node := r.primary()
	same := r.evictedNode == node.id || r.plant == anyServer
	may := r.evicted != node.evicted
	if !same {
		may = r.evictedNode != "" || node.evicted > 0
	}
	if may && r.plant != blindTick {
		r.evictedTo = r.mark
	}
	r.evicted, r.evictedNode = node.evicted, node.id
}

// message publishes a message and returns its true position.
func (r *modelRedis) message(channel, payload string) sseproto.ID {
	r.at.Seq++
	r.publish(redisEvent{channel: channel, payload: payload})
	return r.at
}

// modelOrder is a server that gave the order from a tick on.
type modelOrder struct {
	node string
	from uint64
}

// maxOrders is how many the clock has of them.
const maxOrders = 4

// told is what the clock has of them.
func (r *modelRedis) told() string {
	var list []string
	for _, o := range r.orders {
		list = append(list, fmt.Sprint(o.node, ":", o.from))
	}
	return strings.Join(list, ",")
}

// belongs is that of common.lua: TestModelJudgesServersAsTheScriptDoes compares them.
func (r *modelRedis) belongs(server string, after, through sseproto.ID) bool {
	if server == "" || len(r.orders) == 0 || !r.noted || r.plant == trustedServer {
		return true
	}
	inTerm, isKnown, next := false, false, uint64(0)
	for _, o := range r.orders {
		switch {
		case o.node != server && inTerm:
			inTerm, next = false, o.from
		case o.node == server && !isKnown, o.node == server && o.from <= after.Ms && r.plant != firstTerm:
			inTerm, isKnown, next = true, true, 0
		}
	}
	before, newest := modelOrder{}, r.orders[len(r.orders)-1]
	if n := len(r.orders); n > 1 {
		before = r.orders[n-2]
	}
	if inTerm || newest.node == server && before.from <= after.Ms {
		return true
	}
	if next == 0 {
		next = newest.from
	}
	if next > 0 {
		return through.Less(sseproto.ID{Ms: next})
	}
	return !(sseproto.ID{Ms: r.t}).Less(through)
}

// tick is tick.lua.
func (r *modelRedis) tick(join bool, caller string, by writerKind, lastT uint64, lastNode, hangsOn, fingerprint, check string, verdicts []string) []string {
	node := r.primary().id
	if r.until > r.now+10*modelLead {
		r.until = 0
	}
	free := r.leader == caller || r.until <= r.now
	before := r.evictedNode
	if n := len(r.orders); n > 0 {
		before = r.orders[n-1].node
	} else if before == "" && lastT > r.t {
		before = lastNode
	}
	isFormer := before == node && lastT > r.t && lastNode != node && hangsOn == "1" && r.plant != pushedClock
	if !join && !free || isFormer && !by.old {
		return []string{"led", fmt.Sprint(r.t), fmt.Sprint(r.now), r.leader, node, "", r.epoch, "", r.told()}
	}
	tookOver := before != "" && before != node && !by.old
	if lastNode != node && !by.old {
		check = noInterval
	}
	r.t = max(r.now, r.t+1, lastT+1, r.mark.Ms+1)
	if tookOver && r.plant != noRoom {
		r.t = max(r.t-1, r.now) + modelRoom
	}
	r.noted = !by.old
	if !by.old && len(r.orders) == 0 {
		r.orders = append(r.orders, modelOrder{cmp.Or(before, node), 0})
	}
	if tookOver {
		r.orders = append(r.orders, modelOrder{node, r.t})
		r.orders = r.orders[max(0, len(r.orders)-maxOrders):]
	}
	if r.isUntimed {
		r.isUntimed, r.tookOver = false, r.t
		r.took(sseproto.ID{Ms: r.t - 1, Seq: beyondAll}) // where everybody finds a discontinuity
		if r.plant == noRoom {
			r.tookOver += modelRoom // for as long as the others
		}
	}
	if r.epoch == "" {
		r.epochs++
		r.epoch = fmt.Sprint("e", r.epochs)
	}
	if free {
		r.leader, r.until = caller, r.now+modelLead
	}
	if !by.old {
		r.lookForEvictions()
	}
	r.at, r.primary().hasTicked = sseproto.ID{Ms: r.t}, true
	r.publish(redisEvent{payload: strings.Join([]string{
		wordTick, fmt.Sprint(r.t), r.epoch, r.mark.String(), fingerprint, node, check, caller, "", r.primary().termText(), "", "", r.told(),
	}, " ")})
	answer := []string{wordTick, fmt.Sprint(r.t), fmt.Sprint(r.now), r.leader, node, "", r.epoch, "", r.told()}
	if r.leader != caller {
		return answer
	}
	return append(answer, r.serveInbox(verdicts)...)
}

// serveInbox is inbox.lua. Nothing is ever refused.
func (r *modelRedis) serveInbox(verdicts []string) (report []string) {
	acknowledged, moved, kept := 0, 0, 0
	for len(r.notes) > 0 {
		note := r.notes[0]
		last := note.at(len(note.entries) - 1)
		if r.plant == hastyInbox {
			last = sseproto.ID{Ms: note.t}
		}
		if r.mark.Less(last) {
			break
		}
		acknowledged += len(note.entries)
		r.inbox = slices.DeleteFunc(r.inbox, func(e inboxEntry) bool { return slices.Contains(note.entries, e) })
		r.notes = r.notes[1:]
	}
	next := slices.IndexFunc(r.inbox, func(e inboxEntry) bool {
		return !slices.ContainsFunc(r.notes, func(n inboxNote) bool { return slices.Contains(n.entries, e) })
	})
	if len(r.notes) == modelNotes && len(verdicts) > 0 {
		kept, next = 1, -1
	}
	var asked []string
	note := inboxNote{t: r.t}
	for i := next; i >= 0 && i < len(r.inbox); i++ {
		e := r.inbox[i]
		if len(asked) > 0 || len(r.notes) == modelNotes || !slices.Contains(verdicts, fmt.Sprint(e.id, "-0")) {
			asked = append(asked, fmt.Sprint(e.id, "-0"), e.channel, "1", "", "", "")
			continue
		}
		note.entries = append(note.entries, e)
		r.published(e.n, r.message(e.channel, e.payload))
	}
	if moved = len(note.entries); moved > 0 && r.plant != unnotedInbox {
		r.notes = append(r.notes, note)
	}
	for _, n := range []int{len(r.inbox), len(r.notes), moved, acknowledged, kept, 0} {
		report = append(report, fmt.Sprint(n))
	}
	return append(append([]string{""}, report...), asked...)
}

// echo publishes the newest tick again, as a tampered clock would. Not while
// somebody waits for a first tick: whoever has no mark has nothing to compare with.
func (r *modelRedis) echo(conns []*modelConn) {
	for _, c := range conns {
		if c.node != nil && !c.node.hasTick(c.from) {
			return
		}
	}
	events := r.primary().events
	for i := len(events) - 1; i >= 0; i-- {
		if e := events[i]; e.channel == "" {
			e.echo = true
			r.publish(e)
			return
		}
	}
}

// failover makes another node the primary: a replica, which may have been the primary before, or
// a new one for nil. It has all data; who stays on the old one gets what is replicated, with holes.
func (r *modelRedis) failover(node *redisNode) {
	if node == nil {
		r.servers++
		node = &redisNode{id: fmt.Sprint("n", r.servers)}
	}
	r.nodes = append(slices.DeleteFunc(r.nodes, func(n *redisNode) bool { return n == node }), node)
	node.term++
	node.hasTicked = false
}

// flush is FLUSHALL. Ticks are not ahead of the time then: see model_test.go.
func (r *modelRedis) flush() {
	r.now = max(r.now, r.t+1)
	r.t, r.orders, r.epoch, r.mark, r.leader, r.until, r.offer = 0, nil, "", sseproto.ID{}, "", 0, nil
	r.ttl, r.horizon, r.horizonMark = 0, sseproto.ID{}, sseproto.ID{}
	r.evicted, r.evictedNode, r.evictedTo = 0, "", sseproto.ID{}
	r.holder, r.gaps, r.streams = "", nil, map[string]*stream{}
	r.inbox, r.notes = nil, nil
}

// answer is what the scripts of rstore return.
type answer struct {
	status string
	epoch  string
	mark   sseproto.ID
	holder string
}

func (r *modelRedis) answer(status string) answer {
	if r.holder != "" && r.expires <= r.now {
		r.holder = ""
	}
	return answer{status, r.epoch, r.mark, r.holder}
}

func (r *modelRedis) grant(instance string) { r.holder, r.expires = instance, r.now+modelLease }

// look, take and free are lease.lua.
func (r *modelRedis) look() answer { return r.answer("ok") }

func (r *modelRedis) free(instance string) {
	if r.holder == instance {
		r.holder = ""
	}
}

func (r *modelRedis) take(instance, epoch string, mark sseproto.ID, server string) answer {
	a := r.answer("ok")
	switch {
	case r.epoch == "" || r.epoch != epoch:
		a.status = "epoch"
	case a.holder != "" && a.holder != instance:
		a.status = "held"
	case r.mark != mark:
		a.status = "stale"
	case !r.belongs(server, mark, mark):
		a.status = "server"
	default:
		r.grant(instance)
		a.holder = instance
	}
	return a
}

// batch is what a writer has collected.
type batch struct {
	epoch          string
	after, through sseproto.ID
	server         string
	messages       []message
}

// append is append.lua.
func (r *modelRedis) append(instance string, by writerKind, b batch, crash bool) answer {
	a := r.answer("ok")
	r.expire()
	if r.epoch == "" || r.epoch != b.epoch {
		a.status = "epoch"
		return a
	}
	if r.mark != b.after && r.plant != ignoredWatermark {
		a.status = "stale"
		return a
	}
	if !r.belongs(b.server, b.after, b.through) {
		r.free(instance)
		r.refuses(b)
		a = r.answer("server")
		return a
	}
	for _, m := range b.messages {
		if !r.add(m.channel, stored{m.id, number(m.payload)}, r.expiry(by.ttl, b.through)) {
			r.refused++
		}
	}
	if r.plant == tornAppend && crash {
		return a
	}
	r.note(by, b.through)
	r.mark = b.through
	if a.holder == "" || a.holder == instance {
		r.grant(instance)
	}
	return r.answer("ok")
}

// skip is skip.lua; all is how many instances are there.
func (r *modelRedis) skip(instance string, by writerKind, epoch string, mark, low sseproto.ID, server string, all int) answer {
	a := r.answer("ok")
	switch {
	case r.epoch == "" || r.epoch != epoch:
		a.status = "epoch"
		return a
	case a.holder != "" && a.holder != instance:
		a.status = "held"
		return a
	case r.mark != mark && r.plant != blindSkip:
		a.status = "stale"
		return a
	case !r.belongs(server, low, low):
		a.status = "server"
		return a
	}
	o := r.offer
	if o == nil || o.mark != r.mark || r.now < o.since {
		o = &offer{mark: r.mark, low: low, by: instance, since: r.now, offered: map[string]bool{}}
		r.offer = o
	} else if o.by == instance || low.Less(o.low) {
		o.low, o.by = low, instance
	}
	o.offered[instance] = true
	wait := uint64(modelGapWait)
	if o.by != instance {
		wait += modelLease
	}
	if r.now < o.since+wait && (len(o.offered) < all || o.by != instance) {
		a.status = "wait"
		return a
	}
	if r.plant != missingMarker {
		r.invalidate(r.mark, low)
	}
	r.save(stretch{r.mark, low}, r.expiry(by.ttl, low))
	r.note(by, low)
	r.mark, r.offer = low, nil
	r.grant(instance)
	return r.answer("ok")
}

// save puts what the inbox has of a stretch into the streams.
func (r *modelRedis) save(lost stretch, expires uint64) {
	r.expire()
	if r.plant == lostInbox {
		return
	}
	for _, note := range r.notes {
		for i, e := range note.entries {
			at := note.at(i)
			if r.plant == wideInbox && lost.from.Less(at) || lost.has(at) {
				r.add(e.channel, stored{at, e.n}, expires)
			}
		}
	}
}

// invalidate is invalidate.lua.
func (r *modelRedis) invalidate(from, to sseproto.ID) { r.gaps = append(r.gaps, stretch{from, to}) }
