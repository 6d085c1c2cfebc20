//go:build linux

package main

import (
	"sync"
	"sync/atomic"
	"time"

	"ssed/sseproto"
)

// timeline remembers in which slices of time something moved on.
type timeline struct {
	slices []atomic.Bool
	mu     sync.Mutex
	high   sseproto.ID // guarded by mu
}

// sliceLength is the resolution of all silences.
const sliceLength = 5 * time.Millisecond

func newTimeline(longest time.Duration) *timeline {
	return &timeline{slices: make([]atomic.Bool, longest/sliceLength+1)}
}

// timelines are one for each partition, which move on by themselves.
type timelines []*timeline

func newTimelines(partitions int, longest time.Duration) (list timelines) {
	for range partitions {
		list = append(list, newTimeline(longest))
	}
	return list
}

// silence is that of the partition that was silent longest.
func (l timelines) silence(from, to time.Duration) (longest time.Duration) {
	for _, t := range l {
		longest = max(longest, t.silence(from, to))
	}
	return longest
}

// next is when all have moved on at or after from; false: one has not.
func (l timelines) next(from time.Duration) (at time.Duration, ok bool) {
	for _, t := range l {
		moved, ok := t.next(from)
		if !ok {
			return 0, false
		}
		at = max(at, moved)
	}
	return at, true
}

// advance marks at, if id is further than all before: what a client is told again
// when it comes back does not count as delivery.
func (t *timeline) advance(id sseproto.ID, at time.Duration) {
	t.mu.Lock()
	further := t.high.Less(id)
	if further {
		t.high = id
	}
	t.mu.Unlock()
	if i := int(at / sliceLength); further && i < len(t.slices) {
		t.slices[i].Store(true)
	}
}

// silence returns the longest time without a mark between from and to.
func (t *timeline) silence(from, to time.Duration) time.Duration {
	first, last := int(from/sliceLength), min(int(to/sliceLength), len(t.slices)-1)
	longest, mark := 0, first
	for i := first; i <= last; i++ {
		if t.slices[i].Load() {
			longest, mark = max(longest, i-mark), i
		}
	}
	return time.Duration(max(longest, last-mark)) * sliceLength
}

// next returns the time of the first mark at or after from; false: there is none.
func (t *timeline) next(from time.Duration) (time.Duration, bool) {
	for i := int(from / sliceLength); i < len(t.slices); i++ {
		if t.slices[i].Load() {
			return time.Duration(i) * sliceLength, true
		}
	}
	return 0, false
}
