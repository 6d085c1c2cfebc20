//go:build linux

package refserver

import "time"

// Heartbeats go out as ssed's do, so that the two can be compared: in bursts of
// what is due in a tick, and a slot is looked at beatVisits times in a period.
// One in a burst costs half of one alone.
const (
	maxTick    = time.Second
	beatVisits = 8
	heartbeat  = "2\r\n:\n\r\n"
)

func (f *Floor) tickEvery() time.Duration {
	return min(maxTick, max(f.beat/beatVisits, time.Millisecond))
}

// untilTick is how many milliseconds the loop may sleep; -1: for ever.
func (f *Floor) untilTick() int {
	if f.beat <= 0 {
		return -1
	}
	left := f.tickEvery() - time.Since(f.ticked)
	return int(max(left+time.Millisecond-1, 0) / time.Millisecond)
}

// tick walks over the share of the slots that is due, and writes to the members
// that were silent for beatVisits walks.
func (f *Floor) tick(now time.Time) {
	elapsed := now.Sub(f.ticked)
	if elapsed < f.tickEvery() {
		return
	}
	f.ticked = now
	all := float64(len(f.slots))
	f.owed = min(f.owed+all*beatVisits*float64(elapsed)/float64(f.beat), all)
	for ; f.owed >= 1; f.owed-- {
		if f.visited++; f.visited >= len(f.slots) {
			f.visited = 0
		}
		s := &f.slots[f.visited]
		if s.role != roleMember {
			continue
		}
		if s.idle++; s.idle < beatVisits {
			continue
		}
		s.idle = 0
		if fd := int32(f.visited); !f.write(fd, []byte(heartbeat)) {
			f.drop(fd)
		}
	}
}
