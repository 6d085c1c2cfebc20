package engine

import "container/list"

// fairQueue is the requests that wait for a reader of the history. Each client address
// has a line; the addresses take turns. So who asks for much waits behind its own
// requests, and others pass. All methods are O(1), but for those of a request of many
// addresses: O(addresses).
type fairQueue struct {
	lines map[uint64]*queueLine
	turns list.List // of *queueLine, none empty
}

// queueLine is what one address waits for.
type queueLine struct {
	client   uint64
	turn     *list.Element // its place in turns
	requests list.List     // of *replayRequest
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
		l = &queueLine{client: client}
		l.turn = f.turns.PushBack(l)
		f.lines[client] = l
	}
	if q.places == nil {
		q.places = make(map[uint64]*list.Element, 1)
	}
	q.places[client] = l.requests.PushBack(q)
}

// pop takes out the request whose turn it is; nil: there is none.
func (f *fairQueue) pop() *replayRequest {
	first := f.turns.Front()
	if first == nil {
		return nil
	}
	f.turns.MoveToBack(first)
	q := first.Value.(*queueLine).requests.Front().Value.(*replayRequest)
	f.remove(q)
	return q
}

// remove takes a request out of all lines that it is in.
func (f *fairQueue) remove(q *replayRequest) {
	for client, place := range q.places {
		l := f.lines[client]
		l.requests.Remove(place)
		if l.requests.Len() == 0 {
			f.turns.Remove(l.turn)
			delete(f.lines, client)
		}
	}
	q.places = nil
}

// isEmpty reports whether nobody waits.
func (f *fairQueue) isEmpty() bool { return f.turns.Len() == 0 }
