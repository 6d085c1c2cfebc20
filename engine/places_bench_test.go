package engine

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/front"
)

// fullLog is a log of several partitions whose ring is full, and a feed for each.
func fullLog(partitions int, ringBytes int64) (l *Log, feeds []*partFeed) {
	l = newLog(ringBytes, maxSegmentBytes, 1, false, func(uint64) {})
	l.divide(partitions)
	return l, fillRing(l)
}

// fillRing fills the ring with messages of all partitions in turn.
func fillRing(l *Log) (feeds []*partFeed) {
	for p := range l.Partitions() {
		f := &partFeed{line: l.Partition(p), channel: channelOfPart("c", p, l.Partitions()), t: 1000}
		f.line.OpenSpan(f.id())
		feeds = append(feeds, f)
	}
	for k := 0; l.tail.Load() == 1; k++ {
		feeds[k%len(feeds)].publish("x")
	}
	return feeds
}

// lastOfSegments are the positions before which most of a segment lies, the newest first.
func (v *view) lastOfSegments() (list []uint64) {
	for k := len(v.refs) - 1; k > 0; k-- {
		list = append(list, v.refs[k].first-1)
	}
	return list
}

// BenchmarkPlaceAt is the place at a position of the ring: one that a stream begins at while
// messages come, and those that cost most.
func BenchmarkPlaceAt(b *testing.B) {
	for _, partitions := range []int{4, 16} {
		l, feeds := fullLog(partitions, 64<<20)
		r := l.readers[0]
		b.Run(fmt.Sprintf("partitions=%d/onward", partitions), func(b *testing.B) {
			k := 0
			for b.Loop() {
				k++
				feeds[k%partitions].publish("x")
				v := r.open()
				_, known := r.placeAt(l.Position() - 1)
				v.close()
				if !known {
					b.Fatal("not known")
				}
			}
		})
		b.Run(fmt.Sprintf("partitions=%d/back", partitions), func(b *testing.B) {
			v := r.open()
			defer v.close()
			list, k := v.lastOfSegments(), 0
			for b.Loop() {
				k++
				if _, known := r.placeAt(list[k%len(list)]); !known {
					b.Fatal("not known")
				}
			}
		})
	}
}

// BenchmarkDeliveryBesideAPartitionThatIsShut is messages to streams that have a channel of
// such a partition, too: to those that were there before, and to those that came since.
func BenchmarkDeliveryBesideAPartitionThatIsShut(b *testing.B) {
	for _, burst := range []int{1, 100} {
		for _, since := range []bool{false, true} {
			name := fmt.Sprintf("burst=%d/came=%s", burst, map[bool]string{false: "before", true: "since"}[since])
			b.Run(name, func(b *testing.B) { deliverBesideShut(b, burst, since) })
		}
	}
}

func deliverBesideShut(b *testing.B, burst int, since bool) {
	const slots = 1000
	s, open := besideShut(b, slots, since)
	delivered := s.delivered
	n, cpu := 0, cpuTime()
	for b.Loop() {
		for range burst {
			open.publish(benchPayload)
			n++
		}
		s.settle()
	}
	require.EqualValues(b, slots*n, s.delivered-delivered)
	b.ReportMetric(float64((cpuTime()-cpu).Nanoseconds())/float64(slots*n), "cpu-ns/delivery")
}

// besideShut is a shard with streams of two partitions, one of which is shut, and the feed
// of the other one. Since: they came when it was.
func besideShut(t testing.TB, slots int, since bool) (s *nullShard, open *partFeed) {
	s = newNullShardWith(t, Config{Partitions: 2})
	shut := &partFeed{line: s.log.Partition(0), channel: channelOfPart("c", 0, 2), t: 1000}
	open = &partFeed{line: s.log.Partition(1), channel: channelOfPart("c", 1, 2), t: 1000}
	shut.line.OpenSpan(shut.id())
	open.line.OpenSpan(open.id())
	if !since {
		s.fillWith(slots, shut.channel, open.channel)
	}
	kept := shut.id()
	shut.publish("taken back")
	shut.line.CloseSpan(kept)
	if since {
		for range slots {
			s.arriveAt(s.log.Position(), shut.channel, open.channel)
		}
		s.settle()
		require.Len(t, s.joins, slots)
	}
	s.settle()
	return s, open
}

// arriveAt lets a new stream come whose request was read at a position.
func (s *nullShard) arriveAt(pos uint64, channels ...string) {
	i, c := s.newSlot(int(s.null.Fd()))
	c.pos = pos
	for _, name := range channels {
		s.subscribe(i, name)
	}
	if len(channels) > 1 {
		c.flags |= slotMany
	}
	a := &front.Stream{Head: []byte("HEAD\n"), Channels: channels, TakesID: true, Since: s.log.standing()}
	s.newcomers.push(newcomer{ref{i, c.gen}, attachmentOf(a, len(s.log.lines))})
}
