package engine

import (
	"fmt"
	"testing"

	"ssed/sseproto"
)

// shardOfChannels is a shard of so many partitions with a slot of so many channels, which are
// spread over them.
func shardOfChannels(t testing.TB, channels, partitions int) (s *nullShard, slot uint32) {
	s = newNullShardWith(t, Config{Partitions: partitions})
	for p := range partitions {
		s.log.Partition(p).OpenSpan(sseproto.ID{Ms: 1000})
	}
	s.fillWith(1, names("channel", channels)...)
	return s, 1
}

// BenchmarkJoiningState is what the state of a stream that comes takes in a log of several
// partitions.
func BenchmarkJoiningState(b *testing.B) {
	for _, partitions := range []int{2, 64} {
		for _, channels := range []int{1, 32, 1024} {
			b.Run(fmt.Sprintf("channels=%d/partitions=%d", channels, partitions), func(b *testing.B) {
				s, slot := shardOfChannels(b, channels, partitions)
				c := s.slots.at(slot)
				b.ReportAllocs()
				used := cpuTime()
				for b.Loop() {
					_ = s.newJoining(c)
				}
				b.ReportMetric(float64((cpuTime()-used).Nanoseconds())/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// BenchmarkSubscribe is what a slot's subscriptions take, and giving them back.
func BenchmarkSubscribe(b *testing.B) {
	for _, channels := range []int{1, 32, 1024} {
		b.Run(fmt.Sprintf("channels=%d", channels), func(b *testing.B) {
			s, slot := shardOfChannels(b, channels, 64)
			all := names("channel", channels)
			b.ReportAllocs()
			used := cpuTime()
			for b.Loop() {
				s.unsubscribeAll(slot)
				for _, name := range all {
					s.subscribe(slot, name)
				}
			}
			b.ReportMetric(float64((cpuTime()-used).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}
