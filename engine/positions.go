package engine

import (
	"sort"

	"ssed/sseproto"
)

// indexedPosition is a position whose ID does not continue the one before.
type indexedPosition struct {
	pos uint64
	id  sseproto.ID
}

// maxPositions bounds the memory of old IDs, 512 KiB at most. At ten ticks a second the
// oldest of 16,384 is 27 minutes older than the ring. Without Redis the clock of IDs
// moves every millisecond: with few messages, each is one of them.
const maxPositions = 16384

// positionIndex tells the IDs of the positions that the ring has forgotten last: from one
// of its positions to the next IDs count up.
type positionIndex struct {
	list []indexedPosition
	last indexedPosition
}

// note records the next position that leaves the ring.
func (a *positionIndex) note(pos uint64, id sseproto.ID) {
	if a.last.pos+1 != pos || a.last.id.Ms != id.Ms || a.last.id.Seq+1 != id.Seq {
		if len(a.list) == maxPositions {
			a.list = append(a.list[:0], a.list[maxPositions/2:]...)
		}
		a.list = append(a.list, indexedPosition{pos, id})
	}
	a.last = indexedPosition{pos, id}
}

// idAt returns the ID of the message that was at pos, if it is remembered.
func (a *positionIndex) idAt(pos uint64) (sseproto.ID, bool) {
	i := sort.Search(len(a.list), func(i int) bool { return a.list[i].pos > pos })
	if i == 0 || pos > a.last.pos {
		return sseproto.ID{}, false
	}
	at := a.list[i-1]
	return sseproto.ID{Ms: at.id.Ms, Seq: at.id.Seq + pos - at.pos}, true
}

// idAt returns the ID of the message that is or was at pos: of all that the ring holds,
// and of some before. O(log n).
func (l *Log) idAt(pos uint64) (sseproto.ID, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.idAtLocked(pos)
}

func (l *Log) idAtLocked(pos uint64) (sseproto.ID, bool) {
	if pos >= l.tail.Load() && pos < l.head.Load() {
		return l.entryLocked(pos).id, true
	}
	return l.positions.idAt(pos)
}
