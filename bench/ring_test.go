//go:build linux

package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
	"ssed/loadtest/target"
)

// maxBesideRing is what the real program may take beside --ring-bytes under load, with
// 1,500 clients and messages of up to 1 MiB.
const maxBesideRing = 64 << 20

// BenchmarkRingMemory publishes 500 messages a second to 1,500 clients of the real program:
// of up to 1 KiB, and one in a hundred of up to 1 MiB. First it fills the ring twice. It
// reports the resident memory as the kernel counts it, looked at four times a second, and
// fails when 95 % of the looks are not within --ring-bytes and 64 MB. The time per
// operation says nothing.
func BenchmarkRingMemory(b *testing.B) {
	for _, ring := range []int64{64 << 20, 256 << 20, 1 << 30} {
		b.Run(fmt.Sprintf("ring=%dMiB", ring>>20), func(b *testing.B) { ringMemory(b, ring) })
	}
}

func ringMemory(b *testing.B, ring int64) {
	const (
		conns    = 1500
		channels = 300
		rate     = 500
		stretch  = 40 * time.Second
	)
	r := redistest.Start(b)
	client, err := rueidis.NewClient(clientOption(b, r))
	require.NoError(b, err)
	b.Cleanup(client.Close)
	s := startServer(b, "--redis-url", r.URL(), "--ring-bytes", fmt.Sprint(ring))
	connect(b, s.addr, "room-", conns, channels, true)
	large := strings.Repeat("x", 1<<20)
	rng := rand.New(rand.NewPCG(1, 2))
	publish := func(n int) (bytes int64) {
		commands := make(rueidis.Commands, 0, n)
		for range n {
			size := rng.IntN(1 << 10)
			if rng.IntN(100) == 0 {
				size = rng.IntN(1 << 20)
			}
			bytes += int64(size)
			channel := fmt.Sprintf("room-%d", rng.IntN(channels))
			commands = append(commands, client.B().Publish().Channel(channel).Message(large[:size]).Build())
		}
		for _, answer := range client.DoMulti(context.Background(), commands...) {
			require.NoError(b, answer.Error())
		}
		return bytes
	}
	// Four times as fast, not at once: what a flood keeps in flight is another question.
	pace := time.NewTicker(5 * time.Millisecond)
	for filled := int64(0); filled < 2*ring; <-pace.C {
		filled += publish(rate / 50)
	}
	pace.Stop()
	var seen []int64
	begun := cpuOf(b, s.Pid())
	for b.Loop() {
		tick := time.NewTicker(20 * time.Millisecond)
		for n := range int(stretch / (20 * time.Millisecond)) {
			<-tick.C
			publish(rate / 50)
			if n%12 == 0 {
				seen = append(seen, resident(b, s.Pid()).RSS)
			}
		}
		tick.Stop()
	}
	slices.Sort(seen)
	at := func(q float64) int64 { return seen[int(q*float64(len(seen)-1))] }
	b.ReportMetric(float64(at(0.5))/1e6, "median-MB")
	b.ReportMetric(float64(at(0.95))/1e6, "p95-MB")
	b.ReportMetric(float64(at(1))/1e6, "max-MB")
	b.ReportMetric((cpuOf(b, s.Pid())-begun).Seconds()/float64(b.N), "cpu-s/op")
	if got := at(0.95); got > ring+maxBesideRing {
		b.Errorf("%d MB of resident memory in 95 %% of the looks, more than the ring of %d MB and 64 MB", got/1e6, ring/1e6)
	}
}

func cpuOf(b *testing.B, pid int) time.Duration {
	b.Helper()
	c, err := target.ReadCPU([]int{pid})
	require.NoError(b, err)
	return c.Total
}
