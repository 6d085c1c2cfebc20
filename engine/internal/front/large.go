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

// largeRequests bounds the memory of requests that are not whole yet and larger than
// smallBytes. At the bound the one that has been large for longest is closed, and counted:
// who sends without a pause is through before its turn comes, however many others send a
// byte now and then.
type largeRequests struct {
	most  int64
	close func(*handshake)

	mu      sync.Mutex
	held    int64      // bytes of those in waiting; guarded by mu
	waiting *list.List // of *handshake, by when they became large; guarded by mu
}

func newLargeRequests(most int64, closeOne func(*handshake)) *largeRequests {
	return &largeRequests{most: most, close: closeOne, waiting: list.New()}
}

// set tells how much memory the part of a request of h takes, 0 when it is whole or gone.
func (l *largeRequests) set(h *handshake, bytes int64) {
	for _, other := range l.change(h, bytes) {
		l.close(other)
	}
}

// change returns those that have to make room.
func (l *largeRequests) change(h *handshake, bytes int64) (closing []*handshake) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case bytes == 0:
		l.removeLocked(h)
		return nil
	case h.large == nil:
		h.large = l.waiting.PushBack(h)
	}
	l.held += bytes - h.largeBytes
	h.largeBytes = bytes
	for next := l.waiting.Front(); next != nil && l.held > l.most; {
		other := next.Value.(*handshake)
		next = next.Next()
		if other != h {
			l.removeLocked(other)
			closing = append(closing, other)
		}
	}
	return closing
}

func (l *largeRequests) removeLocked(h *handshake) {
	if h.large != nil {
		l.waiting.Remove(h.large)
		l.held -= h.largeBytes
		h.large, h.largeBytes = nil, 0
	}
}

// bytes is how much memory they take now.
func (l *largeRequests) bytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held
}
