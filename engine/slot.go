package engine

import "github.com/valyala/bytebufferpool"

// slotPhase says what a slot waits for. It is in exactly one:
//
//	           admit            sendHead                  job: written whole
//	(free) ──────────▶ arriving ──────────▶ live ◀────────────────────────┐
//	                    │  │  │               │ job: messages of several   │
//	                    │  │  │               ▼ channels, or behind        │
//	                    │  │  │            queued ──── all written ────────┘
//	                    │  │  │             │  ▲
//	   ID ahead of the  │  │  │ socket full │  │ the kernel has room again
//	   log              │  │  └───────────▶ ▼  │
//	        ┌───────────┘  │              blocked        (live, too, when its socket is full)
//	        ▼              ▼
//	      ahead ──────▶ resuming ── page written: resumes again, from its end
//
// A queued slot of which too much lies unread at its client is paced, until it has its turn
// again (slow.go).
//
// In a log of several partitions there is joining in the place of ahead and resuming (joining.go). And
// before arriving there is unbegun, for a slot with a partition that was never open (begin.go).
//
// From each phase but arriving closeSlot leads to free. Ahead, resuming and blocked slots
// whose pending bytes are written resume, which leads to live, queued, blocked, ahead or
// resuming (shard.resumeFrom).
type slotPhase uint8

const (
	phaseFree     slotPhase = iota // no connection
	phaseUnbegun                   // in shard.unbegun: subscribed; waits for one of its partitions to open for the first time
	phaseArriving                  // subscribed; its head is not written
	phaseLive                      // gets new messages straight away, from the jobs of its channels
	phaseQueued                    // in shard.merges or shard.late: has messages to get, or pending bytes to write, when it is its turn
	phaseBlocked                   // its socket is full: waits for the edge of epoll
	phasePaced                     // in shard.paced: its client has not read what it has
	phaseAhead                     // in shard.ahead: its ID lies ahead of the log
	phaseResuming                  // the history is being read for it
	phaseJoining                   // in shard.joins: waits for what one of its partitions lacks
)

// slotFlags are facts that do not depend on the phase, but for slotPending.
type slotFlags uint8

const (
	slotPending slotFlags = 1 << iota // queued or blocked, and bytes outside the ring come first: see shard.pending
	slotMany                          // subscribes to more than one channel
	slotCrowd                         // to more than crowd
	slotNoID                          // its client got no event yet and came without an ID
	slotTakesID                       // its client takes an id without data
	slotStarved                       // blocked, but the kernel had no memory: no edge may follow
	slotChunked                       // its form, with slotTold: see slot.form. It never changes
	slotTold                          // its client is told the channels
)

// slot is one parked connection. It owns its descriptor, no buffer and no goroutine.
//
// A method of shard that takes a slot by number and pointer, (i uint32, c *slot), may
// close it: whoever called does not look at c afterwards. Of those that take only the
// number or only the pointer, closeSlot alone does. And hasRoom may close others, with
// pending bytes: whoever asks for room has none.
type slot struct {
	// pos is a position up to which all messages of its channels are written. What lies
	// behind depends on the phase:
	//   - unbegun, arriving: where the log stood when its request was read. Nothing is written.
	//   - live: exact, but it may be old, also older than the ring: what was scanned since
	//     is not for it, or in the jobs at hand. shard.upTo tells the newest one.
	//   - queued, blocked, paced: exact, and not so old that its ID is forgotten. Nothing behind is
	//     written but off bytes of the next message, in the slot's form, whichever channel it
	//     is from. Where the socket filled in the middle of the ring's messages, pos+1 is that
	//     message.
	//   - ahead, resuming, and with pending bytes that end in a resume: says nothing.
	//   - joining, or queued, blocked or paced while it is in shard.joins: joiningPos.
	pos     uint64
	fd      int32     // -1: free
	gen     uint32    // grows when the slot is freed; events of former owners do not match
	off     uint32    // bytes already written of the message after pos, as they are on the wire
	sub     uint32    // first subscription; of a free slot: the next free one
	expires uint32    // second of the engine's life at which it is closed; 0: never
	peer    uint32    // handle of its address in the front
	opened  uint32    // second of the engine's life at which it came
	phase   slotPhase // what it waits for
	flags   slotFlags // what else there is to know
	idle    uint8     // visits of the sweeper since the last write
	inputs  uint8     // times that it sent something after its request
}

func (c *slot) has(f slotFlags) bool { return c.flags&f != 0 }

// isAnswered: at least a part of its head is written.
func (c *slot) isAnswered() bool { return c.phase > phaseArriving }

// form is how the slot's stream looks on the wire: its last two flags.
func (c *slot) form() form { return form(c.flags / slotChunked) }

// subscription links a slot into the list of one channel's members in a shard,
// and the subscriptions of one slot with each other.
type subscription struct {
	slot       uint32
	ch         uint32
	next, prev uint32 // in the channel's list
	sibling    uint32 // the slot's next subscription
}

// table is a growing array of T that never moves: index 0 is never given out.
type table[T any] struct {
	chunks []*[tableChunk]T
	used   uint32
}

// tableChunk records make a chunk: 40 KiB of slots, so that growth is steady
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

// membersTable has the members of all channels by their directory indexes. A chunk in
// which no channel has members or a job is nil.
type membersTable struct {
	chunks []*[chunkSize]members
	used   []int // of each chunk: channels with members or a job
}

// find returns the members of a channel; nil: it has none, and no job.
func (t *membersTable) find(ch uint32) *members {
	if n := ch / chunkSize; n < uint32(len(t.chunks)) && t.chunks[n] != nil {
		return &t.chunks[n][ch%chunkSize]
	}
	return nil
}

// at returns those of a channel that has members or a job.
func (t *membersTable) at(ch uint32) *members { return &t.chunks[ch/chunkSize][ch%chunkSize] }

// join makes place for the first member of a channel, if it is that.
func (t *membersTable) join(ch uint32) *members {
	n := ch / chunkSize
	for uint32(len(t.chunks)) <= n {
		t.chunks, t.used = append(t.chunks, nil), append(t.used, 0)
	}
	if t.chunks[n] == nil {
		t.chunks[n] = new([chunkSize]members)
	}
	m := t.at(ch)
	if m.count == 0 && m.job == 0 {
		t.used[n]++
	}
	return m
}

// left gives the place back when a channel has neither members nor a job.
func (t *membersTable) left(ch uint32) {
	if m := t.at(ch); m.count > 0 || m.job != 0 {
		return
	}
	n := ch / chunkSize
	if t.used[n]--; t.used[n] == 0 {
		t.chunks[n] = nil
	}
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
	*c = slot{fd: int32(fd), gen: c.gen, opened: s.engine.second(s.began), phase: phaseArriving}
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

// enter moves a slot to another phase.
func (s *shard) enter(c *slot, p slotPhase) {
	switch was, is := c.phase.isSlow(), p.isSlow(); {
	case is && !was:
		s.count.slow.Add(1)
	case was && !is:
		s.count.slow.Add(-1)
	}
	if c.phase != p {
		c.flags &^= slotStarved
	}
	c.phase = p
}

// isSlow tells that a slot waits for its client to read.
func (p slotPhase) isSlow() bool { return p == phaseBlocked || p == phasePaced }

// subscribe adds slot i to the members of a channel.
func (s *shard) subscribe(i uint32, name string) {
	s.budget.looks += subscribeLooks
	ch := s.log.dir.subscribe(name)
	m := s.members.join(ch)
	c := s.slots.at(i)
	n, sub := s.subs.take()
	*sub = subscription{slot: i, ch: ch, next: m.first, sibling: c.sub}
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
		s.budget.looks += subscribeLooks
		sub := s.subs.at(n)
		m := s.members.at(sub.ch)
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
		s.members.left(sub.ch)
		s.log.dir.unsubscribe(sub.ch)
		next := sub.sibling
		s.subs.put(n)
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

// hasPlace reports whether pos says something.
func (c *slot) hasPlace() bool {
	return !c.has(slotPending) && (c.phase == phaseLive || c.phase == phaseQueued || c.phase.isSlow())
}
