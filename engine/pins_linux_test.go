package engine

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// Readers of every kind look at a ring that turns under them all the time. Its memory is
// given back to the system, so who looks beyond its pin crashes, and with the race
// detector finds bytes that are no frame.
func TestNobodyLooksAtFramesBeyondThePin(t *testing.T) {
	const channels = 40
	messages := 60_000
	if raceEnabled {
		messages /= 4
	}
	l := newLog(minRingBytes, minSegmentBytes, 2, false, func(uint64) {})
	l.OpenSpan(sseproto.ID{Ms: 1})
	name := func(n int) string { return fmt.Sprint("c", n) }
	subscribed := make([]uint32, channels)
	for n := range subscribed {
		subscribed[n] = l.dir.subscribe(name(n))
	}
	var stopped atomic.Bool
	var readers sync.WaitGroup
	check := func(channel string, id sseproto.ID, data string) {
		want := fmt.Sprint(channel, " ", id, " ")
		if !strings.HasPrefix(data, want) || strings.Trim(data[len(want):], "x\n") != "" {
			stopped.Store(true)
			assert.Fail(t, "not the message", "%.80q of %s", data, want)
		}
	}
	var followed, gathered, committed, inspected int
	readers.Go(func() { // as a slot that is behind: message by message
		r := l.readers[0]
		rng := rand.New(rand.NewPCG(1, 1))
		var scratch []byte
		for !stopped.Load() {
			v := r.open()
			r.cursor.Store(v.head)
			n := rng.IntN(channels)
			pos := v.tail + rng.Uint64N(max(v.head-v.tail, 1))
			for range 20 {
				next, lost := v.follow(subscribed[n], pos)
				if next == 0 || lost {
					break
				}
				e, seg := v.at(next)
				var m sseproto.Message
				m, scratch = seg.message(e, scratch)
				check(name(n), e.id, m.Data)
				pos, followed = next, followed+1
				if rng.IntN(4) == 0 {
					v.refresh()
				}
			}
			v.close()
		}
		r.cursor.Store(noPosition)
	})
	readers.Go(func() { // as a job: gathered first, written later in the pass
		r := l.readers[1]
		var b batch
		for !stopped.Load() {
			v := r.open()
			from := r.cursor.Load()
			if from == noPosition {
				from = v.head
			}
			for pos := max(from, v.tail); pos < v.head; pos++ {
				e, seg := v.at(pos)
				if b.add(&v, pos, e, seg, 0) {
					break
				}
			}
			r.cursor.Store(v.head)
			v.refresh()
			frames := ""
			for _, part := range b.vec {
				frames += string(unsafe.Slice(part.Base, part.Len))
			}
			for frame := range strings.SplitAfterSeq(frames, "\n\n") {
				if frame != "" && (!strings.HasPrefix(frame, "id: ") || strings.Contains(frame, "\xDB")) {
					stopped.Store(true)
					assert.Fail(t, "not a frame", "%.80q", frame)
				}
			}
			gathered += len(b.frames)
			b.reset()
			v.close()
		}
		r.cursor.Store(noPosition)
	})
	readers.Go(func() {
		var last sseproto.ID
		for !stopped.Load() {
			through, low := l.ReadCommitted(last, 500, 1<<20, func(id sseproto.ID, channel string, m sseproto.Message, _ sseproto.ID) {
				check(channel, id, m.Data)
				committed++
			})
			last = through
			if last.Less(low) {
				last = low
			}
		}
	})
	readers.Go(func() {
		for !stopped.Load() {
			assert.NoError(t, l.inspect(t.Context(), func(v *tally) error {
				_, err := v.top(t.Context(), ByRate, channels)
				return err
			}))
			inspected++
		}
	})
	rng := rand.New(rand.NewPCG(2, 2))
	id := sseproto.ID{Ms: 2}
	for n := range messages {
		id.Seq++
		channel, size := name(rng.IntN(channels)), rng.IntN(200)
		switch rng.IntN(200) {
		case 0:
			size = 3 * minSegmentBytes
		case 1:
			size = asideBytes
		}
		text := fmt.Sprint(channel, " ", id, " ", strings.Repeat("x", size))
		if rng.IntN(8) == 0 {
			text += "\n" + strings.Repeat("x\n", rng.IntN(100)) // grows, and is kept a second time
		}
		l.Append(id, channel, text)
		if n%50 == 0 {
			id = sseproto.ID{Ms: id.Ms + 1}
			l.Commit(id, sseproto.ID{})
		}
		if stopped.Load() {
			break
		}
	}
	stopped.Store(true)
	readers.Wait()
	require.Positive(t, min(followed, gathered, committed, inspected))
	l.reclaim()
	require.Empty(t, l.retired, "nobody pins them any more")
}
