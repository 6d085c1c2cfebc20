package engine

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// TestLargeMessagesHaveTheFrameOfSmallOnes: they are encoded before their position is known.
func TestLargeMessagesHaveTheFrameOfSmallOnes(t *testing.T) {
	t.Parallel()
	const segmentBytes = 128 << 10 // which has room for the frame of asideBytes of whatever
	for _, id := range []sseproto.ID{{Ms: 1, Seq: 1}, {Ms: 1<<64 - 2, Seq: 1<<64 - 1}} {
		for _, piece := range []string{"x", "\n", "a\r\n", "\r", "\xff", "é\n"} {
			for _, bytes := range []int{asideBytes, 3 * asideBytes, 2 * segmentBytes} {
				m := sseproto.Message{Event: "kind", ID: "own/1", Retry: time.Second, Data: strings.Repeat(piece, bytes/len(piece)+1)}
				l := newLog(32<<20, segmentBytes, 1, false, func(uint64) {})
				l.OpenSpan(sseproto.ID{})
				e := l.encode(&m)
				require.NotNil(t, e)
				l.mu.Lock()
				l.appendLocked(id, "a", &m, e)
				l.unlock()
				v := l.readers[0].open()
				entry, seg := v.at(1)
				require.True(t, string(sseproto.AppendEvent(nil, id, m)) == string(seg.frame(entry)), "%q %d", piece, bytes)
				back, _ := seg.message(entry, nil)
				require.True(t, m == back, "%q %d", piece, bytes)
				v.close()
				require.EqualValues(t, len(m.Data), l.Stats().AppendedBytes)
				require.LessOrEqual(t, l.Stats().RingBytes, int64(8*len(m.Data)+3*segmentBytes))
			}
		}
	}
	require.Nil(t, newLog(minRingBytes, minSegmentBytes, 1, false, nil).encode(&sseproto.Message{Data: "small"}))
}

// BenchmarkAppendLineEnds is a message of 1 MiB of what takes the most work to encode.
// What counts is how long the log's lock is held at most.
func BenchmarkAppendLineEnds(b *testing.B) {
	for _, piece := range []string{"x", "\n", "\r", "\xff"} {
		b.Run(fmt.Sprintf("piece=%q", piece), func(b *testing.B) {
			l := newLog(64<<20, maxSegmentBytes, 1, false, func(uint64) {})
			l.OpenSpan(sseproto.ID{Ms: 1})
			data := strings.Repeat(piece, 1<<20)
			stop, longest := make(chan struct{}), make(chan time.Duration)
			go func() { longest <- longestWait(l, stop) }()
			for n := uint64(1); b.Loop(); n++ {
				l.Append(sseproto.ID{Ms: 1, Seq: n}, "a", data)
			}
			close(stop)
			b.ReportMetric(float64((<-longest).Microseconds()), "µs-longest-wait")
		})
	}
}
