package engine

import (
	"container/list"
	"slices"
)

// fairQueue is the requests that wait for a reader of the history of one partition. Each
// client address has a line; the addresses take turns, and none has more than a share of the
// readers. So who asks for much waits behind its own requests, and others pass. All methods are
// O(1), but for those of a request of many addresses: O(addresses). When an address comes to its
// share of all readers, or gives one of that many back, it is O(its lines), of which it has
// one for each partition at most.
type fairQueue struct {
	share     int // of the readers of the partition for one address
	addresses *addresses
	lines     map[uint64]*queueLine
	turns     list.List // of *queueLine: those that have a request and less than their shares
}

// queueLine is what one address waits for. It is there while there is a request in it, or
// one is being read.
type queueLine struct {
	queue    *fairQueue
	address  *address
	requests list.List     // of *replayRequest
	turn     *list.Element // its place in turns; nil: none
	reading  int           // requests that were popped for it and are not done
}

// addresses are those that have a line in any of the queues: with channels of many partitions
// an address would have a share of the readers of each, and so all of them.
type addresses struct {
	share int // of all readers for one address
	all   map[uint64]*address
}

// address is one client address.
type address struct {
	client  uint64
	lines   []*queueLine // one for each queue in which it has one
	reading int          // requests that were popped for them and are not done
}

func newAddresses(share int) *addresses {
	return &addresses{share: share, all: make(map[uint64]*address)}
}

func newFairQueue(share int, all *addresses) fairQueue {
	return fairQueue{share: share, addresses: all, lines: make(map[uint64]*queueLine)}
}

// push puts a request at the end of a client's line, if it is not in it. A request for
// several clients is served when the first of them has its turn.
func (f *fairQueue) push(client uint64, q *replayRequest) {
	if q.places[client] != nil {
		return
	}
	l := f.lines[client]
	if l == nil {
		l = &queueLine{queue: f, address: f.addresses.get(client)}
		l.address.lines = append(l.address.lines, l)
		f.lines[client] = l
	}
	if q.places == nil {
		q.places = make(map[uint64]*list.Element, 1)
	}
	q.places[client] = l.requests.PushBack(q)
	l.updateTurn()
}

// pop takes out the request whose turn it is, and the client who is to be told to done
// when it is read; nil: nobody may have a reader.
func (f *fairQueue) pop() (q *replayRequest, client uint64) {
	first := f.turns.Front()
	if first == nil {
		return nil, 0
	}
	l := first.Value.(*queueLine)
	f.turns.MoveToBack(first)
	q = l.requests.Front().Value.(*replayRequest)
	l.read(1) // first, or the line would go with its last request
	f.remove(q)
	return q, l.address.client
}

// done gives a client's reader back.
func (f *fairQueue) done(client uint64) { f.lines[client].read(-1) }

// remove takes a request out of all lines that it is in.
func (f *fairQueue) remove(q *replayRequest) {
	for client, place := range q.places {
		l := f.lines[client]
		l.requests.Remove(place)
		l.updateTurn()
	}
	q.places = nil
}

// read counts a reader that a line has more, or less.
func (l *queueLine) read(n int) {
	a, all := l.address, l.queue.addresses
	wasFull := a.reading >= all.share
	l.reading, a.reading = l.reading+n, a.reading+n
	l.updateTurn()
	if isFull := a.reading >= all.share; isFull == wasFull {
		return
	}
	for _, other := range a.lines {
		other.updateTurn()
	}
}

// updateTurn gives a line a turn, or takes it, and forgets one that is over.
func (l *queueLine) updateTurn() {
	f, a := l.queue, l.address
	hasTurn := l.requests.Len() > 0 && l.reading < f.share && a.reading < f.addresses.share
	switch {
	case hasTurn && l.turn == nil:
		l.turn = f.turns.PushBack(l)
	case !hasTurn && l.turn != nil:
		f.turns.Remove(l.turn)
		l.turn = nil
	}
	if l.requests.Len() == 0 && l.reading == 0 {
		delete(f.lines, a.client)
		f.addresses.leave(l)
	}
}

func (all *addresses) get(client uint64) *address {
	a := all.all[client]
	if a == nil {
		a = &address{client: client}
		all.all[client] = a
	}
	return a
}

// leave forgets a line, and an address that has none any more.
func (all *addresses) leave(l *queueLine) {
	a := l.address
	a.lines = slices.DeleteFunc(a.lines, func(other *queueLine) bool { return other == l })
	if len(a.lines) == 0 {
		delete(all.all, a.client)
	}
}
