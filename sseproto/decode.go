package sseproto

import (
	"bytes"
	"errors"
	"time"
)

// ErrEventTooLarge is returned by Decoder.Write when a line, or the data of an event,
// is longer than Decoder.MaxBytes.
var ErrEventTooLarge = errors.New("sseproto: event too large")

// byteOrderMark is taken off once at the start of a stream (HTML §9.2.5).
const byteOrderMark = "\uFEFF"

// Decoder reads an event stream as HTML §9.2.6 says a client does. It is an
// io.Writer: give it the body of the answer, without the head, in pieces of any size.
// An event that is not ended by an empty line when the stream ends is not reported, as
// in a browser.
//
// It works on octets: invalid UTF-8 is left to the caller. After the first events it
// allocates nothing as long as lines and events get no longer. The zero value is
// ready; one goroutine at a time.
type Decoder struct {
	// OnEvent is called for each event that a client would dispatch. The slices are
	// borrowed: valid until it returns. id is the last event ID, which stays for
	// events without an id field of their own; eventType is EventMessage when the
	// stream gives none.
	OnEvent func(id, eventType, data []byte)
	// MaxBytes bounds a line and the data of an event; zero means no bound.
	MaxBytes int

	line      []byte // the start of a line whose end has not come
	data      []byte // the data buffer: each line with a LF
	eventType []byte
	idField   []byte // the last event ID buffer
	lastID    []byte // the last event ID string: idField as of the last empty line
	retry     time.Duration
	hasRetry  bool
	comments  uint64
	started   bool // the byte order mark was looked for
	afterCR   bool // the last line ended in CR: a LF now belongs to it
	err       error
}

// Write reads the next piece of the stream. The only error is ErrEventTooLarge, after
// which the decoder is of no more use.
func (d *Decoder) Write(p []byte) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	total := len(p)
	for len(p) > 0 && d.err == nil {
		if d.afterCR && p[0] == '\n' {
			p = p[1:]
		}
		d.afterCR = false
		end := indexLineEnd(p)
		if end < 0 {
			d.line = append(d.line, p...)
			d.checkSize()
			break
		}
		line := p[:end]
		if len(d.line) > 0 {
			d.line = append(d.line, line...)
			line = d.line
		}
		d.afterCR = p[end] == '\r'
		p = p[end+1:]
		d.takeLine(line)
		d.line = d.line[:0]
	}
	if d.err != nil {
		return 0, d.err
	}
	return total, nil
}

// LastEventID is what a client would send when it reconnects now: the ID of the last
// whole block. Borrowed, valid until the next Write.
func (d *Decoder) LastEventID() []byte { return d.lastID }

// Retry is the reconnection time that the stream has set; ok is false if none.
func (d *Decoder) Retry() (wait time.Duration, ok bool) { return d.retry, d.hasRetry }

// Comments is the number of comment lines, which is what heartbeats are.
func (d *Decoder) Comments() uint64 { return d.comments }

// Reconnected makes the decoder ready for the next stream of the same client: what was
// not ended is dropped, the last event ID and the reconnection time stay.
func (d *Decoder) Reconnected() {
	d.line, d.data, d.eventType = d.line[:0], d.data[:0], d.eventType[:0]
	d.idField = append(d.idField[:0], d.lastID...)
	d.started, d.afterCR, d.err = false, false, nil
}

// takeLine handles one line, without its end.
func (d *Decoder) takeLine(line []byte) {
	if !d.started {
		d.started = true
		line = bytes.TrimPrefix(line, []byte(byteOrderMark))
	}
	if len(line) == 0 {
		d.dispatch()
		return
	}
	if line[0] == ':' {
		d.comments++
		return
	}
	name, value, _ := bytes.Cut(line, []byte{':'})
	d.takeField(name, bytes.TrimPrefix(value, []byte{' '}))
}

// takeField handles one field; names are compared literally, others are ignored.
func (d *Decoder) takeField(name, value []byte) {
	switch string(name) {
	case "data":
		d.data = append(append(d.data, value...), '\n')
		d.checkSize()
	case "event":
		d.eventType = append(d.eventType[:0], value...)
	case "id":
		if bytes.IndexByte(value, 0) < 0 {
			d.idField = append(d.idField[:0], value...)
		}
	case "retry":
		if ms, ok := parseRetry(value); ok {
			d.retry, d.hasRetry = ms, true
		}
	}
}

// dispatch handles an empty line. A data buffer that is empty had no data field: an
// empty data field leaves its LF in it.
func (d *Decoder) dispatch() {
	d.lastID = append(d.lastID[:0], d.idField...)
	if len(d.data) > 0 && d.OnEvent != nil {
		eventType := d.eventType
		if len(eventType) == 0 {
			eventType = append(eventType, EventMessage...)
		}
		d.OnEvent(d.lastID, eventType, d.data[:len(d.data)-1])
	}
	d.data, d.eventType = d.data[:0], d.eventType[:0]
}

func (d *Decoder) checkSize() {
	if d.MaxBytes > 0 && (len(d.line) > d.MaxBytes || len(d.data) > d.MaxBytes+1) {
		d.err = ErrEventTooLarge
	}
}

// indexLineEnd returns the index of the first LF or CR, or -1. The search for CR
// stops at the LF: streams have one in every line and mostly no CR at all.
func indexLineEnd(p []byte) int {
	lf := bytes.IndexByte(p, '\n')
	if lf >= 0 {
		p = p[:lf]
	}
	if cr := bytes.IndexByte(p, '\r'); cr >= 0 {
		return cr
	}
	return lf
}

// maxRetryMs is where longer times are cut: a day is past all use, and beyond 63 bits
// there is no Duration.
const maxRetryMs = 24 * 60 * 60 * 1000

// parseRetry reads a value of digits only, else ok is false.
func parseRetry(value []byte) (wait time.Duration, ok bool) {
	ms := int64(0)
	for _, c := range value {
		if !isDigit(c) {
			return 0, false
		}
		ms = min(ms*10+int64(c-'0'), maxRetryMs)
	}
	return time.Duration(ms) * time.Millisecond, len(value) > 0
}
