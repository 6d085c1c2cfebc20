package rstore

import (
	"strconv"
	"strings"

	"ssed/internal/redisconn"
	"ssed/sseproto"
)

// batch is the messages of one script run, over (after, through].
type batch struct {
	after, through sseproto.ID
	server         string // that numbered it, "" when it is not known
	entries        []entry
}

// entry is a message as append.lua gets it. Policy is its place in Store.policies.
type entry struct {
	stream, head, data, prev string
	policy                   int
}

// collect reads what fits one pipeline: batches that continue each other, none when
// nothing is new. More may be waiting: then all but the last are as large as they may
// be. Otherwise the writer keeps up, and they are small and alike: Redis does nothing
// else during a batch, and who publishes should not wait for a hundred messages. The
// bytes are copied once: what goes to the client must stay valid until it gives up on the connection.
func (s *Store) collect(after sseproto.ID, depth int) (q queue, low sseproto.ID) {
	var (
		text      strings.Builder
		ends      []int // in text, of stream, head and data of each message
		ids       []sseproto.ID
		distances []string // to the channel's message before each
		chosen    []int    // the policy of each
		visited   int      // those without a history too
		scratch   [headBytes]byte
		size      int
	)
	limit := depth * s.cfg.BatchSize
	through, low := s.src.ReadCommitted(after, limit, pipelineBytes, func(id sseproto.ID, channel string, m sseproto.Message, prev sseproto.ID) {
		visited++
		policy := s.policies.of(channel)
		if s.policies.list[policy].Off {
			return
		}
		chosen = append(chosen, policy)
		ids = append(ids, id)
		distances = append(distances, distance(prev, id))
		text.WriteString(s.keys.Prefix)
		text.WriteString(channel)
		ends = append(ends, text.Len())
		text.Write(appendHead(scratch[:0], id, &m))
		ends = append(ends, text.Len())
		if m.Event == sseproto.EventGap { // the rest of it is the channel, which the key has
			m.Data = sseproto.ReasonOversize
		}
		text.WriteString(m.Data)
		ends = append(ends, text.Len())
		size += len(m.Data)
	})
	if through == after || low != after {
		return q, low
	}
	most := s.cfg.BatchSize
	if q.more = visited == limit || size >= pipelineBytes; !q.more {
		most = min(most, max(smallBatch, (len(ids)+steps-1)/steps))
	}
	server := s.cfg.ServerOf(after) // of the whole queue, which is of one span
	b := &batch{after: after, server: server}
	room, start := batchBytes, 0
	for i, id := range ids {
		if len(b.entries) == most || room <= 0 {
			q.batches = append(q.batches, b)
			b = &batch{after: b.through, server: server}
			room = batchBytes
		}
		stream, head, data := ends[3*i], ends[3*i+1], ends[3*i+2]
		b.entries = append(b.entries, entry{text.String()[start:stream], text.String()[stream:head], text.String()[head:data], distances[i], chosen[i]})
		b.through = id
		room -= data - head
		start = data
	}
	b.through = through
	q.batches = append(q.batches, b)
	return q, low
}

// distance says how far, in ms, the channel's message before one lies: what an entry
// tells of it. "-1" when the log does not know. A number takes 3 % more memory for
// messages of 100 bytes, and less for larger ones; a whole ID takes 17 %.
func distance(prev, id sseproto.ID) string {
	if prev.IsZero() {
		return "-1"
	}
	return strconv.FormatUint(id.Ms-prev.Ms, 10)
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

func (s *Store) appendCall(epoch string, b *batch) redisconn.Call {
	settings, chosen := s.policies.forBatch(b.entries)
	c := redisconn.Call{
		Keys: append(make([]string, 0, 4+len(b.entries)), s.keys.Clock, s.keys.Lease, s.keys.Rejected, s.keys.Gaps),
		Args: append(make([]string, 0, 16+3*len(b.entries)),
			epoch, b.after.String(), b.through.String(), strconv.Itoa(s.cfg.MaxLen), millis(s.cfg.TTL),
			s.cfg.Instance, millis(s.cfg.LeaseTTL), strconv.Itoa(maxRejected), strconv.Itoa(maxMarkers),
			strconv.FormatInt(s.cfg.Window.Milliseconds(), 10), strconv.Itoa(s.cfg.Cap),
			millis(s.policies.leastTTL()), s.policies.text, settings, chosen, b.server),
	}
	for _, e := range b.entries {
		c.Keys = append(c.Keys, e.stream)
		c.Args = append(c.Args, e.head, e.data, e.prev)
	}
	return c
}
