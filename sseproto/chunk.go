package sseproto

import (
	"bytes"
	"strconv"
	"strings"
)

// LastChunk ends a body in chunks (RFC 9112 §7.1). A body that ends without it was cut
// off, and clients can tell.
const LastChunk = "0\r\n\r\n"

// ChunkEnd follows the bytes of each chunk.
const ChunkEnd = "\r\n"

// AppendChunkHead extends dst with what comes before the n bytes of a chunk. n is not 0:
// that would be the last one.
func AppendChunkHead(dst []byte, n int) []byte {
	dst = strconv.AppendUint(dst, uint64(n), 16)
	return append(dst, "\r\n"...)
}

// WrapChunk makes one chunk of dst[start:], in place. Of nothing it makes nothing.
func WrapChunk(dst []byte, start int) []byte {
	n := len(dst) - start
	if n == 0 {
		return dst
	}
	var text [18]byte // 16 digits and a line end
	head := AppendChunkHead(text[:0], n)
	dst = append(dst, head...)
	copy(dst[start+len(head):], dst[start:start+n])
	copy(dst[start:], head)
	return append(dst, ChunkEnd...)
}

// Told is the event type that tells a client of the channel of a message (tell=channel).
// It is the name, with what a type cannot carry as "%" and two hex digits: "%" itself and
// the two line ends, so that every name is told in a way of its own. Of the names "gap",
// "open" and "error", which mean something else to clients, the first letter is: "%67ap".
// decodeURIComponent takes it back. Invalid UTF-8 becomes U+FFFD, as in all event types.
func Told(channel string) string {
	if !strings.ContainsAny(channel, "%\r\n") && !isClientsOwn(channel) {
		return channel
	}
	const digits = "0123456789ABCDEF"
	var told []byte
	for i := range len(channel) {
		if c := channel[i]; c == '%' || c == '\r' || c == '\n' || i == 0 && isClientsOwn(channel) {
			told = append(told, '%', digits[c>>4], digits[c&15])
		} else {
			told = append(told, c)
		}
	}
	return string(told)
}

// isClientsOwn reports whether clients take an event of this type for something else than
// a message.
func isClientsOwn(eventType string) bool {
	return eventType == EventGap || eventType == "open" || eventType == "error"
}

// AppendTellLine extends dst with the line that tells of the channel; nothing for the
// channel "message", whose name is the type of every message without one.
func AppendTellLine(dst []byte, channel string) []byte {
	if channel == EventMessage {
		return dst
	}
	return appendEventType(dst, Told(channel))
}

// TellAt returns where in a frame of AppendEvent or AppendGap the line of AppendTellLine
// belongs. Not ok: the event has a type of its own, which stays.
func TellAt(frame []byte) (at int, ok bool) {
	if !bytes.HasPrefix(frame, []byte(fieldID)) {
		return 0, false // a gap event without an ID
	}
	at = bytes.IndexByte(frame, '\n') + 1
	return at, !bytes.HasPrefix(frame[at:], []byte(fieldEvent))
}
