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
	// with it is not told of the same gap again. Zero: the frame has no id line, and
	// every client keeps the ID that it has.
	ID ID
	// Reason is one of the Reason constants.
	Reason string
	// Channel is the one that lost messages; empty when several did.
	Channel string
	// Channels are those that lost messages where it is neither one nor all of the
	// connection; it is not looked at with a Channel. Without both, all did.
	Channels []string
	// Requested is where the client left off: its Last-Event-ID as sent where that is not
	// one of this service, else the position in it.
	Requested string
	// Oldest is the first position that is left; zero when none is known.
	Oldest ID
}

// AppendGap extends dst with the frame of a gap event: id if there is one, "event: gap", and one
// line of JSON with the members reason, channel or channels, requested and oldest, where
// those without a value are left out. Bytes of the client are escaped, never copied raw.
func AppendGap(dst []byte, g Gap) []byte {
	if !g.ID.IsZero() {
		dst = append(dst, fieldID...)
		dst = append(g.ID.AppendTo(dst), '\n')
	}
	dst = append(dst, "event: gap\ndata: "...)
	return append(appendGapData(dst, &g), "\n\n"...)
}

// appendGapData extends dst with the JSON of a gap event.
func appendGapData(dst []byte, g *Gap) []byte {
	dst = append(dst, '{')
	start := len(dst)
	dst = appendMember(dst, start, "reason", g.Reason)
	dst = appendMember(dst, start, "channel", g.Channel)
	if g.Channel == "" && len(g.Channels) > 0 {
		dst = appendList(dst, start, "channels", g.Channels)
	}
	dst = appendMember(dst, start, "requested", g.Requested)
	if !g.Oldest.IsZero() {
		var text [maxIDLen]byte
		dst = appendMember(dst, start, "oldest", viewOf(g.Oldest.AppendTo(text[:0])))
	}
	return append(dst, '}')
}

// isOneLine reports whether s has no line end. Two passes over s with vector
// instructions are quicker than one without.
func isOneLine(s string) bool {
	return strings.IndexByte(s, '\n') < 0 && strings.IndexByte(s, '\r') < 0
}

// appendLines writes a data line for each line of s. It looks for LF and CR apart and
// keeps what it has found of both, so that each byte is looked at once for either. Lines
// without a byte are told by their first one: data may be a million line ends.
func appendLines(dst []byte, s string) []byte {
	valid := utf8.ValidString(s) // lines end at ASCII bytes, so each is valid then
	lf, cr := -1, -1             // the next ones from i on, as far as they are known
	dst = append(dst, fieldData...)
	for i := 0; ; {
		if i == len(s) {
			return append(dst, '\n')
		}
		if c := s[i]; c != '\n' && c != '\r' {
			lf, cr = nextByte(s, i, lf, '\n'), nextByte(s, i, cr, '\r')
			end := min(lf, cr)
			dst = appendPart(dst, s[i:end], valid)
			if i = end; i == len(s) {
				return append(dst, '\n')
			}
		}
		if s[i] == '\r' && i+1 < len(s) && s[i+1] == '\n' {
			i++
		}
		i++
		dst = append(dst, "\n"+fieldData...)
	}
}

// nextByte returns where c comes in s from i on, len(s) if it does not. Known is such a
// place that was found before, for a lower i.
func nextByte(s string, i, known int, c byte) int {
	if known >= i {
		return known
	}
	if n := strings.IndexByte(s[i:], c); n >= 0 {
		return i + n
	}
	return len(s)
}

func appendPart(dst []byte, s string, valid bool) []byte {
	if valid {
		return append(dst, s...)
	}
	return appendValidUTF8(dst, s)
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
	start := 0 // of what is valid and not written yet
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			i++
			continue
		}
		n := 1 // of what one U+FFFD stands for
		if isLead(c) {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r != utf8.RuneError || size != 1 {
				i += size
				continue
			}
			n = illFormedLen(s[i:])
		}
		dst = append(dst, s[start:i]...)
		dst = append(dst, replacement...)
		i += n
		start = i
	}
	return append(dst, s[start:]...)
}

// isLead reports whether a sequence of several bytes may begin with c.
func isLead(c byte) bool { return c >= 0xC2 && c <= 0xF4 }

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
