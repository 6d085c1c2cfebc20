package rstore

import (
	"strconv"
	"strings"

	"ssed/sseproto"
)

// batch is the messages of one script run, over (after, through].
type batch struct {
	after, through sseproto.ID
	n              int
	full           bool // more may be waiting
	text           strings.Builder
	ends           []int // in text, of stream, head and data of each message
}

// collect reads one batch from the log. The bytes are copied once: what goes
// to the client must stay valid until it gives up on the connection.
func (s *Store) collect(after sseproto.ID) (b *batch, low sseproto.ID) {
	b = &batch{after: after}
	var scratch [headBytes]byte
	size := 0
	b.through, low = s.src.Collect(after, s.cfg.BatchSize, batchBytes, func(id sseproto.ID, channel string, m sseproto.Message) {
		b.text.WriteString(s.keys.prefix)
		b.text.WriteString(channel)
		b.ends = append(b.ends, b.text.Len())
		b.text.Write(appendHead(scratch[:0], id, &m))
		b.ends = append(b.ends, b.text.Len())
		b.text.WriteString(m.Data)
		b.ends = append(b.ends, b.text.Len())
		b.n++
		size += len(m.Data)
	})
	b.full = b.n >= s.cfg.BatchSize || size >= batchBytes
	return b, low
}

// headBytes is room for the head of most messages.
const headBytes = 128

// appendHead writes what append.lua gets of a message beside its stream and data:
// the ID, and only where there is anything more to say, each behind a space, the
// retry time in ms, the publisher's id and the type. The first two may be empty and
// have no spaces in them, the type is the rest.
func appendHead(dst []byte, id sseproto.ID, m *sseproto.Message) []byte {
	dst = id.AppendTo(dst)
	eventType := m.Event
	if eventType == "" {
		eventType = sseproto.EventMessage
	}
	if m.Retry == 0 && m.ID == "" && eventType == sseproto.EventMessage {
		return dst
	}
	dst = append(dst, ' ')
	if m.Retry > 0 {
		dst = strconv.AppendInt(dst, m.Retry.Milliseconds(), 10)
	}
	dst = append(dst, ' ')
	dst = append(dst, m.ID...)
	dst = append(dst, ' ')
	return append(dst, eventType...)
}

// collectMany reads what fits one pipeline: batches that continue each other,
// each full but the last. None when nothing is new.
func (s *Store) collectMany(after sseproto.ID) (batches []*batch, low sseproto.ID) {
	b, low := s.collect(after)
	if low != after {
		return nil, low
	}
	for b.through != b.after {
		batches = append(batches, b)
		if !b.full || len(batches) == pipelineDepth {
			break
		}
		next, nextLow := s.collect(b.through)
		if nextLow != b.through {
			break // the hole is met when the watermark stands at it
		}
		b = next
	}
	return batches, after
}

func (s *Store) appendCall(epoch string, b *batch) call {
	text := b.text.String()
	c := call{
		keys: append(make([]string, 0, 4+b.n), s.keys.clock, s.keys.lease, s.keys.holes, s.keys.gaps),
		args: append(make([]string, 0, 9+2*b.n),
			epoch, b.after.String(), b.through.String(), strconv.Itoa(s.cfg.MaxLen), millis(s.cfg.TTL),
			s.cfg.Instance, millis(s.cfg.LeaseTTL), strconv.Itoa(maxHoles), strconv.Itoa(maxMarkers)),
	}
	start := 0
	for i := 0; i < len(b.ends); i += 3 {
		key, head, data := b.ends[i], b.ends[i+1], b.ends[i+2]
		c.keys = append(c.keys, text[start:key])
		c.args = append(c.args, text[key:head], text[head:data])
		start = data
	}
	return c
}
