package hist

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestQuantilesAgreeWithSortedValues(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var h Histogram
	var all []time.Duration
	for range 20_000 {
		d := time.Duration(rng.ExpFloat64() * float64(3*time.Millisecond))
		h.Record(d)
		all = append(all, d)
	}
	slices.Sort(all)
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 0.999, 0.9999, 1} {
		rank := max(int(q*float64(len(all))+0.999999), 1)
		want := float64(all[rank-1])
		require.InEpsilon(t, want, float64(h.Quantile(q)), 0.008, "q=%v", q)
	}
	require.Equal(t, all[len(all)-1], h.Max())
	require.Equal(t, h.Max(), h.Quantile(1))
}

func TestSmallCountsUseNearestRank(t *testing.T) {
	var h Histogram
	require.Zero(t, h.Quantile(0.99))
	require.Zero(t, h.Mean())
	for _, v := range []time.Duration{10, 20, 30, 40} {
		h.Record(v)
	}
	f := func(q float64, want time.Duration) {
		t.Helper()
		require.Equal(t, want, h.Quantile(q))
	}
	f(0, 10)
	f(0.25, 10)
	f(0.26, 20)
	f(0.5, 20)
	f(0.99, 40)
	require.Equal(t, time.Duration(25), h.Mean())
}

func TestBucketsCoverEveryValueOnce(t *testing.T) {
	last := -1
	for v := uint64(0); v < 1<<16; v++ {
		i := index(v)
		require.LessOrEqual(t, v, upper(i))
		require.True(t, i == last || i == last+1, "value %d jumps from bucket %d to %d", v, last, i)
		if i > last && i > 0 {
			require.Equal(t, v-1, upper(i-1), "the bucket before %d ends right below it", v)
		}
		last = i
	}
	require.Equal(t, buckets-1, index(1<<63), "values beyond the range land in the last bucket")
}

func TestNegativeAndHugeDurationsAreCounted(t *testing.T) {
	var h Histogram
	h.Record(-time.Second)
	h.Record(time.Hour)
	require.Equal(t, time.Hour, h.Max())
	require.Zero(t, h.Quantile(0.5))
	require.EqualValues(t, 2, h.Count())
}

func TestMergedThroughJSONEqualsRecordedTogether(t *testing.T) {
	var a, b, all Histogram
	for i := range 1000 {
		d := time.Duration(i*i) * time.Microsecond
		all.Record(d)
		if i%3 == 0 {
			a.Record(d)
		} else {
			b.Record(d)
		}
	}
	text, err := json.Marshal(&b)
	require.NoError(t, err)
	var back Histogram
	require.NoError(t, json.Unmarshal(text, &back))
	a.Merge(&back)
	require.Equal(t, all, a)
	a.Reset()
	require.Zero(t, a.Count())

	require.Error(t, json.Unmarshal([]byte(`{"buckets":[[99999999,1]]}`), &back))
}
