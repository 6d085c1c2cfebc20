package sseproto

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Heartbeat keeps an idle stream open. It is one comment line and no blank line:
// with a blank line some clients show an empty event.
const Heartbeat = ":\n"

// The event types with a meaning of their own.
const (
	// EventMessage is the type of an event without an event field (HTML §9.2.6,
	// dispatch step 5), so the field is left out for it.
	EventMessage = "message"
	// EventGap is the type of the event that tells of lost messages.
	EventGap = "gap"
)

const (
	fieldID    = "id: "
	fieldEvent = "event: "
	fieldData  = "data: "
	fieldRetry = "retry: "

	replacement = "\uFFFD"
)

// AppendRetry extends dst with the reconnection time in whole milliseconds; below
// zero counts as zero. It is a line without a blank line of its own: the field
// takes effect when it is parsed, and a block of nothing else is shown as an empty
// event by some clients.
func AppendRetry(dst []byte, d time.Duration) []byte {
	dst = append(dst, fieldRetry...)
	dst = strconv.AppendInt(dst, max(d, 0).Milliseconds(), 10)
	return append(dst, '\n')
}

// AppendPosition extends dst with an ID alone, as a block of its own: a client resumes
// from it though it has got no event (HTML §9.2.6: the last event ID is set before an
// event without data is left out).
func AppendPosition(dst []byte, id ID) []byte {
	dst = append(dst, fieldID...)
	dst = id.AppendTo(dst)
	return append(dst, '\n', '\n')
}

// Gap tells a client that messages are missing from what follows.
type Gap struct {
	// ID is the position from which the stream goes on: a client that reconnects
	// with it is not told of the same gap again.
	ID ID
	// Reason is one of the Reason constants.
	Reason string
	// Channel is the one that lost messages; empty when all of the connection did.
	Channel string
	// Requested is the Last-Event-ID as the client sent it.
	Requested string
	// Oldest is the first position that is left; zero when none is known.
	Oldest ID
}

// AppendGap extends dst with the frame of a gap event: id, "event: gap", and one
// line of JSON with the members reason, channel, requested and oldest, where those
// without a value are left out. Bytes of the client are escaped, never copied raw.
func AppendGap(dst []byte, g Gap) []byte {
	dst = append(dst, fieldID...)
	dst = g.ID.AppendTo(dst)
	dst = append(dst, "\nevent: gap\ndata: {"...)
	start := len(dst)
	dst = appendMember(dst, start, "reason", g.Reason)
	dst = appendMember(dst, start, "channel", g.Channel)
	dst = appendMember(dst, start, "requested", g.Requested)
	if !g.Oldest.IsZero() {
		var text [maxIDLen]byte
		dst = appendMember(dst, start, "oldest", viewOf(g.Oldest.AppendTo(text[:0])))
	}
	return append(dst, "}\n\n"...)
}

// isOneLine reports whether s has no line end. Two passes over s with vector
// instructions are quicker than one without.
func isOneLine(s string) bool {
	return strings.IndexByte(s, '\n') < 0 && strings.IndexByte(s, '\r') < 0
}

// appendLines writes a data line for each line of s. It goes from LF to LF and
// looks for CR inside: looking for both from each line's start would read data of
// many LF and no CR once per line.
func appendLines(dst []byte, s string) []byte {
	for {
		line, rest, more := strings.Cut(s, "\n")
		if more {
			line = strings.TrimSuffix(line, "\r")
		}
		for {
			part, after, hasCR := strings.Cut(line, "\r")
			dst = append(dst, fieldData...)
			dst = appendValidUTF8(dst, part)
			dst = append(dst, '\n')
			if !hasCR {
				break
			}
			line = after
		}
		if !more {
			return dst
		}
		s = rest
	}
}

// appendEventType writes the event line; a line end or NUL in it could start
// another field or be dropped by clients.
func appendEventType(dst []byte, eventType string) []byte {
	dst = append(dst, fieldEvent...)
	for {
		i := strings.IndexAny(eventType, "\r\n\x00")
		if i < 0 {
			break
		}
		dst = appendValidUTF8(dst, eventType[:i])
		dst = append(dst, replacement...)
		eventType = eventType[i+1:]
	}
	dst = appendValidUTF8(dst, eventType)
	return append(dst, '\n')
}

// appendValidUTF8 writes s with U+FFFD for each maximal subpart of an ill-formed
// sequence, as the UTF-8 decoder of the WHATWG Encoding standard does: the client
// gets what it would have made of the raw bytes itself.
func appendValidUTF8(dst []byte, s string) []byte {
	if utf8.ValidString(s) {
		return append(dst, s...)
	}
	for {
		n := validPrefix(s)
		dst = append(dst, s[:n]...)
		if n == len(s) {
			return dst
		}
		dst = append(dst, replacement...)
		s = s[n+illFormedLen(s[n:]):]
	}
}

// validPrefix returns the length of the longest prefix of s that is valid UTF-8.
func validPrefix(s string) int {
	i := 0
	for i < len(s) {
		if s[i] < utf8.RuneSelf {
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			break
		}
		i += n
	}
	return i
}

// illFormedLen returns how many bytes at the start of s one U+FFFD stands for. s
// starts with an ill-formed sequence. The ranges are those of Unicode, table 3-7.
func illFormedLen(s string) int {
	lo, hi := byte(0x80), byte(0xBF)
	switch c := s[0]; {
	case c == 0xE0:
		lo = 0xA0
	case c == 0xED:
		hi = 0x9F
	case c == 0xF0:
		lo = 0x90
	case c == 0xF4:
		hi = 0x8F
	case c < 0xE0, c > 0xF4:
		return 1
	}
	if len(s) < 2 || s[1] < lo || s[1] > hi {
		return 1
	}
	if s[0] < 0xF0 || len(s) < 3 || s[2] < 0x80 || s[2] > 0xBF {
		return 2
	}
	return 3
}
