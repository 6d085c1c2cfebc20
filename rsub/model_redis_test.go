package rsub

import (
	"fmt"
	"slices"
	"strings"

	"ssed/sseproto"
)

// What Redis does in the model, restated from tick.lua and from the scripts of
// rstore (append, lease, skip, invalidate). Each method is one script and so one
// moment. What only concerns memory, keys of a wrong type and expiry is left out:
// the tests of rstore have it, against real servers.

// redisEvent is what subscribers of a node get, in order.
type redisEvent struct {
	channel, payload string // no channel: the control channel
	echo             bool   // a tick that was published a second time
}

// redisNode is a server with its one order of messages.
type redisNode struct {
	id     string
	events []redisEvent
}

// hasTick reports whether a good tick was published since.
func (n *redisNode) hasTick(since int) bool {
	return slices.ContainsFunc(n.events[since:], func(e redisEvent) bool { return e.channel == "" && !e.echo })
}

// stored is a message in a stream.
type stored struct {
	id sseproto.ID
	n  int
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
)

type modelRedis struct {
	plant   mistake
	now     uint64
	nodes   []*redisNode // the last one is the primary
	demoted func() bool  // whether a demoted primary misses an event: a silent hole

	// The clock hash.
	t      uint64
	epoch  string
	mark   sseproto.ID
	leader string
	until  uint64
	offer  *offer

	holder  string // of the lease
	expires uint64
	gaps    []stretch
	streams map[string][]stored
	refused int // XADDs with an ID that is not beyond the newest

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

// message publishes a message and returns its true position.
func (r *modelRedis) message(channel, payload string) sseproto.ID {
	r.at.Seq++
	r.publish(redisEvent{channel: channel, payload: payload})
	return r.at
}

// tick is tick.lua.
func (r *modelRedis) tick(join bool, caller string, lastT uint64, fingerprint, check string, verdicts []string) []string {
	node := r.primary().id
	if r.until > r.now+10*modelLead {
		r.until = 0
	}
	free := r.leader == caller || r.until <= r.now
	if !join && !free {
		return []string{"led", fmt.Sprint(r.t), fmt.Sprint(r.now), r.leader, node, ""}
	}
	r.t = max(r.now, r.t+1, lastT+1, r.mark.Ms+1)
	if r.epoch == "" {
		r.epochs++
		r.epoch = fmt.Sprint("e", r.epochs)
	}
	if free {
		r.leader, r.until = caller, r.now+modelLead
	}
	r.at = sseproto.ID{Ms: r.t}
	r.publish(redisEvent{payload: strings.Join([]string{
		wordTick, fmt.Sprint(r.t), r.epoch, r.mark.String(), fingerprint, node, check, caller,
	}, " ")})
	answer := []string{wordTick, fmt.Sprint(r.t), fmt.Sprint(r.now), r.leader, node, ""}
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

// failover makes another node the primary. It has all data; who stays on the old
// one gets what is replicated, with holes.
func (r *modelRedis) failover() {
	r.nodes = append(r.nodes, &redisNode{id: fmt.Sprint("n", len(r.nodes)+1)})
}

// flush is FLUSHALL. Ticks are not ahead of the time then: see model_test.go.
func (r *modelRedis) flush() {
	r.now = max(r.now, r.t+1)
	r.t, r.epoch, r.mark, r.leader, r.until, r.offer = 0, "", sseproto.ID{}, "", 0, nil
	r.holder, r.gaps, r.streams = "", nil, map[string][]stored{}
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

func (r *modelRedis) take(instance, epoch string, mark sseproto.ID) answer {
	a := r.answer("ok")
	switch {
	case r.epoch == "" || r.epoch != epoch:
		a.status = "epoch"
	case a.holder != "" && a.holder != instance:
		a.status = "held"
	case r.mark != mark:
		a.status = "stale"
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
	messages       []message
}

// append is append.lua.
func (r *modelRedis) append(instance string, b batch, crash bool) answer {
	a := r.answer("ok")
	if r.epoch == "" || r.epoch != b.epoch {
		a.status = "epoch"
		return a
	}
	if r.mark != b.after && r.plant != ignoredWatermark {
		a.status = "stale"
		return a
	}
	for _, m := range b.messages {
		s := r.streams[m.channel]
		if n := len(s); n > 0 && !s[n-1].id.Less(m.id) {
			r.refused++
			continue
		}
		r.streams[m.channel] = append(s, stored{m.id, number(m.payload)})
	}
	if r.plant == tornAppend && crash {
		return a
	}
	r.mark = b.through
	if a.holder == "" || a.holder == instance {
		r.grant(instance)
	}
	return r.answer("ok")
}

// skip is skip.lua; all is how many instances are there.
func (r *modelRedis) skip(instance, epoch string, mark, low sseproto.ID, all int) answer {
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
	r.save(stretch{r.mark, low})
	r.mark, r.offer = low, nil
	r.grant(instance)
	return r.answer("ok")
}

// save puts what the inbox has of a stretch into the streams.
func (r *modelRedis) save(lost stretch) {
	if r.plant == lostInbox {
		return
	}
	for _, note := range r.notes {
		for i, e := range note.entries {
			at := note.at(i)
			if r.plant == wideInbox && lost.from.Less(at) || lost.has(at) {
				r.streams[e.channel] = append(r.streams[e.channel], stored{at, e.n})
			}
		}
	}
}

// invalidate is invalidate.lua.
func (r *modelRedis) invalidate(from, to sseproto.ID) { r.gaps = append(r.gaps, stretch{from, to}) }
