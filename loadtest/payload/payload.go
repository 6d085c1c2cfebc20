// Package payload writes the message bodies of a load run. A body carries what
// the receiving end needs to judge a delivery: its channel, its number in the
// channel, its length and the time it was due to be sent.
//
//	~lt:CCCCCCCCLLLLLLLLSSSSSSSSTTTTTTTTTTTTTTTT......
//
// C, L, S are 32-bit and T is 64-bit, in lower-case hexadecimal; dots fill the
// body up to its length. It is plain ASCII without quotes or backslashes, so it
// passes unchanged through servers that wrap data into JSON.
package payload

import "strings"

const (
	// Magic starts a body. Its first byte occurs nowhere else in it, so a reader
	// finds it in a wrapped line without backtracking.
	Magic = "~lt:"
	// Digits is the number of hexadecimal digits after Magic.
	Digits = 8 + 8 + 8 + 16
	// Fill is the padding byte.
	Fill = '.'
	// MinBytes is the length of the shortest body.
	MinBytes = len(Magic) + Digits
)

// fill is the padding; a longer body appends it more than once.
var fill = strings.Repeat(string(Fill), 4096)

// Append extends dst with a body of size bytes (at least MinBytes): message seq
// of a channel, due at the monotonic time due in nanoseconds.
func Append(dst []byte, channel, seq uint32, due int64, size int) []byte {
	size = max(size, MinBytes)
	dst = append(dst, Magic...)
	dst = appendHex(dst, uint64(channel), 8)
	dst = appendHex(dst, uint64(size), 8)
	dst = appendHex(dst, uint64(seq), 8)
	dst = appendHex(dst, uint64(due), 16)
	for rest := size - MinBytes; rest > 0; {
		n := min(rest, len(fill))
		dst = append(dst, fill[:n]...)
		rest -= n
	}
	return dst
}

// IsFill reports whether b consists of padding alone.
func IsFill(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(fill))
		if string(b[:n]) != fill[:n] {
			return false
		}
		b = b[n:]
	}
	return true
}

func appendHex(dst []byte, v uint64, digits int) []byte {
	const alphabet = "0123456789abcdef"
	for shift := (digits - 1) * 4; shift >= 0; shift -= 4 {
		dst = append(dst, alphabet[v>>shift&15])
	}
	return dst
}
