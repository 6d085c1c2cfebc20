package engine

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/sock"
	"ssed/sseproto"
)

// TestPageOfManyTurnsArrivesWhole: the reader takes all that it is sent, and a message of another
// of its channels comes between the turns.
func TestPageOfManyTurnsArrivesWhole(t *testing.T) {
	const messages = 3000
	for _, parts := range []int{1, 2} {
		history := newMemoryHistory()
		h := shardByHand(t, func(cfg *Config) {
			cfg.Partitions, cfg.RingBytes = parts, 8<<20
			cfg.History = history
			if parts > 1 {
				cfg.History, cfg.Histories = nil, []History{history, newMemoryHistory()}
			}
		})
		channel, other := channelOfPart("c", 0, parts), "other"
		low, lastID := sseproto.ID{Ms: 1000}, "800-0"
		if parts > 1 {
			other = channelOfPart("c", 1, parts)
			h.log.Partition(1).OpenSpan(low)
			lastID = vector(0, sseproto.ID{Ms: 800}, low)
		}
		for n := range uint64(messages) {
			history.add(sseproto.ID{Ms: 900, Seq: n + 1}, channel, fmt.Sprint(n, " ", strings.Repeat("x", 1000)))
		}
		h.f.tick(low)
		h.engine.replayer.start()

		h.shares.pages = 1 // a turn in each pass
		c := comeBack(t, h.engine, lastID, channel, other)
		largest, between := 0, 0
		h.send = func(_ int, vec []sock.Iovec) (n int, _ sock.Result) {
			for _, v := range vec {
				c.take(unsafe.Slice(v.Base, v.Len))
				n += int(v.Len)
			}
			largest = max(largest, n)
			return n, sock.OK
		}
		for deadline := time.Now().Add(waitLong); h.delivered < messages+uint64(between); {
			require.Less(t, time.Now(), deadline)
			if h.pages.len() > 0 { // the rest of one, mostly
				between++
				h.log.Partition(parts-1).Append(sseproto.ID{Ms: 1200, Seq: uint64(between)}, other, "between")
			}
			h.pass()
		}
		require.Greater(t, between, 2)
		require.LessOrEqual(t, largest, turnBytes+1000)
		n := 0
		for _, ev := range c.got {
			require.Equal(t, "message", ev.kind)
			if ev.data == "between" {
				continue
			}
			require.True(t, strings.HasPrefix(ev.data, fmt.Sprint(n, " ")), "%d: %.10s", n, ev.data)
			n++
		}
		require.Equal(t, messages, n)
	}
}
