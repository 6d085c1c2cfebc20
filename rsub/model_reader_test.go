package rsub

import (
	"slices"

	"ssed/sseproto"
)

// modelReader is a client: it takes what an instance gives it, and goes to another
// one with the last ID that it has seen.
type modelReader struct {
	channels []string
	at       *modelInstance
	live     bool        // a cursor on the ring
	pos      sseproto.ID // where the instance goes on for it
	eventID  sseproto.ID // its Last-Event-ID
	start    sseproto.ID
	waited   int
	doubtful bool // got what was taken back, and is not told yet
	partly   bool // was cut off when it was told for a part of its channels
	twice    int  // times that it got a message again which it had no reason to doubt

	seen []message
	gaps []toldGap // what it was told may be missing
}

// toldGap is a gap event; no channel: of all.
type toldGap struct {
	stretch
	channel string
}

// modelPatience is how often a resuming reader looks for the history to be written up
// to the ring, before it is told that it is not.
const modelPatience = 60

// attach starts a new client at the end of what the instance has.
func (w *modelWorld) attach(in *modelInstance) {
	if !in.opened || in.kind.old {
		return
	}
	r := &modelReader{at: in, live: true, pos: in.high, eventID: in.high, start: in.high}
	for _, k := range w.rng.Perm(len(modelChannels))[:1+w.rng.IntN(2)] {
		r.channels = append(r.channels, modelChannels[k])
	}
	w.readers = append(w.readers, r)
}

// hop lets a client go to another instance. It stays while its instance may have
// messages of a demoted primary: see model_test.go.
func (w *modelWorld) hop(r *modelReader, to *modelInstance) (gone bool) {
	if r.at.astray() || r.doubtful || to.kind.old { // an old version guesses by its own TTL
		return false
	}
	r.at, r.live, r.pos, r.waited = to, false, r.eventID, 0
	return true
}

// astray reports whether messages may have come from a demoted primary, or from a former one
// beyond its room: a connection stands to it, or has ended and its span is not judged yet.
func (in *modelInstance) astray() bool {
	r := in.w.redis
	for _, c := range in.conns {
		switch {
		case c.node == nil:
		case c.node.termText() != c.subscription.term: // it was demoted, and promoted again since
			return true
		case c.node == r.primary():
		case r.rival == nil || c.node != r.rival.primary() || r.isBeyondRoom(sseproto.ID{Ms: in.high.Ms + 1}):
			return true
		}
	}
	node, held := in.heldNode()
	return held && node != r.primary().run()
}

func (r *modelReader) take(m message) {
	if slices.Contains(r.channels, m.channel) {
		if n := number(m.payload); slices.ContainsFunc(r.seen, func(m message) bool { return number(m.payload) == n }) {
			r.twice++
		}
		r.seen = append(r.seen, m)
		r.eventID = m.id
	}
	r.pos = m.id
}

// poll gives a client what its instance has for it.
func (w *modelWorld) poll(r *modelReader) {
	in := r.at
	if !in.opened {
		return
	}
	if !r.live {
		if in.high.Less(r.pos) {
			return // another instance was quicker
		}
		if r.pos.Less(in.low) && !w.replay(r, in.low) {
			return
		}
		r.live = true
		switch i, _ := slices.BinarySearchFunc(in.ring, r.pos, byID); {
		case w.plant == resumedLate && i+1 < len(in.ring):
			r.pos = in.ring[i+1].id
		case w.plant == resumedEarly && i < len(in.ring) && in.ring[i].id == r.pos:
			r.take(in.ring[i])
		}
	}
	i, found := slices.BinarySearchFunc(in.ring, r.pos, byID)
	if found {
		i++
	}
	for _, m := range in.ring[i:] {
		r.take(m)
	}
}

// replay serves (pos, upTo] from the history; false: not yet.
func (w *modelWorld) replay(r *modelReader, upTo sseproto.ID) bool {
	lost, from, redis := false, r.pos, r.at.redis
	if redis.mark.Less(upTo) && w.plant != impatientReplay {
		if r.waited++; r.waited < modelPatience {
			return false
		}
		lost = true
	}
	for _, g := range redis.gaps {
		if g.overlaps(r.pos, upTo) && w.plant != ignoredMarkers {
			lost, from = true, earlier(from, g.from)
		}
	}
	if lost {
		r.partly = false
		r.forget(from, "")
		r.gaps = append(r.gaps, toldGap{stretch{from, upTo}, ""})
	}
	redis.expire()
	var page []message
	for _, ch := range r.channels {
		s := redis.streams[ch]
		if s == nil {
			s = &stream{}
		}
		if !s.wholeSince(r.pos) && w.absenceMayMislead(r) {
			r.gaps = append(r.gaps, toldGap{stretch{r.pos, upTo}, ch})
		}
		for _, e := range s.entries {
			if r.pos.Less(e.id) && !upTo.Less(e.id) {
				page = append(page, message{e.id, ch, w.sent[e.n].payload})
			}
		}
	}
	slices.SortFunc(page, func(a, b message) int { return a.id.Compare(b.id) })
	for _, m := range page {
		r.take(m)
	}
	r.pos, r.waited = upTo, 0
	return true
}

// wholeSince is streamState.wholeSince of rstore.
func (s *stream) wholeSince(pos sseproto.ID) bool {
	n := len(s.entries)
	return n > 0 && (!pos.Less(s.entries[n-1].id) || !pos.Less(s.entries[0].id))
}

// absenceMayMislead reports whether a stream that does not go back to a reader's
// position may have lost something.
func (w *modelWorld) absenceMayMislead(r *modelReader) bool {
	if w.plant == ownTTL {
		ttl := r.at.kind.ttl
		return w.redis.now > ttl && r.pos.Less(sseproto.ID{Ms: w.redis.now - ttl}) || r.pos.Less(w.redis.evictedUpTo())
	}
	return r.pos.Less(r.at.redis.expiredTo()) || r.pos.Less(r.at.redis.evictedUpTo())
}

// beforeSpan is called before the ring changes under the clients of an instance:
// live ones have got what was there, and go on behind it through the history.
func (w *modelWorld) beforeSpan(in *modelInstance) {
	for _, r := range w.readers {
		if r.at != in || !r.live {
			continue
		}
		w.poll(r)
		if r.pos.Less(in.high) {
			r.pos = in.high
		}
		r.live = w.plant == noBackfill
	}
}

// distrust takes back what the live clients of an instance got beyond through.
func (w *modelWorld) distrust(in *modelInstance, through sseproto.ID) {
	for _, r := range w.readers {
		if r.at == in && r.live && through.Less(r.pos) {
			r.pos, r.doubtful = through, true
			r.start = earlier(r.start, through)
		}
	}
}

// tell gives the gap events of a span that was cut back to those who got more of it, one
// for each channel, when the marker over the stretch is there. Some are cut off between two
// of them and go to another instance; not where a former primary has the marker, or where their
// positions may be of one that went on beyond its room.
func (w *modelWorld) tell(in *modelInstance, lost stretch) {
	mayLeave := in.redis == w.redis && w.redis.overstay == 0
	for _, r := range w.readers {
		if r.at != in || !r.doubtful {
			continue
		}
		r.doubtful = false
		for k, ch := range r.channels {
			r.forget(lost.from, ch)
			r.gaps = append(r.gaps, toldGap{lost, ch})
			if w.plant == movingGaps {
				r.eventID = earlier(r.eventID, lost.from)
			}
			if k+1 < len(r.channels) && mayLeave && w.rng.IntN(2) == 0 && w.hop(r, pick(w.rng, w.instances)) {
				r.partly = true
				break
			}
		}
	}
}

// forget takes out what a reader has seen beyond an ID of a channel, or of all: it was
// told that it is not to be relied on.
func (r *modelReader) forget(beyond sseproto.ID, channel string) {
	r.seen = slices.DeleteFunc(r.seen, func(m message) bool {
		return beyond.Less(m.id) && (channel == "" || channel == m.channel)
	})
}

func earlier(a, b sseproto.ID) sseproto.ID {
	if b.Less(a) {
		return b
	}
	return a
}

// checkReader: each message of its channels once, ascending, or a gap.
func (w *modelWorld) checkReader(r *modelReader) {
	if r.twice > 0 {
		w.problem("reader: %d messages twice", r.twice)
	}
	last := r.start
	got := make(map[int]bool, len(r.seen))
	for _, m := range r.seen {
		if !last.Less(m.id) {
			w.problem("reader: %v after %v", m.id, last)
		}
		last = m.id
		n := number(m.payload)
		if got[n] {
			w.problem("reader: message %d twice", n)
		}
		got[n] = true
	}
	for n, m := range w.sent {
		if got[n] || w.astray[n] || !r.start.Less(m.id) || r.pos.Less(m.id) || !slices.Contains(r.channels, m.channel) {
			continue
		}
		if !slices.ContainsFunc(r.gaps, func(g toldGap) bool { return g.has(m.id) && (g.channel == "" || g.channel == m.channel) }) {
			w.problem("reader: message %d at %v is silently missing", n, m.id)
		}
	}
}
