package front

import (
	"container/list"
	"sync"

	"ssed/sseproto"
)

const (
	// smallBytes is how much of a request that is not whole yet is kept for every
	// connection, whatever others do: as much as a head has by default.
	smallBytes = sseproto.DefaultMaxHeadBytes
	// maxLargeBytes bounds the memory of all that are larger, together: 512 of 128 KiB. A
	// request that is sent without a pause is among them for the time between two packets.
	maxLargeBytes = 64 << 20
)

// largeRequests bounds the memory of requests larger than smallBytes: of those that are not
// whole yet, and of those that an Authorizer looks at, which come first. At the bound the
// one that has been large for longest is closed, and counted: who sends without a pause is
// through before its turn comes, however many others send a byte now and then.
type largeRequests struct {
	most int64
	end  func(*handshake) // called with mu held: until it returns, h is not closed

	mu       sync.Mutex
	held     int64      // bytes of those in waiting, and reserved; guarded by mu
	reserved int64      // bytes of requests that an Authorizer looks at; guarded by mu
	waiting  *list.List // of *handshake, by when they became large; guarded by mu
}

func newLargeRequests(most int64, end func(*handshake)) *largeRequests {
	return &largeRequests{most: most, end: end, waiting: list.New()}
}

// set tells how much memory the part of a request of h takes, 0 when it is whole or gone,
// and ends those that have to make room.
func (l *largeRequests) set(h *handshake, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case bytes == 0, h.isShut():
		l.removeLocked(h)
		return
	case h.large == nil:
		h.large = l.waiting.PushBack(h)
	}
	l.held += bytes - h.largeBytes
	h.largeBytes = bytes
	l.makeRoomLocked(h)
}

// makeRoomLocked ends who has been large for longest, but for one, until what is left fits.
func (l *largeRequests) makeRoomLocked(but *handshake) {
	for next := l.waiting.Front(); next != nil && l.held > l.most; {
		other := next.Value.(*handshake)
		next = next.Next()
		if other != but {
			l.removeLocked(other)
			l.end(other)
		}
	}
}

// reserve takes memory for a request that is whole, unless such requests have all of it.
func (l *largeRequests) reserve(bytes int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reserved+bytes > l.most {
		return false
	}
	l.reserved += bytes
	l.held += bytes
	l.makeRoomLocked(nil)
	return true
}

// release gives back what reserve took.
func (l *largeRequests) release(bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserved -= bytes
	l.held -= bytes
}

func (l *largeRequests) removeLocked(h *handshake) {
	if h.large != nil {
		l.waiting.Remove(h.large)
		l.held -= h.largeBytes
		h.large, h.largeBytes = nil, 0
	}
}

// bytes is how much memory all of them take now.
func (l *largeRequests) bytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held
}
