package engine

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/front"
	"ssed/sseproto"
)

// TestPassLooksAtAFewOfThoseWhoWaitForAPartitionThatBegins: however many there are.
func TestPassLooksAtAFewOfThoseWhoWaitForAPartitionThatBegins(t *testing.T) {
	t.Parallel()
	const partitions = 3
	for _, size := range sizes {
		s := newNullShardWith(t, Config{Partitions: partitions})
		low := sseproto.ID{Ms: 1000}
		s.log.Partition(0).OpenSpan(low)
		var channels []string
		for n := range 64 {
			channels = append(channels, channelOfPart(fmt.Sprint("c", n, "-"), 1+n%2, partitions))
		}
		n := 200 * size
		a := &front.Stream{FD: -1, Head: []byte("HEAD\n"), Channels: channels, Since: s.log.standing()}
		for range n {
			slot, c := s.newSlot(int(s.null.Fd()))
			c.flags |= slotMany | slotNoID
			for _, name := range channels {
				s.subscribe(slot, name)
			}
			s.awaitBegin(c, newcomer{ref{slot, c.gen}, attachmentOf(a, partitions)})
		}
		var dearest cost
		for p := 1; p < partitions; p++ { // the second one lets them begin
			s.log.Partition(p).OpenSpan(low)
			dearest = max(dearest, s.settle())
		}
		t.Logf("%d streams: dearest pass %v", n, dearest)
		require.EqualValues(t, n, s.count.attached.Load())
		require.Zero(t, s.unbegunOpen)
		for i := range s.slots.used {
			if c := s.slots.at(i); c.phase != phaseFree {
				require.Equal(t, phaseLive, c.phase)
			}
		}
		require.Less(t, dearest, 2*s.shares.answer+2*aStart(len(channels)))
	}
}

// Streams go on coming while a partition begins. Those who have waited for it do not wait for them,
// or their time would be over before it is their turn.
func TestWhoHasWaitedForAPartitionBeginsBeforeWhoCameLater(t *testing.T) {
	t.Parallel()
	s := newNullShardWith(t, Config{Partitions: 2})
	low := sseproto.ID{Ms: 1000}
	s.log.Partition(0).OpenSpan(low)
	slots := 0
	come := func(part int) newcomer {
		name := channelOfPart(fmt.Sprint("c", slots, "-"), part, 2)
		slots++
		slot, c := s.newSlot(int(s.null.Fd()))
		s.subscribe(slot, name)
		a := &front.Stream{FD: -1, Head: []byte("HEAD\n"), Channels: []string{name}, Since: s.log.standing()}
		return newcomer{ref{slot, c.gen}, attachmentOf(a, 2)}
	}
	for range 100 {
		n := come(1)
		s.awaitBegin(s.slots.at(n.slot), n)
	}
	s.lookAtUnbegun()
	require.Equal(t, 100, s.unbegunOpen)
	for range maxNewcomers {
		s.newcomers.push(come(0))
	}
	s.log.Partition(1).OpenSpan(low)
	s.lookAtUnbegun()
	require.Zero(t, s.unbegunOpen)
}

// aStart is what the head of a stream of so many channels costs, and the look before.
func aStart(channels int) cost { return callCost + cost(8*channels)*lookCost }
