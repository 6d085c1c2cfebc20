package front

import (
	"hash/maphash"
	"strings"
	"sync"
)

// subjects counts the connections of each subject that a grant has named. A name is
// stored once, and only while it has a connection.
type subjects struct {
	// fixed after construction
	most uint32 // connections of one subject; 0: no limit
	seed maphash.Seed

	mu      sync.Mutex // held for a few memory accesses, but where the buckets double
	buckets []uint32   // by hash: first entry, linked by next; a power of two
	chunks  []*[subjectChunk]subjectEntry
	given   uint32 // entries that were ever in use; index 0 is never given out
	free    uint32 // first of the unused entries, linked by next
	used    int
}

// subjectEntry is one subject: 24 bytes and its name.
type subjectEntry struct {
	name string
	open uint32 // connections
	next uint32
}

const (
	minBuckets = 16
	// subjectChunk entries come at once, 24 KiB, and are never moved: a slice that grows
	// would leave as much garbage again.
	subjectChunk = 1024
)

func (s *subjects) at(n uint32) *subjectEntry { return &s.chunks[n/subjectChunk][n%subjectChunk] }

func newSubjects(most int) *subjects {
	s := &subjects{most: uint32(most), seed: maphash.MakeSeed()}
	s.resetLocked()
	return s
}

// admit counts a connection of a subject. Not ok: it has as many as it may. The handle
// goes back by release; that of no subject is 0 and has no limit.
func (s *subjects) admit(name string) (handle uint32, ok bool) {
	if name == "" {
		return 0, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.findLocked(name)
	switch {
	case n == 0:
		n = s.addLocked(name)
	case s.most > 0 && s.at(n).open >= s.most:
		return 0, false
	}
	s.at(n).open++
	return n, true
}

// release takes back a handle of admit.
func (s *subjects) release(handle uint32) {
	if handle == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.at(handle); e.open > 1 {
		e.open--
		return
	}
	s.dropLocked(handle)
}

// find returns the handle of a subject that has a connection, or 0. Whoever has a
// connection with that handle knows that it keeps its meaning.
func (s *subjects) find(name string) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.findLocked(name)
}

// name is the subject of a handle that is not released.
func (s *subjects) name(handle uint32) string {
	if handle == 0 {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at(handle).name
}

// len is the number of subjects that have a connection.
func (s *subjects) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

func (s *subjects) bucketLocked(name string) *uint32 {
	return &s.buckets[maphash.String(s.seed, name)&uint64(len(s.buckets)-1)]
}

func (s *subjects) findLocked(name string) uint32 {
	n := *s.bucketLocked(name)
	for n != 0 && s.at(n).name != name {
		n = s.at(n).next
	}
	return n
}

func (s *subjects) addLocked(name string) uint32 {
	if s.used == len(s.buckets) {
		s.rehashLocked(2 * len(s.buckets))
	}
	n := s.free
	if n == 0 {
		s.given++
		if n = s.given; n/subjectChunk == uint32(len(s.chunks)) {
			s.chunks = append(s.chunks, new([subjectChunk]subjectEntry))
		}
	} else {
		s.free = s.at(n).next
	}
	first := s.bucketLocked(name)
	*s.at(n) = subjectEntry{name: strings.Clone(name), next: *first}
	*first = n
	s.used++
	return n
}

func (s *subjects) dropLocked(n uint32) {
	link := s.bucketLocked(s.at(n).name)
	for *link != n {
		link = &s.at(*link).next
	}
	*link = s.at(n).next
	*s.at(n) = subjectEntry{next: s.free}
	s.free = n
	if s.used--; s.used == 0 && s.given >= subjectChunk { // nothing is left of those who were many
		s.resetLocked()
	}
}

func (s *subjects) resetLocked() {
	s.buckets = make([]uint32, minBuckets)
	s.chunks = []*[subjectChunk]subjectEntry{new([subjectChunk]subjectEntry)}
	s.given, s.free = 0, 0
}

// rehashLocked distributes the entries over other buckets: O(entries), each time that
// they have doubled.
func (s *subjects) rehashLocked(size int) {
	s.buckets = make([]uint32, size)
	for n := uint32(1); n <= s.given; n++ {
		if e := s.at(n); e.open > 0 {
			first := s.bucketLocked(e.name)
			e.next = *first
			*first = n
		}
	}
}
