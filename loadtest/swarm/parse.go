//go:build linux

package swarm

import (
	"bytes"
	"errors"

	"ssed/loadtest/payload"
)

// errStatus is returned for a response other than 200.
var errStatus = errors.New("swarm: the response is not a 200")

// errFraming is returned for a response that is not HTTP, or broken chunks.
var errFraming = errors.New("swarm: malformed response")

// errOver is returned for the last chunk of a response. Whether the connection stays
// open for another request does not matter: the stream has ended.
var errOver = errors.New("swarm: the response is over")

// phase is the state of the incremental parser. Head phases come first, then
// those of an event stream.
type phase uint8

const (
	headStatus phase = iota // in the status line
	headLine                // at the start of a header line
	headMatch               // the line equals pos bytes of chunkedHeader so far
	headSkip                // in another header line

	lineStart // at the start of a line of the stream
	nameData  // in a field name that starts like data, pos bytes of it match
	nameID
	nameEvent
	dataValue // in a data line, pos bytes of the magic match
	dataField // in the digits of the body
	dataFill  // in the padding of the body
	bodyEnd   // behind the body, only a line end or what wraps the body may follow
	idStart   // after `id:`, a space may follow
	idValue
	eventStart // after `event:`, a space may follow
	eventValue // in the event type, pos bytes of `gap` match
	skipLine
)

// framing is how the response body is delimited and where the reader stands in
// a chunk.
type framing uint8

const (
	framingClose framing = iota // no chunks: ends with the connection
	chunkSize                   // in the size of a chunk
	chunkExt                    // after the digits of a size
	chunkData                   // in the data
	chunkEnd                    // in the CR LF after the data
)

const chunkedHeader = "transfer-encoding:chunked"

// feed reads what arrived on the connection. b is borrowed for the call.
func (c *conn) feed(b []byte, t *Stats, now int64) error {
	if c.state == stateHead {
		n, err := c.feedHead(b)
		if err != nil || c.state == stateHead {
			return err
		}
		b = b[n:]
	}
	if c.framing == framingClose {
		c.feedEvents(b, t, now)
		return nil
	}
	return c.feedChunks(b, t, now)
}

// feedHead reads the response head and moves the connection to stateStream at
// its end. n is how many bytes belong to the head.
func (c *conn) feedHead(b []byte) (n int, err error) {
	for i, ch := range b {
		switch c.phase {
		case headStatus:
			if err := c.statusByte(ch); err != nil {
				return i, err
			}
		case headLine:
			if ch == '\n' {
				c.state, c.phase, c.pos = stateStream, lineStart, 0
				return i + 1, nil
			}
			if ch != '\r' {
				c.phase, c.pos = headMatch, 0
				c.matchByte(ch)
			}
		case headMatch:
			c.matchByte(ch)
		case headSkip:
			if ch == '\n' {
				c.phase = headLine
			}
		}
	}
	return len(b), nil
}

// statusByte reads "HTTP/1.x NNN reason": c.left collects the code.
func (c *conn) statusByte(ch byte) error {
	const prefix = "HTTP/1."
	switch pos := int(c.pos); {
	case pos < len(prefix):
		if ch != prefix[pos] {
			return errFraming
		}
	case pos >= 9 && pos < 12:
		if ch < '0' || ch > '9' {
			return errFraming
		}
		c.left = c.left*10 + uint32(ch-'0')
	case ch == '\n':
		if c.left != 200 {
			return errStatus
		}
		c.phase, c.left = headLine, 0
		return nil
	}
	c.pos = min(c.pos+1, 12)
	return nil
}

// matchByte compares a header line with chunkedHeader, without its spaces.
func (c *conn) matchByte(ch byte) {
	switch {
	case ch == '\n':
		if int(c.pos) == len(chunkedHeader) {
			c.framing = chunkSize
		}
		c.phase = headLine
	case ch == ' ' || ch == '\t' || ch == '\r':
	case int(c.pos) < len(chunkedHeader) && lower(ch) == chunkedHeader[c.pos]:
		c.pos++
	default:
		c.phase = headSkip
	}
}

func lower(ch byte) byte {
	if ch >= 'A' && ch <= 'Z' {
		return ch | 0x20
	}
	return ch
}

// feedChunks takes the chunked framing off (RFC 9112, 7.1).
func (c *conn) feedChunks(b []byte, t *Stats, now int64) error {
	for len(b) > 0 {
		if c.framing == chunkData {
			n := min(len(b), int(c.chunk))
			c.feedEvents(b[:n], t, now)
			b = b[n:]
			if c.chunk -= uint32(n); c.chunk == 0 {
				c.framing = chunkEnd
			}
			continue
		}
		if err := c.chunkByte(b[0]); err != nil {
			return err
		}
		b = b[1:]
	}
	return nil
}

// chunkByte reads one byte between the data of two chunks.
func (c *conn) chunkByte(ch byte) error {
	switch {
	case ch == '\n' && c.framing == chunkEnd:
		c.framing = chunkSize
	case ch == '\n':
		if c.chunk == 0 {
			return errOver
		}
		c.framing = chunkData
	case ch == '\r' || c.framing == chunkExt:
	case c.framing == chunkSize && ch == ';':
		c.framing = chunkExt
	case c.framing == chunkSize && hexDigit(ch) >= 0 && c.chunk < 1<<27:
		c.chunk = c.chunk<<4 | uint32(hexDigit(ch))
	default:
		return errFraming
	}
	return nil
}

func hexDigit(ch byte) int {
	switch {
	case ch >= '0' && ch <= '9':
		return int(ch - '0')
	case lower(ch) >= 'a' && lower(ch) <= 'f':
		return int(lower(ch)-'a') + 10
	}
	return -1
}

// feedEvents reads a piece of an event stream (WHATWG HTML, 9.2.6).
func (c *conn) feedEvents(b []byte, t *Stats, now int64) {
	for i := 0; i < len(b); {
		switch c.phase {
		case skipLine:
			n := bytes.IndexByte(b[i:], '\n')
			if n < 0 {
				return
			}
			i += n + 1
			c.phase = lineStart
		case lineStart, dataValue, idValue:
			n := c.shortcut(b[i:])
			if n == 0 {
				c.eventByte(b[i], t, now)
				n = 1
			}
			i += n
		case dataFill:
			i += c.fillBytes(b[i:])
		case bodyEnd:
			if b[i] == payload.Fill {
				c.flags |= flagTorn // longer than it says
			}
			if c.phase = skipLine; b[i] == '\n' {
				c.phase = lineStart
			}
			i++
		default:
			c.eventByte(b[i], t, now)
			i++
		}
	}
}

// shortcut reads at once what eventByte would read byte by byte, when enough of
// it is there, and returns how much; 0 when eventByte must do it. A frame takes a
// third of the time with it, and this program shares the cores with the server.
func (c *conn) shortcut(b []byte) int {
	switch c.phase {
	case lineStart:
		return c.shortName(b)
	case dataValue:
		return c.shortBody(b)
	}
	n := bytes.IndexByte(b, '\n')
	if n <= 0 || b[n-1] == '\r' || int(c.idLen)+int(c.newLen)+n > idBytes {
		return 0
	}
	copy(c.ids[c.idLen+c.newLen:], b[:n])
	c.newLen += uint8(n)
	return n
}

// shortName reads "data: " or "id: ".
func (c *conn) shortName(b []byte) int {
	switch {
	case bytes.HasPrefix(b, []byte("data: ")) && c.flags&flagBody == 0:
		c.flags |= flagData
		c.phase, c.pos = dataValue, 0
		return len("data: ")
	case bytes.HasPrefix(b, []byte("id: ")):
		c.flags |= flagID
		c.phase, c.newLen = idValue, 0
		return len("id: ")
	}
	return 0
}

// shortBody reads the magic and the fields of a body.
func (c *conn) shortBody(b []byte) int {
	if c.pos != 0 || len(b) < payload.MinBytes || string(b[:len(payload.Magic)]) != payload.Magic {
		return 0
	}
	b = b[len(payload.Magic):payload.MinBytes]
	channel, ok1 := parseHex(b[:8])
	size, ok2 := parseHex(b[8:16])
	seq, ok3 := parseHex(b[16:24])
	due, ok4 := parseHex(b[24:])
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return 0
	}
	if channel != uint64(c.channel) {
		c.flags |= flagStray
	}
	c.left, c.seq, c.acc = uint32(size)-uint32(payload.MinBytes), uint32(seq), due
	c.flags |= flagBody
	c.phase = dataFill
	return payload.MinBytes
}

// parseHex reads hexadecimal digits.
func parseHex(b []byte) (v uint64, ok bool) {
	bad := byte(0)
	for _, ch := range b {
		d := hexValues[ch]
		bad |= d
		v = v<<4 | uint64(d&15)
	}
	return v, bad < 16
}

// hexValues are the values of hexadecimal digits; other bytes have 0xff.
var hexValues = func() (t [256]byte) {
	for ch := range t {
		t[ch] = byte(hexDigit(byte(ch)))
	}
	return t
}()

// eventByte reads one byte outside of padding and ignored lines.
func (c *conn) eventByte(ch byte, t *Stats, now int64) {
	if ch == '\n' && c.phase != lineStart {
		c.endLine()
		return
	}
	switch c.phase {
	case lineStart:
		c.startLine(ch, t, now)
	case nameData:
		c.nameByte(ch, "data:", dataValue)
	case nameID:
		c.nameByte(ch, "id:", idStart)
	case nameEvent:
		c.nameByte(ch, "event:", eventStart)
	case dataValue:
		c.magicByte(ch)
	case dataField:
		c.bodyByte(ch)
	case idStart, idValue:
		c.idByte(ch)
	case eventStart, eventValue:
		c.typeByte(ch)
	}
}

// startLine reads the first byte of a line.
func (c *conn) startLine(ch byte, t *Stats, now int64) {
	c.pos = 1
	switch ch {
	case '\n':
		c.dispatch(t, now)
	case '\r': // of an empty line
	case 'd':
		c.phase = nameData
	case 'i':
		c.phase = nameID
	case 'e':
		c.phase = nameEvent
	default:
		c.phase = skipLine
	}
}

// nameByte matches a field name; after its colon the value begins.
func (c *conn) nameByte(ch byte, name string, value phase) {
	if ch != name[c.pos] {
		c.phase = skipLine
		return
	}
	c.pos++
	if int(c.pos) < len(name) {
		return
	}
	c.pos, c.phase = 0, value
	switch {
	case value == idStart:
		c.flags |= flagID
		c.newLen = 0
	case value == dataValue && c.flags&flagBody != 0:
		c.phase = skipLine // a further line of a message whose body is known
	case value == dataValue:
		c.flags |= flagData
	}
}

// endLine ends a line of the stream that is not empty.
func (c *conn) endLine() {
	switch {
	case c.phase == dataField:
		c.flags |= flagTorn
	case c.phase == eventValue && int(c.pos) == len(gapType):
		c.flags |= flagGap
	}
	c.phase = lineStart
}

// magicByte looks for the start of a body in a data line.
func (c *conn) magicByte(ch byte) {
	if ch != payload.Magic[c.pos] {
		c.pos = 0
		if ch != payload.Magic[0] {
			return
		}
	}
	c.pos++
	if int(c.pos) == len(payload.Magic) {
		c.phase, c.pos, c.acc = dataField, 0, 0
	}
}

// bodyByte reads one digit of the fields of a body.
func (c *conn) bodyByte(ch byte) {
	d := hexDigit(ch)
	if d < 0 {
		c.flags |= flagTorn
		c.phase = skipLine
		return
	}
	c.acc = c.acc<<4 | uint64(d)
	c.pos++
	switch c.pos {
	case 8:
		if c.acc != uint64(c.channel) {
			c.flags |= flagStray
		}
	case 16:
		c.left = uint32(c.acc) - uint32(payload.MinBytes)
	case 24:
		c.seq = uint32(c.acc)
	case payload.Digits:
		c.phase = dataFill
		c.flags |= flagBody
		return
	default:
		return
	}
	c.acc = 0
}

// fillBytes reads padding and returns how much of b was used.
func (c *conn) fillBytes(b []byte) int {
	n := min(len(b), int(c.left))
	if !payload.IsFill(b[:n]) {
		c.flags |= flagTorn
		c.phase = skipLine
		return 0
	}
	if c.left -= uint32(n); c.left == 0 {
		// Only the end of the line, or of the JSON around the body, is left.
		c.phase = bodyEnd
	}
	return n
}

// idByte collects an event id, without the space after the colon.
func (c *conn) idByte(ch byte) {
	if ch != '\r' && (c.phase == idValue || ch != ' ') {
		c.appendID(ch)
	}
	c.phase = idValue
}

// gapType is the event type of a server's notice that messages are lost.
const gapType = "gap"

// typeByte compares the event type with gapType.
func (c *conn) typeByte(ch byte) {
	if ch == '\r' || c.phase == eventStart && ch == ' ' {
		c.phase = eventValue
		return
	}
	c.phase = eventValue
	if int(c.pos) == len(gapType) || ch != gapType[c.pos] {
		c.phase = skipLine
		return
	}
	c.pos++
}

// dispatch ends the block of an event.
func (c *conn) dispatch(t *Stats, now int64) {
	c.commitID(t)
	switch f := c.flags; {
	case f&flagTorn != 0:
		t.Torn++
	case f&flagGap != 0:
		t.Gaps++
	case f&flagBody != 0 && f&flagStray != 0:
		t.Misrouted++
	case f&flagBody != 0:
		c.count(t, now)
	case f&flagData != 0:
		t.Foreign++
	}
	c.flags = 0
}
