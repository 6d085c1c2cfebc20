package sseproto

import (
	"errors"
	"strconv"
)

// ID is the position of a message: the time of the tick it follows, in wire
// milliseconds of the Redis clock, and its number since that tick. IDs are valid
// Redis stream IDs and ascend strictly over all channels.
type ID struct {
	Ms  uint64
	Seq uint64
}

// MaxID is the greatest ID; no message has it.
var MaxID = ID{Ms: 1<<64 - 1, Seq: 1<<64 - 1}

// ErrBadID is returned for text that is not an ID.
var ErrBadID = errors.New("sseproto: malformed event id")

// maxIDLen is the length of the longest ID: two 20-digit numbers and a dash.
const maxIDLen = 41

// ParseID reads "<ms>-<seq>", or "<ms>" alone for "<ms>-0" as Redis does. Digits
// only, no signs or spaces; values beyond 64 bits are ErrBadID.
func ParseID[T ~string | ~[]byte](s T) (ID, error) {
	var id ID
	if len(s) == 0 || len(s) > maxIDLen {
		return ID{}, ErrBadID
	}
	part := &id.Ms
	digits := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '-' && part == &id.Ms && digits > 0 {
			part, digits = &id.Seq, 0
			continue
		}
		if c < '0' || c > '9' {
			return ID{}, ErrBadID
		}
		d := uint64(c - '0')
		if *part > (1<<64-1-d)/10 {
			return ID{}, ErrBadID
		}
		*part = *part*10 + d
		digits++
	}
	if digits == 0 {
		return ID{}, ErrBadID
	}
	return id, nil
}

// AppendTo extends dst with the text form of id.
func (id ID) AppendTo(dst []byte) []byte {
	dst = strconv.AppendUint(dst, id.Ms, 10)
	dst = append(dst, '-')
	return strconv.AppendUint(dst, id.Seq, 10)
}

// String returns the text form of id.
func (id ID) String() string { return string(id.AppendTo(make([]byte, 0, maxIDLen))) }

// MarshalText makes logs and JSON show the text form.
func (id ID) MarshalText() ([]byte, error) { return id.AppendTo(nil), nil }

// IsZero reports whether id is 0-0, the position before all messages.
func (id ID) IsZero() bool { return id == ID{} }

// Compare returns -1, 0 or 1.
func (id ID) Compare(other ID) int {
	switch {
	case id.Ms < other.Ms, id.Ms == other.Ms && id.Seq < other.Seq:
		return -1
	case id == other:
		return 0
	}
	return 1
}

// Less reports whether id comes before other.
func (id ID) Less(other ID) bool { return id.Compare(other) < 0 }
