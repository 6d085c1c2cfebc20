package engine

import (
	"ssed/engine/internal/sock"
	"ssed/sseproto"
)

// batch is a run of messages, gathered once in one form and written to every slot that
// gets them.
type batch struct {
	form   form
	vec    []sock.Iovec
	frames []batchFrame
	bytes  int  // on the wire
	whole  bool // all messages of the run are in it
	named  bool // one of them has an ID

	// What the ring's frames would be without a form: where a batch of a job is full does
	// not depend on its form, or the members of a channel would not move alike.
	raw  int
	runs int        // of frames that lie side by side
	run  sock.Iovec // the last of them

	scratch  []byte // of forms: what is not in the ring
	inRing   bool   // the last piece is a frame in the ring
	needRing bool   // a piece is
	line     []byte
}

type batchFrame struct {
	pos   uint64
	size  uint32 // on the wire
	named bool   // it has an ID: a gap event for all has none
}

const (
	// copyBytes: a frame of up to this size is copied between its framing, so that a batch
	// of such frames is one piece and one sendto. With 2 KiB a batch may have more pieces
	// than the kernel takes.
	copyBytes = 4 << 10
	// keepScratch bounds the scratch that is kept from one sweep to the next. A turn of 4,096
	// small messages needs more; to make that anew for each slot cost a loop as much as to
	// fill it, and the collector another processor.
	keepScratch = 128 << 10
)

// reset empties the batch. Its pieces are cleared, they would keep segments that
// the ring has long forgotten.
func (b *batch) reset() {
	if len(b.frames) == 0 {
		return
	}
	clear(b.vec)
	*b = batch{form: b.form, vec: b.vec[:0], frames: b.frames[:0], scratch: b.scratch[:0], line: b.line[:0]}
}

// trim gives back what an empty batch has needed for a burst.
func (b *batch) trim() {
	if cap(b.scratch) > keepScratch {
		b.scratch = nil
	}
}

// add puts a message, or what is left of it behind skip bytes, at the end.
func (b *batch) add(v *view, pos uint64, e *entry, seg *segment, skip uint32) (full bool) {
	frame := seg.frame(e)
	before := b.bytes
	if b.form == 0 {
		full = b.addPlain(frame[skip:])
	} else {
		full = b.addFormed(v, e, frame, int(skip))
	}
	if full {
		return true
	}
	b.raw += len(frame)
	named := e.kind != kindGap
	b.named = b.named || named
	b.frames = append(b.frames, batchFrame{pos, uint32(b.bytes - before), named})
	return false
}

// addPlain is add for a frame without a form: its pieces are the runs.
func (b *batch) addPlain(frame []byte) (full bool) {
	if n := len(b.vec); n == 0 || !sock.Extend(&b.vec[n-1], frame) {
		if n == sock.MaxIovecs {
			return true
		}
		b.vec = append(b.vec, sock.Piece(frame))
	}
	b.bytes += len(frame)
	b.needRing = true
	return false
}

// addFormed is add for a frame in the batch's form. It counts the runs that a batch
// without a form would have.
func (b *batch) addFormed(v *view, e *entry, frame []byte, skip int) (full bool) {
	if b.runs == 0 || !sock.Extend(&b.run, frame) {
		if b.runs == sock.MaxIovecs {
			return true
		}
		b.runs++
		b.run = sock.Piece(frame)
	}
	b.putFormed(v, e, frame, skip)
	return false
}

// put adds bytes without their first skip, and returns how many of skip are left. Bytes
// that lie side by side become one piece.
func (b *batch) put(p []byte, skip int) (left int) {
	if skip >= len(p) {
		return skip - len(p)
	}
	p = p[skip:]
	if n := len(b.vec); n == 0 || !sock.Extend(&b.vec[n-1], p) {
		b.vec = append(b.vec, sock.Piece(p))
	}
	b.bytes += len(p)
	return 0
}

// putScratch is put for what was written into the scratch from start on. It never extends
// a frame of the ring: nothing would keep the scratch then, should it grow.
func (b *batch) putScratch(start, skip int) (left int) {
	p := b.scratch[start:]
	if skip >= len(p) {
		return skip - len(p)
	}
	if b.inRing {
		b.vec = append(b.vec, sock.Piece(p[skip:]))
		b.bytes += len(p) - skip
		b.inRing = false
		return 0
	}
	return b.put(p, skip)
}

// putFormed is put for a frame in the batch's form: one piece, or three for a large one.
func (b *batch) putFormed(v *view, e *entry, frame []byte, skip int) {
	b.line = b.line[:0]
	at := 0
	if b.form&formTold != 0 {
		if n, ok := sseproto.TellAt(frame); ok {
			at, b.line = n, sseproto.AppendTellLine(b.line, v.r.log.dir.at(e.ch).name)
		}
	}
	start, chunked := len(b.scratch), b.form&formChunked != 0
	if chunked {
		b.scratch = sseproto.AppendChunkHead(b.scratch, len(frame)+len(b.line))
	}
	b.scratch = append(b.scratch, frame[:at]...)
	b.scratch = append(b.scratch, b.line...)
	rest := frame[at:]
	if len(rest) > copyBytes {
		skip = b.putScratch(start, skip)
		if skip < len(rest) {
			b.inRing, b.needRing = true, true
		}
		skip = b.put(rest, skip)
		start = len(b.scratch)
	} else {
		b.scratch = append(b.scratch, rest...)
	}
	if chunked {
		b.scratch = append(b.scratch, sseproto.ChunkEnd...)
	}
	b.putScratch(start, skip)
}

// isFull reports whether one write carries no more.
func (b *batch) isFull() bool { return b.raw >= turnBytes || len(b.frames) == turnMessages }

// gather collects the job's messages. When they are too many for one write, the rest is
// left for another job. The batch is not whole when the first has left the ring.
func (b *batch) gather(v *view, j *job) {
	b.reset()
	if j.from < v.tail {
		return
	}
	b.whole = true
	for pos := j.from; ; {
		e, seg := v.at(pos)
		if b.isFull() || b.add(v, pos, e, seg, 0) {
			j.split(b.frames[len(b.frames)-1].pos, pos)
			return
		}
		d := uint64(e.next.Load())
		if d == 0 || pos+d > j.to {
			return
		}
		pos += d
	}
}
