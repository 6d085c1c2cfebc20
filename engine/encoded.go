package engine

import (
	"strings"

	"ssed/sseproto"
)

const (
	// asideBytes is the data from which on a message is encoded before the log's lock is
	// taken: below it that takes 20 µs at most, for data of nothing but line ends.
	asideBytes = 8 << 10
	// headroom is the space for the position, which is known under the lock: its field
	// name and two numbers of 20 digits.
	headroom = len(noPositionLine) + 41
	// noPositionLine is how the frame of the zero ID begins.
	noPositionLine = "id: 0-0"
)

// encoded is the frame of a message, made before its position is known and without the
// log's lock. Data of 1 MiB takes 0.1 to 3 ms, and up to 7 MiB of memory.
type encoded struct {
	buf  []byte   // headroom, what follows the position in the frame, and the data as it came if the frame does not tell it
	head int      // bytes of headroom
	seg  *segment // buf is its, and nothing else is in it; nil: buf is to be copied into one
	raw  int      // bytes of that data
	data int      // bytes of the message's data
}

// encode makes the frame of a large message; nil for a small one.
func (l *Log) encode(m *sseproto.Message) *encoded {
	if len(m.Data) < asideBytes {
		return nil
	}
	e := &encoded{data: len(m.Data), head: headroom + l.vectorBytes()}
	if !sseproto.Lossless(m.Data) {
		e.raw = len(m.Data)
	}
	lines := strings.Count(m.Data, "\n") + strings.Count(m.Data, "\r")
	size := e.head + len(m.Event) + len(m.ID) + len(m.Data) + lines*len("data: ") + frameOverhead + e.raw
	if size > l.segmentBytes {
		e.seg = newSegment(size, 1)
		e.buf = e.seg.buf
	} else {
		e.buf = make([]byte, size)
	}
	e.buf = sseproto.AppendEvent(e.buf[:e.head-len(noPositionLine)], sseproto.ID{}, *m)
	if e.raw > 0 {
		e.buf = append(e.buf, m.Data...)
	}
	if e.seg != nil && len(e.buf) > len(e.seg.buf) { // invalid bytes made it grow
		e.seg.release()
		e.seg = newSegment(len(e.buf), 1)
		copy(e.seg.buf, e.buf)
		e.buf = e.seg.buf
	}
	return e
}

// frame writes the line of the position, without its end, and returns where in buf the
// frame begins, with the data behind it.
func (e *encoded) frame(line []byte) (start int) {
	start = e.head - len(line)
	copy(e.buf[start:], line)
	return start
}

// putEncodedLocked puts a frame into the ring. A large one becomes a segment as it is.
func (l *Log) putEncodedLocked(part uint8, id sseproto.ID, name string, e *encoded) {
	var start int
	if l.isDivided() {
		l.scratch = sseproto.AppendVectorLine(l.scratch[:0], int(part), l.reachedLocked(part, id))
		start = e.frame(l.scratch)
	} else {
		var line [headroom]byte
		start = e.frame(id.AppendTo(append(line[:0], "id: "...)))
	}
	size := len(e.buf) - start
	seg := e.seg
	if seg != nil {
		seg.used = start
		l.pushSegmentLocked(seg)
	} else {
		seg = l.roomLocked(size)
		copy(seg.buf[seg.used:], e.buf[start:])
	}
	l.publishLocked(seg, kindLive, part, id, name, size-e.raw, e.raw)
}
