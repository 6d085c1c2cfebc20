package front

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestSubjectsAreCounted against a map, in random order.
func TestSubjectsAreCounted(t *testing.T) {
	const most = 3
	s := newSubjects(most)
	rng := rand.New(rand.NewPCG(1, 1))
	open := make(map[string]int)
	var handles []uint32
	names := make(map[uint32]string)
	for range 50_000 {
		if rng.IntN(5) < 2 && len(handles) > 0 {
			k := rng.IntN(len(handles))
			handle := handles[k]
			handles[k] = handles[len(handles)-1]
			handles = handles[:len(handles)-1]
			name := names[handle]
			require.Equal(t, name, s.name(handle))
			s.release(handle)
			if open[name]--; open[name] == 0 {
				delete(open, name)
				require.Zero(t, s.find(name))
			}
			continue
		}
		name := fmt.Sprintf("user:%d", rng.IntN(4000))
		name += strings.Repeat("x", len(name)*int(name[len(name)-1]-'0')%(MaxSubjectBytes-len(name)+1))
		handle, ok := s.admit(name)
		require.Equal(t, open[name] < most, ok)
		if !ok {
			continue
		}
		open[name]++
		names[handle] = name
		handles = append(handles, handle)
		require.Equal(t, handle, s.find(name))
		require.Equal(t, len(open), s.len())
	}
	require.Greater(t, s.len(), 1000)
	require.LessOrEqual(t, int(s.names.end), 2*s.names.live+2*namePage, "names that are gone are forgotten")
	for _, handle := range handles {
		s.release(handle)
	}
	require.Zero(t, s.len())
	require.Len(t, s.buckets, minBuckets)
	require.Len(t, s.chunks, 1)

	handle, ok := s.admit("")
	require.True(t, ok)
	require.Zero(t, handle)
	require.Empty(t, s.name(0))
	s.release(0)
}

func TestWhoIsRevokedStaysOutForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r revocations
		admitted := func(subject, token string) bool {
			attached := false
			ok := r.admit(subject, token, func() { attached = true })
			require.Equal(t, ok, attached)
			return ok
		}
		require.True(t, admitted("anna", "1"))
		now := time.Now()
		require.NoError(t, r.add(Bearer{Subject: "anna"}, now.Add(time.Minute)))
		require.NoError(t, r.add(Bearer{Token: "9"}, now.Add(time.Hour)))
		require.NoError(t, r.add(Bearer{Token: "9"}, now.Add(time.Second))) // no shorter
		require.Equal(t, 2, r.len())
		require.False(t, admitted("anna", "1"))
		require.False(t, admitted("bert", "9"))
		require.True(t, admitted("9", "anna"))
		require.True(t, admitted("", ""))
		time.Sleep(time.Minute)
		require.True(t, admitted("anna", "1"))
		require.False(t, admitted("anna", "9"))
		require.Equal(t, 1, r.len())
		time.Sleep(time.Hour)
		require.True(t, admitted("anna", "9"))

		for n := range maxRevoked {
			require.NoError(t, r.add(Bearer{Token: fmt.Sprint(n)}, time.Now().Add(time.Minute)))
		}
		require.ErrorIs(t, r.add(Bearer{Token: "one more"}, time.Now().Add(time.Minute)), ErrTooManyRevoked)
		require.True(t, admitted("anna", "one more"))
		time.Sleep(time.Minute)
		require.NoError(t, r.add(Bearer{Token: "one more"}, time.Now().Add(time.Minute)), "those that are over make room")
	})
}

// What a subject with one stream costs, with a name of 14 bytes: with the 8 bytes of its
// credential in the engine some 45, of 64 that it may.
func TestASubjectCostsLittle(t *testing.T) {
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for _, n := range []int64{10_000, 1<<16 + 1, 100_000} {
		s := newSubjects(0)
		before := heap()
		for k := range n {
			_, _ = s.admit(fmt.Sprintf("user:%09d", k))
		}
		each := (heap() - before) / n
		t.Logf("%d subjects: %d bytes each", n, each)
		require.LessOrEqual(t, each, int64(44), "%d subjects", n)
		require.Positive(t, each)
		runtime.KeepAlive(s)
	}
}
