package sseproto

import (
	"bytes"
	"iter"
)

// Default limits of a request head. Browsers and proxies send 1 to 4 KiB, most of
// it cookies; RFC 9112 §3 recommends that request lines of 8000 octets be read.
const (
	DefaultMaxHeadBytes = 16 << 10
	DefaultMaxFields    = 100
)

// maxLeadingLines is how many empty lines are skipped before a request line. RFC
// 9112 §2.2 asks for one at least, which old clients send after a body.
const maxLeadingLines = 4

// Limits bounds a request head.
type Limits struct {
	// MaxHeadBytes bounds all octets up to and with the empty line; zero or less
	// means DefaultMaxHeadBytes.
	MaxHeadBytes int
	// MaxFields bounds the number of field lines; zero or less means DefaultMaxFields.
	MaxFields int
}

func (lim Limits) maxHeadBytes() int {
	if lim.MaxHeadBytes <= 0 {
		return DefaultMaxHeadBytes
	}
	return lim.MaxHeadBytes
}

func (lim Limits) maxFields() int {
	if lim.MaxFields <= 0 {
		return DefaultMaxFields
	}
	return lim.MaxFields
}

// Request is a parsed request head. Its slices alias the bytes that were parsed
// and are valid as long as those are: copy what you keep.
type Request struct {
	// Method is a token, case-sensitive (RFC 9110 §9.1); any token is accepted.
	Method []byte
	// Target is the request target as sent.
	Target []byte
	// Form is which of the four forms Target has.
	Form TargetForm
	// Path is that of the target, as sent (no escapes decoded, no dot segments
	// removed), "/" where an absolute target has none. Nil in the other two forms.
	Path []byte
	// Query is what follows the first "?", nil without one.
	Query []byte
	// Params are the parameters of the request, written as a query: Query, and behind it
	// what ReadBody has found.
	Params []byte
	// Host is the authority asked for: that of an absolute target or a CONNECT, else
	// the Host field. Well-formed; empty when the field is, nil without it in HTTP/1.0.
	Host []byte
	// Minor is the version: HTTP/1.Minor. Above 1 counts as 1 (RFC 9110 §2.5).
	Minor int
	// ContentLength is that field, -1 without it.
	ContentLength int64
	// Chunked tells that the body is in chunks; ContentLength is then -1.
	Chunked bool
	// ExpectContinue tells that the client waits for 100 Continue before it sends
	// the body. Never true in HTTP/1.0 (RFC 9110 §10.1.1).
	ExpectContinue bool

	bodyIsRead       bool   // Params has it
	close, keepAlive bool   // members of the Connection field
	fields           []byte // all field lines, checked, each with its CRLF
}

// ParseRequest reads one request head from the start of b: n is its length, with
// the empty lines skipped before it and the empty line that ends it. A body, or the
// next request, begins at b[n].
//
// n == 0 without an error means that the head is incomplete: call again with the
// same bytes and more (HeadScan tells when that is worth while). What cannot become
// a request is refused at once, not when the empty line comes, and with the same
// error however the bytes arrive. All errors are *ProtocolError: answer with its
// Status, then close.
//
// It is stricter than RFC 9112 where leniency would let requests be smuggled: CRLF is
// the only line end, single spaces divide the request line, and a message whose
// length could be read in two ways is refused rather than repaired.
func ParseRequest(b []byte, lim Limits) (req Request, n int, err error) {
	if n, err = req.parse(b, lim); n == 0 {
		return Request{}, 0, err
	}
	return req, n, nil
}

// parse fills r; what is in it counts only when n is not zero.
func (r *Request) parse(b []byte, lim Limits) (n int, err error) {
	full := len(b) >= lim.maxHeadBytes()
	if full {
		b = b[:lim.maxHeadBytes()]
	}
	start, err := skipEmptyLines(b)
	if err != nil {
		return 0, err
	}
	line, size, err := nextLine(b[start:])
	switch {
	case err != nil:
		return 0, err
	case size == 0 && full:
		return 0, errRequestLineTooLong(b[start:])
	case size == 0:
		return 0, nil
	}
	if err := r.parseRequestLine(line); err != nil {
		return 0, err
	}
	return r.parseFields(b, start+size, full, lim.maxFields())
}

// parseFields reads the field lines from b[first:] up to the empty line and returns
// where the head ends, or zero when it does not yet. full tells that b is as long as
// a head may be.
func (r *Request) parseFields(b []byte, first int, full bool, maxFields int) (n int, err error) {
	var f framing
	for pos, count := first, 0; ; count++ {
		line, size, err := nextLine(b[pos:])
		switch {
		case err != nil:
			return 0, err
		case size == 0 && full:
			return 0, ErrHeadTooLarge
		case size == 0:
			return 0, nil
		case len(line) == 0:
			r.fields = b[first:pos]
			if err := r.judge(&f); err != nil {
				return 0, err
			}
			return pos + size, nil
		case count == maxFields:
			return 0, ErrTooManyFields
		}
		if err := r.parseField(line, &f); err != nil {
			return 0, err
		}
		pos += size
	}
}

// skipEmptyLines returns where the request line starts.
func skipEmptyLines(b []byte) (start int, err error) {
	for range maxLeadingLines {
		if !bytes.HasPrefix(b[start:], []byte("\r\n")) {
			return start, nil
		}
		start += 2
	}
	if bytes.HasPrefix(b[start:], []byte("\r\n")) {
		return 0, ErrLeadingLines
	}
	return start, nil
}

// errRequestLineTooLong tells which part of a request line without an end is too long.
func errRequestLineTooLong(line []byte) error {
	if bytes.IndexByte(line, ' ') < 0 {
		return ErrMethodTooLong
	}
	return ErrTargetTooLong
}

// KeepAlive reports whether the client wants, and its version allows, another
// request on the connection (RFC 9112 §9.3).
func (r *Request) KeepAlive() bool {
	if r.Minor == 0 {
		return r.keepAlive && !r.close
	}
	return !r.close
}

// HasBody reports whether content follows the head (RFC 9112 §6.3) that ReadBody has not
// read. A server that does not read it must close after its answer.
func (r *Request) HasBody() bool { return !r.bodyIsRead && (r.Chunked || r.ContentLength > 0) }

// Header returns the value of the first field with that name, in any case, without
// the white space around it; nil without such a field, empty but not nil for one
// without a value.
func (r *Request) Header(name string) []byte {
	for fieldName, value := range r.Fields() {
		if equalFold(fieldName, name) {
			return value
		}
	}
	return nil
}

// Values goes through the values of all fields with that name, in order.
func (r *Request) Values(name string) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for fieldName, value := range r.Fields() {
			if equalFold(fieldName, name) && !yield(value) {
				return
			}
		}
	}
}

// Fields goes through all fields in order: name as sent, value without the white
// space around it.
func (r *Request) Fields() iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for rest := r.fields; len(rest) > 0; {
			// Each line was checked: it has a colon and ends in CRLF.
			end := bytes.IndexByte(rest, '\n')
			line := rest[:end-1]
			rest = rest[end+1:]
			colon := bytes.IndexByte(line, ':')
			if !yield(line[:colon], trimOWS(line[colon+1:])) {
				return
			}
		}
	}
}

// HeadScan remembers how much of a growing head was looked at. A caller that gets a
// head in pieces asks it before each further ParseRequest; without it one that gets
// single bytes would read up to MaxHeadBytes of old ones for each. The zero value is
// ready; use a new one for each request.
type HeadScan struct{ seen int }

// Ready reports whether the bytes that b has more than at the last call can change
// the answer of ParseRequest: a line has ended, an octet is to be refused, or the
// limit is reached. It costs time linear in the new bytes.
func (s *HeadScan) Ready(b []byte, lim Limits) bool {
	if len(b) >= lim.maxHeadBytes() {
		return true
	}
	from := s.seen
	if from > 0 && b[from-1] == '\r' {
		from-- // it was the last one; what follows a CR judges it
	}
	s.seen = len(b)
	ctl := indexCTL(b[from:])
	if ctl < 0 {
		return false
	}
	return b[from+ctl] != '\r' || from+ctl < len(b)-1
}
