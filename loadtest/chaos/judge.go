//go:build linux

package main

import (
	"cmp"
	"slices"
	"time"

	"ssed/sseproto"
)

// evidence is everything that the judge looks at.
type evidence struct {
	channels int
	messages [][]message // by publisher, by number
	clients  []*client
	// histories are one for each partition. Partitions are logs of their own: each is
	// judged by itself, by the places of the clients in it.
	histories []history
	forgets   bool // the history need not hold what nobody asks for any more
	// late is by how much a message may be late on the bus of a cluster, behind others that
	// were published after it was answered. 0 elsewhere.
	late time.Duration
	// later is by how much more where messages come by the bus alone: while a node is
	// frozen they wait in its sockets.
	later time.Duration
	// divided: the network was. Then a message may come a second time, with another ID, where the
	// history knows that it lacks what the first one was given for. See docs/GUARANTEES.md.
	divided bool
}

// verdict counts what was found. A count of pairs is one for each client and
// message.
type verdict struct {
	Published    int `json:"published"`
	Acknowledged int `json:"acknowledged"` // answered by Redis with at least one receiver
	NoReceivers  int `json:"noReceivers"`  // answered, but nobody was subscribed
	Unknown      int `json:"unknown"`      // no answer: nobody knows
	Astray       int `json:"astray"`       // answered by a server that was not the primary any more
	Unnumbered   int `json:"unnumbered"`   // acknowledged, and without an ID anywhere
	Retracted    int `json:"retracted"`    // receipts taken back by a gap event

	DifferentIDs     int            `json:"differentIds"`     // messages seen with more than one ID
	GivenAgain       int            `json:"givenAgain"`       // pairs: messages seen with a further ID, under a marker, after the network was divided
	SharedIDs        int            `json:"sharedIds"`        // IDs seen on more than one message
	HistoryHas       int            `json:"historyHas"`       // entries
	HistoryTwice     int            `json:"historyTwice"`     // entries of a message that has one already
	HistoryDisorder  int            `json:"historyDisorder"`  // entries not beyond the one before, in ID or in time
	HistoryMissing   int            `json:"historyMissing"`   // messages neither there nor under a marker
	HistoryExcused   int            `json:"historyExcused"`   // messages under a marker
	Kept             int            `json:"kept"`             // messages that were taken into the inbox
	KeptMissing      int            `json:"keptMissing"`      // of these, not in the history, whatever the markers say
	KeptDisorder     int            `json:"keptDisorder"`     // of these, not behind what their publisher had added before
	Clients          int            `json:"clients"`          // all
	Exact            int            `json:"exact"`            // saw every message once, in order
	Told             int            `json:"told"`             // lost something and know it
	ClientsSilent    int            `json:"clientsSilent"`    // lost something without a word
	Unplaced         int            `json:"unplaced"`         // never had a position
	Received         int            `json:"received"`         // pairs
	ToldMissing      int            `json:"toldMissing"`      // pairs
	SilentlyMissing  int            `json:"silentlyMissing"`  // pairs
	Duplicated       int            `json:"duplicated"`       // pairs
	OutOfOrder       int            `json:"outOfOrder"`       // pairs
	GapReasons       map[string]int `json:"gapReasons"`       // events by reason
	GapEvents        int            `json:"gapEvents"`        // events
	GapsWithoutLoss  int            `json:"gapsWithoutLoss"`  // events that announced what was then there
	Refused          int            `json:"refused"`          // clients that got what must never come
	UnfinishedClient int            `json:"unfinishedClient"` // clients that did not get the last messages in time

	examples []string
}

// wrong is the number of findings that must be 0.
func (v *verdict) wrong() int {
	return v.DifferentIDs + v.SharedIDs + v.HistoryTwice + v.HistoryDisorder + v.HistoryMissing +
		v.KeptMissing + v.KeptDisorder + v.SilentlyMissing + v.Duplicated + v.OutOfOrder + v.Refused
}

// outcome is what became of a client, the worst last.
type outcome uint8

const (
	unplaced   outcome = iota // never had a position, or no channel of the partition
	exact                     // saw every message once, in order
	disordered                // every message, but not once and in order
	toldLoss                  // lost something and knows it
	silentLoss                // lost something without a word
)

// judge holds what the parts of a judgement of one partition share.
type judge struct {
	evidence
	partition int
	history   history
	v         *verdict
	ids       map[key]sseproto.ID // the ID of a message
	has       map[key]bool        // those that the history has
	owner     map[sseproto.ID]key
	order     [][]known // channel → its messages with an ID, ascending
	lost      [][]known // channel → acknowledged messages without one, as sent
}

// known is a message as far as it is known.
type known struct {
	key
	*message
	id sseproto.ID // zero: none
}

// passJudgement compares the records.
func passJudgement(e evidence) *verdict {
	v := &verdict{Clients: len(e.clients), GapReasons: make(map[string]int)}
	outcomes := make([]outcome, len(e.clients))
	for q, h := range e.histories {
		j := &judge{
			evidence: e, partition: q, history: h, v: v,
			ids: make(map[key]sseproto.ID), has: make(map[key]bool), owner: make(map[sseproto.ID]key),
			order: make([][]known, e.channels), lost: make([][]known, e.channels),
		}
		j.readStreams()
		for _, c := range e.clients {
			j.readIDs(c)
		}
		j.sortMessages()
		j.missingInStreams()
		j.keptMessages()
		for i, c := range e.clients {
			outcomes[i] = max(outcomes[i], j.client(c))
		}
	}
	for _, o := range outcomes {
		switch o {
		case unplaced:
			v.Unplaced++ // nothing was promised, and nothing is shown
		case exact:
			v.Exact++
		case toldLoss:
			v.Told++
		case silentLoss:
			v.ClientsSilent++
		}
	}
	return v
}

// isOwn tells whether a channel belongs to the partition that is judged.
func (j *judge) isOwn(channel int) bool {
	return partitionOf(channel, len(j.histories)) == j.partition
}

// examplesKept bounds the findings that are told in words.
const examplesKept = 40

func (j *judge) example(text func() string) {
	if len(j.v.examples) < examplesKept {
		j.v.examples = append(j.v.examples, text())
	}
}

func (j *judge) message(k key) (*message, bool) {
	if k.publisher < 0 || k.publisher >= len(j.messages) || k.n < 0 || k.n >= len(j.messages[k.publisher]) {
		return nil, false
	}
	return &j.messages[k.publisher][k.n], true
}

// learn takes the ID of a message from one source.
func (j *judge) learn(k key, id sseproto.ID, source func() string) {
	if before, ok := j.ids[k]; !ok {
		j.ids[k] = id
	} else if before != id && j.isGivenAgain(k, before, id) {
		j.v.GivenAgain++
	} else if before != id {
		j.v.DifferentIDs++
		j.example(func() string {
			return "message " + k.text() + " is " + before.String() + " and " + id.String() + " at " + source()
		})
	}
	if other, ok := j.owner[id]; !ok {
		j.owner[id] = k
	} else if other != k {
		j.v.SharedIDs++
		j.example(func() string {
			return "ID " + id.String() + " is on " + other.text() + " and " + k.text() + " at " + source()
		})
	}
}

// isGivenAgain tells whether of two IDs of a message one counts for nothing: a former primary gave
// it, or had the message sent late to its successor.
func (j *judge) isGivenAgain(k key, before, id sseproto.ID) bool {
	m, ok := j.message(k)
	return ok && j.divided && j.history.excused(m.channel, id) && (j.has[k] || j.history.excused(m.channel, before))
}

// readStreams goes first: where a client differs from the history, the client is
// what differs.
func (j *judge) readStreams() {
	there := j.has
	for ch, entries := range j.history.channels {
		var last sseproto.ID
		var lastSent time.Duration
		for _, e := range entries {
			j.v.HistoryHas++
			m, ok := j.message(e.key)
			switch {
			case !ok || m.channel != ch:
				j.v.HistoryDisorder++
				j.example(func() string { return "stream " + channelName(ch) + " has " + e.key.text() + ", which is not its own" })
				continue
			case there[e.key]:
				j.v.HistoryTwice++
				j.example(func() string { return "stream " + channelName(ch) + " has " + e.key.text() + " twice" })
			case !last.Less(e.id) || m.acked && !m.kept && m.answered+j.late+j.later < lastSent:
				j.v.HistoryDisorder++
				j.example(func() string { return "stream " + channelName(ch) + " has " + e.id.String() + " in the wrong place" })
			}
			there[e.key], last = true, e.id
			if !m.kept { // else it may have waited
				lastSent = m.sent
			}
			j.learn(e.key, e.id, func() string { return "the history" })
		}
	}
}

// readIDs learns the IDs that a client has seen, but for those that were taken
// back: a later gap event has put the client before them.
func (j *judge) readIDs(c *client) {
	back := sseproto.MaxID
	for i := len(c.records) - 1; i >= 0; i-- {
		r := c.records[i]
		switch r.kind {
		case recordGap:
			if place, ok := j.gapPlace(&r); ok {
				back = lower(back, place)
			}
			continue
		case recordEvent:
		default:
			continue
		}
		if r.partition != j.partition {
			continue
		}
		if m, ok := j.message(r.key); !ok || !slices.Contains(c.channels, m.channel) || !j.isOwn(m.channel) {
			j.v.Refused++
			j.example(func() string { return c.text() + " got " + r.key.text() + ", which is not its own" })
			continue
		}
		if back.Less(r.id) {
			j.v.Retracted++
			continue
		}
		j.learn(r.key, r.id, func() string { return c.text() + " from " + instanceText(r) })
	}
}

// gapPlace is where a gap event leaves its client; false: it does not speak of the
// partition, or the client has nothing of it yet.
func (j *judge) gapPlace(r *record) (place sseproto.ID, ok bool) {
	place = r.places[j.partition]
	return place, j.isAbout(r) && !place.IsZero()
}

// isAbout tells whether a gap event may speak of the partition.
func (j *judge) isAbout(r *record) bool { return r.channel == allChannels || j.isOwn(r.channel) }

// sortMessages puts the messages of each channel into the order of their IDs.
func (j *judge) sortMessages() {
	for p := range j.messages {
		for n := range j.messages[p] {
			k, m := key{p, n}, &j.messages[p][n]
			if !j.isOwn(m.channel) {
				continue
			}
			j.v.Published++
			id, numbered := j.ids[k]
			switch {
			case !m.acked:
				j.v.Unknown++
			case m.astray:
				j.v.Astray++
				continue
			case m.receivers == 0:
				j.v.NoReceivers++
			default:
				j.v.Acknowledged++
				if !numbered {
					j.v.Unnumbered++
					j.lost[m.channel] = append(j.lost[m.channel], known{key: k, message: m})
				}
			}
			if numbered {
				j.order[m.channel] = append(j.order[m.channel], known{k, m, id})
			}
		}
	}
	for _, list := range j.order {
		slices.SortFunc(list, func(a, b known) int { return a.id.Compare(b.id) })
	}
	for _, list := range j.lost {
		slices.SortFunc(list, func(a, b known) int { return cmp.Compare(a.sent, b.sent) })
	}
}

func (j *judge) missingInStreams() {
	if j.forgets {
		return // what clients were told is all that counts
	}
	for ch, list := range j.order {
		there := make(map[key]bool)
		for _, e := range j.history.channels[ch] {
			there[e.key] = true
		}
		for _, m := range list {
			switch {
			case there[m.key]:
			case j.history.excused(ch, m.id):
				j.v.HistoryExcused++
			default:
				j.v.HistoryMissing++
				j.example(func() string { return "stream " + channelName(ch) + " lacks " + m.text() })
			}
		}
	}
}

// keptMessages looks for what was added to the inbox.
func (j *judge) keptMessages() {
	there := make(map[key]sseproto.ID)
	for _, entries := range j.history.channels {
		for _, e := range entries {
			there[e.key] = e.id
		}
	}
	for p, messages := range j.messages {
		var last sseproto.ID
		for n := range messages {
			m := known{key{p, n}, &messages[n], there[key{p, n}]}
			if !m.kept || !j.isOwn(m.channel) {
				continue
			}
			if m.acked {
				j.v.Kept++
			}
			switch {
			case m.id.IsZero() && m.acked:
				j.v.KeptMissing++
				j.example(func() string { return "the history lacks " + m.text() + ", which the inbox had" })
			case m.id.IsZero():
			case m.id.Less(last):
				j.v.KeptDisorder++
				j.example(func() string { return "the inbox had " + m.text() + " after one at " + last.String() })
			default:
				last = m.id
			}
		}
	}
}

// told is one gap event: it speaks of messages that lie beyond what the client
// had and were published before it came.
type told struct {
	channel  int
	from     sseproto.ID
	fromSent time.Duration // when the last message that the client had was published
	at       time.Duration
	needed   bool
}

// covers reports whether the event can speak of m.
func (t *told) covers(m known) bool {
	if t.channel != allChannels && t.channel != m.channel || m.sent > t.at {
		return false
	}
	if m.id.IsZero() { // compare by time, as far as it tells
		return !m.acked || t.fromSent <= m.answered
	}
	return t.from.Less(m.id)
}

// progress is a walk through the record of one client.
type progress struct {
	started bool
	firstID sseproto.ID   // zero: nothing came yet
	since   time.Duration // the head of the first stream
	pos     sseproto.ID   // Last-Event-ID
	posSent time.Duration
	// base is where a gap event of the next channel may begin: a row of gap events,
	// one for each channel, begins where its first one does, as long as the stream
	// is not cut in between. Who comes back has only pos.
	base sseproto.ID
	// putBack: a gap event came, and no message of the partition since. Messages of other
	// partitions then say where the client was, and what comes again may lie before that.
	putBack bool

	seen  map[key]sseproto.ID
	told  []told
	early []told // before the client had anything: of what was published until then
	wrong bool
}

// client checks the order of what came, then looks for what did not come.
func (j *judge) client(c *client) outcome {
	p := progress{seen: make(map[key]sseproto.ID)}
	for i := range c.records {
		j.step(c, &p, &c.records[i])
	}
	if c.bad != nil && j.partition == 0 {
		j.v.Refused++
		j.example(func() string { return c.text() + ": " + c.bad.Error() })
	}
	j.v.Received += len(p.seen)
	j.v.GapEvents += len(p.told)
	if !p.started || p.firstID.IsZero() || !slices.ContainsFunc(c.channels, j.isOwn) {
		return unplaced
	}
	missing, silent := j.missing(c, &p)
	j.v.ToldMissing += missing - silent
	j.v.SilentlyMissing += silent
	for _, t := range p.told {
		if !t.needed {
			j.v.GapsWithoutLoss++
		}
	}
	switch {
	case silent > 0:
		return silentLoss
	case missing > 0:
		return toldLoss
	case p.wrong:
		return disordered
	}
	return exact
}

// step takes one record.
func (j *judge) step(c *client, p *progress, r *record) {
	switch r.kind {
	case recordOpened:
		p.base = p.pos
		if !p.started {
			p.started, p.since = true, r.at
		}
	case recordClosed:
		if p.firstID.IsZero() {
			p.started = false // without an ID it starts anew
		}
	case recordGap:
		place, ok := j.gapPlace(r)
		if !ok {
			if p.firstID.IsZero() && j.isAbout(r) {
				p.early = append(p.early, told{channel: r.channel, at: r.at})
			}
			return
		}
		j.v.GapReasons[r.reason]++
		if p.firstID.IsZero() {
			p.firstID, p.base = place, place
		}
		from := lower(p.base, place)
		p.told = append(p.told, told{channel: r.channel, from: from, fromSent: j.sentBefore(p, from), at: r.at})
		p.pos, p.putBack = place, true
	case recordEvent:
		if r.partition == j.partition {
			j.event(c, p, r)
		} else {
			p.moved(r.places[j.partition])
		}
	}
}

// moved takes what a message of another partition says of this one: where the client would
// go on if it came back now. Nothing that lies before that may come later.
func (p *progress) moved(place sseproto.ID) {
	if place.IsZero() {
		return
	}
	if p.firstID.IsZero() {
		p.firstID = place
	}
	if p.pos.Less(place) && !p.putBack {
		p.pos, p.base = place, place
	}
}

// sentBefore is when the last message was sent that a client had before a gap event. Of
// what came by different links some may have been sent after what is missing: there it
// is the last one that the event has not taken back, less what a link may be late: while
// the node that numbers is frozen, links wait, and the one with the missing message is cut.
func (j *judge) sentBefore(p *progress, from sseproto.ID) (at time.Duration) {
	if j.late == 0 {
		return p.posSent
	}
	for k, id := range p.seen {
		if m, ok := j.message(k); ok && m.acked && !m.astray && !from.Less(id) {
			at = max(at, m.sent)
		}
	}
	return at - j.late - j.later
}

func lower(a, b sseproto.ID) sseproto.ID {
	if b.Less(a) {
		return b
	}
	return a
}

func (j *judge) event(c *client, p *progress, r *record) {
	m, ok := j.message(r.key)
	if !ok {
		return // refused already
	}
	_, again := p.seen[r.key]
	// A gap event may have put the client back; pos is then lower, and what it
	// sees a second time is not a duplicate.
	if !p.pos.Less(r.id) && !p.firstID.IsZero() {
		p.wrong = true
		if again {
			j.v.Duplicated++
		} else {
			j.v.OutOfOrder++
		}
		j.example(func() string {
			return c.text() + " got " + known{r.key, m, r.id}.text() + " from " + instanceText(*r) + " at " + r.at.String() + " after " + p.pos.String()
		})
	}
	if p.firstID.IsZero() {
		p.firstID = r.id
	}
	p.seen[r.key] = r.id
	p.pos, p.base, p.putBack = r.id, r.id, false
	if m.acked && !m.astray { // else it may have been sent beside what the new primary has
		p.posSent = m.sent
	}
}

// missing looks for messages that the client should have and has not.
func (j *judge) missing(c *client, p *progress) (missing, silent int) {
	for _, ch := range c.channels {
		if !j.isOwn(ch) {
			continue
		}
		for _, m := range slices.Concat(j.order[ch], j.lost[ch]) {
			if _, ok := p.seen[m.key]; ok || !p.owes(m) {
				continue
			}
			missing++
			if p.excuse(m) {
				continue
			}
			silent++
			p.wrong = true
			j.example(func() string { return c.text() + " never got " + m.text() + ", " + c.around(m) + p.toldAfter(m) })
		}
	}
	return missing, silent
}

// owes reports whether m belongs to what the client was promised: all beyond its
// first ID, and all that was published after the head of its stream.
func (p *progress) owes(m known) bool {
	return m.sent > p.since || p.firstID.Less(m.id)
}

// excuse looks for a gap event that speaks of m.
func (p *progress) excuse(m known) bool {
	found := slices.ContainsFunc(p.early, func(t told) bool { return t.covers(m) })
	for i := range p.told {
		if p.told[i].covers(m) {
			p.told[i].needed, found = true, true
		}
	}
	return found
}
