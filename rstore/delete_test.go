package rstore

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// rangeOf reads a channel and returns what a resuming client would be told.
func (w *world) rangeOf(s *Store, channel string, after sseproto.ID) (data string, lost []string) {
	w.t.Helper()
	r := newRecorder()
	require.NoError(w.t, s.Range(w.ctx(), []string{channel}, after, sseproto.MaxID, r))
	return r.data(0), r.lost[0]
}

// TestDeleteIsToldToThoseWhoMissSomething: whoever had everything is not, also when
// messages came since.
func TestDeleteIsToldToThoseWhoMissSomething(t *testing.T) {
	w, log, s := startWriter(t, nil)
	log.commit(w.id(3, 0), message{w.id(1, 1), "a", "a1"}, message{w.id(2, 1), "a", "a2"}, message{w.id(2, 2), "b", "b1"})
	w.waitMark(s, w.id(3, 0))

	check := func(channel string, after sseproto.ID, want string, lost ...string) {
		t.Helper()
		data, got := w.rangeOf(s, channel, after)
		require.Equal(t, want, data)
		require.Equal(t, lost, got)
	}
	for range 2 { // the second has nothing to do
		require.NoError(t, s.Delete(t.Context(), "a"))
		check("a", w.id(1, 0), "", sseproto.ReasonTrimmed)
		check("a", w.id(1, 1), "", sseproto.ReasonTrimmed)
		check("a", w.id(2, 1), "")
		check("b", w.id(1, 0), "b1")
	}
	require.EqualValues(t, 2, s.Stats().Deleted)
	require.NoError(t, s.Delete(t.Context(), "never was"))
	n, err := w.do("EXISTS", testPrefix+"never was").AsInt64()
	require.NoError(t, err)
	require.Zero(t, n)

	log.commit(w.id(5, 0), message{w.id(4, 1), "a", "a3"})
	w.waitMark(s, w.id(5, 0))
	check("a", w.id(1, 1), "a3", sseproto.ReasonTrimmed)
	check("a", w.id(2, 1), "a3")
	check("a", w.id(4, 1), "")
	ttl, err := w.do("PTTL", testPrefix+"a").AsInt64()
	require.NoError(t, err)
	require.Positive(t, ttl)
}

// TestTrimmingAfterADeleteIsTold: the count that tells of it begins anew.
func TestTrimmingAfterADeleteIsTold(t *testing.T) {
	w, log, s := startWriter(t, func(cfg *Config) { cfg.MaxLen = 10 })
	log.commit(w.id(3, 0), message{w.id(1, 1), "ch0", "old"})
	w.waitMark(s, w.id(3, 0))
	require.NoError(t, s.Delete(t.Context(), "ch0"))
	log.commit(w.id(5, 0), w.burst(4, 500, 1)...)
	w.waitMark(s, w.id(5, 0))
	_, lost := w.rangeOf(s, "ch0", w.id(1, 1))
	require.Equal(t, []string{sseproto.ReasonTrimmed}, lost)
	_, lost = w.rangeOf(s, "ch0", w.id(4, 450))
	require.Empty(t, lost)
}

func TestDeleteWorksWithMemoryFull(t *testing.T) {
	w := newWorld(t)
	s := w.written(w.config("a"), w.id(5, 0), message{w.id(1, 1), "a", "a1"})
	require.NoError(t, w.do("CONFIG", "SET", "maxmemory", "1").Error())
	require.NoError(t, s.Delete(t.Context(), "a"))
	_, lost := w.rangeOf(s, "a", w.id(1, 0))
	require.Equal(t, []string{sseproto.ReasonTrimmed}, lost)
}

// TestDeleteRefusesForeignKeys: a key of another type is somebody else's.
func TestDeleteRefusesForeignKeys(t *testing.T) {
	w := newWorld(t)
	s := w.written(w.config("a"), w.id(5, 0))
	require.NoError(t, w.do("SET", testPrefix+"a", "mine").Error())
	require.Error(t, s.Delete(t.Context(), "a"))
	text, err := w.do("GET", testPrefix+"a").ToString()
	require.NoError(t, err)
	require.Equal(t, "mine", text)
}

func TestPagesGoThroughAHistory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.written(w.config("a"), w.id(9, 0), w.burst(1, 25, 1)...)
	var all []message
	pages := 0
	for after, more := w.id(0, 0), true; more; pages++ {
		r := newRecorder()
		next, err := s.Page(t.Context(), "ch0", after, 10, r)
		require.NoError(t, err)
		require.Empty(t, r.lost)
		require.LessOrEqual(t, len(r.events[0]), 10)
		all = append(all, r.events[0]...)
		more, after = !next.IsZero(), next
	}
	require.Equal(t, 3, pages)
	require.Len(t, all, 25)
	for i, m := range all {
		require.Equal(t, w.id(1, i+1), m.id)
	}
	whole := newRecorder()
	next, err := s.Page(t.Context(), "ch0", w.id(0, 0), 1000, whole)
	require.NoError(t, err)
	require.True(t, next.IsZero())
	require.Len(t, whole.events[0], 25)
	r := newRecorder()
	next, err = s.Page(t.Context(), "none", w.id(0, 0), 10, r)
	require.NoError(t, err)
	require.True(t, next.IsZero())
	require.Empty(t, r.events)
}

func TestPagesGoBackThroughAHistory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.written(w.config("a"), w.id(9, 0), w.burst(1, 3*pageStep, 1)...)
	for _, limit := range []int{1, 10, pageStep, pageStep + 1, 2 * pageStep, 3 * pageStep, 1000} {
		var all []message
		for before, more := (sseproto.ID{}), true; more; {
			r := newRecorder()
			next, err := s.PageBack(t.Context(), "ch0", before, limit, r)
			require.NoError(t, err)
			require.Empty(t, r.lost)
			require.LessOrEqual(t, len(r.events[0]), limit)
			all = append(all, r.events[0]...)
			more, before = !next.IsZero(), next
		}
		require.Len(t, all, 3*pageStep, limit)
		for i, m := range all {
			require.Equal(t, w.id(1, 3*pageStep-i), m.id)
		}
	}
	r := newRecorder()
	next, err := s.PageBack(t.Context(), "none", sseproto.ID{}, 10, r)
	require.NoError(t, err)
	require.True(t, next.IsZero())
	require.Empty(t, r.events)
	require.NoError(t, w.do("SET", testPrefix+"b", "another type").Error())
	_, err = s.PageBack(t.Context(), "b", sseproto.ID{}, 10, r)
	require.NoError(t, err)
	require.Equal(t, []string{sseproto.ReasonUnavailable}, r.lost[0])
}

// TestPagesOfLargeMessagesAreShorter: memory is bounded whatever the limit.
func TestPagesOfLargeMessagesAreShorter(t *testing.T) {
	t.Parallel()
	const n = 4 * pageStep
	w := newWorld(t)
	messages := w.burst(1, n, 1)
	for i := range messages {
		messages[i].data = strings.Repeat("x", 2*chunkBytes/n)
	}
	s := w.written(w.config("a"), w.id(9, 0), messages...)
	r := newRecorder()
	next, err := s.Page(t.Context(), "ch0", w.id(0, 0), 1000, r)
	require.NoError(t, err)
	require.Len(t, r.events[0], n/2)
	require.Equal(t, w.id(1, n/2), next)
	r = newRecorder()
	next, err = s.Page(t.Context(), "ch0", next, 1000, r)
	require.NoError(t, err)
	require.Len(t, r.events[0], n/2)
	if !next.IsZero() { // the last read was full
		_, err = s.Page(t.Context(), "ch0", next, 1000, r)
		require.NoError(t, err)
		require.Len(t, r.events[0], n/2)
	}
}
