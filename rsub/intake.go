package rsub

import (
	"strings"

	"github.com/redis/rueidis"

	"ssed/sseproto"
)

// What is in this file runs on the read loop of the connection, which calls it through
// hooks: one message after the other. It may not wait, or Redis cuts the connection.

// onSubscription counts the confirmations, which come in order with the messages.
func (s *subscription) onSubscription(m rueidis.PubSubSubscription) {
	switch {
	case m.Channel != "" && m.Channel == s.feed.keys.EarlierControl:
	case m.Kind == "subscribe", m.Kind == "psubscribe", m.Kind == "ssubscribe":
		if s.confirmed++; s.confirmed == s.feed.channels() {
			s.seq.subscribe(s.node, s.term)
			close(s.ready)
		}
	default:
		s.disconnect(CauseDisconnect)
	}
}

// onMessage is the way of every message. It allocates nothing.
func (s *subscription) onMessage(m rueidis.PubSubMessage) {
	c := &s.feed.counters
	sharded := m.Pattern == "" && m.Channel == s.feed.keys.Messages // the control channel has another name
	if m.Pattern != "" && Reserved(m.Channel) {
		// No sign of life: a sentinel says hello on every server, the wrong one too.
		c.reserved.Add(1)
		s.reserved.Add(int64(len(m.Pattern) + len(m.Channel) + len(m.Message) + reservedOverhead))
		return
	}
	s.received.Add(1)
	switch {
	case sharded:
		s.onSharded(m.Message)
		return
	case m.Pattern == "":
		switch {
		case m.Channel == s.feed.keys.EarlierControl && m.Channel != "":
			s.onEarlierControl(m.Message)
		case s.feed.isBatchChannel(m.Channel):
			s.onBatch(m.Message)
		default:
			s.onControl(m.Message)
		}
		return
	case !s.feed.patterns.canonical(m.Pattern, m.Channel):
		c.overlaps.Add(1)
		return
	case s.feed.isBatchChannel(m.Channel):
		s.onBatch(m.Message)
		return
	}
	if id, ok := s.number(m.Channel, m.Message); ok {
		s.deliver(id, m.Channel, m.Message)
	}
}

// number gives the next message its position. False: it has none.
func (s *subscription) number(channel, payload string) (sseproto.ID, bool) {
	id, ok := s.seq.message(channel, payload)
	if !ok {
		s.feed.counters.unnumbered.Add(1)
	}
	return id, ok
}

// deliver gives a message of one of the patterns to the sink, or counts why not.
func (s *subscription) deliver(id sseproto.ID, channel, payload string) {
	c := &s.feed.counters
	if s.awaited != nil {
		s.noteOwn(id, channel)
	}
	if !sseproto.IsChannel(channel) {
		c.unaskable.Add(1)
		return
	}
	// An entry of the inbox had the limit of the instance that published it, and does
	// not come again: it is delivered whatever the limit is here.
	if limit := s.feed.cfg.MaxMessageBytes; limit > 0 && len(payload) > limit && id.Seq > s.entries {
		c.oversize.Add(1)
		s.feed.found.oversize.note(outsized{id, len(payload)})
		s.out.oversize(id, channel)
		return
	}
	c.passed.Add(1)
	s.out.append(id, channel, payload)
}

// onControl takes a message of the control channel.
func (s *subscription) onControl(text string) {
	switch word, rest, _ := strings.Cut(text, " "); word {
	case wordSent:
		s.onSent(rest)
	case wordLeaseReleased:
		s.feed.cfg.OnLeaseReleased()
	case wordTick:
		t, err := parseTick(text)
		if err != nil {
			s.refused(step{action: refuse, cause: CauseMalformed}, tick{})
			return
		}
		s.onTick(t)
	default:
		if words := strings.Fields(text); len(words) > 0 {
			s.feed.counters.notices.Add(1)
			s.feed.cfg.OnNotice(words)
		}
	}
}

// onEarlierControl takes a message of the control channel that earlier versions use for
// all databases: ticks of theirs count if they are of our clock. Who gets them on both
// channels takes the first.
func (s *subscription) onEarlierControl(text string) {
	if word, _, _ := strings.Cut(text, " "); word == wordLeaseReleased {
		s.feed.cfg.OnLeaseReleased() // perhaps of another database: a look too many
		return
	}
	t, err := parseTick(text)
	if err == nil && s.isOurEpoch(t.epoch) && t.t > s.seq.last.Ms {
		s.onTick(t)
	}
}

// isOurEpoch reports whether an epoch is that of our clock: as the last tick has it, or the
// last answer of the script. Our first tick may be followed by one of an earlier version
// before its own answer is read.
func (s *subscription) isOurEpoch(epoch string) bool {
	answered := s.feed.epoch.Load()
	return epoch == s.seq.epoch || answered != nil && epoch == *answered
}

func (s *subscription) onTick(t tick) {
	s.stopAwaiting()
	s.feed.origins.learn(t.servers)
	s.seq.silent = s.silent.Load()
	st := s.seq.tick(t)
	switch st.action {
	case open:
		s.good(t, st)
		s.out.open(s.node+":"+s.term, st.id)
		s.synced.Store(true)
		s.feed.everSynced.Store(true)
	case hold:
		s.alive(t)
		f := s.feed
		f.trouble.Store(nil)
		f.seen.note(t, s.seq.past.last())
	case commit:
		s.good(t, st)
		s.out.commit(st.id, t.watermark)
	case end, lose:
		s.ended(st)
		if st.cause == CauseBus {
			s.feed.found.bus.note(st.id.Ms)
			s.onTick(t) // it opens the next span
			return
		}
		s.refused(st, t)
	case refuse:
		s.refused(st, t)
	}
}

// good notes an accepted tick.
func (s *subscription) good(t tick, st step) {
	f := s.feed
	f.counters.ticksSeen.Add(1)
	if st.newEpoch {
		f.counters.epochChanges.Add(1)
		f.found.epochs.note(t.epoch)
	}
	if st.differs {
		f.counters.checksumMismatches.Add(1)
		f.found.mismatches.note(mismatch{t, st.own})
	}
	s.entries = t.entries()
	s.alive(t)
	f.noteTick(t, s.seq.past.last())
}

// alive notes that a published tick has come.
func (s *subscription) alive(t tick) {
	s.silent.Store(false)
	s.tickT.Store(t.t)
	s.tickAt.Store(int64(s.feed.elapsed()))
}

// refused counts a refused tick and does what its cause asks for.
func (s *subscription) refused(st step, t tick) {
	f := s.feed
	f.counters.refused[st.cause].Add(1)
	switch st.cause {
	case CauseNode, CauseProbe:
		s.disconnect(st.cause)
	case CauseOrder:
		f.ticker.join()
	}
	f.found.refused.note(refusal{st.cause, t, s.node})
}
