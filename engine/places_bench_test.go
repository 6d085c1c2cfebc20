package engine

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/front"
	"ssed/sseproto"
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

// BenchmarkDeliveryBesideAPartitionThatIsShut is a message to streams that have a channel of
// such a partition, too: to those that were there before, and to those that came since.
func BenchmarkDeliveryBesideAPartitionThatIsShut(b *testing.B) {
	const slots = 1000
	for _, since := range []bool{false, true} {
		b.Run(map[bool]string{false: "before", true: "since"}[since], func(b *testing.B) {
			s := newNullShardWith(b, Config{Partitions: 2})
			shut, open := s.log.Partition(0), s.log.Partition(1)
			channel, other := channelOfPart("c", 0, 2), channelOfPart("c", 1, 2)
			shut.OpenSpan(sseproto.ID{Ms: 1000})
			open.OpenSpan(sseproto.ID{Ms: 1000})
			if !since {
				s.fillWith(slots, channel, other)
			}
			shut.Append(sseproto.ID{Ms: 1000, Seq: 1}, channel, "taken back")
			shut.CloseSpan(sseproto.ID{Ms: 1000})
			if since {
				for range slots {
					s.arriveAt(s.log.Position(), channel, other)
				}
				s.settle()
				require.Len(b, s.joins, slots)
			}
			s.settle()
			delivered := s.delivered
			n := uint64(0)
			for b.Loop() {
				n++
				open.Append(sseproto.ID{Ms: 1000, Seq: n}, other, benchPayload)
				s.settle()
			}
			require.EqualValues(b, slots*n, s.delivered-delivered)
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(slots*n), "ns/delivery")
		})
	}
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
