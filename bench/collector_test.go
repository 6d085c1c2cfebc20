//go:build linux

package bench

import (
	"fmt"
	"math"
	"net/netip"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/engine"
	"ssed/sseproto"
)

// BenchmarkCollectorPauses holds as many connections as the file limit allows on
// an engine of this process and appends 50,000 messages a second, one in ten to a
// channel that somebody listens to. Each message comes in strings of its own, as the
// Redis client gives them, so that the collector has what it has in service; when it
// runs is its own affair. Reported is the longest time that everything stood still, as
// the runtime counts it; the kernel's turn-taking with other processes is part of it.
// It fails above maxPause.
func BenchmarkCollectorPauses(b *testing.B) {
	const (
		rate     = 50_000
		listened = 10 // one message in
		stretch  = 30 * time.Second
	)
	conns := min(19_000, fileLimit()-500)
	e := startEngine(b, engine.Config{})
	e.Log().OpenLocal()
	addr, err := netip.ParseAddrPort(e.Addrs()[0].String())
	require.NoError(b, err)
	connect(b, addr, "room-", conns, conns, true)
	heard, unheard := make([]string, conns), make([]string, conns)
	for i := range conns {
		heard[i], unheard[i] = fmt.Sprintf("room-%d", i), fmt.Sprintf("empty-%d", i)
	}
	payload := strings.Repeat("x", 128)
	sent, n := 0, time.Duration(0)
	before, delivered, began := readPauses(), e.Stats().Delivered, time.Now()
	for b.Loop() {
		n += stretch
		tick := time.NewTicker(time.Millisecond)
		for elapsed := time.Since(began); elapsed < n; elapsed = time.Since(began) {
			for due := int(elapsed.Seconds() * rate); sent < due; sent++ {
				name := unheard
				if sent%listened == 0 {
					name = heard
				}
				e.Log().Publish(strings.Clone(name[sent/listened%conns]), sseproto.Message{Data: strings.Clone(payload)})
			}
			<-tick.C
		}
		tick.Stop()
	}
	pauses := readPauses().since(before)
	took := time.Since(began).Seconds()
	b.ReportMetric(float64(conns), "conns")
	b.ReportMetric(float64(sent)/took, "msg/s")
	b.ReportMetric(float64(e.Stats().Delivered-delivered)/took, "deliveries/s")
	b.ReportMetric(float64(pauses.count()), "pauses")
	b.ReportMetric(pauses.max()*1e6, "max-pause-µs")
	b.ReportMetric(pauses.quantile(0.99)*1e6, "p99-pause-µs")
	if longest := pauses.atLeast(); longest > maxPause {
		b.Errorf("everything stood still for %v or more, longer than %v", longest, maxPause)
	}
}

// maxPause is the promise of docs/PERFORMANCE.md.
const maxPause = time.Millisecond

// pauses is a histogram of the times for which the collector stopped everything.
type pauses metrics.Float64Histogram

func readPauses() *pauses {
	sample := []metrics.Sample{{Name: "/sched/pauses/total/gc:seconds"}}
	metrics.Read(sample)
	h := sample[0].Value.Float64Histogram()
	return &pauses{Counts: append([]uint64(nil), h.Counts...), Buckets: h.Buckets}
}

// since takes off what was counted earlier.
func (p *pauses) since(earlier *pauses) *pauses {
	for i := range p.Counts {
		p.Counts[i] -= earlier.Counts[i]
	}
	return p
}

func (p *pauses) count() (n uint64) {
	for _, c := range p.Counts {
		n += c
	}
	return n
}

// max is the upper bound of the highest bucket that counted, in seconds.
func (p *pauses) max() float64 { return p.quantile(1) }

// atLeast is the lower bound of the highest bucket that counted.
func (p *pauses) atLeast() time.Duration {
	for i := len(p.Counts) - 1; i >= 0; i-- {
		if p.Counts[i] > 0 {
			return time.Duration(max(p.Buckets[i], 0) * float64(time.Second)) // the first bucket begins at -Inf
		}
	}
	return 0
}

// quantile is the upper bound of the bucket in which the share q is reached.
func (p *pauses) quantile(q float64) float64 {
	rank, seen := uint64(math.Ceil(q*float64(p.count()))), uint64(0)
	for i, c := range p.Counts {
		if seen += c; seen >= rank && c > 0 {
			return p.Buckets[i+1]
		}
	}
	return 0
}

func TestLongestPauseIsOfTheHighestBucket(t *testing.T) {
	p := &pauses{Counts: []uint64{0, 3, 1, 0}, Buckets: []float64{math.Inf(-1), 0.0001, 0.0008, 0.0012, math.Inf(1)}}
	require.EqualValues(t, 4, p.count())
	require.InDelta(t, 0.0012, p.max(), 1e-9)
	require.Equal(t, 800*time.Microsecond, p.atLeast(), "it need not have been above 1 ms")
	require.InDelta(t, 0.0008, p.quantile(0.5), 1e-9)
	p.Counts[3] = 1
	require.Greater(t, p.atLeast(), maxPause)
	p.Counts = []uint64{1, 0, 0, 0}
	require.Zero(t, p.atLeast())
	p.Counts = make([]uint64, 4)
	require.Zero(t, p.atLeast())
}
