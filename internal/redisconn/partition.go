package redisconn

import (
	"strconv"
	"sync"
)

// Slots is how many hash slots a Redis Cluster shares out among its primaries.
const Slots = 1 << 14

// Partition is one of the equal parts into which the channels of a prefix are divided,
// each a log of its own in a hash slot of its own. The zero value is the whole: the only
// part.
type Partition struct{ Number, Of int }

// IsWhole reports whether there is one part.
func (p Partition) IsWhole() bool { return p.Of <= 1 }

// IsValid reports whether it is a part of at most so many.
func (p Partition) IsValid(most int) bool {
	return p == Partition{} || p.Of >= 1 && p.Of <= most && p.Number >= 0 && p.Number < p.Of
}

// wholeTag is the tag of the only partition, in slot 8192.
const wholeTag = "8209"

// Tag is the hash tag of the partition: the least decimal number whose slot lies in the
// middle of the partition's share of all slots. So the partitions are evenly spread over
// primaries that have equal shares. Bare numbers are not: 0 to 15 over eight primaries
// are 4, 0, 4, 0, 4, 0, 4, 0. O(Slots) on average the first time, then a look into a map.
func (p Partition) Tag() string {
	if p.IsWhole() {
		return wholeTag
	}
	if tag, ok := tags.Load(p); ok {
		return tag.(string)
	}
	tag := p.findTag()
	tags.Store(p, tag)
	return tag
}

// tags are those that were asked for, by Partition: who looks at the state of a gateway
// again and again took a millisecond of a core for each of its partitions.
var tags sync.Map

func (p Partition) findTag() string {
	slot := (2*p.Number + 1) * Slots / (2 * p.Of)
	for n := 0; ; n++ {
		if tag := strconv.Itoa(n); SlotOf(tag) == slot {
			return tag
		}
	}
}

// crc16 is the one of Redis Cluster's specification: CCITT, XMODEM.
func crc16(s string) (crc uint16) {
	for i := range len(s) {
		crc ^= uint16(s[i]) << 8
		for range 8 {
			carry := crc & 0x8000
			crc <<= 1
			if carry != 0 {
				crc ^= 0x1021
			}
		}
	}
	return crc
}

// SlotOf is the slot of the keys that have this hash tag.
func SlotOf(tag string) int { return int(crc16(tag)) % Slots }
