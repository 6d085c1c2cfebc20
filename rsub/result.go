package rsub

import (
	"math/rand/v2"
	"strconv"
	"sync"

	"ssed/sseproto"
)

// maxAwaited is how many published messages may wait for their numbers at once, which
// is a matter of a round trip: a few megabytes that only a stalled subscription fills.
const maxAwaited = 65536

// results is where the subscriptions tell the numbers of what this instance has published.
type results struct {
	counters      *counters
	subscriptions int

	mu      sync.Mutex // guards the rest and the batches
	last    uint64     // number of the newest batch
	batches map[uint64]*publishBatch
	waiting int // messages
}

// batch is the messages of one call of the script.
type publishBatch struct {
	number  uint64        // 0: nothing is awaited, and there is no notice
	awaited []awaited     // what will come back, in order
	missing int           // without a number yet
	passed  int           // subscriptions that will not tell more
	done    chan struct{} // closed when nothing more is to be expected
}

// awaited is a message that comes back.
type awaited struct {
	channel string // fixed
	index   int    // fixed: in the list of results
	id      sseproto.ID
}

// newResults begins its numbers anywhere, so that a process with the same name
// does not take what an earlier one has published for its own.
func newResults(c *counters, subscriptions int) *results {
	return &results{counters: c, subscriptions: subscriptions, last: rand.Uint64N(1 << 62), batches: map[uint64]*publishBatch{}}
}

// open registers the messages whose results begin at first. What no pattern matches
// does not come back.
func (r *results) open(patterns patternSet, messages []OutMessage, first int) *publishBatch {
	p := &publishBatch{done: make(chan struct{})}
	for i, m := range messages {
		if patterns.match(m.Channel) {
			p.awaited = append(p.awaited, awaited{channel: m.Channel, index: first + i})
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(p.awaited)
	if n > 0 && r.waiting+n > maxAwaited {
		r.counters.resultsRefused.Add(uint64(n))
		p.awaited, n = nil, 0
	}
	if n == 0 {
		close(p.done)
		return p
	}
	r.last++
	p.number, p.missing = r.last, n
	r.batches[p.number] = p
	r.waiting += n
	return p
}

// name is the number as the notice has it; empty: there shall be none.
func (p *publishBatch) name() string {
	if p.number == 0 {
		return ""
	}
	return strconv.FormatUint(p.number, 10)
}

func (r *results) find(number uint64) *publishBatch {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.batches[number]
}

// tell takes the position of an awaited message. Two feeds of one node tell the same.
func (r *results) tell(p *publishBatch, i int, id sseproto.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.awaited[i].id != (sseproto.ID{}) {
		return
	}
	p.awaited[i].id = id
	if p.missing--; p.missing == 0 && p.passed < r.subscriptions {
		close(p.done)
	}
}

// pass notes that one subscription will not tell more of a batch.
func (r *results) pass(p *publishBatch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.passed++; p.passed == r.subscriptions && p.missing > 0 {
		close(p.done)
	}
}

// resolve ends the wait and writes what is known into the list.
func (r *results) resolve(p *publishBatch, list []PublishResult) {
	if p.number == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.batches, p.number)
	r.waiting -= len(p.awaited)
	r.counters.resultsLate.Add(uint64(p.missing))
	r.counters.resultsTold.Add(uint64(len(p.awaited) - p.missing))
	for _, a := range p.awaited {
		list[a.index].ID = a.id
	}
}

// drop ends the wait for a batch that was perhaps never published.
func (r *results) drop(p *publishBatch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.number != 0 {
		delete(r.batches, p.number)
		r.waiting -= len(p.awaited)
	}
}
