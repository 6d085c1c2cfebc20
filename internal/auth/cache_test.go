package auth

import (
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func numbered(n int) (key cacheKey) {
	binary.LittleEndian.PutUint64(key[:], uint64(n))
	return key
}

func TestCacheForgetsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(5 * time.Second)
		asked := []string{"a", "b", "c"}
		has := func(n int, want []string) {
			t.Helper()
			got, ok := c.get(numbered(n), asked)
			require.Equal(t, want != nil, ok)
			require.Equal(t, want, got)
		}
		c.put(numbered(1), asked, asked)
		time.Sleep(3 * time.Second)
		c.put(numbered(2), asked, []string{"a", "c"})
		has(1, asked)
		has(2, []string{"a", "c"})
		time.Sleep(2 * time.Second)
		has(1, nil)
		has(2, []string{"a", "c"})
		c.put(numbered(2), asked, []string{"b"}) // lives on from now
		time.Sleep(4 * time.Second)
		has(2, []string{"b"})
		time.Sleep(time.Second)
		has(2, nil)
		require.Empty(t, c.byKey)
		require.Zero(t, c.oldest.Len())
	})
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache(time.Hour)
	asked := []string{"a"}
	for n := range maxCached + 10 {
		c.put(numbered(n), asked, asked)
	}
	require.Len(t, c.byKey, maxCached)
	require.Equal(t, maxCached, c.oldest.Len())
	_, ok := c.get(numbered(9), asked)
	require.False(t, ok)
	_, ok = c.get(numbered(10), asked)
	require.True(t, ok)
}

func TestKeysDoNotRunTogether(t *testing.T) {
	keyed := func(target string, lines ...string) cacheKey {
		r := asking(t, target, lines...)
		return keyOf(r, forwardHeader(r))
	}
	seen := make(map[cacheKey]int)
	for i, key := range []cacheKey{
		keyed("/s?channel_id=a"),
		keyed("/s?channel_id=a&x=1"),
		keyed("/s?channel_id=a&x=&1"),
		keyed("/s?channel_id=a&x1"),
		keyed("/t?channel_id=a"),
		keyed("/s?channel_id=ab"),
		keyed("/s?channel_id=a", "A: 1", "B: 2"),
		keyed("/s?channel_id=a", "A: 1B: 2"),
		keyed("/s?channel_id=a", "A: 1", "A: 2"),
		keyed("/s?channel_id=a", "A: 12"),
		keyed("/s?channel_id=a", "A: 1, 2"),
		keyed("/s?channel_id=a", "A: 2", "A: 1"),
		keyed("/s?channel_id=a", "AA: 1"),
	} {
		other, found := seen[key]
		require.False(t, found, "%d has the key of %d", i, other)
		seen[key] = i
	}
	require.Equal(t, keyed("/s?channel_id=a", "A: 1", "B: 2"), keyed("/s?channel_id=a", "b: 2", "a: 1"))
}

func BenchmarkCacheHit(b *testing.B) {
	c := newCache(time.Hour)
	r := asking(b, forNews, "Authorization: Bearer abc", "Cookie: a=b", "User-Agent: x", "Accept: text/event-stream")
	c.put(keyOf(r, forwardHeader(r)), r.Channels, r.Channels)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := c.get(keyOf(r, forwardHeader(r)), r.Channels); !ok {
			b.Fatal("missed")
		}
	}
}
