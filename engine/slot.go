package engine

import "github.com/valyala/bytebufferpool"

// slotState is a set of reasons why a slot is not simply live.
type slotState uint8

const (
	slotBlocked  slotState = 1 << iota // the socket is full: waits for the edge
	slotResuming                       // the history is being read for it, or its ID is still ahead of the log
	slotPending                        // bytes outside the ring come first, see shard.pending
	slotMany                           // subscribes to more than one channel
	slotQueued                         // in shard.late
	slotNoID                           // its client got no event yet and came without an ID: live all the same

	// slotNotLive: new messages do not go straight to the socket.
	slotNotLive = slotBlocked | slotResuming | slotPending | slotQueued
)

// slot is one parked connection. It owns its descriptor, no buffer and no
// goroutine. The position is all there is to know about what it has received.
type slot struct {
	pos     uint64    // all messages of its channels up to here are written
	fd      int32     // -1: free
	gen     uint32    // grows when the slot is freed; events of former owners do not match
	off     uint32    // bytes already written of the message after pos
	sub     uint32    // first subscription; of a free slot: the next free one
	expires uint32    // second of the engine's life at which it is closed; 0: never
	peer    uint32    // handle of its address in the front
	opened  uint32    // second of the engine's life at which it came
	state   slotState // why it is not live
	idle    uint8     // visits of the heartbeat since the last write
	inputs  uint8     // times that it sent something after its request
}

// subscription links a slot into the list of one channel's members in a shard,
// and the subscriptions of one slot with each other.
type subscription struct {
	slot       uint32
	ch         uint32
	next, prev uint32 // in the channel's list; of a free one, next is the next free
	sibling    uint32 // the slot's next subscription
}

// table is a growing array of T that never moves: index 0 is never given out.
type table[T any] struct {
	chunks []*[tableChunk]T
	used   uint32
}

// tableChunk records make a chunk: 44 KiB of slots, so that growth is steady
// and its waste small.
const tableChunk = 1024

func (t *table[T]) at(i uint32) *T { return &t.chunks[i/tableChunk][i%tableChunk] }

// grow returns the index of a record that was never in use.
func (t *table[T]) grow() uint32 {
	if t.used == 0 {
		t.used = 1
	}
	if t.used/tableChunk >= uint32(len(t.chunks)) {
		t.chunks = append(t.chunks, new([tableChunk]T))
	}
	t.used++
	return t.used - 1
}

// members is what a shard knows about one channel.
type members struct {
	first uint32 // first subscription; 0: none
	count uint32
	job   uint32 // index of the channel's job plus one; 0: none
}

// pendingBytes are written to a slot before anything from the ring: the rest of
// a response head, or of one event of the history.
type pendingBytes struct {
	buf  *bytebufferpool.ByteBuffer // goes back to the pool
	rest []byte
	then resumePoint // where to go on when all is written; kind resumeNone: from slot.pos
}

// newSlot takes a free slot for fd.
func (s *shard) newSlot(fd int) (uint32, *slot) {
	i := s.freeSlot
	if i == 0 {
		i = s.slots.grow()
		s.slots.at(i).gen = s.firstGen
	} else {
		s.freeSlot = s.slots.at(i).sub
	}
	c := s.slots.at(i)
	*c = slot{fd: int32(fd), gen: c.gen, opened: s.engine.second(s.began)}
	s.open++
	return i, c
}

// dropSlot frees a slot whose descriptor is closed.
func (s *shard) dropSlot(i uint32) {
	c := s.slots.at(i)
	*c = slot{fd: -1, gen: c.gen + 1, sub: s.freeSlot}
	s.freeSlot = i
	s.open--
}

// subscribe adds slot i to the members of a channel.
func (s *shard) subscribe(i uint32, name string) {
	ch := s.log.dir.subscribe(name)
	for uint32(len(s.members)) <= ch {
		s.members = append(s.members, members{})
	}
	n := s.freeSub
	if n == 0 {
		n = s.subs.grow()
	} else {
		s.freeSub = s.subs.at(n).next
	}
	m := &s.members[ch]
	c := s.slots.at(i)
	*s.subs.at(n) = subscription{slot: i, ch: ch, next: m.first, sibling: c.sub}
	if m.first != 0 {
		s.subs.at(m.first).prev = n
	} else {
		s.log.dir.at(ch).shards.Or(s.bit)
	}
	m.first, c.sub = n, n
	m.count++
}

// unsubscribeAll takes slot i out of all its channels.
func (s *shard) unsubscribeAll(i uint32) {
	for n := s.slots.at(i).sub; n != 0; {
		sub := s.subs.at(n)
		m := &s.members[sub.ch]
		if m.job != 0 {
			s.jobs[m.job-1].leave(n, sub.next)
		}
		if sub.prev != 0 {
			s.subs.at(sub.prev).next = sub.next
		} else {
			m.first = sub.next
		}
		if sub.next != 0 {
			s.subs.at(sub.next).prev = sub.prev
		}
		m.count--
		if m.count == 0 {
			s.lastLeft(sub.ch)
		}
		s.log.dir.unsubscribe(sub.ch)
		next := sub.sibling
		*sub = subscription{next: s.freeSub}
		s.freeSub = n
		n = next
	}
	s.slots.at(i).sub = 0
}

// lastLeft clears the shard's bit of a channel. Several shards share a bit when
// there are more than 64; then a bit too many only costs a wake-up, but one too
// few would lose messages, so it stays.
func (s *shard) lastLeft(ch uint32) {
	if !s.sharesBit {
		s.log.dir.at(ch).shards.And(^s.bit)
	}
}
