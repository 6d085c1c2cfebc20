package engine

import (
	"runtime"
	"time"
	"unsafe"

	"ssed/sseproto"
)

// segment is a part of the ring: frames and their records, filled in order. The
// two slices keep their full length; how much is in use is the log's business,
// readers stay below head.
//
// Its memory lies outside the Go heap, or the collector would let the heap grow to twice
// the ring before it runs. So nobody keeps a frame beyond the view through which it was
// found: the log gives the memory back when no view pins it (Log.reclaimLocked).
type segment struct {
	// fixed after construction
	buf     []byte
	entries []entry
	common  bool // of the common size: worth keeping
	memory  []byte
	cleanup runtime.Cleanup // gives memory back when the log itself is gone

	// guarded by Log.mu
	used int       // bytes of buf
	n    int       // entries
	born time.Time // when the first of them came

	// base is where each partition of a log of several stood when the segment came into the
	// ring; its first entry may count already. Fixed while the segment is in the ring.
	base []sseproto.ID
}

// frameBytesPerEntry sizes the record array of a segment: with frames of this
// mean size both fill up together. Smaller frames seal a segment early.
const frameBytesPerEntry = 128

// newSegment makes an empty segment with room for size bytes of frames.
func newSegment(size, records int) *segment {
	memory := takeMemory(records*entryBytes + size)
	s := &segment{
		buf:     memory[records*entryBytes:],
		entries: unsafe.Slice((*entry)(unsafe.Pointer(unsafe.SliceData(memory))), records),
		memory:  memory,
	}
	s.cleanup = runtime.AddCleanup(s, giveMemory, memory)
	return s
}

// release gives the memory back. Nobody may look at the segment any more.
func (s *segment) release() {
	s.cleanup.Stop()
	giveMemory(s.memory)
	s.buf, s.entries, s.memory = nil, nil, nil
}

func (s *segment) bytes() int64 { return int64(len(s.memory)) }

// space is what is left of buf, as a slice to append to.
func (s *segment) space() []byte { return s.buf[s.used:s.used] }

// frame returns the encoded event; valid while the reader's view pins it.
func (s *segment) frame(e *entry) []byte { return s.buf[e.off : e.off+e.size : e.off+e.size] }

// message returns what was published; its strings are borrowed from the segment and
// from scratch, which it returns for the next one.
func (s *segment) message(e *entry, scratch []byte) (sseproto.Message, []byte) {
	kept := s.buf[e.off+e.size : e.off+e.size+e.raw]
	return sseproto.ParseFrame(s.frame(e), kept, scratch)
}

// segmentRef places a segment in the ring. The positions are kept by value since
// a reused segment changes while old indexes are still looked at.
type segmentRef struct {
	first uint64
	seg   *segment
}
