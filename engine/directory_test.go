package engine

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

func requireForgotten(t *testing.T, l *Log, name string) {
	t.Helper()
	_, ok := l.dir.find(name)
	require.False(t, ok)
}

// TestMemoryOfNamesIsGivenBack: a hundred thousand channels are subscribed once, and a few stay.
func TestMemoryOfNamesIsGivenBack(t *testing.T) {
	const slots, channels = 100, 1000
	s := newNullShardOf(t, 1<<20)
	s.fillWith(2, "stays")
	before := heapBytes()
	for round := range 2 {
		for i := range slots {
			s.fillWith(1, names(fmt.Sprint(round, "/", i, "/"), channels)...)
		}
		most := heapBytes()
		require.Equal(t, slots*channels+1, s.log.dir.len())
		for i := uint32(3); i < s.slots.used; i++ {
			if s.slots.at(i).phase != phaseFree {
				s.unsubscribeAll(i)
				s.dropSlot(i)
			}
		}
		require.Equal(t, 1, s.log.dir.len())
		left := heapBytes() - min(before, heapBytes())
		t.Logf("%d KiB more with %d names, %d KiB when they are gone: %.1f B a name, of at most %.1f B", (most-before)>>10,
			slots*channels, left>>10, float64(left)/slots/channels, float64(most-before)/slots/channels)
		require.Less(t, left, uint64(2*slots*channels), "a few bytes a name: lists of chunks, and slots")
	}
	s.feed.publish("stays", "x")
	s.settle()
	require.EqualValues(t, 2, s.count.delivered.Load())
	runtime.KeepAlive(s)
}

// TestIndexesAreGivenOutOnce: in any order of taking and giving back, the lowest first.
func TestIndexesAreGivenOutOnce(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	var x indexes
	taken := make(map[uint32]bool)
	var list []uint32
	chunks := make(map[uint32]int)
	for step := range 60_000 {
		if grow := step/10_000%2 == 0; len(list) == 0 || grow == (rng.IntN(4) != 0) {
			i, fresh := x.take()
			require.False(t, taken[i])
			require.Equal(t, chunks[i/chunkSize] == 0, fresh)
			taken[i], chunks[i/chunkSize] = true, chunks[i/chunkSize]+1
			list = append(list, i)
			for lower := i; lower > 0 && i-lower < 3; lower-- {
				require.True(t, taken[lower-1], "the lowest free one comes first")
			}
			continue
		}
		k := rng.IntN(len(list))
		i := list[k]
		list = slices.Delete(list, k, k+1)
		delete(taken, i)
		chunks[i/chunkSize]--
		require.Equal(t, chunks[i/chunkSize] == 0, x.put(i))
	}
}

// TestNamesComeAndGoBesideMessages: the directory gives indexes again while the ring
// forgets messages and readers ask for names.
func TestNamesComeAndGoBesideMessages(t *testing.T) {
	t.Parallel()
	l := newLog(minRingBytes, minSegmentBytes, 1, false, func(uint64) {})
	l.OpenSpan(sseproto.ID{Ms: 1000})
	rng := rand.New(rand.NewPCG(7, 7))
	subscribed := make(map[string]uint32)
	stop, ended := make(chan struct{}), make(chan struct{})
	looked := make(chan struct{}) // a reader that the system holds up keeps the names that it may meet
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			case looked <- struct{}{}:
			default:
			}
			l.ReadCommitted(sseproto.ID{Ms: 1000}, 100, 1<<20, func(_ sseproto.ID, channel string, m sseproto.Message, _ sseproto.ID) {
				if m.Data != channel {
					panic(fmt.Sprint("a message of ", m.Data, " under the name ", channel))
				}
			})
		}
	}()
	for n := range 20_000 {
		name := fmt.Sprint("c", rng.IntN(5000))
		if index, ok := subscribed[name]; ok {
			require.Equal(t, name, l.dir.at(index).name)
			l.dir.unsubscribe(index)
			delete(subscribed, name)
		} else if len(subscribed) < 3000 {
			subscribed[name] = l.dir.subscribe(name)
		}
		name = fmt.Sprint("m", rng.IntN(5000))
		l.Append(sseproto.ID{Ms: 1000, Seq: uint64(n + 1)}, name, name)
		if n%100 == 0 {
			l.Commit(sseproto.ID{Ms: 1000, Seq: uint64(n + 1)}, sseproto.ID{})
			<-looked
		}
	}
	close(stop)
	<-ended
	require.Less(t, int(l.dir.indexes.end()), 15_000, "indexes are used again")
}
