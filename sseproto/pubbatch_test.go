package sseproto

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBatchIsReadAsItWasWritten(t *testing.T) {
	messages := [][2]string{{"a", ""}, {"", "payload"}, {"ü\x00", "\xff\n"}, {strings.Repeat("c", 127), strings.Repeat("p", 128)}, {"big", strings.Repeat("x", 70_000)}}
	var batch []byte
	size := 0
	for _, m := range messages {
		batch = AppendBatched(batch, m[0], m[1])
		size += BatchedSize(m[0], m[1])
		require.Len(t, batch, size)
	}
	rest := string(batch)
	for _, m := range messages {
		channel, payload, after, ok := CutBatched(rest)
		require.True(t, ok)
		require.Equal(t, m, [2]string{channel, payload})
		rest = after
	}
	require.Empty(t, rest)
}

// TestBrokenTailEndsABatch: what comes before it is read, and no byte behind it.
func TestBrokenTailEndsABatch(t *testing.T) {
	whole := string(AppendBatched(nil, "channel", "payload"))
	f := func(tail string) {
		t.Helper()
		channel, payload, rest, ok := CutBatched(whole + tail)
		require.True(t, ok)
		require.Equal(t, "channel", channel)
		require.Equal(t, "payload", payload)
		_, _, after, ok := CutBatched(rest)
		require.False(t, ok)
		require.Equal(t, tail, after)
	}
	f("")
	f("\x80")                   // a length without an end
	f("\x01")                   // a channel is missing
	f("\x01a")                  // a payload is missing
	f("\x01a\x02b")             // half of a payload
	f("\x80\x80\x80\x80\x00ab") // a length of five bytes
	f("\xff\xff\xff\xff\x7f")
	for cut := 1; cut < len(whole); cut++ {
		f(whole[:cut])
	}
}

// FuzzBatch: whatever the bytes, the messages written again are the bytes that were read, but for lengths that
// have more bytes than they need. Go's own reader of varints agrees.
func FuzzBatch(f *testing.F) {
	f.Add("")
	f.Add(string(AppendBatched(AppendBatched(nil, "a", "1"), "b", "2")))
	f.Add("\x01a\x80\x01")
	f.Add("\x81\x00a\x00")
	f.Fuzz(func(t *testing.T, batch string) {
		rest := batch
		for {
			channel, payload, after, ok := CutBatched(rest)
			want, wantOK := cutByStandardLibrary(rest)
			require.Equal(t, wantOK, ok)
			if !ok {
				require.Equal(t, rest, after)
				return
			}
			require.Equal(t, want, [3]string{channel, payload, after})
			require.LessOrEqual(t, BatchedSize(channel, payload), len(rest)-len(after))
			again, _, _, ok := CutBatched(string(AppendBatched(nil, channel, payload)))
			require.True(t, ok)
			require.Equal(t, channel, again)
			rest = after
		}
	})
}

func cutByStandardLibrary(batch string) (parts [3]string, ok bool) {
	for i := range 2 {
		n, used := binary.Uvarint([]byte(batch))
		if used <= 0 || used > maxUvarint || n > uint64(len(batch)-used) {
			return [3]string{}, false
		}
		parts[i], batch = batch[used:used+int(n)], batch[used+int(n):]
	}
	parts[2] = batch
	return parts, true
}
