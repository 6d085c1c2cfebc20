package front

import (
	"hash/maphash"
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
	names   names
}

// subjectEntry is one subject: 16 bytes, and its name in subjects.names.
type subjectEntry struct {
	name  uint32 // its place
	bytes uint8  // its length: MaxSubjectBytes fit
	open  uint32 // connections
	next  uint32
}

const (
	minBuckets = 16
	// subjectChunk entries come at once, 16 KiB, and are never moved: a slice that grows
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
	return string(s.nameLocked(handle))
}

// len is the number of subjects that have a connection.
func (s *subjects) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

func (s *subjects) nameLocked(n uint32) []byte {
	e := s.at(n)
	return s.names.at(e.name, e.bytes)
}

func (s *subjects) bucketLocked(hash uint64) *uint32 {
	return &s.buckets[hash&uint64(len(s.buckets)-1)]
}

func (s *subjects) findLocked(name string) uint32 {
	n := *s.bucketLocked(maphash.String(s.seed, name))
	for n != 0 && string(s.nameLocked(n)) != name {
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
	first := s.bucketLocked(maphash.String(s.seed, name))
	*s.at(n) = subjectEntry{name: s.names.add(name), bytes: uint8(len(name)), next: *first}
	*first = n
	s.used++
	return n
}

func (s *subjects) dropLocked(n uint32) {
	name := s.nameLocked(n)
	link := s.bucketLocked(maphash.Bytes(s.seed, name))
	for *link != n {
		link = &s.at(*link).next
	}
	*link = s.at(n).next
	s.names.live -= len(name)
	*s.at(n) = subjectEntry{next: s.free}
	s.free = n
	if s.used--; s.used == 0 && s.given >= subjectChunk { // nothing is left of those who were many
		s.resetLocked()
	}
	if s.names.isWasteful() {
		s.packLocked()
	}
}

// packLocked copies the names together: O(subjects), after as many bytes of names were
// dropped as are left.
func (s *subjects) packLocked() {
	var packed names
	for n := uint32(1); n <= s.given; n++ {
		if e := s.at(n); e.open > 0 {
			e.name = packed.add(string(s.names.at(e.name, e.bytes)))
		}
	}
	s.names = packed
}

func (s *subjects) resetLocked() {
	s.buckets = make([]uint32, minBuckets)
	s.chunks = []*[subjectChunk]subjectEntry{new([subjectChunk]subjectEntry)}
	s.given, s.free, s.names = 0, 0, names{}
}

// rehashLocked distributes the entries over other buckets: O(entries), each time that
// they have doubled.
func (s *subjects) rehashLocked(size int) {
	s.buckets = make([]uint32, size)
	for n := uint32(1); n <= s.given; n++ {
		if e := s.at(n); e.open > 0 {
			first := s.bucketLocked(maphash.Bytes(s.seed, s.nameLocked(n)))
			e.next = *first
			*first = n
		}
	}
}

// namePage bytes of names come at once.
const namePage = 16 << 10

// names are texts one behind the other, none over the end of a page. As strings they
// would lie between short-lived ones, whose memory could then not be given back.
type names struct {
	pages []*[namePage]byte
	end   uint32 // place behind the last
	live  int    // bytes that are in use
}

// add keeps a copy of name, of at most 255 bytes, and returns its place.
func (t *names) add(name string) uint32 {
	if int(t.end%namePage)+len(name) > namePage {
		t.end += namePage - t.end%namePage
	}
	for int(t.end)+len(name) > len(t.pages)*namePage {
		t.pages = append(t.pages, new([namePage]byte))
	}
	place := t.end
	copy(t.pages[place/namePage][place%namePage:], name)
	t.end += uint32(len(name))
	t.live += len(name)
	return place
}

// at is the name at a place.
func (t *names) at(place uint32, bytes uint8) []byte {
	start := place % namePage
	return t.pages[place/namePage][start : start+uint32(bytes)]
}

// isWasteful reports whether more than half of the pages is not in use any more.
func (t *names) isWasteful() bool { return int(t.end) > 2*t.live+2*namePage }
