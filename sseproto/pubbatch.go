package sseproto

// MaxBatchBytes is the size of the largest batch. What lies beyond it is not read.
const MaxBatchBytes = 1 << 20

// maxUvarint is how many bytes the length of a text in a batch has at most: four reach
// 256 MiB, which is more than fits.
const maxUvarint = 4

// AppendBatched adds a message to a batch, which begins empty: length of the channel,
// channel, length of the payload, payload. Lengths are unsigned varints as those of
// Protocol Buffers: seven bits in a byte, the low ones first, and the high bit of each byte
// but the last one is set.
func AppendBatched(dst []byte, channel, payload string) []byte {
	dst = append(appendUvarint(dst, len(channel)), channel...)
	return append(appendUvarint(dst, len(payload)), payload...)
}

// BatchedSize is by how many bytes AppendBatched makes a batch longer.
func BatchedSize(channel, payload string) int {
	return uvarintSize(len(channel)) + len(channel) + uvarintSize(len(payload)) + len(payload)
}

// CutBatched takes the first message off a batch. The strings are parts of it. It is not ok
// when the batch is empty or does not begin with a whole message: then rest is the batch.
// What it returns depends on nothing but the bytes, for all instances have to find the same
// messages. The caller cuts the batch to MaxBatchBytes before.
func CutBatched(batch string) (channel, payload, rest string, ok bool) {
	channel, rest, ok = cutText(batch)
	if ok {
		payload, rest, ok = cutText(rest)
	}
	if !ok {
		return "", "", batch, false
	}
	return channel, payload, rest, true
}

// cutText takes a text behind its length off s.
func cutText(s string) (text, rest string, ok bool) {
	n := 0
	for i := range min(len(s), maxUvarint) {
		n |= int(s[i]&0x7f) << (7 * i)
		if s[i] < 0x80 {
			if s = s[i+1:]; n > len(s) {
				return "", "", false
			}
			return s[:n], s[n:], true
		}
	}
	return "", "", false
}

func appendUvarint(dst []byte, n int) []byte {
	for ; n >= 0x80; n >>= 7 {
		dst = append(dst, byte(n)|0x80)
	}
	return append(dst, byte(n))
}

func uvarintSize(n int) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}
