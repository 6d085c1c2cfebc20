package rstore

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// written starts a store whose history holds the messages, up to upTo.
func (w *world) written(cfg Config, upTo sseproto.ID, messages ...message) *Store {
	w.t.Helper()
	w.clock("e1")
	log := newTestLog(w.id(0, 0))
	log.commit(upTo, messages...)
	s := w.store(cfg, log)
	w.start(s)
	w.waitMark(s, upTo)
	return s
}

func TestRangeIsAfterExclusiveUpToInclusive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.written(w.config("a"), w.id(5, 0),
		message{w.id(1, 1), "a", "a1"}, message{w.id(1, 2), "b", "b2"}, message{w.id(1, 3), "a", "a3"},
		message{w.id(2, 1), "a", "a4"}, message{w.id(3, 1), "b", "b5"})
	check := func(after, upTo sseproto.ID, a, b string) {
		t.Helper()
		r := newRecorder()
		require.NoError(t, s.Range(t.Context(), []string{"a", "none", "b"}, after, upTo, r))
		require.Equal(t, a, r.data(0))
		require.Empty(t, r.data(1))
		require.Equal(t, b, r.data(2))
		require.Empty(t, r.lost)
		require.IsIncreasing(t, append([]int{-1}, uniq(r.order)...), "channel by channel")
		for _, et := range r.types {
			require.Equal(t, "message", et)
		}
	}
	check(w.id(0, 0), w.id(5, 0), "a1 a3 a4", "b2 b5")
	check(w.id(1, 1), w.id(5, 0), "a3 a4", "b2 b5")
	check(w.id(1, 2), w.id(2, 1), "a3 a4", "")
	check(w.id(1, 2), w.id(2, 0), "a3", "")
	check(w.id(3, 1), w.id(5, 0), "", "")
	check(w.id(2, 1), w.id(2, 1), "", "")
	check(w.id(3, 0), w.id(2, 0), "", "")
	check(sseproto.MaxID, sseproto.MaxID, "", "")
	check(w.id(2, 1), sseproto.MaxID, "", "b5")
	check(sseproto.ID{Ms: w.base + 1, Seq: 1<<64 - 1}, w.id(5, 0), "a4", "b5")
}

func uniq(list []int) (out []int) {
	for _, v := range list {
		if len(out) == 0 || out[len(out)-1] != v {
			out = append(out, v)
		}
	}
	return out
}

// An instance that asks too early, or a replica that lags, is not taken for
// silence.
func TestRangeBeyondTheWatermarkIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.written(w.config("a"), w.id(5, 0), message{w.id(1, 1), "a", "a1"})
	r := newRecorder()
	require.NoError(t, s.Range(t.Context(), []string{"a", "b"}, w.id(0, 0), w.id(5, 1), r))
	require.Equal(t, []string{sseproto.ReasonUnavailable}, r.lost[0])
	require.Equal(t, []string{sseproto.ReasonUnavailable}, r.lost[1])
	require.Equal(t, "a1", r.data(0), "what is there is reported")
}

func TestTrimmedHistoryIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.config("a")
	cfg.MaxLen = 10
	s := w.written(cfg, w.id(2, 0), w.burst(1, 1000, 1)...)
	left := w.history("ch0")
	require.Less(t, len(left), 1000)
	r := newRecorder()
	require.NoError(t, s.Range(t.Context(), []string{"ch0"}, w.id(1, 3), w.id(2, 0), r))
	require.Equal(t, []string{sseproto.ReasonTrimmed}, r.lost[0])
	require.Equal(t, left[0].id, r.oldest[0])
	require.Len(t, r.events[0], len(left), "then all that is left")

	r = newRecorder()
	require.NoError(t, s.Range(t.Context(), []string{"ch0"}, left[0].id, w.id(2, 0), r))
	require.Empty(t, r.lost, "nothing after this one is gone")
	require.Len(t, r.events[0], len(left)-1)
}

func TestManyPagesOfOneChannel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.written(w.config("a"), w.id(2, 0), w.burst(1, 3*maxPage+10, 1)...)
	r := newRecorder()
	require.NoError(t, s.Range(t.Context(), []string{"ch0"}, w.id(1, 5), w.id(2, 0), r))
	require.Empty(t, r.lost)
	require.Len(t, r.events[0], 3*maxPage+5)
	for i, m := range r.events[0] {
		require.Equal(t, w.id(1, i+6), m.id)
	}
}

// The TTL is what decides, not the wall clock of the test: IDs are made old.
func TestExpiredHistoryIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.base -= 120_000
	cfg := w.config("a")
	cfg.TTL = time.Minute
	young := w.id(60_000+30_000, 1) // half a minute old
	s := w.written(cfg, w.id(119_000, 0), message{young, "alive", "x"})
	check := func(ms int, ch, want string, events int) {
		t.Helper()
		r := newRecorder()
		require.NoError(t, s.Range(t.Context(), []string{ch}, w.id(ms, 0), w.id(119_000, 0), r))
		if want == "" {
			require.Empty(t, r.lost)
		} else {
			require.Equal(t, []string{want}, r.lost[0])
		}
		require.Len(t, r.events[0], events)
	}
	check(1_000, "none", sseproto.ReasonExpired, 0)
	check(110_000, "none", "", 0)
	check(1_000, "alive", sseproto.ReasonExpired, 1)
	check(50_000, "alive", sseproto.ReasonExpired, 1) // one before it may have expired with its key
	check(80_000, "alive", "", 1)
	check(91_000, "alive", "", 0)
}

func TestStreamOutlivesItsLastID(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.base += 600_000 // the clock was set back by ten minutes
	cfg := w.config("a")
	cfg.TTL = time.Minute
	w.written(cfg, w.id(1, 0), message{w.id(0, 1), "a", "x"})
	ttl, err := w.do("PTTL", testPrefix+"a").AsInt64()
	require.NoError(t, err)
	require.InDelta(t, 660_000, ttl, 30_000)
}

func TestReallyExpiredKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.config("a")
	cfg.TTL = 50 * time.Millisecond
	s := w.written(cfg, w.id(2, 0), message{w.id(1, 1), "a", "x"})
	require.Eventually(t, func() bool {
		n, err := w.do("EXISTS", testPrefix+"a").AsInt64()
		return err == nil && n == 0
	}, time.Minute, time.Millisecond)
	r := newRecorder()
	require.NoError(t, s.Range(t.Context(), []string{"a"}, w.id(1, 0), w.id(2, 0), r))
	require.Equal(t, []string{sseproto.ReasonExpired}, r.lost[0])
}

func TestMarkerIsToldToThoseItConcerns(t *testing.T) {
	w, log, s := startWriter(t, nil)
	log.commit(w.id(10, 0), message{w.id(9, 1), "a", "before"})
	log.hole(w.id(20, 0))
	log.commit(w.id(30, 0), message{w.id(20, 1), "a", "behind"})
	w.waitMark(s, w.id(30, 0))
	require.EqualValues(t, 2, s.Stats().GapMarkers)
	check := func(after, upTo sseproto.ID, want, data string) {
		t.Helper()
		r := newRecorder()
		require.NoError(t, s.Range(t.Context(), []string{"a"}, after, upTo, r))
		if want == "" {
			require.Empty(t, r.lost)
		} else {
			require.Equal(t, []string{want}, r.lost[0])
			require.Equal(t, 0, r.order[0])
		}
		require.Equal(t, data, r.data(0))
	}
	check(w.id(9, 0), w.id(30, 0), sseproto.ReasonOutage, "before behind")
	check(w.id(19, 99), w.id(30, 0), sseproto.ReasonOutage, "behind")
	check(w.id(9, 0), w.id(10, 0), "", "before")
	check(w.id(9, 0), w.id(10, 1), sseproto.ReasonOutage, "before")
	check(w.id(20, 0), w.id(30, 0), "", "behind")
	check(sseproto.ID{Ms: 5}, w.id(10, 0), sseproto.ReasonOutage, "before") // the start marker
}

func TestEntriesOfOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.written(w.config("a"), w.id(5, 0), message{w.id(1, 1), "a", "ours"})
	add := func(id sseproto.ID, fields ...string) {
		require.NoError(t, w.do(append([]string{"XADD", testPrefix + "a", id.String()}, fields...)...).Error())
	}
	add(w.id(2, 0), "data", "bare")
	add(w.id(2, 1), "id", "42", "event_type", "price", "data", "\x00\xff", "more", "ignored")
	add(w.id(2, 2), "event_type", "no data")
	r := newRecorder()
	require.NoError(t, s.Range(t.Context(), []string{"a"}, w.id(0, 0), w.id(5, 0), r))
	require.Equal(t, "ours bare \x00\xff", r.data(0))
	require.Equal(t, []string{"message", "message", "price"}, r.types)
}

func TestEmptiedStreamIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.written(w.config("a"), w.id(5, 0), message{w.id(1, 1), "a", "x"})
	require.NoError(t, w.do("XTRIM", testPrefix+"a", "MAXLEN", "0").Error())
	r := newRecorder()
	require.NoError(t, s.Range(t.Context(), []string{"a"}, w.id(0, 0), w.id(5, 0), r))
	require.Equal(t, []string{sseproto.ReasonTrimmed}, r.lost[0])
}

func TestRangeSurvivesCutConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.written(w.config("a"), w.id(2, 0), w.burst(1, 50, 5)...)
	for range 30 {
		require.NoError(t, w.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Error())
		r := newRecorder()
		require.NoError(t, s.Range(t.Context(), []string{"ch0", "ch1"}, w.id(1, 0), w.id(2, 0), r))
		require.Len(t, r.events[0], 10)
		require.Len(t, r.events[1], 10)
	}
}

// A resync of 20,000 open channels must take well under two seconds: what that
// costs is round trips, which are counted here for a quarter of them, as the machine may be busy.
func TestRangeOfManyChannelsTakesFewRoundTrips(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n = 5_000
	s := w.written(w.config("a"), w.id(2, 0), w.burst(1, 2*n, n)...)
	channels := make([]string, n)
	for i := range channels {
		channels[i] = fmt.Sprint("ch", i)
	}
	r := newRecorder()
	require.NoError(t, s.Range(t.Context(), channels, w.id(1, n/2), w.id(2, 0), r))
	require.Empty(t, r.lost)
	info, err := w.do("INFO", "commandstats").ToString()
	require.NoError(t, err)
	require.Contains(t, info, "cmdstat_lrange:calls=12,", "pipelines of 64, 128, 256, then 512")
	total := 0
	for ch := range n {
		want := 2
		if ch < n/2 {
			want = 1
		}
		require.Len(t, r.events[ch], want)
		total += want
	}
	require.Equal(t, n+n/2, total)
}

func TestLargePayloadsShrinkThePipeline(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var messages []message
	var channels []string
	for i := range 130 {
		channels = append(channels, fmt.Sprint("ch", i))
		messages = append(messages, message{w.id(1, i+1), channels[i], strings.Repeat("x", 200_000)})
	}
	s := w.written(w.config("a"), w.id(2, 0), messages...)
	r := newRecorder()
	require.NoError(t, s.Range(t.Context(), channels, w.id(1, 0), w.id(2, 0), r))
	require.Len(t, r.events, 130)
	info, err := w.do("INFO", "commandstats").ToString()
	require.NoError(t, err)
	// One pipeline of 64 channels (12.8 MB), then 32 each (6.4 MB).
	require.Contains(t, info, "cmdstat_lrange:calls=4,")
}

func TestTrimmedRules(t *testing.T) {
	at := func(ms uint64) sseproto.ID { return sseproto.ID{Ms: ms} }
	check := func(name string, st streamState, after uint64, trimmed, whole bool) {
		t.Helper()
		require.Equal(t, trimmed, st.trimmed(at(after)), name)
		require.Equal(t, whole, st.wholeSince(at(after)), name)
	}
	check("no stream", streamState{}, 900_000, false, false)
	all := streamState{exists: true, first: at(900_000), last: at(950_000), length: 5, added: 5}
	check("has the position", all, 900_000, false, true)
	check("begins behind the position", all, 899_999, false, false)
	check("has nothing behind the position", all, 950_000, false, true)
	cut := streamState{exists: true, first: at(900_000), last: at(950_000), length: 5, added: 6}
	check("trimmed", cut, 899_999, true, false)
	check("trimmed before the position", cut, 900_000, false, true)
	emptied := streamState{exists: true, last: at(950_000), added: 3}
	check("emptied by hand", emptied, 949_999, true, false)
	check("emptied by hand, had all", emptied, 950_000, false, true)
	deleted := streamState{exists: true, last: at(950_000), deleted: at(950_000)}
	check("deleted", deleted, 949_999, true, false)
	check("deleted, had all", deleted, 950_000, false, true)
	grown := streamState{exists: true, deleted: at(950_000), first: at(960_000), last: at(970_000), length: 2, added: 2}
	check("deleted, with messages since", grown, 949_999, true, false)
	check("had all that was deleted", grown, 950_000, false, false)
	grown.added = 3
	check("had all that was deleted, trimmed since", grown, 950_000, true, false)
	holed := streamState{exists: true, first: at(900_000), last: at(950_000), deleted: at(920_000), length: 4, added: 5}
	check("one deleted by hand in the middle", holed, 910_000, true, true)
	check("one deleted by hand before the position", holed, 920_000, false, true)
}

func FuzzParseMarker(f *testing.F) {
	f.Add("0-0 5-0 start a 1")
	f.Add("1-2 3-4 outage")
	f.Add("1-2 3-4")
	f.Add("x")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parseMarker(text)
		if err != nil {
			require.ErrorIs(t, err, errMarker)
			return
		}
		again, err := parseMarker(m.from.String() + " " + m.to.String() + " " + m.reason + " a 1")
		require.NoError(t, err)
		require.Equal(t, m, again)
		require.NotContains(t, m.reason, " ")
	})
}
