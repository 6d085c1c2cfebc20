package sseproto

import (
	"bytes"
	"encoding/binary"
)

// tokenChars has a true for each tchar of RFC 9110 §5.6.2.
var tokenChars = func() (set [256]bool) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" {
		set[c] = true
	}
	return set
}()

// isToken reports whether b is a token: one tchar or more.
func isToken[T ~string | ~[]byte](b T) bool {
	for i := 0; i < len(b); i++ {
		if !tokenChars[b[i]] {
			return false
		}
	}
	return len(b) > 0
}

// nextLine takes one line from the start of b. n is its length with CRLF; zero
// without an error means that the line is not complete yet. The first octet that
// no line may have is reported as soon as it is there, whatever follows: CTL but
// HTAB, a CR that is not part of CRLF, a LF that is not.
func nextLine(b []byte) (line []byte, n int, err error) {
	end := bytes.IndexByte(b, '\n')
	seen := b
	if end >= 0 {
		seen = b[:end]
	}
	ctl := indexCTL(seen)
	switch {
	case ctl < 0 && end < 0:
		return nil, 0, nil
	case ctl < 0, seen[ctl] != '\r', ctl != len(seen)-1:
		return nil, 0, ErrBadOctet
	case end < 0:
		return nil, 0, nil
	}
	return b[:ctl], end + 1, nil
}

// indexCTL returns the index of the first control character of b, HTAB not
// counted, or -1.
func indexCTL(b []byte) int {
	i := 0
	for {
		// Eight octets at a time: a head is some 500 octets and has none but its
		// line ends.
		for len(b)-i >= 8 && !hasCTL(binary.LittleEndian.Uint64(b[i:])) {
			i += 8
		}
		for stop := min(i+8, len(b)); i < stop; i++ {
			if c := b[i]; c < ' ' && c != '\t' || c == 0x7F {
				return i
			}
		}
		if i == len(b) {
			return -1
		}
	}
}

// hasCTL reports whether one of the eight octets of w is a control character, HTAB
// counted. Each subtraction borrows from the octet above only when its own octet is
// one that counts, so the answer is exact though the place is not.
func hasCTL(w uint64) bool {
	const (
		ones = 0x0101010101010101
		high = 0x80 * ones
	)
	del := w ^ 0x7F*ones
	low := (w - ' '*ones) &^ w
	return (low|(del-ones)&^del)&high != 0
}

// trimOWS takes SP and HTAB off both ends (RFC 9110 §5.6.3). What is left of b is
// never nil, so that a field without a value differs from no field.
func trimOWS(b []byte) []byte {
	for len(b) > 0 && isOWS(b[0]) {
		b = b[1:]
	}
	for len(b) > 0 && isOWS(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

func isOWS(c byte) bool { return c == ' ' || c == '\t' }

// equalFold reports whether b is want but for the case of ASCII letters.
// bytes.EqualFold would let U+212A stand for k.
func equalFold[T ~string | ~[]byte](b T, want string) bool {
	if len(b) != len(want) {
		return false
	}
	for i := 0; i < len(b); i++ {
		if lower(b[i]) != lower(want[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// cutMember takes the first member off a comma list (RFC 9110 §5.6.1), without the
// white space around it.
func cutMember(list []byte) (member, rest []byte, more bool) {
	member, rest, more = bytes.Cut(list, []byte{','})
	return trimOWS(member), rest, more
}
