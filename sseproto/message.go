package sseproto

import (
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

// Message is what a publisher gives: one event before it has a position. The zero
// value is a plain event with empty data.
type Message struct {
	// Event is its type; "" and EventMessage are the same.
	Event string
	// ID is the publisher's own id of it, told to clients behind the position;
	// "" for none.
	ID string
	// Retry is a reconnection time to tell clients with it, in whole milliseconds;
	// zero for none.
	Retry time.Duration
	// Data is its text, of any bytes.
	Data string
}

// Bounds of what a publisher gives beside the data.
const (
	// MaxEventBytes is the length of the longest event type.
	MaxEventBytes = 128
	// MaxPublisherIDBytes is the length of the longest publisher's id. Clients send
	// it back in a header field, of which proxies take a few KiB.
	MaxPublisherIDBytes = 128
	// MaxRetry is the longest reconnection time: beyond a day it is a mistake.
	MaxRetry = maxRetryMs * time.Millisecond
)

// What Check refuses.
var (
	// ErrBadEventType: longer than MaxEventBytes, with a line end or NUL, not UTF-8,
	// or EventGap, by which a client could not tell a real loss any more.
	ErrBadEventType = refusal(http.StatusBadRequest, `the event type is longer than 128 bytes, has a line end or NUL, is not UTF-8, or is "gap"`)
	// ErrBadPublisherID: longer than MaxPublisherIDBytes, or with other octets than
	// visible ASCII, which is what a header field carries everywhere.
	ErrBadPublisherID = refusal(http.StatusBadRequest, "the id is longer than 128 bytes or has other characters than visible ASCII")
	// ErrBadRetry: below a millisecond or beyond MaxRetry.
	ErrBadRetry = refusal(http.StatusBadRequest, "the retry time is not a whole number of milliseconds up to a day")
)

// Check returns what is not allowed of m beside its data, a *ProtocolError, or nil.
func (m Message) Check() error {
	switch {
	case len(m.Event) > MaxEventBytes, strings.ContainsAny(m.Event, "\r\n\x00"), !utf8.ValidString(m.Event), m.Event == EventGap:
		return ErrBadEventType
	case m.ID != "" && !isPublisherID(m.ID):
		return ErrBadPublisherID
	case m.Retry != 0 && (m.Retry < time.Millisecond || m.Retry > MaxRetry):
		return ErrBadRetry
	}
	return nil
}

// isPlain reports whether there is nothing but data.
func (m Message) isPlain() bool { return m.Event == "" && m.ID == "" && m.Retry == 0 }

// isPublisherID reports whether s may stand behind a position.
func isPublisherID(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return len(s) > 0 && len(s) <= MaxPublisherIDBytes
}

// ParseEventID reads what clients know as the id of an event: a position, and
// behind the first "/" the publisher's id, which may be anything and may be missing.
// Publisher is a part of s.
func ParseEventID[T ~string | ~[]byte](s T) (id ID, publisher T, err error) {
	end := strings.IndexByte(viewOf(s), '/')
	if end < 0 {
		end = len(s)
	}
	publisher = s[min(end+1, len(s)):]
	id, err = ParseID(s[:end])
	return id, publisher, err
}
