package rsub

import (
	"math/rand/v2"
	"strconv"
	"sync"

	"ssed/sseproto"
)

// maxAwaited is how many published messages may wait for their numbers at once, which
// is a matter of a round trip: a few megabytes that only a stalled link fills.
const maxAwaited = 65536

// receipts is where the links tell the numbers of what this instance has published.
type receipts struct {
	counters *counters
	links    int

	mu      sync.Mutex // guards the rest and the parcels
	last    uint64     // number of the newest parcel
	parcels map[uint64]*parcel
	waiting int // messages
}

// parcel is the messages of one call of the script.
type parcel struct {
	number  uint64        // 0: nothing is awaited, and there is no notice
	awaited []awaited     // what will come back, in order
	missing int           // without a number yet
	passed  int           // links that will not tell more
	done    chan struct{} // closed when nothing more is to be expected
}

// awaited is a message that comes back.
type awaited struct {
	channel string // fixed
	index   int    // fixed: in the list of receipts
	id      sseproto.ID
}

// newReceipts begins its numbers anywhere, so that a process with the same name
// does not take what an earlier one has published for its own.
func newReceipts(c *counters, links int) *receipts {
	return &receipts{counters: c, links: links, last: rand.Uint64N(1 << 62), parcels: map[uint64]*parcel{}}
}

// open registers the messages whose receipts begin at first. What no pattern matches
// does not come back.
func (r *receipts) open(patterns patternSet, messages []Outgoing, first int) *parcel {
	p := &parcel{done: make(chan struct{})}
	for i, m := range messages {
		if patterns.match(m.Channel) {
			p.awaited = append(p.awaited, awaited{channel: m.Channel, index: first + i})
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(p.awaited)
	if n > 0 && r.waiting+n > maxAwaited {
		r.counters.receiptsRefused.Add(uint64(n))
		p.awaited, n = nil, 0
	}
	if n == 0 {
		close(p.done)
		return p
	}
	r.last++
	p.number, p.missing = r.last, n
	r.parcels[p.number] = p
	r.waiting += n
	return p
}

// name is the number as the notice has it; empty: there shall be none.
func (p *parcel) name() string {
	if p.number == 0 {
		return ""
	}
	return strconv.FormatUint(p.number, 10)
}

func (r *receipts) find(number uint64) *parcel {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.parcels[number]
}

// tell takes the position of an awaited message. Two feeds of one node tell the same.
func (r *receipts) tell(p *parcel, i int, id sseproto.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.awaited[i].id != (sseproto.ID{}) {
		return
	}
	p.awaited[i].id = id
	if p.missing--; p.missing == 0 && p.passed < r.links {
		close(p.done)
	}
}

// pass notes that one link will not tell more of a parcel.
func (r *receipts) pass(p *parcel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.passed++; p.passed == r.links && p.missing > 0 {
		close(p.done)
	}
}

// settle ends the wait and writes what is known into the list.
func (r *receipts) settle(p *parcel, list []Receipt) {
	if p.number == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.parcels, p.number)
	r.waiting -= len(p.awaited)
	r.counters.receiptsLate.Add(uint64(p.missing))
	r.counters.receiptsTold.Add(uint64(len(p.awaited) - p.missing))
	for _, a := range p.awaited {
		list[a.index].ID = a.id
	}
}

// drop ends the wait for a parcel that was perhaps never published.
func (r *receipts) drop(p *parcel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.number != 0 {
		delete(r.parcels, p.number)
		r.waiting -= len(p.awaited)
	}
}
