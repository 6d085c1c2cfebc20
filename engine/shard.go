package engine

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/bytebufferpool"

	"ssed/engine/internal/front"
)

// ref names a slot as it was at some time.
type ref struct{ slot, gen uint32 }

// command is something that another goroutine wants of a shard: the first field
// that is set.
type command struct {
	attach *front.Stream // a new connection
	page   *replay       // what the history told for to
	to     ref
	ask    ask // a question about its connections
	order  order
	by     time.Time // of orderDrain
}

// order concerns the loop as a whole.
type order uint8

const (
	orderDrain order = iota + 1 // close everything by the time that the command gives
	orderStop                   // nothing more comes: end the loop
)

// shard is one event loop: its connections, their subscriptions, its cursor on
// the log. Everything in it belongs to its goroutine except the inbox.
type shard struct {
	// fixed after construction
	engine     *Engine
	log        *Log
	reader     *reader
	poller     *poller
	number     int
	bit        uint64                                    // its bit in channel.shards
	send       func(fd int, vec []iovec) (int, ioResult) // sendFd, but for benchmarks without a network
	sharesBit  bool                                      // another shard has the same bit
	maxPending int64                                     // how much of pendingSize keeps further events of the history out
	firstGen   uint32                                    // generation of a slot that was never in use: connection IDs of another process do not match
	ended      chan struct{}                             // closed at the end of the loop

	// owned by the loop
	began       time.Time // when the pass began
	clock       loopClock
	slots       table[slot]
	subs        table[subscription]
	credentials credentials
	freeSlot    uint32
	freeSub     uint32
	open        int // slots in use
	members     []members
	jobs        []job
	freeJobs    []uint32
	small       []uint32 // jobs of this pass, all served in it
	large       queue    // jobs served in slices
	batch       batch    // scratch: one job's messages
	own         batch    // scratch: one slot's messages
	heads       []uint64 // scratch of gatherOwn
	single      [1]iovec // scratch of writeBytes
	arrivals    []attachment
	newcomers   []ref     // subscribed in this pass, not yet answered
	barrier     *barrier  // the newest that the loop has come to; at first one before all
	barrierNext uint32    // slot to look at next for it; 0: it is done
	pages       []command // histories that came in this pass
	asks        []ask     // questions that came in this pass
	ahead       []waiting
	pending     map[uint32]*pendingBytes
	pendingSize int64 // bytes in pending
	late        []ref // slots to be tried again, in turn
	rng         *rand.Rand
	sweeper     sweeper
	drained     sync.Once // tells the engine that nothing is open any more
	stopping    bool
	discarded   []byte // scratch: what clients send after their request
	count       counters

	// shared
	asleep atomic.Bool  // the loop is in, or on its way into, a wait
	woken  atomic.Int64 // moment at which somebody ended its sleep, see loopClock
	gauge  atomic.Int64

	mu    sync.Mutex
	inbox []command // guarded by mu
	spare []command // owned by the loop: the other half of the inbox
}

func newShard(e *Engine, n int) (*shard, error) {
	p, err := newPoller()
	if err != nil {
		return nil, err
	}
	s := &shard{
		engine:     e,
		log:        e.log,
		reader:     e.log.readers[n],
		poller:     p,
		send:       sendFd,
		number:     n,
		firstGen:   rand.Uint32(),
		ended:      make(chan struct{}),
		bit:        1 << (n % 64),
		sharesBit:  e.cfg.Shards > 64,
		maxPending: e.cfg.RingBytes / 2 / int64(e.cfg.Shards),
		pending:    make(map[uint32]*pendingBytes),
		rng:        rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
		discarded:  make([]byte, maxDiscard),
	}
	s.sweeper.init(e.cfg.Heartbeat)
	s.reader.cursor.Store(e.log.head.Load())
	s.barrier = e.log.newestBarrier()
	return s, nil
}

// post puts a command into the inbox. It never blocks.
func (s *shard) post(c command) {
	s.mu.Lock()
	s.inbox = append(s.inbox, c)
	s.mu.Unlock()
	s.wake()
}

// wake makes the loop look around if it sleeps.
func (s *shard) wake() {
	if s.asleep.Load() && s.asleep.CompareAndSwap(true, false) {
		s.woken.Store(int64(s.engine.moment(time.Now())))
		s.poller.wake()
	}
}

// run is the event loop. It ends with the order to stop.
func (s *shard) run() {
	defer close(s.ended)
	defer s.poller.close()
	defer s.reader.cursor.Store(noPosition)
	for {
		wait := s.pollTimeout()
		if wait == 0 {
			// A loop with work never blocks. Without this the feed would wait for the
			// scheduler's time slice of 10 ms where there are as many shards as cores.
			runtime.Gosched()
			if !s.large.empty() {
				yieldCPU()
			}
		} else {
			s.fallAsleep()
		}
		events := s.poller.wait(wait)
		s.asleep.Store(false)
		now := time.Now()
		s.wakeUp(wait != 0, now)
		s.pass(events, now)
		s.gauge.Store(int64(s.open))
		if s.sweeper.draining() && s.open == 0 {
			s.drained.Do(s.engine.drained.Done)
		}
		if s.stopping {
			s.closeAll()
			return
		}
	}
}

// pass does what is to be done now, with one view of the log.
func (s *shard) pass(events int, now time.Time) {
	s.began = now
	s.readInbox()
	v := s.reader.open()
	s.answerArrivals(&v)
	s.handle(&v, events)
	s.retry(&v)
	s.fanOut(&v)
	s.answerAsks()
	s.sweep(&v, now)
	v.close()
	s.batch.reset()
	s.own.reset()
}

// closeAll closes what is left at the end.
func (s *shard) closeAll() {
	for i := uint32(1); i < s.slots.used; i++ {
		if s.slots.at(i).fd >= 0 {
			s.closeSlot(i, CloseDrain)
		}
	}
	s.gauge.Store(0)
}

// pollTimeout is how long the next wait may last: not at all when there is work,
// until the next sweep when there are connections, else without limit. Before a
// real wait it announces the sleep and then looks for work once more, so that
// whoever brings some sees one or is seen.
func (s *shard) pollTimeout() int {
	if s.busy() {
		return 0
	}
	s.asleep.Store(true)
	if s.busy() {
		s.asleep.Store(false)
		return 0
	}
	if s.open == 0 {
		return -1
	}
	return s.sweeper.untilSweep()
}

func (s *shard) busy() bool {
	if len(s.late) > 0 || s.sweeper.isOwed() || s.barrierNext != 0 || !s.large.empty() || s.reader.cursor.Load() < s.log.head.Load() {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.inbox) > 0
}

// readInbox takes the commands. New connections are subscribed here, before the
// pass opens its view: directory numbers given out now are not met in it with an
// older meaning.
func (s *shard) readInbox() {
	s.mu.Lock()
	commands := s.inbox
	s.inbox = s.spare[:0]
	s.mu.Unlock()
	for k := range commands {
		switch c := &commands[k]; {
		case c.attach != nil:
			s.admit(c.attach)
		case c.page != nil:
			s.pages = append(s.pages, *c)
		case c.ask != nil:
			s.asks = append(s.asks, c.ask)
		case c.order == orderStop:
			s.stopping = true
		case c.order == orderDrain:
			s.sweeper.deadline = c.by
		}
		commands[k] = command{}
	}
	s.spare = commands
}

// handle deals with what the kernel tells about parked descriptors.
func (s *shard) handle(v *view, events int) {
	for k := range events {
		ev := s.poller.event(k)
		if ev.slot == wakeSlot || ev.slot >= s.slots.used {
			continue
		}
		c := s.slots.at(ev.slot)
		if c.gen != ev.gen || c.fd < 0 {
			continue
		}
		switch {
		case ev.hadError: // first: a reset and a timeout hang up as well
			s.closeSlot(ev.slot, CloseError)
			continue
		case ev.peerClosed:
			s.closeSlot(ev.slot, CloseClient)
			continue
		case ev.readable && !s.discardInput(ev.slot, c):
			continue
		}
		if ev.writable && c.state&slotBlocked != 0 {
			s.unblock(v, ev.slot, c)
		}
	}
}

// unblock goes on with a slot whose socket has room again, unless it took so
// long that its next message is gone.
func (s *shard) unblock(v *view, i uint32, c *slot) {
	if s.lostTouch(v, c) {
		s.closeSlot(i, CloseSlow)
		return
	}
	s.unmarkBlocked(c)
	s.proceed(v, i, c)
}

const (
	// maxDiscard bounds what is read at once of a client that sends after its request.
	maxDiscard = 16 << 10
	// maxInputEvents bounds how often it may do so; browsers never do.
	maxInputEvents = 64
)

// discardInput reads and drops what a client sent after its request. A client that
// sends much, or often, is closed; so is one that is gone.
func (s *shard) discardInput(i uint32, c *slot) (ok bool) {
	n, res := readFd(int(c.fd), s.discarded)
	switch {
	case res == ioAgain:
		return true
	case res == ioFailed:
		s.closeSlot(i, CloseError)
	case n == 0:
		s.closeSlot(i, CloseClient)
	case n == len(s.discarded) || c.inputs == maxInputEvents:
		s.closeSlot(i, CloseAbuse)
	default:
		c.inputs++
		return true
	}
	return false
}

// retryBytes bounds what all slots that could not finish get in one pass: four of them,
// if each takes what it may (catchUpBytes). There may be as many as the shard has.
const retryBytes = 4 * catchUpBytes

// retry gives slots that could not finish another turn, as many as one pass may, in the
// order in which they came. Who does not finish again comes behind the others.
func (s *shard) retry(v *view) {
	limit := s.count.sentBytes.Load() + retryBytes
	k, turns := 0, 0
	for end := len(s.late); k < end && turns < sliceWrites && s.count.sentBytes.Load() < limit; k++ {
		r := s.late[k]
		if c := s.slots.at(r.slot); c.gen == r.gen && c.state&slotQueued != 0 {
			c.state &^= slotQueued
			s.proceed(v, r.slot, c)
			turns++
		}
	}
	s.late = slices.Delete(s.late, 0, k)
}

// proceed goes on writing to a slot: what is pending, then the ring.
func (s *shard) proceed(v *view, i uint32, c *slot) {
	if c.state&slotPending != 0 && !s.writePending(v, i, c) {
		return
	}
	if c.state&slotNotLive == 0 {
		s.catchUp(v, i, c)
	}
}

// writePending writes a slot's pending bytes and reports whether it may go on
// with the ring.
func (s *shard) writePending(v *view, i uint32, c *slot) (ok bool) {
	p := s.pending[i]
	if len(p.rest) > 0 {
		n, res := s.writeBytes(c, p.rest)
		if res == ioFailed {
			s.closeSlot(i, CloseError)
			return false
		}
		if p.rest = p.rest[n:]; len(p.rest) > 0 {
			s.block(c)
			return false
		}
	}
	then := p.then
	s.dropPending(i, c)
	if then.kind != resumeNone {
		s.resumeFrom(v, i, c, then)
		return false
	}
	return true
}

func (s *shard) dropPending(i uint32, c *slot) {
	if c.state&slotPending == 0 {
		return
	}
	buf := s.pending[i].buf
	s.pendingSize -= int64(buf.Len())
	bytebufferpool.Put(buf)
	delete(s.pending, i)
	c.state &^= slotPending
}

// keepPending makes a copy of b the pending bytes of a slot.
func (s *shard) keepPending(i uint32, c *slot, b []byte, then resumePoint) {
	buf := bytebufferpool.Get()
	_, _ = buf.Write(b)
	s.pendingSize += int64(len(b))
	s.pending[i] = &pendingBytes{buf: buf, rest: buf.B, then: then}
	c.state |= slotPending
}

// closeSlot ends a connection: the one place where a shard closes a descriptor.
func (s *shard) closeSlot(i uint32, reason CloseReason) {
	c := s.slots.at(i)
	s.unsubscribeAll(i)
	s.dropPending(i, c)
	s.unmarkBlocked(c)
	fd, peer, subject := int(c.fd), c.peer, s.credentials.get(i).subject
	s.credentials.clear(i)
	s.dropSlot(i)
	s.count.closed[reason].Add(1)
	closeFd(fd)
	s.engine.closed(peer, subject)
}
