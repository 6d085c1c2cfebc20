package sseproto

import (
	"bytes"
	"math"
)

// framing is what the fields of one head said so far about its host and body.
type framing struct {
	hosts            int
	contentLength    bool
	transferEncoding bool
	unknownCoding    bool
	badExpectation   bool
}

// parseField checks one field line (RFC 9112 §5) and notes what it means when it is
// one of those that decide where the message ends or what becomes of the connection.
// The octets of the value were checked by nextLine.
func (r *Request) parseField(line []byte, f *framing) error {
	if isOWS(line[0]) {
		return ErrFold
	}
	name, value, ok := bytes.Cut(line, []byte{':'})
	if !ok || !isToken(name) {
		return ErrBadField
	}
	switch len(name) {
	case len("host"):
		if equalFold(name, "host") {
			return r.noteHost(trimOWS(value), f)
		}
	case len("expect"):
		if equalFold(name, "expect") {
			r.noteExpect(value, f)
		}
	case len("connection"):
		if equalFold(name, "connection") {
			r.noteConnection(value)
		}
	case len("content-length"):
		if equalFold(name, "content-length") {
			return r.noteContentLength(trimOWS(value), f)
		}
	case len("transfer-encoding"):
		if equalFold(name, "transfer-encoding") {
			return r.noteTransferEncoding(value, f)
		}
	}
	return nil
}

// noteHost takes the Host field (RFC 9112 §3.2): one line of it, well-formed. The
// authority of an absolute target replaces it (§3.2.2), but does not excuse it.
func (r *Request) noteHost(value []byte, f *framing) error {
	f.hosts++
	if f.hosts > 1 || !validHost(value) {
		return ErrBadHost
	}
	if r.Host == nil {
		r.Host = value
	}
	return nil
}

// noteExpect takes one Expect field (RFC 9110 §10.1.1).
func (r *Request) noteExpect(value []byte, f *framing) {
	for more := true; more; {
		var member []byte
		member, value, more = cutMember(value)
		switch {
		case equalFold(member, "100-continue"):
			r.ExpectContinue = true
		case len(member) > 0:
			f.badExpectation = true
		}
	}
}

// noteConnection takes one Connection field (RFC 9110 §7.6.1).
func (r *Request) noteConnection(value []byte) {
	for more := true; more; {
		var member []byte
		member, value, more = cutMember(value)
		switch {
		case equalFold(member, "close"):
			r.close = true
		case equalFold(member, "keep-alive"):
			r.keepAlive = true
		}
	}
}

// noteContentLength takes the Content-Length field (RFC 9110 §8.6). One that is
// repeated, or a list, is refused even when all its values are the same: the RFC
// allows it, and nobody but an attacker sends it.
func (r *Request) noteContentLength(value []byte, f *framing) error {
	if f.contentLength || len(value) == 0 {
		return ErrBadContentLength
	}
	f.contentLength = true
	n, tooLarge := int64(0), false
	for _, c := range value {
		if !isDigit(c) {
			return ErrBadContentLength
		}
		d := int64(c - '0')
		tooLarge = tooLarge || n > (math.MaxInt64-d)/10
		if !tooLarge {
			n = n*10 + d
		}
	}
	if tooLarge {
		return ErrContentTooLarge
	}
	r.ContentLength = n
	return nil
}

// noteTransferEncoding takes the Transfer-Encoding field (RFC 9112 §6.1): a list
// that ends in chunked and has it nowhere else, or the length of the body is not
// known (§6.3). Empty members and a second line of it are refused.
func (r *Request) noteTransferEncoding(value []byte, f *framing) error {
	if f.transferEncoding {
		return ErrBadTransferEncoding
	}
	f.transferEncoding = true
	for more := true; more; {
		var member []byte
		member, value, more = cutMember(value)
		if equalFold(member, "chunked") == more || !isToken(member) {
			return ErrBadTransferEncoding
		}
		f.unknownCoding = f.unknownCoding || more
	}
	r.Chunked = true
	return nil
}

// judge decides what only the whole head shows.
func (r *Request) judge(f *framing) error {
	switch {
	case f.hosts == 0 && r.Minor > 0:
		return ErrBadHost
	case f.transferEncoding && (f.contentLength || r.Minor == 0):
		return ErrBadTransferEncoding
	case f.unknownCoding:
		return ErrTransferCoding
	case f.badExpectation:
		return ErrExpectation
	}
	r.ExpectContinue = r.ExpectContinue && r.Minor > 0
	return nil
}
