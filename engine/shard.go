package engine

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/bytebufferpool"

	"ssed/engine/internal/front"
	"ssed/engine/internal/sock"
)

// ref names a slot as it was at some time.
type ref struct{ slot, gen uint32 }

// command is something that another goroutine wants of a shard: the first field
// that is set.
type command struct {
	attach  *front.Stream // a new connection
	page    *replay       // what the history told for to
	to      ref
	client  uint64   // of page: its address, see fairQueue
	done    int      // of page: frames that earlier turns have written
	joining *joining // of page: who they were written for, where that is joining
	ask     ask      // a question about its connections
	order   order
	by      time.Time // of orderDrain
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
	bit        uint64                                            // its bit in channel.shards
	send       func(fd int, vec []sock.Iovec) (int, sock.Result) // sock.Send, but for benchmarks without a network
	sharesBit  bool                                              // another shard has the same bit
	maxPending int64                                             // how much of pendingSize keeps further events of the history out
	shares     shares                                            // of the stages of a pass
	pageTurn   int                                               // bytes of a page of the history that a slot gets in one turn
	firstGen   uint32                                            // generation of a slot that was never in use: connection IDs of another process do not match
	ended      chan struct{}                                     // closed at the end of the loop

	// owned by the loop
	budget      *budget   // of the reader: what the loop has done, and what the stage of the pass may still do
	began       time.Time // when the pass began
	clock       loopClock
	slots       table[slot]
	subs        arena[subscription]
	credentials credentials
	freeSlot    uint32
	open        int // slots in use
	members     membersTable
	jobs        []job
	freeJobs    []uint32
	small       queue[uint32]        // jobs of small channels
	large       queue[uint32]        // jobs of large channels
	merges      queue[queuedSlot]    // slots that get messages of several channels
	late        queue[queuedSlot]    // slots that are behind
	arrivals    queue[*front.Stream] // not admitted yet
	arrived     uint64               // how many came, ever
	newcomers   queue[newcomer]      // subscribed, not yet answered
	unbegun     queue[unbegunSlot]   // the same, with a partition that was never open
	seenUnbegun int32                // Log.unbegun when they were looked at last
	unbegunOpen int                  // of these, how many have neither left nor begun
	unbegunNext int                  // of the queue, how many were looked at since then
	pages       queue[command]       // histories that were read
	ahead       waitingHeap
	barrier     *barrier // the newest that the loop has come to; at first one before all
	// barrierNext is the slot to look at next for the barrier; 0: none is before it.
	barrierNext uint32
	overrun     overrun
	asks        queue[waitingAsk] // questions
	pending     map[uint32]*pendingBytes
	pendingSize int64                 // bytes in pending
	starts      map[uint32]*ringStart // slots that do not start at one place of the ring on all their channels
	paces       map[uint32]*pace      // slots that are paced, see slow.go
	joins       map[uint32]*joining   // slots that have not joined the frames of the ring, see joining.go
	shutJoins   queue[ref]            // those that wait for a partition to open
	shutOwed    int                   // how many of them are due
	seenTurns   uint64                // Log.turns when they were due last
	timedJoins  queue[ref]            // those that wait for a time, or for the log to get on
	timedOwed   int                   // how many of them are due
	timedAt     time.Time             // when they were due last
	mostInMaps  int                   // entries that pending, starts, paces, joins and catchingUp had since they were made anew
	catchingUp  map[uint32]struct{}   // slots with a channel of SlowClose that have not caught up, see slow.go
	paced       queue[ref]            // those that wait
	pacedOwed   int                   // how many of them are due
	pacedAt     time.Time             // when they were due last
	rng         *rand.Rand
	sweeper     sweeper
	drained     sync.Once // tells the engine that nothing is open any more
	stopping    bool
	starved     bool   // the last write found no memory in the kernel
	delivered   uint64 // messages written to a client, whole
	count       counters

	// scratch of the loop
	batches      [forms]batch // one job's messages in each form
	gathered     uint8        // forms whose batch has the messages of one job, a bit each
	gatheredFrom uint64       // which job that is: the position of its first message
	own          batch        // one slot's messages
	ownFrames    ownBatch     // frames made for one slot
	heads        []uint64     // the next messages of one slot, see findHeads
	lags         []lagSample
	single       [1]sock.Iovec
	discarded    []byte // what clients send after their request
	tcpInfo      sock.TCPInfo

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
		budget:     &e.log.readers[n].budget,
		shares:     defaultShares,
		pageTurn:   turnBytes,
		poller:     p,
		send:       sock.Send,
		number:     n,
		firstGen:   rand.Uint32(),
		ended:      make(chan struct{}),
		bit:        1 << (n % 64),
		sharesBit:  e.cfg.Shards > 64,
		maxPending: e.cfg.RingBytes / 2 / int64(e.cfg.Shards),
		pending:    make(map[uint32]*pendingBytes),
		starts:     make(map[uint32]*ringStart),
		paces:      make(map[uint32]*pace),
		joins:      make(map[uint32]*joining),
		catchingUp: make(map[uint32]struct{}),
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
		if !s.poller.hasEvents() {
			s.poller.wait(wait)
		}
		s.asleep.Store(false)
		now := time.Now()
		s.wakeUp(wait != 0, now)
		s.pass(now)
		s.gauge.Store(int64(s.open + s.arrivals.len()))
		if s.sweeper.draining() && s.open+s.arrivals.len() == 0 {
			s.drained.Do(s.engine.drained.Done)
		}
		if s.stopping {
			s.closeAll()
			return
		}
	}
}

// pass does what is to be done now, with one view of the log: each stage as much as its
// share of the budget allows.
func (s *shard) pass(now time.Time) {
	s.began = now
	s.readInbox()
	s.admitSome()
	v := s.reader.open()
	s.fanOut(&v)
	s.takeTurns(&v, &s.merges, s.shares.merge)
	s.lookAtUnbegun()
	s.answerSome(&v)
	s.takePages(&v)
	s.lookAhead(&v)
	s.handle(&v)
	s.takePaced()
	s.takeTurns(&v, &s.late, s.shares.late)
	s.serveLarge(&v)
	s.answerAsks()
	s.sweep(&v, now)
	s.forget(s.sweeper.last == now || s.open == 0)
	v.close()
	s.publishCounts()
}

// forget empties the batches; at a sweep also of memory that only a burst has needed. A batch
// that its job goes on with in the next pass stays, unless pieces of it lie in the ring. To
// gather a hundred messages anew for each hundred members took a seventh of a loop's own time.
func (s *shard) forget(isSweep bool) {
	forget := func(b *batch) {
		b.reset()
		if isSweep {
			b.trim()
		}
	}
	for f := range s.batches {
		if b := &s.batches[f]; s.gathered&(1<<f) == 0 || b.needRing {
			s.gathered &^= 1 << f
			forget(b)
		}
	}
	forget(&s.own)
	inMaps := len(s.pending) + len(s.starts) + len(s.paces) + len(s.joins) + len(s.catchingUp)
	s.mostInMaps = max(s.mostInMaps, inMaps)
	if isSweep && s.mostInMaps > keptInMaps {
		if inMaps == 0 {
			s.mostInMaps = 0
		}
		forgetEmpty(&s.pending)
		forgetEmpty(&s.starts)
		forgetEmpty(&s.paces)
		forgetEmpty(&s.joins)
		forgetEmpty(&s.catchingUp)
	}
}

// keptInMaps is how many entries the maps of a loop may have had and keep their memory, some
// kilobytes: idle streams cost no allocation at each sweep.
const keptInMaps = 64

// forgetEmpty gives back what an empty map has taken: Go keeps it at the size that it once had.
func forgetEmpty[V any](m *map[uint32]V) {
	if len(*m) == 0 {
		*m = make(map[uint32]V)
	}
}

// publishCounts shows others what the pass has done: a store for each counter instead of
// an atomic addition for each delivery.
func (s *shard) publishCounts() {
	s.count.delivered.Store(s.delivered)
	s.count.writes.Store(uint64(s.budget.writes))
	s.count.sentBytes.Store(uint64(s.budget.bytes))
}

// closeAll closes what is left at the end.
func (s *shard) closeAll() {
	for i := uint32(1); i < s.slots.used; i++ {
		if s.slots.at(i).phase != phaseFree {
			s.closeSlot(i, CloseDrain)
		}
	}
	for !s.arrivals.empty() {
		a := s.arrivals.pop()
		s.count.closed[CloseDrain].Add(1)
		s.closeFd(a.FD, a.Peer, a.Subject)
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
	wait := s.sweeper.untilSweep()
	if !s.paced.empty() {
		wait = min(wait, s.untilPaced())
	}
	isPolling := len(s.ahead.list) > 0 || !s.shutJoins.empty() || !s.timedJoins.empty() || !s.unbegun.empty()
	if poll := int(aheadPoll / time.Millisecond); isPolling && (wait < 0 || wait > poll) {
		return poll
	}
	return wait
}

func (s *shard) busy() bool {
	if s.hasWork() || s.reader.cursor.Load() < s.log.head.Load() {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.inbox) > 0
}

// hasWork reports whether a stage has something left to do.
func (s *shard) hasWork() bool {
	return s.poller.hasEvents() || !s.small.empty() || !s.large.empty() || !s.merges.empty() || !s.late.empty() ||
		!s.arrivals.empty() || !s.newcomers.empty() || !s.pages.empty() || !s.asks.empty() || s.ahead.isDue ||
		s.barrierNext != 0 || s.overrun.next != 0 || s.unbegunNext < s.unbegun.len() || s.pacedOwed > 0 || s.shutOwed > 0 || s.timedOwed > 0 || s.sweeper.isOwed()
}

// readInbox takes the commands, and leaves them to the stages.
func (s *shard) readInbox() {
	s.mu.Lock()
	commands := s.inbox
	s.inbox = s.spare[:0]
	s.mu.Unlock()
	for k := range commands {
		switch c := &commands[k]; {
		case c.attach != nil:
			s.arrivals.push(c.attach)
			s.arrived++
		case c.page != nil:
			s.pages.push(*c)
		case c.ask != nil:
			s.asks.push(waitingAsk{c.ask, s.arrived})
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
func (s *shard) handle(v *view) {
	s.budget.begin(s.shares.events)
	for s.poller.hasEvents() {
		s.handleEvent(v, s.poller.next())
		s.budget.slots++
		if s.budget.spent() {
			return
		}
	}
}

func (s *shard) handleEvent(v *view, ev readiness) {
	if ev.slot == wakeSlot || ev.slot >= s.slots.used {
		return
	}
	c := s.slots.at(ev.slot)
	if c.gen != ev.gen || c.phase == phaseFree {
		return
	}
	switch {
	case ev.hadError: // first: a reset and a timeout hang up as well
		s.closeSlot(ev.slot, CloseError)
		return
	case ev.peerClosed:
		s.closeSlot(ev.slot, CloseClient)
		return
	case ev.readable && !s.discardInput(ev.slot, c):
		return
	}
	if ev.writable && c.phase == phaseBlocked {
		s.unblock(v, ev.slot, c)
	}
}

// unblock gives a slot whose socket has room again a turn, unless it took so long that
// its next message is gone.
func (s *shard) unblock(v *view, i uint32, c *slot) {
	if s.lostTouch(v, i) {
		s.closeSlot(i, CloseSlow)
		return
	}
	s.later(i)
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
	n, res := sock.Read(int(c.fd), s.discarded)
	s.budget.calls++
	switch {
	case res == sock.Again || res == sock.Starved:
		return true
	case res == sock.Failed:
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

func (s *shard) dropPending(i uint32) {
	c := s.slots.at(i)
	if !c.has(slotPending) {
		return
	}
	buf := s.pending[i].buf
	s.pendingSize -= int64(buf.Len())
	bytebufferpool.Put(buf)
	delete(s.pending, i)
	c.flags &^= slotPending
}

// keepPending makes a copy of b the pending bytes of a slot.
func (s *shard) keepPending(i uint32, b []byte, then resumePoint) {
	buf := bytebufferpool.Get()
	_, _ = buf.Write(b)
	s.pendingSize += int64(len(b))
	s.pending[i] = &pendingBytes{buf: buf, rest: buf.B, then: then}
	s.slots.at(i).flags |= slotPending
}

// closeSlot ends a connection.
func (s *shard) closeSlot(i uint32, reason CloseReason) {
	c := s.slots.at(i)
	if c.phase == phaseResuming {
		s.engine.replayer.leave(s, ref{i, c.gen}, 0)
	}
	s.unsubscribeAll(i)
	s.dropPending(i)
	if len(s.joins) > 0 {
		s.leaveJoining(i, c)
	}
	delete(s.starts, i)
	delete(s.paces, i)
	delete(s.catchingUp, i)
	if c.phase == phaseAhead {
		s.ahead.leave(s)
	}
	if c.phase == phaseUnbegun { // it did not count as attached
		s.unbegunOpen--
	} else {
		s.count.closed[reason].Add(1)
	}
	s.enter(c, phaseFree)
	fd, peer, subject := int(c.fd), c.peer, s.credentials.get(i).subject
	s.credentials.clear(i)
	s.dropSlot(i)
	s.closeFd(fd, peer, subject)
}

// closeFd is the one place where a shard closes a descriptor.
func (s *shard) closeFd(fd int, peer, subject uint32) {
	s.budget.calls++
	sock.Close(fd)
	s.engine.closed(peer, subject)
}
