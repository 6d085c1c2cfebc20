package sseproto

import (
	"bytes"
	"hash/crc32"
	"strconv"
	"strings"
)

// MaxPartitions bounds the partitions of a log.
const MaxPartitions = 64

// PartitionOf returns the partition of a channel: the CRC-32 (IEEE 802.3) of its name,
// modulo their number.
func PartitionOf(channel string, partitions int) int {
	return int(crc32.ChecksumIEEE(bytesOf(channel)) % uint32(partitions))
}

// A vector is an event ID in a log of several partitions: a place in each of them. It has
// the ID of the message that it is sent with, the partition of that, and the places of the
// other partitions, as far as they are known:
//
//	1796785520522-4.3        a message of partition 3, as a publisher is told it
//	1796785520522-4.3~bEAG1A the same, with the places of the partitions 0 and 2
//
// Behind the tilde stand two numbers for each other partition, ascending: by how many ms
// its place is older, and the number since its tick. Time t of the place and T of the
// message give T-t, as a number without sign 2(T-t) or 2(t-T)-1, and that plus 1: 0, without
// a second number, is a place that is not known. A number n is written in digits of base 32,
// the lowest first, each but the last one from the upper half of the alphabet
// A-Z a-z 0-9 - _, and goes on with n/32 - 1. So a value has one form, and needs no
// escaping in a header, a query or an id line.
//
// With one partition the form is that of ID.

const vectorDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

var vectorValues = func() (values [256]uint8) {
	for i := range values {
		values[i] = 0xff
	}
	for i := range len(vectorDigits) {
		values[vectorDigits[i]] = uint8(i)
	}
	return values
}()

// AppendVector extends dst with the vector of a message of partition own. IDs are the
// places of all partitions, that of the message included; the zero ID is a place that is
// not known. All times lie within 2^62 ms of each other.
func AppendVector(dst []byte, own int, ids []ID) []byte {
	dst = ids[own].AppendTo(dst)
	if len(ids) == 1 {
		return dst
	}
	dst = strconv.AppendUint(append(dst, '.'), uint64(own), 10)
	known := false
	for p, id := range ids {
		known = known || p != own && !id.IsZero()
	}
	if !known {
		return dst
	}
	dst = append(dst, '~')
	for p, id := range ids {
		switch {
		case p == own:
		case id.IsZero():
			dst = appendVectorNumber(dst, 0)
		default:
			older := int64(ids[own].Ms - id.Ms)
			dst = appendVectorNumber(dst, uint64(older<<1^older>>63)+1)
			dst = appendVectorNumber(dst, id.Seq)
		}
	}
	return dst
}

// MaxVectorBytes bounds the text of a vector.
func MaxVectorBytes(partitions int) int {
	if partitions == 1 {
		return maxIDLen
	}
	return maxIDLen + len(".63~") + 2*maxVectorDigits*(partitions-1)
}

// AppendVectorLine extends dst with the id line of a vector, without its end.
func AppendVectorLine(dst []byte, own int, ids []ID) []byte {
	return AppendVector(append(dst, fieldID...), own, ids)
}

// AppendVectorEvent is AppendEvent for a vector.
func AppendVectorEvent(dst []byte, own int, ids []ID, m Message) []byte {
	return appendBehindPosition(AppendVectorLine(dst, own, ids), &m)
}

// AppendVectorFrame extends dst with a frame of AppendEvent, AppendVectorEvent or AppendGap
// in which a vector stands in the place of its position. The publisher's ID stays.
func AppendVectorFrame(dst []byte, own int, ids []ID, frame []byte) []byte {
	dst = AppendVectorLine(dst, own, ids)
	rest, ok := bytes.CutPrefix(frame, []byte(fieldID))
	if !ok { // a gap event without an ID
		return append(append(dst, '\n'), frame...)
	}
	return append(dst, rest[bytes.IndexAny(rest, "/\n"):]...)
}

// ParseEventVector is ParseEventID for a vector.
func ParseEventVector(s string, ids []ID) (own int, publisher string, err error) {
	s, publisher, _ = strings.Cut(s, "/")
	own, err = ParseVector(s, ids)
	return own, publisher, err
}

// maxVectorDigits is the length of the longest number of a vector: 64 bits.
const maxVectorDigits = 13

// EventIDOf returns the event ID of a message of a channel, as a publisher is told it: it names
// no place in the other partitions.
func EventIDOf(channel string, id ID, partitions int) string {
	own, ids := PartitionOf(channel, partitions), make([]ID, partitions)
	ids[own] = id
	return string(AppendVector(nil, own, ids))
}

func appendVectorNumber(dst []byte, n uint64) []byte {
	for ; n >= 32; n = n/32 - 1 {
		dst = append(dst, vectorDigits[32+n%32])
	}
	return append(dst, vectorDigits[n])
}

// ParseVector reads a vector into ids, which has an element for each partition, and returns
// the partition of its message. What AppendVector would not write is ErrBadID; but for
// one partition it takes what ParseID takes.
func ParseVector(s string, ids []ID) (own int, err error) {
	clear(ids)
	if len(ids) == 1 {
		ids[0], err = ParseID(s)
		return 0, err
	}
	own, ok := cutVector(s, ids)
	if !ok || string(AppendVector(nil, own, ids)) != s {
		clear(ids)
		return 0, ErrBadID
	}
	return own, nil
}

// cutVector reads what may have other forms as well.
func cutVector(s string, ids []ID) (own int, ok bool) {
	at := 0
	for at < len(s) && s[at] != '.' {
		at++
	}
	id, err := ParseID(s[:at])
	if err != nil || at == len(s) {
		return 0, false
	}
	s = s[at+1:]
	for at = 0; at < len(s) && s[at] != '~'; at++ {
		if own = 10*own + int(s[at]-'0'); s[at] < '0' || s[at] > '9' || own >= len(ids) {
			return 0, false
		}
	}
	ids[own] = id
	if at == len(s) {
		return own, true
	}
	s = s[at+1:]
	for p := range ids {
		if p == own {
			continue
		}
		var n uint64
		if n, s, ok = cutVectorNumber(s); !ok {
			return 0, false
		} else if n == 0 {
			continue
		}
		n--
		ids[p].Ms = id.Ms - uint64(int64(n>>1)^-int64(n&1))
		if ids[p].Seq, s, ok = cutVectorNumber(s); !ok {
			return 0, false
		}
	}
	return own, s == ""
}

// cutVectorNumber takes a number of at most 64 bits off s.
func cutVectorNumber(s string) (n uint64, rest string, ok bool) {
	scale := uint64(1)
	for i := range len(s) {
		digit := uint64(vectorValues[s[i]])
		switch {
		case digit >= 64 || i == maxVectorDigits: // thirteen digits have 65 bits
			return 0, "", false
		case digit < 32:
			return n + digit*scale, s[i+1:], true
		}
		n += digit * scale // n/32 - 1 follows: a digit of the upper half counts 32 more
		scale *= 32
	}
	return 0, "", false
}
