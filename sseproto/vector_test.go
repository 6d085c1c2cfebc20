package sseproto

import (
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestVectorIsReadAsItWasWritten(t *testing.T) {
	f := func(want string, own int, ids ...ID) {
		t.Helper()
		require.Equal(t, want, string(AppendVector(nil, own, ids)))
		got := make([]ID, len(ids))
		p, err := ParseVector(want, got)
		require.NoError(t, err)
		require.Equal(t, own, p)
		require.Equal(t, ids, got)
		require.Equal(t, want, url.QueryEscape(want))
	}
	const ms = 1796785520522
	f("1796785520522-4", 0, ID{ms, 4})
	f("1796785520522-4.3", 3, ID{}, ID{}, ID{}, ID{ms, 4})
	f("1796785520522-4.3~bEAG1A", 3, ID{ms - 13, 4}, ID{}, ID{ms + 3, 53}, ID{ms, 4})
	f("1796785520522-4.0~BA", 0, ID{ms, 4}, ID{ms, 0})
	f("1796785520522-4.1~CA", 1, ID{ms + 1, 0}, ID{ms, 4})
	f("0-0.1~BB", 1, ID{0, 1}, ID{})
	f("1-18446744073709551615.1~BA", 1, ID{1, 0}, ID{1, 1<<64 - 1})
	f("1-0.1~B_-----------O", 1, ID{1, 1<<64 - 1}, ID{1, 0})
	f("1796785520522-4.11", 11, append(make([]ID, 11), ID{ms, 4})...)
}

func TestVectorHasOneForm(t *testing.T) {
	f := func(text string) {
		t.Helper()
		ids := []ID{{7, 7}, {7, 7}, {7, 7}}
		_, err := ParseVector(text, ids)
		require.ErrorIs(t, err, ErrBadID)
		require.Equal(t, make([]ID, 3), ids)
	}
	for _, text := range []string{
		"", "5-1", "5-1.", ".1", "5-1.3", "5-1.-1", "5-1.a", "5-1.9999999999999999999999", "5-1.01", "05-1.1", "5.1", "5-01.1",
		"5-1.1~", "5-1.1~AA", "5-1.1~BA", "5-1.1~BABAB", "5-1.1~BABA~", "5-1.1~B", "5-1.1~BABA=", "5-1.1~g", "5-1.1~gggggggggggggA",
		"5-1.1~BABA/x", " 5-1.1~BABA", "5-1.1~BAB", "5-1.1/x", "5-1.1~B_-----------PA",
	} {
		f(text)
	}
	own, err := ParseVector("5-1.1~BABA", make([]ID, 3))
	require.NoError(t, err)
	require.Equal(t, 1, own)
}

// FuzzVector: what is read has one form, and what is written is read.
func FuzzVector(f *testing.F) {
	f.Add("1796785520522-4.3~bEAG1A", uint8(4), uint64(1))
	f.Add("5-1", uint8(1), uint64(2))
	f.Add("5-1.1~gAAA", uint8(3), uint64(3))
	f.Fuzz(func(t *testing.T, text string, partitions uint8, seed uint64) {
		ids := make([]ID, 1+partitions%MaxPartitions)
		if own, err := ParseVector(text, ids); err == nil && len(ids) > 1 {
			require.Equal(t, text, string(AppendVector(nil, own, ids)))
		}
		rng := rand.New(rand.NewPCG(seed, 1))
		number := func() uint64 { return rng.Uint64() >> (2 + rng.UintN(62)) }
		want, own := make([]ID, len(ids)), rng.IntN(len(ids))
		for p := range want {
			if p == own || rng.IntN(3) > 0 {
				want[p] = ID{Ms: number(), Seq: rng.Uint64() >> rng.UintN(64)}
			}
		}
		p, err := ParseVector(string(AppendVector(nil, own, want)), ids)
		require.NoError(t, err)
		require.Equal(t, own, p)
		require.Equal(t, want, ids)
	})
}

// TestVectorsAreShort: places that are at most two ticks apart, and some hundred messages
// into them, take five bytes each.
func TestVectorsAreShort(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, partitions := range []int{2, 4, 8, 16} {
		ids := make([]ID, partitions)
		for range 1000 {
			for p := range ids {
				ids[p] = ID{Ms: 1796785520522 + rng.Uint64N(200), Seq: rng.Uint64N(300)}
			}
			text := AppendVector(nil, rng.IntN(partitions), ids)
			require.LessOrEqual(t, len(text), len("1796785520522-999.15~")+5*(partitions-1))
		}
	}
}

func TestChannelHasAPartition(t *testing.T) {
	for channel, want := range map[string]int{"user123": 3, "ü": 1, "": 0} { // zlib.crc32(name) % 4 of Python
		require.Equal(t, want, PartitionOf(channel, 4), channel)
		require.Zero(t, PartitionOf(channel, 1))
	}
	counts := make([]int, 4)
	for i := range 4000 {
		counts[PartitionOf("user"+string(rune('a'+i%26))+strings.Repeat("x", i/26), 4)]++
	}
	for _, n := range counts {
		require.InDelta(t, 1000, n, 150)
	}
}
