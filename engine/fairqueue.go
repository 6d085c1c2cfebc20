package engine

import "container/list"

// fairQueue is the requests that wait for a reader of the history. Each client address
// has a line; the addresses take turns, and none has more than a share of the readers. So
// who asks for much waits behind its own requests, and others pass. All methods are O(1),
// but for those of a request of many addresses: O(addresses).
type fairQueue struct {
	share int // of the readers for one address
	lines map[uint64]*queueLine
	turns list.List // of *queueLine: those that have a request and less than their share
}

// queueLine is what one address waits for. It is there while there is a request in it, or
// one is being read.
type queueLine struct {
	requests list.List     // of *replayRequest
	turn     *list.Element // its place in turns; nil: none
	reading  int           // requests that were popped for it and are not done
}

// push puts a request at the end of a client's line, if it is not in it. A request for
// several clients is served when the first of them has its turn.
func (f *fairQueue) push(client uint64, q *replayRequest) {
	if q.places[client] != nil {
		return
	}
	if f.lines == nil {
		f.lines = make(map[uint64]*queueLine)
	}
	l := f.lines[client]
	if l == nil {
		l = &queueLine{}
		f.lines[client] = l
	}
	if q.places == nil {
		q.places = make(map[uint64]*list.Element, 1)
	}
	q.places[client] = l.requests.PushBack(q)
	f.updateTurn(client, l)
}

// pop takes out the request whose turn it is, and the client who is to be told to done
// when it is read; nil: nobody may have a reader.
func (f *fairQueue) pop() (q *replayRequest, client uint64) {
	first := f.turns.Front()
	if first == nil {
		return nil, 0
	}
	client = first.Value.(uint64)
	l := f.lines[client]
	f.turns.MoveToBack(first)
	q = l.requests.Front().Value.(*replayRequest)
	l.reading++ // first, or the line would go with its last request
	f.remove(q)
	f.updateTurn(client, l)
	return q, client
}

// done gives a client's reader back.
func (f *fairQueue) done(client uint64) {
	l := f.lines[client]
	l.reading--
	f.updateTurn(client, l)
}

// remove takes a request out of all lines that it is in.
func (f *fairQueue) remove(q *replayRequest) {
	for client, place := range q.places {
		l := f.lines[client]
		l.requests.Remove(place)
		f.updateTurn(client, l)
	}
	q.places = nil
}

// updateTurn gives a line a turn, or takes it, and forgets one that is over.
func (f *fairQueue) updateTurn(client uint64, l *queueLine) {
	hasTurn := l.requests.Len() > 0 && l.reading < f.share
	switch {
	case hasTurn && l.turn == nil:
		l.turn = f.turns.PushBack(client)
	case !hasTurn && l.turn != nil:
		f.turns.Remove(l.turn)
		l.turn = nil
	}
	if l.requests.Len() == 0 && l.reading == 0 {
		delete(f.lines, client)
	}
}
