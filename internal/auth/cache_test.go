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
		c := newCache(5*time.Second, 10)
		first, second, third := &answer{subject: "1"}, &answer{subject: "2"}, &answer{subject: "3"}
		has := func(n int, want *answer) {
			t.Helper()
			require.Same(t, want, c.get(numbered(n)))
		}
		c.put(numbered(1), first, 0)
		time.Sleep(3 * time.Second)
		c.put(numbered(2), second, 0)
		has(1, first)
		has(2, second)
		time.Sleep(2 * time.Second)
		has(1, nil)
		has(2, second)
		c.put(numbered(2), third, 0) // lives on from now
		time.Sleep(4 * time.Second)
		has(2, third)
		time.Sleep(time.Second)
		has(2, nil)
		require.Empty(t, c.byKey)
		require.Zero(t, c.oldest.Len())
	})
}

// A grant that has ended is asked for anew: the user may have logged in again.
func TestCacheDoesNotOutliveTheGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(time.Hour, 10)
		a := &answer{expires: time.Unix(time.Now().Unix()+5, 0)}
		c.put(numbered(1), a, 0)
		time.Sleep(5*time.Second - time.Nanosecond)
		require.Same(t, a, c.get(numbered(1)))
		time.Sleep(time.Nanosecond)
		require.Nil(t, c.get(numbered(1)))
	})
}

func TestCacheIsBounded(t *testing.T) {
	const most = 100
	c := newCache(time.Hour, most)
	for n := range most + 10 {
		c.put(numbered(n), &answer{}, 0)
	}
	require.Len(t, c.byKey, most)
	require.Equal(t, most, c.oldest.Len())
	require.Nil(t, c.get(numbered(9)))
	require.NotNil(t, c.get(numbered(10)))
}

func TestDifferentRequestsHaveDifferentCacheKeys(t *testing.T) {
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
	c := newCache(time.Hour, maxGrants)
	r := asking(b, forNews, "Authorization: Bearer abc", "Cookie: a=b", "User-Agent: x", "Accept: text/event-stream")
	c.put(keyOf(r, forwardHeader(r)), &answer{}, 0)
	b.ReportAllocs()
	for b.Loop() {
		if c.get(keyOf(r, forwardHeader(r))) == nil {
			b.Fatal("missed")
		}
	}
}

// An answer comes from before somebody was put out. Forget comes between the look at
// whether it may be remembered and the remembering.
func TestCacheDoesNotRememberWhatWasAskedBeforeAllWasForgotten(t *testing.T) {
	c := newCache(time.Hour, 10)
	asked := c.now()
	c.clear()
	c.put(numbered(1), &answer{}, asked)
	require.Nil(t, c.get(numbered(1)))
	c.put(numbered(1), &answer{}, c.now())
	require.NotNil(t, c.get(numbered(1)))
}
