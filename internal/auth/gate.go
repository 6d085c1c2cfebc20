package auth

import (
	"container/heap"
	"container/list"
	"context"
	"errors"
	"net/netip"
	"sync"
)

// errQueueFull: no room, or somebody whose address has fewer waiting took it.
var errQueueFull = errors.New("auth: too many wait for the service")

// gate lets a number of requests go on at once, and a number wait, fairly by client
// address:
//
//   - An address goes on with one more only while more slots are free than it has.
//     Alone it gets half of them, two get a third each, and one that is new finds a
//     slot even when the requests of the others hang.
//   - The addresses that wait take turns. How many of one wait does not matter to the
//     others.
//   - When no more may wait, the newest of the address with the most has to go.
//
// Clients of this machine, or of no known address, may all be one proxy: they take
// turns like one address, and may use all slots.
type gate struct {
	slots, maxWaiting int // fixed after construction

	mu      sync.Mutex
	inside  int
	waiting int
	lines   map[netip.Prefix]*line
	turns   list.List    // of the lines in which somebody waits: who is next is in front
	longest longestFirst // the same lines
}

// line is one client address that has requests inside, or waiting.
type line struct {
	address netip.Prefix
	shared  bool // may be many clients
	inside  int
	waiting list.List // of *waiter, the oldest in front
	turn    *list.Element
	place   int // in gate.longest
}

type waiter struct {
	line  *line
	place *list.Element // in line.waiting; nil: the wait has ended
	done  chan error    // holds one: how it ended
}

func newGate(slots, maxWaiting int) *gate {
	return &gate{slots: slots, maxWaiting: maxWaiting, lines: make(map[netip.Prefix]*line)}
}

// enter waits until a request of the client may go on. The function it returns must be
// called when that has ended.
func (g *gate) enter(ctx context.Context, client netip.Addr) (leave func(), err error) {
	w := g.join(client)
	select {
	case err = <-w.done:
	case <-ctx.Done():
		err = g.giveUp(w, ctx.Err())
	}
	if err != nil {
		return nil, err
	}
	return func() { g.leave(w.line) }, nil
}

// join lets a client in, lets it wait, or turns it away.
func (g *gate) join(client netip.Addr) *waiter {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.lineLocked(client)
	w := &waiter{line: l, done: make(chan error, 1)}
	switch {
	case l.waiting.Len() == 0 && g.mayEnterLocked(l):
		g.admitLocked(l)
		w.done <- nil
		return w
	case g.waiting == g.maxWaiting && !g.makeRoomLocked(l):
		g.forgetLocked(l)
		w.done <- errQueueFull
		return w
	}
	w.place = l.waiting.PushBack(w)
	g.waiting++
	if l.turn == nil {
		l.turn = g.turns.PushBack(l)
		heap.Push(&g.longest, l)
	} else {
		heap.Fix(&g.longest, l.place)
	}
	return w
}

// leave takes back what enter has given.
func (g *gate) leave(l *line) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	l.inside--
	g.forgetLocked(l)
	g.callLocked()
}

// giveUp ends a wait with err, unless it has ended.
func (g *gate) giveUp(w *waiter, err error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if w.place == nil {
		return <-w.done
	}
	g.endLocked(w)
	g.forgetLocked(w.line)
	return err
}

// callLocked lets in who may go on. It passes over addresses that have their share,
// each of which has requests inside: O(slots).
func (g *gate) callLocked() {
	for turn := g.turns.Front(); turn != nil && g.inside < g.slots; {
		l := turn.Value.(*line)
		next := turn.Next()
		if g.mayEnterLocked(l) {
			w := l.waiting.Front().Value.(*waiter)
			g.turns.MoveToBack(turn)
			g.endLocked(w)
			g.admitLocked(l)
			w.done <- nil
			next = g.turns.Front()
		}
		turn = next
	}
}

func (g *gate) mayEnterLocked(l *line) bool {
	free := g.slots - g.inside
	return l.inside < free || l.shared && free > 0
}

func (g *gate) admitLocked(l *line) {
	g.inside++
	l.inside++
}

// makeRoomLocked ends the newest wait of the longest line, if that is more than one
// longer than l.
func (g *gate) makeRoomLocked(l *line) bool {
	if len(g.longest) == 0 || g.longest[0].waiting.Len() <= l.waiting.Len()+1 {
		return false
	}
	w := g.longest[0].waiting.Back().Value.(*waiter)
	g.endLocked(w)
	w.done <- errQueueFull
	return true
}

// endLocked takes w out of its line. The line is forgotten by whoever calls.
func (g *gate) endLocked(w *waiter) {
	l := w.line
	l.waiting.Remove(w.place)
	w.place = nil
	g.waiting--
	if l.waiting.Len() > 0 {
		heap.Fix(&g.longest, l.place)
		return
	}
	heap.Remove(&g.longest, l.place)
	g.turns.Remove(l.turn)
	l.turn = nil
}

func (g *gate) lineLocked(client netip.Addr) *line {
	address := lineOf(client)
	l := g.lines[address]
	if l == nil {
		l = &line{address: address, shared: !client.IsValid() || client.Unmap().IsLoopback()}
		g.lines[address] = l
	}
	return l
}

// forgetLocked drops a line in which nobody is.
func (g *gate) forgetLocked(l *line) {
	if l.inside == 0 && l.waiting.Len() == 0 {
		delete(g.lines, l.address)
	}
}

// lineOf is an IPv4 address, or the /64 of an IPv6 one, of which a subscriber of a
// provider has one at least (RFC 6177).
func lineOf(client netip.Addr) netip.Prefix {
	client = client.Unmap().WithZone("")
	bits := client.BitLen()
	if client.Is6() {
		bits = 64
	}
	prefix, _ := client.Prefix(bits) // of a valid address; of another the zero prefix
	return prefix
}

// longestFirst is a heap.Interface: the line in which most wait is in front.
type longestFirst []*line

func (h longestFirst) Len() int           { return len(h) }
func (h longestFirst) Less(i, j int) bool { return h[i].waiting.Len() > h[j].waiting.Len() }

func (h longestFirst) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *longestFirst) Push(x any) {
	l := x.(*line)
	l.place = len(*h)
	*h = append(*h, l)
}

func (h *longestFirst) Pop() any {
	last := len(*h) - 1
	l := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return l
}
