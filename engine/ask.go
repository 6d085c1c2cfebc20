package engine

import (
	"context"
	"slices"

	"ssed/engine/internal/sock"
)

// An ask is a question about the connections of one shard. Its loop answers at the
// end of a pass, in bounded time and without waiting for who asked.
type ask interface{ answer(s *shard) }

const (
	// maxAsking bounds the questions that the shards are being asked at once; who
	// comes beyond it waits.
	maxAsking = 4
	// askLooks bounds the slots and subscriptions that are looked at for one question;
	// those of one slot more may come on top. At most 50 ns each, where they are in no
	// cache.
	askLooks = 1000
	// askFound bounds the connections described in one answer: a system call and two
	// allocations each.
	askFound = 100
	// describeLooks is what one of them counts as, beside its channels.
	describeLooks = 64
)

// waitingAsk is a question that is answered when all connections that came before it have
// a slot, so that it finds them.
type waitingAsk struct {
	ask
	behind uint64 // shard.arrived when it came
}

// answerAsks answers what was asked.
func (s *shard) answerAsks() {
	s.budget.begin(s.shares.asks)
	for !s.asks.empty() && s.asks.first().behind+uint64(s.arrivals.len()) <= s.arrived {
		s.asks.pop().answer(s)
		if s.budget.spent() {
			return
		}
	}
}

// put asks a shard and waits for the answer on reply, which must have room for it:
// nobody is there any more when ctx has ended first.
func put[T any](ctx context.Context, e *Engine, s *shard, a ask, reply <-chan T) (answer T, err error) {
	select {
	case e.asking <- struct{}{}:
		defer func() { <-e.asking }()
	case <-ctx.Done():
		return answer, ctx.Err()
	}
	s.post(command{ask: a})
	select {
	case answer = <-reply:
		return answer, nil
	case <-ctx.Done():
		return answer, ctx.Err()
	case <-s.ended:
	}
	select {
	case answer = <-reply: // with its last pass
		return answer, nil
	default:
		return answer, ErrStopped
	}
}

// listAsk asks for connections in the order of their slots.
type listAsk struct {
	ctx   context.Context
	match Match  // only these
	after uint32 // slot behind which to begin
	limit int    // at least 1
	reply chan listed
}

// listed is a part of the list.
type listed struct {
	found []foundSlot
	last  uint32 // the list goes on behind this slot; 0: it is at its end
}

// foundSlot is what a shard knows of a connection.
type foundSlot struct {
	ref
	client   string
	subject  string
	channels []string
	pos      uint64 // delivered up to
	started  bool   // pos says something
	blocked  bool
	opened   uint32
}

func (a *listAsk) answer(s *shard) {
	if a.ctx.Err() != nil {
		return // nobody waits for it
	}
	sel, some := s.resolve(&a.match)
	switch {
	case !some:
		a.reply <- listed{}
	case sel.subject == 0 && sel.token == 0 && sel.ch != noChannel && s.members.at(sel.ch).count <= askLooks:
		a.reply <- a.pick(s, s.memberSlots(sel.ch))
	default:
		a.reply <- a.walk(s, sel)
	}
}

// membersOf returns the index of a channel that has members here, or noChannel. It
// keeps its meaning while the loop does nothing else.
func (s *shard) membersOf(name string) uint32 {
	if ch, ok := s.log.dir.find(name); ok {
		if m := s.members.find(ch); m != nil && m.first != 0 {
			return ch
		}
	}
	return noChannel
}

// memberSlots returns the slots of a channel's members in ascending order.
func (s *shard) memberSlots(ch uint32) []uint32 {
	s.budget.looks += int64(s.members.at(ch).count)
	all := make([]uint32, 0, s.members.at(ch).count)
	for n := s.members.at(ch).first; n != 0; n = s.subs.at(n).next {
		all = append(all, s.subs.at(n).slot)
	}
	slices.Sort(all)
	return all
}

// pick answers from all slots that belong to the answer.
func (a *listAsk) pick(s *shard, all []uint32) (l listed) {
	k, found := slices.BinarySearch(all, a.after)
	if found {
		k++
	}
	for looks := 0; k < len(all); k++ {
		if len(l.found) == a.limit || looks >= askLooks || looks > 0 && s.budget.spent() {
			l.last = all[k-1]
			break
		}
		f := s.describe(all[k])
		l.found = append(l.found, f)
		looks += len(f.channels)
	}
	return l
}

// walk answers from the slots behind a.after.
func (a *listAsk) walk(s *shard, sel selection) (l listed) {
	l.last = s.eachSelected(sel, a.after, a.limit, func(i uint32, _ *slot) {
		l.found = append(l.found, s.describe(i))
	})
	return l
}

// eachSelected visits the slots behind after that sel selects: until it has visited limit of
// them, at least 1, or has looked at as many as one answer may, or the share of the stage is
// spent. Last is the slot looked at last; 0: there are no more. Visit may close the slot.
func (s *shard) eachSelected(sel selection, after uint32, limit int, visit func(i uint32, c *slot)) (last uint32) {
	i := after + 1
	for looks, isEnough := 0, false; i < s.slots.used && looks < askLooks && !isEnough; i++ {
		looks++
		s.budget.slots++
		if c := s.slots.at(i); c.phase != phaseFree {
			ok, seen := s.selects(sel, i, c)
			looks += seen
			s.budget.looks += int64(seen)
			if ok {
				visit(i, c)
				limit--
			}
		}
		isEnough = limit == 0 || s.budget.spent()
	}
	if i < s.slots.used {
		return i - 1
	}
	return 0
}

// subscribes reports whether a slot belongs to a channel, all to noChannel, and how many
// of its subscriptions are looked at: all, to describe it.
func (s *shard) subscribes(c *slot, ch uint32) (ok bool, looks int) {
	ok = ch == noChannel
	for n := c.sub; n != 0; n = s.subs.at(n).sibling {
		looks++
		ok = ok || s.subs.at(n).ch == ch
	}
	return ok, looks
}

// describe tells what is known of the connection in slot i.
func (s *shard) describe(i uint32) foundSlot {
	s.budget.looks += describeLooks
	c := s.slots.at(i)
	f := foundSlot{
		ref: ref{i, c.gen}, channels: s.namesOf(c), pos: s.upTo(i), opened: c.opened,
		subject: s.engine.front.SubjectName(s.credentials.get(i).subject),
		started: c.hasPlace(), blocked: c.phase.isSlow(),
	}
	slices.Reverse(f.channels) // as they were asked for
	f.client = s.engine.front.ClientName(sock.PeerOf(int(c.fd)), c.peer)
	return f
}

// closeAsk asks to close one connection. The answer says whether it was there.
type closeAsk struct {
	ctx   context.Context
	to    ref
	reply chan bool
}

func (a *closeAsk) answer(s *shard) {
	if a.ctx.Err() != nil {
		return
	}
	i := a.to.slot
	if i == 0 || i >= s.slots.used || s.slots.at(i).gen != a.to.gen || s.slots.at(i).phase == phaseFree {
		a.reply <- false
		return
	}
	s.disconnect(i, s.slots.at(i), CloseAdmin)
	a.reply <- true
}
