package sseproto

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// MaxBodyBytes bounds the body of a request for a stream, with the lines of its chunks.
// 1,000 channels of 36 bytes are 50 KB as a form, 40 KB as JSON.
const MaxBodyBytes = 64 << 10

// maxChunkLine bounds the line before a chunk, and each line of a trailer. They have a few
// octets; extensions and trailers mean nothing here.
const maxChunkLine = 256

// ReadBody reads the body of a request for a stream as parameters, which follow those of
// the query in Params. b is what has come behind the head; scan is new for each request. n
// is the length of the body; 0 without an error: it is not whole.
//
// A form (application/x-www-form-urlencoded) is written as a query is. JSON is an object
// whose members are parameters: a string stands for its text, a number for its text as it
// is written, a list of both for the parameter given several times; null is no parameter.
// MemberChannels is ParamChannelID.
//
// What is wrong by the head alone, its type and its length, is refused before the body
// has come. All errors are *ProtocolError.
func (r *Request) ReadBody(b []byte, scan *BodyScan) (n int, err error) {
	isJSON, err := r.bodyType()
	if err != nil {
		return 0, err
	}
	if scan.length == 0 {
		scan.length = r.ContentLength // -1 with chunks
	}
	if n, err = scan.end(b); n == 0 {
		return 0, err
	}
	body := b[:n]
	if r.Chunked {
		body = joinChunks(body)
	}
	params := bytes.Clone(r.Query)
	if len(params) > 0 {
		params = append(params, '&')
	}
	if isJSON {
		params, err = appendJSONParams(params, body)
	} else {
		params, err = appendForm(params, body)
	}
	if err != nil {
		return 0, err
	}
	r.Params, r.bodyIsRead = params, true
	return n, nil
}

// bodyType judges what the head says of the body.
func (r *Request) bodyType() (isJSON bool, err error) {
	if r.ContentLength > MaxBodyBytes {
		return false, ErrBodyTooLarge
	}
	if coding := r.Header("Content-Encoding"); len(coding) > 0 && !equalFold(coding, "identity") {
		return false, ErrContentCoding
	}
	mediaType, _, _ := bytes.Cut(r.Header("Content-Type"), []byte{';'})
	switch mediaType = trimOWS(mediaType); {
	case len(mediaType) == 0:
		return false, ErrNoBodyType
	case equalFold(mediaType, "application/x-www-form-urlencoded"):
		return false, nil
	case equalFold(mediaType, "application/json"):
		return true, nil
	}
	return false, ErrBodyType
}

// appendForm extends dst with a form. Its writers escape control characters (WHATWG URL
// §5.2); one as it is comes from something else, such as a line end of a file.
func appendForm(dst, body []byte) ([]byte, error) {
	if indexCTL(body) >= 0 || bytes.IndexByte(body, '\t') >= 0 {
		return dst, ErrBadForm
	}
	return append(dst, body...), nil
}

// appendJSONParams extends dst with the members of an object, as a query. What it cuts is
// valid JSON, so the cuts are right.
func appendJSONParams(dst, body []byte) ([]byte, error) {
	if !utf8.Valid(body) || !json.Valid(body) {
		return dst, ErrBadJSON
	}
	s := trimSpace(viewOf(body))
	if s[0] != '{' {
		return dst, ErrBadJSON
	}
	var seen map[string]bool
	for s = skipSpace(s[1 : len(s)-1]); s != ""; s = skipComma(s) {
		n := stringLen(s)
		name, _ := textOf(s[:n])
		if seen[name] {
			return dst, ErrBadJSON // of two members of a name it is open which one counts
		}
		if seen == nil {
			seen = make(map[string]bool)
		}
		seen[name] = true
		if name == MemberChannels {
			name = ParamChannelID
		}
		s = skipSpace(skipSpace(s[n:])[1:]) // behind the colon
		n = valueLen(s)
		var ok bool
		if dst, ok = appendJSONParam(dst, name, s[:n]); !ok {
			return dst, ErrBadJSON
		}
		s = s[n:]
	}
	return dst, nil
}

// skipComma skips what is between a value and the next member or value.
func skipComma(s string) string {
	if s = skipSpace(s); s != "" {
		s = skipSpace(s[1:])
	}
	return s
}

// appendJSONParam extends dst with one member: with each value of a list.
func appendJSONParam(dst []byte, name, value string) (_ []byte, ok bool) {
	if value[0] != '[' {
		return appendParam(dst, name, value)
	}
	for s := skipSpace(value[1 : len(value)-1]); s != ""; s = skipComma(s) {
		n := valueLen(s)
		if dst, ok = appendParam(dst, name, s[:n]); !ok {
			return dst, false
		}
		s = s[n:]
	}
	return dst, true
}

// appendParam extends dst with one pair of a query. Not ok: the value is true, false, or
// nests deeper.
func appendParam(dst []byte, name, value string) (_ []byte, ok bool) {
	text, isString := textOf(value)
	switch {
	case isString:
	case isNumber(value):
		text = value
	default:
		return dst, isAbsent(value)
	}
	dst = appendEscaped(dst, name)
	dst = append(dst, '=')
	dst = appendEscaped(dst, text)
	return append(dst, '&'), true
}

// appendEscaped extends dst with what AppendUnescaped takes back. Names of channels are
// mostly letters and digits, so what need not be escaped is not.
func appendEscaped(dst []byte, s string) []byte {
	const digits = "0123456789ABCDEF"
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ' || c == 0x7F || c == '%' || c == '&' || c == '+' || c == '=' || c == '#':
			dst = append(dst, '%', digits[c>>4], digits[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// BodyScan remembers how much of a growing body was looked at. The zero value is ready; use
// a new one for each request.
type BodyScan struct {
	length    int64 // of the body; -1: it is in chunks; 0: not known yet
	at        int   // where the next line of a chunk begins
	chunkEnd  int   // where the chunk ends that is coming in; 0: its line comes first
	isTrailer bool  // the last chunk was there
	whole     int   // where the body ends, once that was found
	err       error // why it is refused, from then on
}

// Ready reports whether the bytes that b has more than at the last call can change the
// answer of ReadBody. It costs time linear in the new bytes.
func (s *BodyScan) Ready(b []byte) bool {
	n, err := s.end(b)
	return n > 0 || err != nil
}

// end returns where the body ends of which b is the start; 0: not in b.
func (s *BodyScan) end(b []byte) (n int, err error) {
	if s.length >= 0 {
		if int64(len(b)) < s.length {
			return 0, nil
		}
		return int(s.length), nil
	}
	for s.whole == 0 && s.err == nil && s.step(b) {
		if max(s.at, s.chunkEnd) > MaxBodyBytes {
			s.whole, s.err = 0, ErrBodyTooLarge
		}
	}
	return s.whole, s.err
}

// step takes one line or one chunk (RFC 9112 §7.1) and reports false when b has to grow
// first.
func (s *BodyScan) step(b []byte) bool {
	if s.chunkEnd > 0 {
		end := s.chunkEnd + len(ChunkEnd)
		if len(b) < end {
			return false
		}
		if string(b[s.chunkEnd:end]) != ChunkEnd {
			s.err = ErrBadChunk
		}
		s.at, s.chunkEnd = end, 0
		return true
	}
	line, size, err := nextLine(b[s.at:])
	switch {
	case err != nil, len(line) > maxChunkLine, size == 0 && len(b)-s.at > maxChunkLine:
		s.err = ErrBadChunk
		return true
	case size == 0:
		return false
	}
	s.at += size
	switch length, ok := chunkLength(line); {
	case s.isTrailer && len(line) == 0:
		s.whole = s.at
	case s.isTrailer && isField(line):
	case s.isTrailer, !ok:
		s.err = ErrBadChunk
	case length == 0:
		s.isTrailer = true
	default:
		s.chunkEnd = s.at + length
	}
	return true
}

// isField reports whether a line of a trailer is a field (RFC 9112 §5).
func isField(line []byte) bool {
	name, _, ok := bytes.Cut(line, []byte{':'})
	return ok && isToken(name)
}

// chunkLength reads the line before a chunk. Nothing but digits may stand before the
// extensions; what is beyond MaxBodyBytes is only known to be too long.
func chunkLength(line []byte) (n int, ok bool) {
	digits, _, _ := bytes.Cut(line, []byte{';'})
	for _, c := range digits {
		if !isHex(c) {
			return 0, false
		}
		n = min(n<<4|int(unhex(c)), MaxBodyBytes+1)
	}
	return n, len(digits) > 0
}

// joinChunks takes the chunks of a body apart that BodyScan has found whole.
func joinChunks(b []byte) []byte {
	body := make([]byte, 0, len(b))
	for {
		line, size, _ := nextLine(b)
		n, _ := chunkLength(line)
		if n == 0 {
			return body
		}
		body = append(body, b[size:size+n]...)
		b = b[size+n+len(ChunkEnd):]
	}
}
