// Package hist counts durations in log-linear buckets, cheaply enough for one
// record per delivered message, and merges exactly: a percentile of a merged
// histogram is the percentile of all recorded values, not a mean of percentiles.
package hist

import (
	"encoding/json"
	"fmt"
	"math"
	"math/bits"
	"time"
)

const (
	// subBits gives 128 buckets per power of two: a value is off by less than 0.8 %.
	subBits = 7
	sub     = 1 << subBits
	// maxBits bounds the range at 2^40 ns, 18 minutes; longer is counted there.
	maxBits = 40
	buckets = (maxBits - subBits + 1) * sub
)

// Histogram counts durations from 1 ns to 18 minutes. The zero value is empty
// and ready. It is not safe for concurrent use.
type Histogram struct {
	counts [buckets]uint64
	n      uint64
	sum    uint64
	max    uint64
}

// Record counts d once. Negative durations count as zero.
func (h *Histogram) Record(d time.Duration) {
	v := uint64(max(d, 0))
	h.counts[index(v)]++
	h.n++
	h.sum += v
	h.max = max(h.max, v)
}

// Count returns how many values were recorded.
func (h *Histogram) Count() uint64 { return h.n }

// Max returns the greatest recorded value, exact.
func (h *Histogram) Max() time.Duration { return time.Duration(h.max) }

// Mean returns the arithmetic mean, exact; zero when nothing was recorded.
func (h *Histogram) Mean() time.Duration {
	if h.n == 0 {
		return 0
	}
	return time.Duration(h.sum / h.n)
}

// Quantile returns the smallest bucket bound that at least the share q of the
// values do not exceed (nearest rank). Zero when nothing was recorded.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := uint64(math.Ceil(q * float64(h.n)))
	rank = min(max(rank, 1), h.n)
	var seen uint64
	for i, c := range &h.counts {
		seen += c
		if seen >= rank {
			return time.Duration(min(upper(i), h.max))
		}
	}
	return time.Duration(h.max)
}

// Merge adds the values of other.
func (h *Histogram) Merge(other *Histogram) {
	for i, c := range &other.counts {
		h.counts[i] += c
	}
	h.n += other.n
	h.sum += other.sum
	h.max = max(h.max, other.max)
}

// Reset forgets all values.
func (h *Histogram) Reset() { *h = Histogram{} }

// sparse is the JSON form: only the buckets that hold something.
type sparse struct {
	Sum     uint64      `json:"sum_ns"`
	Max     uint64      `json:"max_ns"`
	Buckets [][2]uint64 `json:"buckets"`
}

// MarshalJSON writes the non-empty buckets as [index, count] pairs.
func (h *Histogram) MarshalJSON() ([]byte, error) {
	out := sparse{Sum: h.sum, Max: h.max, Buckets: [][2]uint64{}}
	for i, c := range &h.counts {
		if c > 0 {
			out.Buckets = append(out.Buckets, [2]uint64{uint64(i), c})
		}
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (h *Histogram) UnmarshalJSON(b []byte) error {
	var in sparse
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	*h = Histogram{sum: in.Sum, max: in.Max}
	for _, p := range in.Buckets {
		if p[0] >= buckets {
			return fmt.Errorf("hist: bucket %d out of range", p[0])
		}
		h.counts[p[0]] = p[1]
		h.n += p[1]
	}
	return nil
}

// index returns the bucket of v: v itself below 128, then 128 per power of two.
func index(v uint64) int {
	if v < sub {
		return int(v)
	}
	v = min(v, 1<<maxBits-1)
	shift := bits.Len64(v) - 1 - subBits
	return (shift+1)*sub + int(v>>shift) - sub
}

// upper returns the greatest value that falls into bucket i.
func upper(i int) uint64 {
	if i < sub {
		return uint64(i)
	}
	shift := i/sub - 1
	return (uint64(i%sub)+sub+1)<<shift - 1
}
