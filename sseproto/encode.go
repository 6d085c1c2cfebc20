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

// AppendEvent extends dst with the frame of one event: its id line, an event line
// unless eventType is "" or "message", a data line for each line of data, and the
// blank line that dispatches it (HTML §9.2.6).
//
// In data LF, CR and CRLF each end a line; invalid UTF-8 becomes U+FFFD, one for
// each sequence that a browser would replace; all other bytes, NUL included, go
// through. The space after each colon is the one that a client takes off, so data
// keeps its own leading spaces. Empty data is dispatched too: the data field adds
// its value and a LF to the data buffer, which is then not empty.
//
// In eventType CR, LF, NUL and invalid UTF-8 become U+FFFD.
//
// With n bytes of data the frame has at most 7(n+1) bytes beside the id and event
// lines (data of n line ends). Both arguments are borrowed.
func AppendEvent[T ~string | ~[]byte](dst []byte, id ID, eventType string, data T) []byte {
	dst = append(dst, fieldID...)
	dst = id.AppendTo(dst)
	dst = append(dst, '\n')
	if eventType != "" && eventType != EventMessage {
		dst = appendEventType(dst, eventType)
	}
	s := viewOf(data)
	if isOneLine(s) && utf8.ValidString(s) {
		dst = append(dst, fieldData...)
		dst = append(dst, s...)
		return append(dst, "\n\n"...)
	}
	return append(appendLines(dst, s), '\n')
}

// Lossless reports whether AppendData gives data back byte for byte from the frame
// that AppendEvent makes of it: data has no CR and is valid UTF-8.
func Lossless[T ~string | ~[]byte](data T) bool {
	s := viewOf(data)
	return strings.IndexByte(s, '\r') < 0 && utf8.ValidString(s)
}

// AppendData extends dst with the data of a frame made by AppendEvent, as a client
// sees it: the data lines joined by LF.
func AppendData(dst, frame []byte) []byte {
	rest := viewOf(frame)
	lines := 0
	for len(rest) > 0 {
		line, after, _ := strings.Cut(rest, "\n")
		rest = after
		value, isData := strings.CutPrefix(line, fieldData)
		if !isData {
			continue
		}
		if lines > 0 {
			dst = append(dst, '\n')
		}
		dst = append(dst, value...)
		lines++
	}
	return dst
}

// AppendRetry extends dst with the reconnection time in whole milliseconds; below
// zero counts as zero. It is a line without a blank line of its own: the field
// takes effect when it is parsed, and a block of nothing else is shown as an empty
// event by some clients.
func AppendRetry(dst []byte, d time.Duration) []byte {
	dst = append(dst, fieldRetry...)
	dst = strconv.AppendInt(dst, max(d, 0).Milliseconds(), 10)
	return append(dst, '\n')
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
