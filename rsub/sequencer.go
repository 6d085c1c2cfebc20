package rsub

import "ssed/sseproto"

// state is where the sequencer of a connection stands.
type state uint8

const (
	down     state = iota // nothing counts: not subscribed to everything, or given up
	unsynced              // subscribed, no tick yet: messages have no number
	synced                // messages are numbered
)

// action is what a tick does.
type action uint8

const (
	ignore action = iota // the tick came before everything was subscribed
	refuse               // the tick does not count; cause tells why
	open                 // a span begins at id
	commit               // the span goes on, all up to id is committed
	hold                 // the span goes on, and nobody knows yet whether something is missing
	end                  // the span ends, only what came up to id, the last good tick, counts
	lose                 // the span ends with id; whether what came since the last good tick counts, the next span tells
)

// step is what follows from an event.
type step struct {
	action   action
	id       sseproto.ID
	cause    Cause // for refuse, end and lose
	newEpoch bool  // Redis lost its data since the last tick
	differs  bool  // the caller of the tick saw another interval than we did
	own      interval
}

// sequencer numbers the messages of one connection at a time. It is a state
// machine: events in, steps out, no Redis, no clock. It outlives connections,
// because positions never go back.
type sequencer struct {
	fingerprint string // of our own patterns
	stall       uint64 // ms between two ticks from which on the later one proves nothing, if the server was silent meanwhile

	state  state
	silent bool        // nothing came for long since the last tick, see subscription.watch
	node   string      // run_id of the server that the connection hangs on
	term   string      // of that server, see tick; "" when not known
	epoch  string      // of the last tick
	links  string      // of the last tick that did not hold; linksMissing after one that did
	strays strays      // of the last tick
	last   sseproto.ID // position reached; its Ms is the last good tick
	now    interval    // since the last good tick
	past   history
}

// subscribe tells that the connection to node has everything subscribed: what
// comes from now on is in order and complete.
func (s *sequencer) subscribe(node, term string) {
	s.state, s.node, s.term = unsynced, node, term
}

// message gives the next message its position. False: it has none.
func (s *sequencer) message(channel, payload string) (sseproto.ID, bool) {
	if s.state != synced {
		return sseproto.ID{}, false
	}
	s.last.Seq++
	s.now.add(channel, payload)
	return s.last, true
}

// tick takes a tick.
func (s *sequencer) tick(t tick) step {
	switch {
	case s.state == down:
		return step{}
	case t.fingerprint != s.fingerprint:
		return step{action: refuse, cause: CauseConfigMismatch}
	case t.node != s.node && t.line != "" && t.line == s.term:
		// Of the one that our node was promoted from: it was frozen, and publishes what it was
		// asked before. In a cluster the bus brings it.
		return step{}
	case t.node != s.node:
		return s.stop(CauseNode, true)
	case t.term != "" && s.term != "" && t.term != s.term:
		// The same server, but it was demoted and promoted since: what came meanwhile
		// came by replication, with holes, and no tick of the other primary need have.
		return s.stop(CauseNode, true)
	case s.state == synced && s.silent && t.t > s.last.Ms+s.stall:
		// The server stood still. Another may be the primary by now,
		// while this one wakes up, takes what had queued up, this tick with it, and does not
		// know yet. With the tick the stretch would count as complete, and what was published
		// on the other one meanwhile be lost without a word. So the next span tells: of the
		// same server, and nothing is taken back.
		return s.stop(CauseProbe, false)
	case t.links == linksMissing && t.t > s.last.Ms:
		// What some node publishes does not come. When it does again, the span ends with the
		// last tick before. Until then messages have numbers as if this tick were not there.
		if s.state == unsynced {
			return step{}
		}
		s.links = linksMissing
		return step{action: hold}
	case s.state == synced && t.t > s.last.Ms && (t.links != s.links || t.strays.came(s.strays)):
		// Since the last tick a node of the cluster had no link to ours, or another one: what
		// was published there may be lost. Or messages came that a former primary had numbered
		// before. From this tick on neither is so, and it opens a span.
		st := s.stop(CauseBus, true)
		s.state = unsynced
		return st
	case t.t <= s.last.Ms:
		// The clock key was tampered with, or is new and its maker had not seen
		// what we have: number on from here and IDs would repeat. Whoever resyncs
		// hands our last t to the script, so that the next tick lies beyond it.
		st := s.stop(CauseOrder, false)
		s.state = unsynced
		return st
	}
	return s.accept(t)
}

// accept counts a tick against which nothing speaks: it opens a span, or commits what came
// since the last one.
func (s *sequencer) accept(t tick) step {
	st := step{action: commit, newEpoch: s.epoch != "" && t.epoch != s.epoch}
	if s.state == unsynced {
		st.action = open
		s.state = synced
		s.past.reset()
	} else {
		s.past.put(s.now)
		st.own, st.differs = s.compare(t.checksum)
	}
	s.epoch, s.links, s.strays = t.epoch, t.links, t.strays
	s.last = sseproto.ID{Ms: t.t}
	s.now = interval{start: t.t}
	st.id = s.last
	return st
}

// compare looks for the interval that the caller of a tick vouches for.
func (s *sequencer) compare(checksum interval) (own interval, differs bool) {
	own, known := s.past.find(checksum.start)
	return own, known && own != checksum
}

// stop ends the span, if there is one; with rollback it is known that what came
// after the last good tick does not count.
func (s *sequencer) stop(cause Cause, rollback bool) step {
	was := s.state
	s.state = down
	switch {
	case was != synced:
		return step{action: refuse, cause: cause}
	case rollback:
		return step{action: end, id: sseproto.ID{Ms: s.last.Ms}, cause: cause}
	}
	return step{action: lose, id: s.last, cause: cause}
}
