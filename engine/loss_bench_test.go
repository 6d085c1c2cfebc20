package engine

import (
	"fmt"
	"testing"
	"time"

	"ssed/sseproto"
)

// BenchmarkTellLoss is an outage that all subscribers of many channels are told of.
// What counts is how long the log's lock is held at most: the loops wait for it.
func BenchmarkTellLoss(b *testing.B) {
	for _, channels := range []int{1_000, 20_000} {
		b.Run(fmt.Sprintf("channels=%d", channels), func(b *testing.B) {
			l := newLog(64<<20, maxSegmentBytes, 1, false, func(uint64) {})
			for i := range channels {
				l.dir.subscribe(fmt.Sprintf("channel-%d", i))
			}
			l.OpenSpan(sseproto.ID{Ms: 1})
			ms := uint64(1)
			stop, longest := make(chan struct{}), make(chan time.Duration)
			go func() { longest <- longestWait(l, stop) }()
			for b.Loop() {
				l.CloseSpan(sseproto.ID{Ms: ms})
				ms++
				l.OpenSpan(sseproto.ID{Ms: ms})
			}
			close(stop)
			b.ReportMetric(float64((<-longest).Microseconds()), "µs-longest-wait")
		})
	}
}

// longestWait takes the log's lock over and over.
func longestWait(l *Log, stop chan struct{}) (longest time.Duration) {
	for {
		select {
		case <-stop:
			return longest
		default:
		}
		start := time.Now()
		l.last()
		longest = max(longest, time.Since(start))
		time.Sleep(100 * time.Microsecond)
	}
}
