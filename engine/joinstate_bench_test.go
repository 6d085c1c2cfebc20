package engine

import (
	"fmt"
	"testing"
	"time"

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

// BenchmarkJoiningTurn is a turn of a stream that waits: its places lie ahead in all partitions.
func BenchmarkJoiningTurn(b *testing.B) {
	for _, partitions := range []int{2, 16, 64} {
		b.Run(fmt.Sprintf("partitions=%d", partitions), func(b *testing.B) {
			s := newWaitingJoins(b, 100, partitions)
			b.ReportAllocs()
			used := cpuTime()
			for b.Loop() {
				s.lookAtAll()
			}
			b.ReportMetric(float64((cpuTime()-used).Nanoseconds())/float64(b.N*100), "cpu-ns/turn")
		})
	}
}

// newWaitingJoins is a shard of so many partitions with streams that wait for the log, each with a
// channel of each partition.
func newWaitingJoins(t testing.TB, streams, partitions int) *nullShard {
	s := newNullShardWith(t, Config{Partitions: partitions, HistoryWait: 24 * time.Hour})
	low, ahead := sseproto.ID{Ms: 1000}, sseproto.ID{Ms: 1001}
	all, places := make([]string, partitions), make([]sseproto.ID, partitions)
	for p := range partitions {
		s.log.Partition(p).OpenSpan(low)
		all[p], places[p] = channelOfPart("c", p, partitions), ahead
	}
	s.began = time.Now()
	s.fillWith(streams, all...)
	for i := range s.slots.used {
		if c := s.slots.at(i); c.phase == phaseLive {
			j := s.newJoining(c)
			copy(j.places, places)
			s.joins[i], c.pos = j, joiningPos
			s.later(i)
		}
	}
	s.settle()
	return s
}

// lookAtAll gives all that wait a turn.
func (s *nullShard) lookAtAll() {
	v := s.reader.open()
	defer v.close()
	for left := s.timedJoins.len(); left > 0; {
		s.timedOwed, s.timedAt = left, s.began
		s.lookAtJoins(&v)
		left = s.timedOwed
	}
}
