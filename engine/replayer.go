package engine

import (
	"container/list"
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ssed/sseproto"
)

// replayer reads the history for resuming clients, and finds where new ones start: a fixed number of readers, a queue in
// front of them, and one read for all who ask the same meanwhile. A page is in memory
// from its read until all shards have taken it; its reader waits for that.
//
// A request is queued, taken by a reader, read, and gone. If the log is not where it needs
// it, it waits for that without a reader, and is queued again (logWaits). Its waiters may leave at any
// time. Until it is read it goes with the last of them. A read is not cancelled: Redis
// would go on with it, and the reader begin the next; without that measure, clients that
// ask and leave kept Redis busy until it lost its links.
type replayer struct {
	// fixed after construction
	log      *Log
	policies []Policy
	cfg      *Config
	wait     time.Duration
	limit    int64           // bytes of one page
	readers  int             // goroutines
	ctx      context.Context // ends the readers
	running  sync.WaitGroup

	bytes atomic.Int64 // of all pages that were read

	mu      sync.Mutex
	some    sync.Cond // on mu: there is something in the queue, or ctx has ended
	asked   map[replayKey]*replayRequest
	waiters map[replayWaiter]*replayRequest
	parts   []replayPart
	turn    int // the partition that is looked at first
}

// replayKey says what a read is for: those with the same one share it. Nothing in it is
// as a client sent it, or everybody could have a read of its own.
type replayKey struct {
	part     uint8 // its partition
	id       sseproto.ID
	start    sseproto.StartPoint // not FromNow: where does it start?
	from     startIDs
	told     toldLosses
	channels string
	form     form // of the page
}

// replayRequest is one read and who waits for it. Guarded by replayer.mu, but for what is
// fixed.
type replayRequest struct {
	// fixed after construction
	key      replayKey
	line     *Lineage
	history  History // nil: there is none, and only where streams start is asked
	channels []string

	waiters map[replayWaiter]uint64  // with the address of each client
	places  map[uint64]*list.Element // in the queue
	wait    *list.Element            // in logWaits; nil: it is not
	isTaken bool                     // by a reader, or in logWaits
	isRead  bool                     // the history is being asked, or has been

	// of one that has waited for the log, or is about to: read by its reader without the lock
	until  time.Time   // no longer
	awaits sseproto.ID // of one that asks for a start: the watermark that it waits for
	isDue  bool        // it has waited until then
}

// replayPart is the requests of a partition. With several of them each has its share of the
// readers: those of a partition whose history does not answer hold up no others. With more
// partitions than readers those that do not answer have a share together.
type replayPart struct {
	line     *Lineage
	queue    fairQueue
	waits    logWaits
	reading  int  // requests that were popped and are not done
	isSilent bool // the last read of its history has failed, by its time as a rule
}

// replayWaiter is a slot that waits for a read.
type replayWaiter struct {
	shard *shard
	to    ref
	part  uint8 // a slot waits for one read of each partition at most
}

func newReplayer(ctx context.Context, log *Log, cfg *Config) *replayer {
	r := &replayer{
		log:      log,
		policies: cfg.Policies,
		cfg:      cfg,
		wait:     cfg.HistoryWait,
		limit:    max(cfg.RingBytes/pagesOfRing/int64(cfg.HistoryReaders), minPageBytes),
		readers:  cfg.HistoryReaders,
		ctx:      ctx,
		asked:    make(map[replayKey]*replayRequest),
		waiters:  make(map[replayWaiter]*replayRequest),
	}
	r.some.L = &r.mu
	r.parts = make([]replayPart, len(log.lines))
	all := newAddresses(max(1, r.readers/readerShares))
	for k := range r.parts {
		p := &r.parts[k]
		p.line, p.waits.kick = log.lines[k], make(chan struct{}, 1)
		p.queue = newFairQueue(max(1, r.readersOfPart()/readerShares), all)
	}
	return r
}

// readerShares is in how many parts the readers are shared: one part is the most for one
// address. With 16 readers it has four, which keep a Redis that is near at work. That many it
// has over all partitions. Of the readers of a partition it has one part too, one at least.
const readerShares = 4

// pagesOfRing: the pages of all readers take as much of the ring's size. What is made of
// them on the way from Redis to the socket is some times as much.
const pagesOfRing = 4

// start lets the readers work until ctx ends.
func (r *replayer) start() {
	for range r.readers {
		r.running.Go(func() {
			for q, client := r.next(); q != nil; q, client = r.next() {
				r.answer(q)
				r.done(q, client)
			}
		})
	}
	for k := range r.parts {
		r.running.Go(func() { r.watchLog(&r.parts[k]) })
	}
	context.AfterFunc(r.ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.some.Broadcast()
	})
}

// next waits for a request to read, and returns whose turn it was. Nil: ctx has ended.
func (r *replayer) next() (q *replayRequest, client uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.ctx.Err() == nil {
		if q, client = r.popLocked(); q != nil {
			q.isTaken = true
			return q, client
		}
		r.some.Wait()
	}
	return nil, 0
}

// readersOfPart is how many readers one partition may have.
func (r *replayer) readersOfPart() int { return max(1, r.readers/len(r.parts)) }

// maySilentReadLocked reports whether one more reader may ask a history that did not answer.
// With as many readers as partitions there is one left for each of the others anyway.
func (r *replayer) maySilentReadLocked() bool {
	if len(r.parts) <= r.readers {
		return true
	}
	reading := 0
	for k := range r.parts {
		if p := &r.parts[k]; p.isSilent {
			reading += p.reading
		}
	}
	return reading < max(1, r.readers/readerShares)
}

// noteAnswer notes whether the history has answered, when it was asked for a request.
func (r *replayer) noteAnswer(q *replayRequest, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := &r.parts[q.key.part]
	wasSilent := p.isSilent
	if p.isSilent = err != nil; wasSilent && !p.isSilent {
		r.some.Broadcast() // others that wait for it may have readers again
	}
}

// popLocked takes the request whose turn it is. Partitions take turns.
func (r *replayer) popLocked() (q *replayRequest, client uint64) {
	share, maySilentRead := r.readersOfPart(), r.maySilentReadLocked()
	for range r.parts {
		p := &r.parts[r.turn]
		r.turn = (r.turn + 1) % len(r.parts)
		if p.reading >= share || p.isSilent && !maySilentRead {
			continue
		}
		if q, client = p.queue.pop(); q != nil {
			p.reading++
			return q, client
		}
	}
	return nil, 0
}

// done tells that a reader is free again: the one that looks for the next right now.
func (r *replayer) done(q *replayRequest, client uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := &r.parts[q.key.part]
	p.reading--
	p.queue.done(client)
	r.some.Signal() // its next request may be of a partition that has a reader left beside this one
}

// request lets the history of the channels behind p be read, and posted to the shard.
// Client is the address that waits; the channels are of one partition. It never blocks.
func (r *replayer) request(s *shard, to ref, client uint64, part uint8, channels []string, f form, p resumePoint) {
	w := replayWaiter{s, to, part}
	key := replayKey{part: part, id: p.id, start: p.start, from: p.from, told: p.told, channels: strings.Join(channels, "\x00"), form: f}
	r.mu.Lock()
	defer r.mu.Unlock()
	q := r.asked[key]
	if q == nil {
		q = &replayRequest{key: key, line: r.log.lines[part], history: r.cfg.historyOf(part), channels: channels, waiters: make(map[replayWaiter]uint64, 1)}
		r.asked[key] = q
	}
	q.waiters[w], r.waiters[w] = client, q
	if !q.isTaken {
		r.parts[part].queue.push(client, q)
		r.some.Signal()
	}
}

// leave tells that a slot is closed. If it waits, it does no longer.
func (r *replayer) leave(s *shard, to ref, part uint8) {
	w := replayWaiter{s, to, part}
	r.mu.Lock()
	defer r.mu.Unlock()
	q := r.waiters[w]
	if q == nil {
		return
	}
	delete(r.waiters, w)
	delete(q.waiters, w)
	if len(q.waiters) == 0 && !q.isRead {
		r.parts[part].queue.remove(q)
		r.endWaitLocked(q)
		r.endLocked(q)
	}
}

// beginRead reports whether somebody still waits. If so, the history is going to be asked:
// who wants the same can join until the answer is there.
func (r *replayer) beginRead(q *replayRequest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	q.isRead = len(q.waiters) > 0
	return q.isRead
}

// endLocked forgets a request: who asks the same from now on has a new one.
func (r *replayer) endLocked(q *replayRequest) {
	if r.asked[q.key] == q {
		delete(r.asked, q.key)
	}
}

// answer does one read, hands the result to all who wait for it, and waits until they
// have taken it. A request for which the log is not ready goes to logWaits.
func (r *replayer) answer(q *replayRequest) {
	read := r.read
	if !q.key.start.IsNow() {
		read = r.findStart
	}
	res, err := read(q)
	if errors.Is(err, errNotYet) && r.waitForLog(q) {
		return
	}
	if err != nil {
		res = &replay{err: err}
	}
	res.key = q.key
	res.taken = make(chan struct{})
	r.mu.Lock()
	r.endLocked(q)
	for w := range q.waiters {
		delete(r.waiters, w)
	}
	r.mu.Unlock()
	if len(q.waiters) == 0 {
		return
	}
	res.refs.Store(int32(len(q.waiters)))
	for w, client := range q.waiters { // nobody else has them any more
		w.shard.post(command{page: res, to: w.to, client: client})
	}
	select {
	case <-res.taken:
	case <-r.ctx.Done():
	}
}
