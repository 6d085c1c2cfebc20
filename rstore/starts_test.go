package rstore

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// startsAt finds where channels start, and reads what there is from there on.
func (w *world) startsAt(s *Store, at sseproto.StartPoint, upTo sseproto.ID, channels ...string) (from []sseproto.ID, got []string, lost map[int][]string) {
	w.t.Helper()
	counts := make([]int, len(channels))
	for i := range counts {
		counts[i] = at.Count
	}
	from, written, err := s.Starts(w.ctx(), channels, at, counts, upTo)
	require.NoError(w.t, err)
	require.Equal(w.t, upTo, written)
	filled := slices.Clone(from)
	for i, id := range filled {
		if id.IsZero() {
			filled[i] = next(written)
		}
	}
	lost = map[int][]string{}
	for after := (sseproto.ID{}); after.Less(upTo); {
		r := &inOrder{recorder: newRecorder()}
		after, err = s.Merge(w.ctx(), channels, filled, after, upTo, 100, r)
		require.NoError(w.t, err)
		for _, m := range r.all {
			got = append(got, m.data)
		}
		for ch, reasons := range r.lost {
			lost[ch] = append(lost[ch], reasons...)
		}
	}
	return from, got, lost
}

var (
	fromEarliest = sseproto.StartPoint{Kind: sseproto.FromEarliest}
	noLoss       = map[int][]string{}
)

func fromLast(n int) sseproto.StartPoint {
	return sseproto.StartPoint{Kind: sseproto.FromLast, Count: n}
}

func (w *world) fromTime(ms int) sseproto.StartPoint {
	return sseproto.StartPoint{Kind: sseproto.FromTime, Time: w.base + uint64(ms)}
}

func TestStartsAreFoundInTheHistory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := func(ms, seq int, channel string) message {
		return message{w.id(ms, seq), channel, fmt.Sprint(channel, " ", ms, "-", seq)}
	}
	upTo := w.id(900, 0)
	s := w.written(w.config("a"), upTo,
		at(100, 1, "ch0"), at(100, 2, "ch1"), at(100, 3, "ch0"), at(300, 1, "ch1"), at(500, 1, "ch0"), at(500, 2, "ch0"))
	f := func(p sseproto.StartPoint, want ...string) {
		t.Helper()
		_, got, lost := w.startsAt(s, p, upTo, "ch0", "none", "ch1")
		require.Equal(t, want, got, "%+v", p)
		require.Equal(t, noLoss, lost)
	}
	f(fromEarliest, "ch0 100-1", "ch1 100-2", "ch0 100-3", "ch1 300-1", "ch0 500-1", "ch0 500-2")
	f(w.fromTime(-1), "ch0 100-1", "ch1 100-2", "ch0 100-3", "ch1 300-1", "ch0 500-1", "ch0 500-2")
	f(w.fromTime(100), "ch0 100-1", "ch1 100-2", "ch0 100-3", "ch1 300-1", "ch0 500-1", "ch0 500-2")
	f(w.fromTime(200), "ch0 100-1", "ch1 100-2", "ch0 100-3", "ch1 300-1", "ch0 500-1", "ch0 500-2") // the tick of 100 may have been the last one
	f(w.fromTime(300), "ch0 100-1", "ch0 100-3", "ch1 300-1", "ch0 500-1", "ch0 500-2")
	f(w.fromTime(501), "ch1 300-1", "ch0 500-1", "ch0 500-2")
	f(w.fromTime(501 + int(tickless.Milliseconds()))) // nothing so long before
	f(fromLast(1), "ch1 300-1", "ch0 500-2")
	f(fromLast(2), "ch1 100-2", "ch1 300-1", "ch0 500-1", "ch0 500-2")
	f(fromLast(3), "ch1 100-2", "ch0 100-3", "ch1 300-1", "ch0 500-1", "ch0 500-2")
	f(fromLast(9), "ch0 100-1", "ch1 100-2", "ch0 100-3", "ch1 300-1", "ch0 500-1", "ch0 500-2")

	from, _, err := s.Starts(t.Context(), []string{"ch0", "none", "ch1"}, fromLast(1), []int{2, 1, 1}, w.id(500, 1))
	require.NoError(t, err)
	require.Equal(t, []sseproto.ID{w.id(100, 3), {}, w.id(300, 1)}, from, "counted from a position on")
}

// TestWhatIsGoneBeforeAStartIsNotMissing: a resume from there is told, a start is not.
func TestWhatIsGoneBeforeAStartIsNotMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	upTo := w.id(900, 0)
	s := w.written(w.config("a"), upTo, w.burst(100, 9, 3)...)
	require.NoError(t, w.do("XTRIM", testPrefix+"ch0", "MAXLEN", "=", "1").Error())
	require.NoError(t, w.do("XTRIM", testPrefix+"ch1", "MAXLEN", "=", "0").Error())
	w.requireLost(s, "ch0", w.id(100, 0), upTo, sseproto.ReasonTrimmed)
	w.requireLost(s, "ch1", w.id(100, 0), upTo, sseproto.ReasonTrimmed)
	for _, p := range []sseproto.StartPoint{fromEarliest, fromLast(3), w.fromTime(50), w.fromTime(100), w.fromTime(150)} {
		_, got, lost := w.startsAt(s, p, upTo, "ch0", "ch1", "ch2")
		require.Equal(t, []string{"100/2", "100/5", "100/6", "100/8"}, got)
		require.Equal(t, noLoss, lost)
	}
	// Keys that have expired, too: all that is left is what has come since.
	require.NoError(t, w.do("HSET", "sse:clock", "horizon", w.id(900, 0).String(), "t", fmt.Sprint(w.base)).Error())
	w.expire("ch2")
	for _, p := range []sseproto.StartPoint{fromEarliest, fromLast(3), w.fromTime(150)} {
		_, got, lost := w.startsAt(s, p, upTo, "ch2")
		require.Empty(t, got)
		require.Equal(t, noLoss, lost)
	}
}

// TestHoleBehindAStartIsTold: what is missing between two messages is.
func TestHoleBehindAStartIsTold(t *testing.T) {
	w, log := newWorldAndLog(t)
	wr := &writer{Store: w.store(w.config("a"), log)}
	log.commit(w.id(200, 0), w.burst(100, 2, 2)...)
	w.settle(wr)
	log.hole(w.id(500, 0))
	log.commit(w.id(700, 0), w.burst(600, 2, 2)...)
	w.settle(wr)
	upTo := wr.watermark
	hole := map[int][]string{0: {sseproto.ReasonUnavailable}, 1: {sseproto.ReasonUnavailable}}
	for _, p := range []sseproto.StartPoint{fromEarliest, fromLast(2), w.fromTime(100), w.fromTime(300)} {
		_, got, lost := w.startsAt(wr.Store, p, upTo, "ch0", "ch1")
		require.Equal(t, []string{"100/0", "100/1", "600/0", "600/1"}, got)
		require.Equal(t, hole, lost, "%+v", p)
	}
	for _, p := range []sseproto.StartPoint{fromLast(1), w.fromTime(600)} {
		_, got, lost := w.startsAt(wr.Store, p, upTo, "ch0", "ch1")
		require.Equal(t, []string{"600/0", "600/1"}, got)
		require.Equal(t, noLoss, lost)
	}
	// A message of the one channel that was lost before all that is left of it.
	require.NoError(t, w.do("XTRIM", testPrefix+"ch0", "MAXLEN", "=", "1").Error())
	_, got, lost := w.startsAt(wr.Store, fromEarliest, upTo, "ch0", "ch1")
	require.Equal(t, []string{"100/1", "600/0", "600/1"}, got)
	require.Equal(t, map[int][]string{1: {sseproto.ReasonUnavailable}}, lost)
}

// TestLastGoesBackAsFarAsItTakes: over several runs of the script, whatever the sizes.
func TestLastGoesBackAsFarAsItTakes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rng := rand.New(rand.NewPCG(1, 2))
	upTo := w.id(9000, 0)
	ids := map[string][]sseproto.ID{}
	var all []message
	for i := range 4000 {
		name := fmt.Sprint("ch", rng.IntN(4)*rng.IntN(4))
		m := message{w.id(1+i/500, 1+i%500), name, strings.Repeat("x", 1<<rng.IntN(12))}
		all, ids[name] = append(all, m), append(ids[name], m.id)
	}
	s := w.merged(0, all).s
	for range 50 {
		var names []string
		var counts []int
		var want []sseproto.ID
		for name, list := range ids {
			n := 1 + rng.IntN(len(list)+50)
			names, counts = append(names, name), append(counts, n)
			want = append(want, list[max(len(list)-n, 0)])
		}
		from, _, err := s.Starts(t.Context(), names, fromLast(1), counts, upTo)
		require.NoError(t, err)
		require.Equal(t, want, from, "%v %v", names, counts)
	}
}

func TestStartsSendNoEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var all []message
	for i := range 1000 {
		all = append(all, message{w.id(1+i/100, 1+i%100), "ch0", strings.Repeat("x", 4000)})
	}
	s := w.merged(1, all).s
	for _, p := range []sseproto.StartPoint{fromEarliest, fromLast(900), w.fromTime(5)} {
		before := w.sentBytes()
		_, _, err := s.Starts(t.Context(), []string{"ch0"}, p, []int{900}, w.id(9000, 0))
		require.NoError(t, err)
		require.Less(t, w.sentBytes()-before, int64(100_000), "of 4 MB: INFO, and little more")
	}
}

func TestStartOnAKeyOfAnotherTypeIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	upTo := w.id(900, 0)
	s := w.written(w.config("a"), upTo, w.burst(100, 1, 1)...)
	require.NoError(t, w.do("SET", testPrefix+"text", "x").Error())
	for _, p := range []sseproto.StartPoint{fromLast(3), w.fromTime(50), fromEarliest} {
		_, got, lost := w.startsAt(s, p, upTo, "text", "ch0")
		require.Equal(t, []string{"100/0"}, got)
		require.Equal(t, map[int][]string{0: {sseproto.ReasonUnavailable}}, lost)
	}
}
