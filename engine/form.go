package engine

import "ssed/sseproto"

// form is how a stream looks on the wire: the frames as they are in the ring, or with
// something around or in them. The bytes of a message in a form follow from its frame and
// its channel alone. So a slot that stands in the middle of one needs to know its
// position, and how many of these bytes are written.
type form uint8

const (
	formChunked form = 1 << iota // each frame is a chunk of its own (RFC 9112 §7.1)
	formTold                     // a message without a type has that of its channel: sseproto.Told

	forms = 1 << iota // how many there are
)

// formOf returns the form for a stream.
func formOf(chunked, told bool) form {
	var f form
	if chunked {
		f |= formChunked
	}
	if told {
		f |= formTold
	}
	return f
}

// flags are those of a slot with this form.
func (f form) flags() slotFlags { return slotFlags(f) * slotChunked }

// wrap makes what dst has from start on a part of a stream: a chunk, or as it is.
func (f form) wrap(dst []byte, start int) []byte {
	if f&formChunked == 0 {
		return dst
	}
	return sseproto.WrapChunk(dst, start)
}

// end extends dst with what ends a stream as it should, between two messages.
func (f form) end(dst []byte) []byte {
	if f&formChunked == 0 {
		return dst
	}
	return append(dst, sseproto.LastChunk...)
}

// appendEvent extends dst with an event in this form.
func (f form) appendEvent(dst []byte, id sseproto.ID, channel string, m sseproto.Message) []byte {
	if f&formTold != 0 && (m.Event == "" || m.Event == sseproto.EventMessage) {
		m.Event = sseproto.Told(channel)
	}
	start := len(dst)
	return f.wrap(sseproto.AppendEvent(dst, id, m), start)
}

// appendGap extends dst with a gap event in this form.
func (f form) appendGap(dst []byte, gap sseproto.Gap) []byte {
	start := len(dst)
	return f.wrap(sseproto.AppendGap(dst, gap), start)
}
