package engine

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// dechunker reads a stream behind a head of one line. It takes no other chunks than those
// that it expects (RFC 9112 §7.1, without what is optional there): so a byte that is
// missing, or comes twice, is found.
type dechunker struct {
	plain  bool // the stream has no chunks
	headed bool // the head is read
	rest   []byte
	chunks []string // the data of each
	ended  bool     // the last chunk came
}

var errBehindEnd = errors.New("bytes behind the last chunk")

// read returns the text of the chunks that are whole.
func (d *dechunker) read(b []byte) (text []byte, err error) {
	if d.plain {
		return b, nil
	}
	d.rest = append(d.rest, b...)
	if !d.headed {
		_, rest, ok := bytes.Cut(d.rest, []byte("HEAD\n"))
		if !ok {
			return nil, nil
		}
		d.rest, d.headed = rest, true
	}
	for {
		if d.ended && len(d.rest) > 0 {
			return text, errBehindEnd
		}
		head, rest, ok := bytes.Cut(d.rest, []byte("\r\n"))
		if !ok {
			if len(d.rest) > 9 {
				return text, fmt.Errorf("no head of a chunk: %.40q", d.rest)
			}
			return text, nil
		}
		size, err := strconv.ParseUint(string(head), 16, 31)
		if err != nil || strconv.FormatUint(size, 16) != string(head) {
			return text, fmt.Errorf("no head of a chunk: %.40q", head)
		}
		if len(rest) < int(size)+2 {
			return text, nil
		}
		if string(rest[size:size+2]) != "\r\n" {
			return text, fmt.Errorf("no end of a chunk: %.40q", rest[size:])
		}
		d.ended = size == 0
		if !d.ended {
			d.chunks = append(d.chunks, string(rest[:size]))
		}
		text, d.rest = append(text, rest[:size]...), rest[size+2:]
	}
}
