package sseproto

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// AppendEvent extends dst with the frame of one event (HTML §9.2.6): its id line,
// which is the position and, behind a "/", the publisher's id; an event line unless
// the type is "" or "message"; a retry line if there is a time; a data line for each
// line of data; and the blank line that dispatches it.
//
// In data LF, CR and CRLF each end a line; invalid UTF-8 becomes U+FFFD, one for
// each sequence that a browser would replace; all other bytes, NUL included, go
// through. The space after each colon is the one that a client takes off, so data
// keeps its own leading spaces. Empty data is dispatched too: the data field adds
// its value and a LF to the data buffer, which is then not empty.
//
// What Check refuses makes one frame too: in the type CR, LF, NUL and invalid UTF-8
// become U+FFFD, an id is left out, a time is cut to what is allowed.
//
// With n bytes of data the frame has at most 7(n+1) bytes beside the other lines
// (data of n line ends). The strings are borrowed.
func AppendEvent(dst []byte, id ID, m Message) []byte {
	dst = append(dst, fieldID...)
	return appendBehindPosition(id.AppendTo(dst), &m)
}

// appendBehindPosition extends dst with what follows the position in a frame.
func appendBehindPosition(dst []byte, m *Message) []byte {
	if m.isPlain() {
		dst = append(dst, '\n')
	} else {
		dst = appendFields(dst, m)
	}
	if isOneLine(m.Data) && utf8.ValidString(m.Data) {
		dst = append(dst, fieldData...)
		dst = append(dst, m.Data...)
		return append(dst, "\n\n"...)
	}
	return append(appendLines(dst, m.Data), '\n')
}

// appendFields ends the id line and writes the lines that few events have.
func appendFields(dst []byte, m *Message) []byte {
	if isPublisherID(m.ID) {
		dst = append(dst, '/')
		dst = append(dst, m.ID...)
	}
	dst = append(dst, '\n')
	if m.Event != "" && m.Event != EventMessage {
		dst = appendEventType(dst, m.Event)
	}
	if m.Retry >= time.Millisecond {
		dst = AppendRetry(dst, min(m.Retry, MaxRetry))
	}
	return dst
}

// Lossless reports whether ParseFrame gives data back byte for byte from the frame
// that AppendEvent makes of it: data has no CR and is valid UTF-8.
func Lossless[T ~string | ~[]byte](data T) bool {
	s := viewOf(data)
	return strings.IndexByte(s, '\r') < 0 && utf8.ValidString(s)
}

// ParseFrame reads a frame made by AppendEvent: AppendEvent makes the same frame of
// what it returns. Data is what a client sees, the data lines joined by LF; type, id
// and time are as they were given, if Check allows them, but "" for "message".
//
// Kept is the data itself where the caller has kept it because the frame is not
// Lossless; nil: the frame tells it.
//
// The strings are borrowed from frame and kept, and from scratch where data has
// several lines: they are valid until these change. Grown is scratch, for the next call.
func ParseFrame(frame, kept, scratch []byte) (m Message, grown []byte) {
	line, rest := cutLine(viewOf(frame))
	_, m.ID, _ = strings.Cut(line, "/")
	if value, ok := strings.CutPrefix(rest, fieldEvent); ok {
		m.Event, rest = cutLine(value)
	}
	if value, ok := strings.CutPrefix(rest, fieldRetry); ok {
		line, rest = cutLine(value)
		ms, _ := strconv.ParseInt(line, 10, 64) // our own digits
		m.Retry = time.Duration(ms) * time.Millisecond
	}
	if len(kept) > 0 {
		m.Data = viewOf(kept)
		return m, scratch
	}
	line, rest = cutLine(rest)
	m.Data = strings.TrimPrefix(line, fieldData)
	if rest == "\n" {
		return m, scratch
	}
	grown = append(scratch[:0], m.Data...)
	for rest != "" && rest != "\n" {
		line, rest = cutLine(rest)
		grown = append(grown, '\n')
		grown = append(grown, strings.TrimPrefix(line, fieldData)...)
	}
	m.Data = viewOf(grown)
	return m, grown
}

// cutLine cuts s behind its first line, of which it returns no LF.
func cutLine(s string) (line, rest string) {
	line, rest, _ = strings.Cut(s, "\n")
	return line, rest
}
