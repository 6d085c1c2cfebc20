package rsub

import (
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"ssed/engine"
	"ssed/sseproto"
)

// modelConn is a subscription of an instance and how far its connection has been read.
type modelConn struct {
	subscription *subscription
	node         *redisNode // nil: not connected
	from         int        // where in the order of the node it began
	next         int        // the next event to be read
}

// modelInstance is a process: the real subscriptions, sequencers and merger, the real log,
// and the rules of the writer restated.
type modelInstance struct {
	w     *modelWorld
	redis *modelRedis // where its commands go
	name  string
	kind  writerKind
	feed  *Feed
	log   *engine.Log
	conns []*modelConn
	join  bool // a subscription asked for a tick

	// What the log holds, as resuming clients meet it.
	opened, open bool
	low, high    sseproto.ID
	ring         []message
	cut          sseproto.ID // not zero: the span before was cut back to it
	settled      int         // messages of ring whose position counts

	places map[place]string // payloads that are too large, which the feed does not give on

	writer modelWriter
}

// place is a position as the order of one node has it.
type place struct {
	node string
	id   sseproto.ID
}

var quiet = slog.New(slog.DiscardHandler)

func newModelInstance(w *modelWorld, name string, log *engine.Log, feeds int) *modelInstance {
	in := &modelInstance{w: w, redis: w.redis, name: name, log: log, places: map[place]string{}}
	f, err := New(Config{
		Client:   rueidis.ClientOption{InitAddress: []string{"127.0.0.1:1"}}, // never dialled: the feed does not run
		Patterns: []string{"*"}, Prefix: testPrefix, Instance: name, Feeds: feeds, Logger: quiet, Inbox: testInbox,
		MaxMessageBytes: modelLimit,
	}, in)
	if err != nil {
		panic(err)
	}
	in.feed = f
	for _, l := range f.subscriptions {
		in.conns = append(in.conns, &modelConn{subscription: l})
	}
	return in
}

// connect subscribes a subscription to the primary, as subscription.subscribe does.
func (in *modelInstance) connect(c *modelConn) {
	if c.node != nil {
		return
	}
	c.node = in.w.redis.primary()
	if in.redis == in.w.redis.rival && in.w.rng.IntN(2) == 0 {
		c.node = in.redis.primary()
	}
	c.from = len(c.node.events)
	c.next = c.from
	l := c.subscription
	select {
	case <-l.disconnects:
	default:
	}
	l.node, l.term, l.confirmed, l.ready = c.node.id, c.node.termText(), 0, make(chan struct{})
	l.wanted.Store(0)
	l.onSubscription(rueidis.PubSubSubscription{Kind: "subscribe"})
	l.onSubscription(rueidis.PubSubSubscription{Kind: "psubscribe"})
	l.subscribedTo.Store(&c.node.id)
	in.join = true
	if in.w.plant == numberedEarly && l.seq.last.Ms != 0 {
		l.seq.state, l.seq.last.Seq = synced, 0
		l.out.open(l.node, l.seq.last)
	}
}

// cutLink ends the connection of a subscription, as subscription.session does.
func (in *modelInstance) cutLink(c *modelConn, cause Cause) {
	if c.node == nil {
		return
	}
	c.node = nil
	c.subscription.subscribedTo.Store(nil)
	c.subscription.finish(cause)
	if in.w.plant == hastyClose {
		in.closeHeld()
	}
	c.subscription.tickT.Store(0)
}

// heldNode returns the node, and its term, of the span that is lost and not closed yet.
func (in *modelInstance) heldNode() (node string, held bool) {
	if m := in.feed.merger; m != nil {
		return m.node, m.undecided
	}
	d := in.conns[0].subscription.out.(*direct)
	return d.node, d.undecided
}

// closeHeld closes a held span as if the next one were of the same node.
func (in *modelInstance) closeHeld() {
	if m := in.feed.merger; m != nil {
		m.resolveLocked(m.node)
		return
	}
	d := in.conns[0].subscription.out.(*direct)
	d.resolve(d.node)
}

// read takes the next event of a connection.
func (in *modelInstance) read(c *modelConn) {
	if c.node == nil || c.next == len(c.node.events) {
		return
	}
	e := c.node.events[c.next]
	c.next++
	l := c.subscription
	if e.channel != "" {
		if at := l.seq.last; len(e.payload) > modelLimit {
			in.places[place{l.node + ":" + l.term, sseproto.ID{Ms: at.Ms, Seq: at.Seq + 1}}] = e.payload
		}
		l.onMessage(pubsub("*", e.channel, e.payload))
	} else {
		in.readTick(l, e)
	}
	in.obey()
}

func (in *modelInstance) readTick(l *subscription, e redisEvent) {
	first := l.seq.state == unsynced
	switch in.w.plant {
	case staleTick:
		if t, _ := parseTick(e.payload); t.t <= l.seq.last.Ms {
			l.seq.last.Ms = t.t - 1
		}
	case anyNode:
		t, _ := parseTick(e.payload)
		l.seq.node = t.node
	case anyTerm:
		t, _ := parseTick(e.payload)
		l.seq.term = t.term
	}
	count := l.seq.last.Seq
	l.onMessage(pubsub("", in.feed.keys.Control, e.payload))
	if first && in.w.plant == carriedCount {
		l.seq.last.Seq = count
	}
}

// obey does what the subscriptions asked for.
func (in *modelInstance) obey() {
	select {
	case <-in.feed.ticker.joins:
		in.join = true
	default:
	}
	for _, c := range in.conns {
		select {
		case cause := <-c.subscription.disconnects:
			in.cutLink(c, cause)
		default:
		}
	}
}

// tick calls the script as ticker.exec does and takes the answer.
func (in *modelInstance) tick(join bool) {
	lastT, node, check := in.feed.seen.latest()
	words := in.redis.tick(join || in.join, in.name, in.kind, lastT, node, in.feed.hangsOn(node), in.feed.fingerprint, check.String(), in.feed.ticker.inbox.verdicts)
	in.join = false
	if in.w.rng.IntN(10) == 0 {
		return // the answer is lost
	}
	if err := in.feed.ticker.take(words, time.Time{}); err != nil {
		in.w.problem("%s: %v", in.name, err)
	}
	in.obey()
}

// OpenSpan implements Sink, on the way to the real log.
func (in *modelInstance) OpenSpan(low sseproto.ID) {
	if in.w.plant == hiddenHole && in.opened {
		in.open = true
		return
	}
	if low.Less(in.high) && in.w.plant == "" {
		in.w.problem("%s: span opened at %v behind %v", in.name, low, in.high)
	}
	in.w.beforeSpan(in)
	if in.cut != (sseproto.ID{}) {
		in.redis.invalidate(in.cut, low)
		in.w.tell(in, stretch{in.cut, low})
		in.cut = sseproto.ID{}
	}
	in.opened, in.open = true, true
	in.low, in.high, in.ring, in.settled = low, low, nil, 0
	in.log.OpenSpan(low)
}

// Append implements Sink.
func (in *modelInstance) Append(id sseproto.ID, channel, payload string) {
	if !in.high.Less(id) || !in.open {
		in.w.problem("%s: message at %v after %v", in.name, id, in.high)
	}
	in.high = id
	in.ring = append(in.ring, message{id, channel, payload})
	in.log.Append(id, channel, payload)
	if in.w.plant == eagerWriter {
		in.log.Commit(id, sseproto.ID{})
	}
}

// Oversize implements Sink. The writer and the readers have the place as they have a message.
func (in *modelInstance) Oversize(id sseproto.ID, channel string) {
	if in.w.plant == silentOversize {
		return
	}
	if !in.high.Less(id) || !in.open {
		in.w.problem("%s: place of a message at %v after %v", in.name, id, in.high)
	}
	in.high = id
	node, _ := in.heldNode()
	payload, ok := in.places[place{node, id}]
	if !ok {
		payload = in.w.payloadAt(id)
	}
	in.ring = append(in.ring, message{id, channel, payload})
	in.log.Oversize(id, channel)
}

// Commit implements Sink.
func (in *modelInstance) Commit(id, watermark sseproto.ID) {
	in.settle(id)
	in.high = id
	in.log.Commit(id, watermark)
}

// CloseSpan implements Sink.
func (in *modelInstance) CloseSpan(through sseproto.ID) {
	switch in.w.plant {
	case hiddenHole:
		in.open = false
		return
	case keptTail:
		through = in.high
	}
	in.open = false
	in.settle(through)
	if through.Less(in.high) {
		in.w.distrust(in, through)
		in.cut, in.high = through, through
		in.ring = slices.DeleteFunc(in.ring, func(m message) bool { return through.Less(m.id) })
		in.settled = min(in.settled, len(in.ring))
	}
	in.log.CloseSpan(through)
}

// settle compares what counts with the true positions.
func (in *modelInstance) settle(through sseproto.ID) {
	for ; in.settled < len(in.ring); in.settled++ {
		m := in.ring[in.settled]
		if through.Less(m.id) {
			return
		}
		if want := in.w.sent[number(m.payload)].id; m.id != want {
			in.w.problem("%s: message %.8s has %v, should have %v", in.name, m.payload, m.id, want)
		}
	}
}

// forget lets the ring turn: its clients may be behind its tail then, which they
// reach again through the history.
func (in *modelInstance) forget(k int) {
	if k = min(k, in.settled); k == 0 {
		return
	}
	in.low = in.ring[k-1].id
	in.ring, in.settled = in.ring[k:], in.settled-k
	for _, r := range in.w.readers {
		if r.at == in && r.pos.Less(in.low) {
			r.live = false
		}
	}
}

// collect is Log.ReadCommitted. The log is used for one run after the other; what lies
// before this one counts as evicted.
func (in *modelInstance) collect(after sseproto.ID, limit int) (messages []message, through, low sseproto.ID) {
	from := after
	if after.Less(in.w.base) {
		from, limit = in.w.base, 0
	}
	through, low = in.log.ReadCommitted(from, limit, 1<<20, func(id sseproto.ID, channel string, m sseproto.Message, _ sseproto.ID) {
		payload := strings.Clone(m.Data)
		if m.Event == sseproto.EventGap {
			payload = in.w.payloadAt(id)
		}
		messages = append(messages, message{id, channel, payload})
	})
	if from != after {
		if low == from {
			low = after // knows nothing of this run
		}
		return nil, after, low
	}
	return messages, through, low
}

// modelWriter restates writer.advance of rstore: a cursor on the log at the
// watermark. Whatever it believes is only what the last answer said.
type modelWriter struct {
	epoch  string
	mark   sseproto.ID
	holder bool
}

func (in *modelInstance) adopt(a answer) {
	in.writer = modelWriter{a.epoch, a.mark, a.holder == in.name}
}

const modelBatch = 7

// write is one round with Redis.
func (in *modelInstance) write() {
	r, w := in.redis, &in.writer
	if w.epoch == "" {
		in.adopt(r.look())
		return
	}
	messages, through, low := in.collect(w.mark, modelBatch)
	switch {
	case low != w.mark:
		if w.holder {
			r.free(in.name)
		}
		if low == sseproto.MaxID {
			in.adopt(r.look())
			return
		}
		in.skip(low)
	case through == w.mark:
		in.adopt(r.look())
	case !w.holder:
		a := r.take(in.name, w.epoch, w.mark, in.feed.ServerOf(w.mark))
		in.adopt(a)
		in.leaveOut(a, w.mark)
	default:
		in.send(batch{w.epoch, w.mark, through, in.feed.ServerOf(w.mark), messages})
	}
}

// skip offers to go on from low.
func (in *modelInstance) skip(low sseproto.ID) {
	w := &in.writer
	a := in.redis.skip(in.name, in.kind, w.epoch, w.mark, low, in.feed.ServerOf(low), len(in.w.instances))
	in.adopt(a)
	in.leaveOut(a, low)
}

// leaveOut is writer.leaveOut of rstore.
func (in *modelInstance) leaveOut(a answer, low sseproto.ID) {
	if a.status != "server" {
		return
	}
	_, through, _ := in.collect(low, math.MaxInt)
	if _, _, next := in.collect(through, 1); next != through && next != sseproto.MaxID {
		in.skip(next)
	}
}

// send appends a batch; the answer is cut off now and then.
func (in *modelInstance) send(b batch) {
	r := in.redis
	a := r.append(in.name, in.kind, b, in.w.rng.IntN(4) == 0)
	if a.status == "stale" && in.w.plant == blindRetry {
		b.after = a.mark
		a = r.append(in.name, in.kind, b, false)
	}
	if in.w.rng.IntN(10) > 0 {
		in.adopt(a)
		in.leaveOut(a, b.after)
	}
}

// number is the number of the message with this payload.
func number(payload string) int {
	text, _, _ := strings.Cut(payload, " ")
	n, err := strconv.Atoi(text)
	if err != nil {
		panic(fmt.Sprintf("payload %.20q", payload))
	}
	return n
}

func byID(m message, id sseproto.ID) int { return m.id.Compare(id) }
