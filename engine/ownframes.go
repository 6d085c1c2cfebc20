package engine

import (
	"slices"

	"ssed/engine/internal/sock"
	"ssed/sseproto"
)

// ownBatch is frames that are made for one stream. A loop has one (shard.ownFrames): it is filled
// and written in the same turn, and what a socket does not take is copied (keepPending). So its
// memory belongs to nobody else, and the frames given to add are borrowed until it returns.
type ownBatch struct {
	form   form
	places []sseproto.ID // behind the last frame
	buf    []byte
	frames []ownFrame
	done   int // frames that are written or pending, see writeOwn
}

type ownFrame struct {
	part uint8
	id   sseproto.ID // to which it moves the partition
	end  int         // in buf
	gap  bool
}

// ownCost is what it takes to make a frame for one stream, with a place in each of some partitions:
// two cores (EPYC, virtual) took 90 ns, and 10 for each partition.
func ownCost(partitions int) cost { return cost(90 + 10*partitions) }

// ownBytes is about how much is put together for one write of own frames.
const ownBytes = 64 << 10

func (b *ownBatch) begin(f form, j *joining) {
	b.form, b.done = f, 0
	b.places = append(b.places[:0], j.places...)
	b.buf, b.frames = b.buf[:0], b.frames[:0]
	if cap(b.buf) > 4*ownBytes {
		b.buf = nil
	}
}

func (b *ownBatch) isFull() bool { return len(b.buf) >= ownBytes || len(b.frames) == turnMessages }

// add puts a frame, as it is in the ring or in a page without a form, at the end, with the
// place that it moves the stream to.
func (b *ownBatch) add(part uint8, id sseproto.ID, frame []byte, channel string, gap bool) {
	start := len(b.buf)
	b.places[part] = id
	b.buf = sseproto.AppendVectorFrame(b.buf, int(part), b.places, frame)
	if b.form&formTold != 0 && !gap {
		if at, ok := sseproto.TellAt(b.buf[start:]); ok {
			b.buf = slices.Insert(b.buf, start+at, sseproto.AppendTellLine(nil, channel)...)
		}
	}
	b.buf = b.form.wrap(b.buf, start)
	b.frames = append(b.frames, ownFrame{part, id, len(b.buf), gap})
}

// writeOwn writes the own frames that were put together. Not whole: what is missing of the
// frame that was cut, and of gap events that go with it, is pending; or the slot is closed. The
// slot has no pending bytes before.
func (s *shard) writeOwn(i uint32, c *slot, j *joining) (n int, whole bool) {
	b := &s.ownFrames
	s.budget.looks += int64(ownCost(len(b.places)) * cost(len(b.frames)) / lookCost)
	n, res := s.writeBytes(c, b.buf)
	if res == sock.Failed {
		s.closeSlot(i, CloseError)
		return n, false
	}
	whole = n == len(b.buf)
	last := len(b.frames) - 1
	if !whole {
		last = slices.IndexFunc(b.frames, func(f ownFrame) bool { return f.end > n })
		for b.frames[last].gap && last+1 < len(b.frames) && b.frames[last+1].gap {
			last++
		}
		if !s.hasRoom() {
			s.closeSlot(i, CloseSlow)
			return n, false
		}
	}
	for _, f := range b.frames[:last+1] {
		j.places[f.part], j.own = f.id, int(f.part)
		if !f.gap {
			s.delivered++
		}
	}
	c.flags &^= slotNoID
	b.done = last + 1
	if !whole {
		s.keepPending(i, b.buf[n:b.frames[last].end], resumePoint{kind: resumeJoin})
		s.block(c)
	}
	return n, whole
}
