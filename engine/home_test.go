package engine

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/front"
)

// manyShards is an engine whose loops do not run: what attach gives them stays in their
// inboxes.
func manyShards(t *testing.T, shards int) *Engine {
	t.Helper()
	e, err := New(Config{Listen: []string{"127.0.0.1:0"}, Shards: shards})
	require.NoError(t, err)
	t.Cleanup(e.Close)
	return e
}

// spreadOf tells how many streams of each channel each shard has got.
func spreadOf(e *Engine) map[string][]int {
	got := map[string][]int{}
	for k, s := range e.shards {
		for _, c := range s.inbox {
			name := c.attach.Channels[0]
			if got[name] == nil {
				got[name] = make([]int, len(e.shards))
			}
			got[name][k]++
		}
	}
	return got
}

func attachTo(e *Engine, name string) { e.attach(&front.Stream{Channels: []string{name, "all"}}) }

func TestStreamsOfASmallChannelLieOnOneLoop(t *testing.T) {
	const channels, members = 1000, 10
	e := manyShards(t, 4)
	for range members {
		for i := range channels {
			attachTo(e, fmt.Sprint("ch", i))
		}
	}
	together := 0
	for _, loops := range spreadOf(e) {
		used := 0
		for _, n := range loops {
			if n > 0 {
				used++
			}
		}
		if used == 1 {
			together++
		}
	}
	require.Greater(t, together, channels*3/4, "channels whose members are on one loop")
}

func TestStreamsOfALargeChannelLieOnAllLoops(t *testing.T) {
	const streams, shards = 10_000, 4
	e := manyShards(t, shards)
	for range streams {
		attachTo(e, "large")
	}
	for k, n := range spreadOf(e)["large"] {
		require.InDelta(t, streams/shards, n, homeExcess+streams/shards/homeExcessPart, "shard %d", k)
	}
}

func TestHomeGetsNoMoreWhenItHasTooMany(t *testing.T) {
	e := manyShards(t, 2)
	for range 200 {
		attachTo(e, "a")
	}
	low, high := min(e.shards[0].gauge.Load(), e.shards[1].gauge.Load()), max(e.shards[0].gauge.Load(), e.shards[1].gauge.Load())
	require.LessOrEqual(t, high, low+homeExcess+low/homeExcessPart+1)
	require.Greater(t, high, low, "its home has more")
}
