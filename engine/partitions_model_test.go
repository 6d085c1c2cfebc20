package engine

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"ssed/sseproto"
)

// A model of a log of several partitions, as a specification that runs: how instances with
// one ring each interleave the partitions, which event IDs they give, and how a stream over
// channels of several partitions resumes. There is no Redis and no socket in it: a seed
// draws the order of events, and a judge sees what each client gets. Mistakes can be
// planted in every rule; TestPartitionModelFindsEveryMistake wants each of them found.
//
// Each partition has ticks, a watermark and a history of its own. An instance has a ring,
// and for each partition a lineage: its spans, coverage, what is held back during a
// backfill, and its reach, the newest place that the ring has. The rules:
//
//  1. A frame of the ring names the reach of all partitions where it stands, a vector. A
//     frame made for one stream (of the history, before the stream goes on in the ring, a
//     gap at a resume) names what the stream was sent, X, with one place moved. Of several
//     gap events at a resume all but the last leave X; the last one moves one partition to
//     right before the first message that is left.
//  2. A gap event for all streams has no ID and moves no reach.
//  3. A stream serves each of its partitions q by itself:
//     a) never opened, backfilling, or truncated and not open again: nothing now;
//     b) X beyond the reach: nothing now; after a while a gap, and X is the reach;
//     c) X before the coverage: a page of the history of q alone, up to the watermark;
//     after a while without it a gap;
//     d) else from the ring, in its order, what lies in the coverage of q and beyond X.
//  4. A stream takes the frames of the ring as they are from a position on when all its
//     partitions are in d, the position lies in the coverage of each, and what the ring has
//     of its channels is within X before the position and beyond X behind it. The end of
//     the ring always is such a position; with one partition there is always one.
//  5. A new stream starts with the reach of all, when none of its partitions is in a.
//  6. The ID that a publisher is told names one partition. The others start at its time,
//     less what two ticks may be apart and clocks may differ.
type partitionWorld struct {
	plant        partitionMistake
	rng          *rand.Rand
	now          int // steps; ticks count in it
	partitions   int
	logs         []*partitionLog
	instances    []*partitionInstance
	clients      []*partitionClient
	channels     [][]*publishedMessage // messages of each channel, in order
	slow         []Slow                // policy of each channel; nil: SlowAll
	failovers    bool                  // what may happen in this run
	trims        bool
	answers      bool
	changes      bool
	settling     bool // nothing breaks any more
	dead         int  // partition whose server does not come back; -1: none
	problem      string
	trace        func(format string, args ...any)
	ownFrames    int
	historyPages int
}

// logPlace is one in the log of a partition: t<<20 | n, n messages behind tick t. 0: not known.
type logPlace uint64

const never logPlace = 1 << 62

func placeOf(t, n int) logPlace { return logPlace(t)<<20 | logPlace(n) }
func (p logPlace) tick() int    { return int(p >> 20) }
func (p logPlace) id() sseproto.ID {
	return sseproto.ID{Ms: uint64(p >> 20), Seq: uint64(p & (1<<20 - 1))}
}
func placeOfID(id sseproto.ID) logPlace { return placeOf(int(id.Ms), int(id.Seq)) }

// placeVector is an event ID.
type placeVector struct {
	own int
	at  []logPlace
}

// moved is v with the place of one partition moved, which it is of then.
func (v placeVector) moved(partition int, to logPlace) placeVector {
	v = placeVector{partition, slices.Clone(v.at)}
	v.at[partition] = to
	return v
}

// onlyOwn is v without the other partitions.
func (v placeVector) onlyOwn() placeVector {
	w := placeVector{v.own, make([]logPlace, len(v.at))}
	w.at[v.own] = v.at[v.own]
	return w
}

// throughText writes v as an event ID and reads it.
func (v placeVector) throughText() (placeVector, error) {
	ids := make([]sseproto.ID, len(v.at))
	for p, at := range v.at {
		ids[p] = at.id()
	}
	text := string(sseproto.AppendVector(nil, v.own, ids))
	own, err := sseproto.ParseVector(text, ids)
	w := placeVector{own, make([]logPlace, len(v.at))}
	for p, id := range ids {
		w.at[p] = placeOfID(id)
	}
	return w, err
}

type publishedMessage struct {
	partition, channel int
	at                 logPlace
	nth                int  // of its channel, from 1
	born               int  // step of its publishing
	isGone             bool // a failover has forgotten it, the history never got it, or has trimmed it
}

// logEvent is what the feed of a partition brings: a message, or a tick.
type logEvent struct {
	at      logPlace
	message *publishedMessage // nil: a tick
}

type placeRange struct{ after, upTo logPlace }

// partitionLog is the truth about a partition: what its server publishes, and its history.
type partitionLog struct {
	events    []logEvent
	messages  []*publishedMessage
	newest    logPlace
	tick      logPlace
	skew      int // of the clock of its server
	watermark logPlace
	markers   []placeRange     // stretches in which the history may lack something
	trimmed   map[int]logPlace // newest trimmed message of a channel
	begin     int              // where the events of the server of today begin
}

func (w *partitionWorld) partitionOf(channel int) int { return channel % w.partitions }

func (w *partitionWorld) log(format string, args ...any) {
	if w.trace != nil {
		w.trace("%4d "+format, append([]any{w.now}, args...)...)
	}
}

func (w *partitionWorld) tick(p int) {
	l := w.logs[p]
	l.newest = placeOf(max(l.newest.tick()+1, w.now+l.skew), 0)
	l.tick = l.newest
	l.events = append(l.events, logEvent{at: l.tick})
	if n := len(l.markers); n > 0 && l.markers[n-1].upTo == never {
		l.markers[n-1].upTo = l.tick
	}
	w.log("tick of %d: %v", p, l.tick.id())
}

// publish returns nil when the server has published no tick yet: nobody numbers then.
func (w *partitionWorld) publish(p int) *publishedMessage {
	l := w.logs[p]
	if len(l.events) == l.begin {
		return nil
	}
	channel := p + w.partitions*w.rng.IntN(len(w.channels)/w.partitions)
	l.newest++
	m := &publishedMessage{partition: p, channel: channel, at: l.newest, nth: 1 + len(w.channels[channel]), born: w.now}
	w.channels[channel] = append(w.channels[channel], m)
	l.messages = append(l.messages, m)
	l.events = append(l.events, logEvent{m.at, m})
	w.log("message of %d: channel %d, %v", p, channel, m.at.id())
	return m
}

// failover makes a server the primary that has nothing beyond the last tick.
func (w *partitionWorld) failover(p int) {
	l := w.logs[p]
	w.log("failover of %d at %v", p, l.tick.id())
	for _, m := range l.messages {
		m.isGone = m.isGone || m.at > l.tick
	}
	if w.plant != silentFailover {
		l.markers = append(l.markers, placeRange{l.tick, never})
	}
	l.begin = len(l.events)
	for _, in := range w.instances {
		if line := in.lines[p]; line.linked && !line.demoted {
			line.demoted, line.end = true, l.begin
			if w.rng.IntN(2) == 0 { // else it is told later
				w.cut(in, p)
			}
		}
	}
}

// write moves the watermark to the newest tick, or to one before it.
func (w *partitionWorld) write(p int) {
	l := w.logs[p]
	if l.watermark >= l.tick {
		return
	}
	upTo := l.tick
	for i := len(l.events) - 1; i >= 0 && !w.settling && w.rng.IntN(2) == 0; i-- {
		if e := l.events[i]; e.message == nil && e.at > l.watermark {
			upTo = e.at
		}
	}
	if !w.settling && w.rng.IntN(12) == 0 { // no instance has it
		l.markers = append(l.markers, placeRange{l.watermark, upTo})
		for _, m := range l.messages {
			m.isGone = m.isGone || m.at > l.watermark && m.at <= upTo
		}
	}
	l.watermark = upTo
}

// trim lets the history of a channel forget its oldest message.
func (w *partitionWorld) trim(p int) {
	l := w.logs[p]
	for _, m := range l.messages {
		if m.at <= l.watermark && !m.isGone {
			m.isGone = true
			l.trimmed[m.channel] = m.at
			return
		}
	}
}

// history is what was kept of channels beyond a place, and which of them lack something.
func (l *partitionLog) history(channels []int, after, upTo logPlace) (kept []*publishedMessage, lack []int) {
	for _, channel := range channels {
		if l.lacks(channel, after, upTo) {
			lack = append(lack, channel)
		}
	}
	for _, m := range l.messages {
		if m.at > after && m.at <= upTo && !m.isGone && slices.Contains(channels, m.channel) {
			kept = append(kept, m)
		}
	}
	return kept, lack
}

// lacks tells of a channel whether something is missing in its history.
func (l *partitionLog) lacks(channel int, after, upTo logPlace) bool {
	return l.trimmed[channel] > after || slices.ContainsFunc(l.markers, func(m placeRange) bool { return m.after < upTo && m.upTo > after })
}

type frameKind uint8

const (
	frameLive frameKind = iota
	frameBackfill
	frameGap
	frameStart // an id without data
)

// ringFrame is a frame of the ring, or one made for a stream.
type ringFrame struct {
	kind      frameKind
	partition int
	at        logPlace
	channel   int
	message   *publishedMessage
	vector    placeVector // its ID
	born      int         // of a gap event: it excuses what is missing from before
}

// partitionInstance has one ring, of which positions count from 0, and a lineage for
// each partition.
type partitionInstance struct {
	number      int
	lines       []*lineageModel
	ring        []ringFrame
	tail        int
	subscribers []int // of each channel
}

// lineageModel is what an instance knows of a partition.
type lineageModel struct {
	linked, synced bool
	demoted        bool     // the connection hangs on a server that is primary no more
	next, end      int      // events of the log: that the feed brings next, and where those of a demoted server end
	heard          logPlace // by the feed, held back or not
	lastTick       logPlace // of the connection

	opened, open bool // ever; now
	truncated    bool // the newest span ended before its last messages
	first        int  // position at which the newest span began
	high         logPlace
	reach        logPlace
	reachAtTick  logPlace // for a planted mistake
	coverFrom    logPlace
	coverFirst   int
	held         []*heldSpanModel
}

func (l *lineageModel) isBackfilling() bool { return len(l.held) > 0 }
func (l *lineageModel) isClosedShort() bool { return !l.open && l.truncated }

// heldSpanModel waits until what lies before it is in the ring.
type heldSpanModel struct {
	after, low, through logPlace
	closed              bool
	events              []logEvent
	stage               int
	frames              []ringFrame
}

// put adds a frame to the ring.
func (w *partitionWorld) put(in *partitionInstance, f ringFrame) {
	line := in.lines[f.partition]
	switch {
	case f.kind == frameGap && w.plant != movingGap, f.kind == frameBackfill && w.plant == stillBackfill:
	default:
		line.reach = f.at
	}
	v := placeVector{f.partition, make([]logPlace, w.partitions)}
	for p, l := range in.lines {
		switch {
		case p == f.partition:
			v.at[p] = f.at
		case w.plant == vectorOfTick:
			v.at[p] = l.reachAtTick
		case w.plant == vectorOfFeed:
			v.at[p] = l.heard
		case w.plant == vectorOfOwn:
		case w.plant == vectorOfTrusted && l.truncated:
			v.at[p] = min(l.reach, l.high)
		default:
			v.at[p] = l.reach
		}
	}
	f.vector = v
	in.ring = append(in.ring, f)
	w.log("instance %d puts kind %d of %d, channel %d at %v: %v", in.number, f.kind, f.partition, f.channel, f.at.id(), v)
}

func (w *partitionWorld) open(in *partitionInstance, p int, low logPlace) {
	l := in.lines[p]
	l.opened, l.open, l.truncated = true, true, false
	l.high, l.reach, l.reachAtTick = low, low, low
	l.first, l.coverFrom, l.coverFirst = len(in.ring), low, len(in.ring)
	w.log("instance %d opens %d from %v", in.number, p, low.id())
}

func (w *partitionWorld) close(in *partitionInstance, p int, through logPlace) {
	if l := in.lines[p]; l.open {
		l.open, l.truncated, l.high = false, through < l.high, through
		w.log("instance %d closes %d at %v, truncated %v", in.number, p, through.id(), l.truncated)
	}
}

// subscribed are the channels of a partition that somebody listens to.
func (w *partitionWorld) subscribed(in *partitionInstance, p int) (list []int) {
	for channel, n := range in.subscribers {
		if n > 0 && w.partitionOf(channel) == p {
			list = append(list, channel)
		}
	}
	return list
}

// receive takes the next event of a partition from its feed. False: there is none.
func (w *partitionWorld) receive(in *partitionInstance, p int) bool {
	l, log := in.lines[p], w.logs[p]
	if !l.linked || l.next == len(log.events) || l.demoted && l.next == l.end {
		return false
	}
	e := log.events[l.next]
	l.next++
	isTick := e.message == nil
	if !l.synced {
		if isTick {
			w.begin(in, p, e.at)
		}
		return true
	}
	l.heard = e.at
	if isTick {
		l.lastTick = e.at
	}
	if l.isBackfilling() {
		h := l.held[len(l.held)-1]
		h.events = append(h.events, e)
	} else {
		w.apply(in, p, e)
	}
	return true
}

// begin starts a span at the first tick of a connection, in the ring or held back.
func (w *partitionWorld) begin(in *partitionInstance, p int, low logPlace) {
	l := in.lines[p]
	l.synced, l.heard, l.lastTick = true, low, low
	switch {
	case l.isBackfilling():
		l.held = append(l.held, &heldSpanModel{after: l.held[len(l.held)-1].through, low: low})
	case l.opened && (l.truncated || len(w.subscribed(in, p)) > 0):
		l.held = append(l.held, &heldSpanModel{after: l.high, low: low})
	default:
		w.open(in, p, low)
	}
}

func (w *partitionWorld) apply(in *partitionInstance, p int, e logEvent) {
	l := in.lines[p]
	l.high = max(l.high, e.at)
	if e.message == nil {
		l.reach = max(l.reach, e.at)
		l.reachAtTick = l.reach
		return
	}
	w.put(in, ringFrame{kind: frameLive, partition: p, at: e.at, channel: e.message.channel, message: e.message})
}

// cut ends the connection of a feed. Of a server that was demoted only what was committed
// counts.
func (w *partitionWorld) cut(in *partitionInstance, p int) {
	l := in.lines[p]
	if !l.linked {
		return
	}
	rollback := l.demoted
	l.linked, l.demoted = false, false
	w.log("instance %d loses %d, rollback %v", in.number, p, rollback)
	if !l.synced {
		return
	}
	l.synced = false
	through := l.heard
	if rollback {
		through = l.lastTick
	}
	if !l.isBackfilling() {
		w.close(in, p, through)
		return
	}
	h := l.held[len(l.held)-1]
	h.closed, h.through = true, through
	h.events = slices.DeleteFunc(h.events, func(e logEvent) bool { return e.at > through })
}

// relink connects a feed again: it brings what is published from now on.
func (w *partitionWorld) relink(in *partitionInstance, p int) {
	if l := in.lines[p]; !l.linked {
		l.linked, l.next = true, len(w.logs[p].events)
	}
}

// backfill does the next step of a backfill. False: there is nothing to do now.
func (w *partitionWorld) backfill(in *partitionInstance, p int) bool {
	l := in.lines[p]
	if !l.isBackfilling() {
		return false
	}
	h := l.held[0]
	if h.stage == 0 && w.plant == liveFirst {
		h.stage = 3
		w.open(in, p, h.low)
		return true
	}
	switch h.stage {
	case 0, 5: // read the history
		if !w.gather(in, p, h) {
			return false
		}
		h.stage++
	case 1, 6: // put it into the ring
		if len(h.frames) > 0 {
			f := h.frames[0]
			h.frames = h.frames[1:]
			w.put(in, f)
			return true
		}
		h.stage++
	case 2:
		w.open(in, p, h.low)
		h.stage++
	case 3: // put what has waited into the ring
		if len(h.events) > 0 {
			e := h.events[0]
			h.events = h.events[1:]
			w.apply(in, p, e)
			return true
		}
		if w.plant == liveFirst {
			h.stage = 5
			return true
		}
		w.endBackfill(in, p, h)
	default:
		w.endBackfill(in, p, h)
	}
	return true
}

func (w *partitionWorld) endBackfill(in *partitionInstance, p int, h *heldSpanModel) {
	if h.closed {
		w.close(in, p, h.through)
	}
	in.lines[p].held = in.lines[p].held[1:]
}

// gather finds the frames that belong before a held span. False: the history is not
// written so far yet.
func (w *partitionWorld) gather(in *partitionInstance, p int, h *heldSpanModel) bool {
	l, log := in.lines[p], w.logs[p]
	isLate := log.watermark < h.low
	if isLate && !w.losesPatience(p, 6) {
		return false
	}
	channels := w.subscribed(in, p)
	kept, lack := log.history(channels, h.after, h.low)
	if isLate {
		kept, lack = nil, channels
	}
	untrusted := w.untrusted(in, l, p)
	for _, channel := range channels {
		if slices.Contains(untrusted, channel) && !slices.Contains(lack, channel) {
			lack = append(lack, channel)
		}
	}
	if len(untrusted) > 0 && w.plant != silentFailover { // who left with such an ID is told elsewhere
		log.markers = append(log.markers, placeRange{h.after, h.low})
	}
	for _, channel := range lack {
		h.frames = append(h.frames, ringFrame{kind: frameGap, partition: p, at: h.after, channel: channel, born: w.now})
	}
	for _, m := range kept {
		h.frames = append(h.frames, ringFrame{kind: frameBackfill, partition: p, at: m.at, channel: m.channel, message: m})
	}
	return true
}

// untrusted are the channels that got messages which a truncated span took back.
func (w *partitionWorld) untrusted(in *partitionInstance, l *lineageModel, p int) (list []int) {
	if !l.truncated {
		return nil
	}
	for _, f := range in.ring[max(l.first, in.tail):] {
		if f.partition == p && f.kind == frameLive && f.at > l.high && !slices.Contains(list, f.channel) {
			list = append(list, f.channel)
		}
	}
	return list
}

// losesPatience tells whether a wait for a partition ends without what it is for.
func (w *partitionWorld) losesPatience(p, oneIn int) bool {
	return (!w.settling || p == w.dead) && w.rng.IntN(oneIn) == 0
}

// evict lets the ring forget its oldest frames.
func (w *partitionWorld) evict(in *partitionInstance) {
	for n := w.rng.IntN(8); n >= 0 && in.tail < len(in.ring); n-- {
		f := &in.ring[in.tail]
		if l := in.lines[f.partition]; in.tail >= l.coverFirst && f.kind == frameLive {
			l.coverFrom = max(l.coverFrom, f.at)
		}
		in.tail++
	}
	for _, l := range in.lines {
		l.coverFirst = max(l.coverFirst, in.tail)
	}
}

func (v placeVector) String() string {
	text := fmt.Sprint("of ", v.own, ":")
	for _, at := range v.at {
		text += " " + at.id().String()
	}
	return text
}
