package engine

import (
	"fmt"
	"testing"

	"ssed/sseproto"
)

// BenchmarkLastInTheRing looks for the n newest messages of each channel, beside the loops,
// in a ring that other channels fill.
func BenchmarkLastInTheRing(b *testing.B) {
	for _, n := range []int{10, 1000} {
		for _, channels := range []int{1, 32} {
			b.Run(fmt.Sprintf("n=%d/channels=%d", n, channels), func(b *testing.B) {
				e := startEngine(b, func(cfg *Config) { cfg.RingBytes = 64 << 20 })
				f := startFeed(e, 1000)
				var names []string
				for i := range channels {
					names = append(names, fmt.Sprint("c", i))
				}
				for i := range 200_000 {
					if i%1000 == 0 {
						f.tick(sseproto.ID{})
					}
					f.publish(fmt.Sprint("c", i%64), "some forty bytes of a message, as usual")
				}
				found := &foundStarts{ids: make([]sseproto.ID, channels), missing: make([]int, channels)}
				for b.Loop() {
					e.log.lookForStarts(found, names, sseproto.StartPoint{Kind: sseproto.FromLast, Count: n})
				}
			})
		}
	}
}
