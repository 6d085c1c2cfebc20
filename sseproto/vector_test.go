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

// TestFramesOfAVector: they are those of a position, but for the vector.
func TestFramesOfAVector(t *testing.T) {
	ids := []ID{{Ms: 7, Seq: 3}, {}, {Ms: 5, Seq: 1}}
	text := string(AppendVector(nil, 2, ids))
	f := func(m Message) {
		t.Helper()
		plain := AppendEvent(nil, ID{Ms: 5, Seq: 1}, m)
		want := strings.Replace(string(plain), "id: 5-1", "id: "+text, 1)
		require.Equal(t, want, string(AppendVectorEvent(nil, 2, ids, m)))
		require.Equal(t, want, string(AppendVectorFrame(nil, 2, ids, plain)))
		other := AppendVectorEvent(nil, 0, []ID{{Ms: 1 << 40, Seq: 1 << 60}, {}, {Ms: 9}}, m)
		require.Equal(t, want, string(AppendVectorFrame(nil, 2, ids, other)), "in the place of another vector")
		got, _ := ParseFrame([]byte(want), nil, nil)
		require.Equal(t, m, got)
	}
	f(Message{})
	f(Message{Data: "id: 5-1/x\nid: 5"})
	f(Message{Event: "chat", ID: "a~b/c", Retry: 3 * 1e9, Data: "x"})
	gap := Gap{Reason: ReasonOutage}
	require.Equal(t, "id: "+text+"\n"+string(AppendGap(nil, gap)), string(AppendVectorFrame(nil, 2, ids, AppendGap(nil, gap))))
}

func TestEventVectorHasAPublisherID(t *testing.T) {
	f := func(text, publisher string) {
		t.Helper()
		ids := make([]ID, 3)
		own, got, err := ParseEventVector(text, ids)
		require.NoError(t, err)
		require.Equal(t, 1, own)
		require.Equal(t, []ID{{Ms: 5}, {Ms: 5, Seq: 1}, {}}, ids)
		require.Equal(t, publisher, got)
	}
	f("5-1.1~BAA", "")
	f("5-1.1~BAA/", "")
	f("5-1.1~BAA/a/b~c", "a/b~c")
	_, _, err := ParseEventVector("5-1/x", make([]ID, 3))
	require.ErrorIs(t, err, ErrBadID)
}

// TestLongestVectorHasTheBytesThatAreKeptForIt.
func TestLongestVectorHasTheBytesThatAreKeptForIt(t *testing.T) {
	for _, partitions := range []int{1, 2, MaxPartitions} {
		ids := make([]ID, partitions)
		for p := range ids {
			ids[p] = ID{Ms: 1, Seq: 1<<64 - 1}
		}
		ids[partitions-1].Ms = 1 << 62
		require.LessOrEqual(t, len(AppendVector(nil, partitions-1, ids)), MaxVectorBytes(partitions))
	}
}
