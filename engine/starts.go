package engine

import (
	"encoding/binary"
	"math"
	"strings"

	"ssed/engine/internal/front"
	"ssed/sseproto"
)

// startIDs tells from where each channel of a stream counts: an ID for each, in the order
// in which the slot subscribes to them. Messages before it are not for the stream, and
// nobody is told that they are gone.
//
// It is text, as toldLosses is, so that clients that ask for the same share their reads.
type startIDs string

const startIDBytes = 16

func makeStartIDs(ids []sseproto.ID) startIDs {
	var b strings.Builder
	b.Grow(len(ids) * startIDBytes)
	var buf [startIDBytes]byte
	for _, id := range ids {
		binary.BigEndian.PutUint64(buf[:8], id.Ms)
		binary.BigEndian.PutUint64(buf[8:], id.Seq)
		b.Write(buf[:])
	}
	return startIDs(b.String())
}

// ids returns one ID for each channel; nil for "".
func (f startIDs) ids() []sseproto.ID {
	if f == "" {
		return nil
	}
	ids := make([]sseproto.ID, 0, len(f)/startIDBytes)
	for b := []byte(f); len(b) > 0; b = b[startIDBytes:] {
		ids = append(ids, sseproto.ID{Ms: binary.BigEndian.Uint64(b), Seq: binary.BigEndian.Uint64(b[8:])})
	}
	return ids
}

// beforeID is the last position behind which id comes: messages of a tick count from 1.
func beforeID(id sseproto.ID) sseproto.ID {
	return sseproto.ID{Ms: id.Ms, Seq: max(id.Seq, 1) - 1}
}

// afterID is the first ID behind a position.
func afterID(id sseproto.ID) sseproto.ID {
	if id.Seq == math.MaxUint64 {
		return sseproto.ID{Ms: id.Ms + 1}
	}
	return sseproto.ID{Ms: id.Ms, Seq: id.Seq + 1}
}

// ringStart is where the channels of a slot start that has not got to the last of them.
type ringStart struct {
	from  startIDs
	first []uint64 // of each channel, the first position that counts
}

// behind returns the position behind which channel k goes on, for a slot at pos.
func (r *ringStart) behind(k int, pos uint64) uint64 {
	if r == nil {
		return pos
	}
	return max(pos, r.first[k]-1)
}

// startEach notes from where the channels of a slot count whose pos is set. From is a
// position as of view.seek. O(log of the ring) for each channel.
func (s *shard) startEach(v *view, i uint32, c *slot, from uint64, ids startIDs) {
	if ids == "" {
		return
	}
	r := &ringStart{from: ids}
	differ := false
	for _, id := range ids.ids() {
		first := max(v.seek(from, beforeID(id))+1, 1)
		differ = differ || first > c.pos+1
		r.first = append(r.first, first)
	}
	if differ {
		s.starts[i] = r
	}
}

// startFrom starts a slot where its client asked for. Where the ring tells that place, it
// starts there. Else the replayer finds it, and reads what is not in the ring.
func (s *shard) startFrom(v *view, i uint32, c *slot, p resumePoint) {
	cov := v.coverage()
	if cov.from == sseproto.MaxID || cov.backfilling {
		s.wait(i, c, p)
		return
	}
	if pos, ok := s.placeOf(v, cov, p.start); ok {
		s.count.resumedRing.Add(1)
		c.pos = pos
		s.catchUp(v, i, c)
		return
	}
	s.askReplayer(i, c, p)
}

// namePlace tells the client of a slot that is about to be live its position: it has asked
// for older messages, and got none with an ID. Without one it would start again when it comes
// back, and might miss what came meanwhile. Not ok: the rest is pending, or the slot is closed.
func (s *shard) namePlace(i uint32, c *slot) (ok bool) {
	if s.log.isDivided() {
		return true // it was named when it joined
	}
	id, covered := s.log.startAt(front.Standing{Position: c.pos})
	if !covered || id.IsZero() {
		return true
	}
	c.flags &^= slotNoID
	return s.writeWhole(i, c, c.form().wrap(sseproto.AppendPosition(nil, id), 0), resumePoint{})
}

// placeOf returns the position behind which a stream starts, where the ring can tell. It
// can always without a history, but for the number of messages of a channel.
func (s *shard) placeOf(v *view, cov *coverage, start sseproto.StartPoint) (pos uint64, ok bool) {
	switch start.Kind {
	case sseproto.FromLast:
		return 0, false
	case sseproto.FromTime:
		if id := s.tickBefore(v, cov, start.Time); !id.Less(cov.from) {
			return v.seek(cov.first, id), true
		}
	}
	return cov.first - 1, s.engine.cfg.History == nil
}

// tickBefore returns the position of a tick that was made at some time or before: what was
// published then or later has an ID beyond it. It is the last such tick that is known, from
// the messages in the ring too. Zero: none is known.
func (s *shard) tickBefore(v *view, cov *coverage, ms uint64) sseproto.ID {
	if s.log.isLocal.Load() {
		return sseproto.ID{Ms: ms}
	}
	var tick uint64
	if cov.from.Ms <= ms {
		tick = cov.from.Ms
	}
	if last := s.log.ticked.Load().Ms; last <= ms {
		tick = max(tick, last)
	}
	if pos := v.seek(cov.first, sseproto.ID{Ms: ms, Seq: math.MaxUint64}); pos >= cov.first {
		e, _ := v.at(pos)
		tick = max(tick, e.id.Ms)
	}
	return sseproto.ID{Ms: tick}
}
