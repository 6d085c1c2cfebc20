package rsub

import (
	"errors"
	"math/bits"
	"strconv"
	"strings"
)

// interval is what an instance saw between a tick and the next one: how many
// messages and a sum over them. Instances compare it through the ticks.
type interval struct {
	start uint64 // t of the tick it begins with; 0 is no interval
	count uint64
	sum   uint64
}

// noInterval stands in a tick whose caller has seen no complete interval.
const noInterval = "-"

var errInterval = errors.New("rsub: malformed checksum")

func (iv interval) String() string {
	if iv.start == 0 {
		return noInterval
	}
	b := strconv.AppendUint(nil, iv.start, 10)
	b = append(b, ':')
	b = strconv.AppendUint(b, iv.count, 10)
	b = append(b, ':')
	return string(strconv.AppendUint(b, iv.sum, 16))
}

func parseInterval(s string) (interval, error) {
	if s == noInterval {
		return interval{}, nil
	}
	start, rest, _ := strings.Cut(s, ":")
	count, sum, _ := strings.Cut(rest, ":")
	a, err1 := strconv.ParseUint(start, 10, 64)
	b, err2 := strconv.ParseUint(count, 10, 64)
	c, err3 := strconv.ParseUint(sum, 16, 64)
	if err := errors.Join(err1, err2, err3); err != nil || a == 0 {
		return interval{}, errInterval
	}
	return interval{a, b, c}, nil
}

// add counts a message. The sum depends on the order and covers the channel, the
// length of the payload and the eight bytes at each of its ends, where counters
// and times tend to be: it costs a few nanoseconds whatever the size. It guards
// against mistakes, not against an opponent.
func (iv *interval) add(channel, payload string) {
	iv.count++
	h := mix(iv.sum, uint64(len(channel))<<32|uint64(len(payload)))
	for ; len(channel) > 8; channel = channel[8:] {
		h = mix(h, word(channel))
	}
	h = mix(h, word(channel))
	h = mix(h, word(payload))
	if len(payload) > 8 {
		h = mix(h, word(payload[len(payload)-8:]))
	}
	iv.sum = h
}

// mix folds the 128-bit product of the two, spread by odd constants (digits of
// the golden ratio and of √3), so that each bit reaches all.
func mix(h, w uint64) uint64 {
	hi, lo := bits.Mul64(h^0x9e3779b97f4a7c15, w^0xbb67ae8584caa73b)
	return hi ^ lo ^ bits.RotateLeft64(h, 29)
}

// word reads up to eight bytes, little-endian.
func word(s string) uint64 {
	if len(s) >= 8 {
		return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
	}
	var w uint64
	for i := range len(s) {
		w |= uint64(s[i]) << (8 * i)
	}
	return w
}

// pastIntervals is how many complete intervals are kept for comparison: over six
// seconds of ticks. A checksum that is older says nothing and is passed over.
const pastIntervals = 64

// history is a ring of the latest complete intervals.
type history struct {
	ring [pastIntervals]interval
	n    int // complete intervals since the reset
}

func (h *history) reset() { h.n = 0 }

func (h *history) put(iv interval) {
	h.ring[h.n%pastIntervals] = iv
	h.n++
}

// last returns the newest complete interval, or none.
func (h *history) last() interval {
	if h.n == 0 {
		return interval{}
	}
	return h.ring[(h.n-1)%pastIntervals]
}

// find returns the interval that begins with the tick start.
func (h *history) find(start uint64) (interval, bool) {
	for i := range min(h.n, pastIntervals) {
		if iv := h.ring[(h.n-1-i)%pastIntervals]; iv.start == start {
			return iv, true
		}
	}
	return interval{}, false
}
