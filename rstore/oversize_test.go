package rstore

import (
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// What stands in the place of a message that is too large is kept: a client that comes
// back is told as those were who were there. Versions that do not know such an entry pass
// it over, as it has no data.
func TestPlacesOfMessagesThatAreTooLargeAreKept(t *testing.T) {
	w, log := newWorldAndLog(t)
	place := w.id(1, 2)
	log.typed = map[sseproto.ID]sseproto.Message{place: sseproto.Oversize("a")}
	s := w.store(w.config("a"), log)
	w.start(s)
	log.commit(w.id(2, 0), message{w.id(1, 1), "a", "small"}, message{place, "a", ""}, message{w.id(1, 3), "a", "after"})
	w.waitMark(s, w.id(2, 0))

	entries, err := w.do("XRANGE", testPrefix+"a", place.String(), place.String()).AsXRangeSlices()
	require.NoError(t, err)
	require.Len(t, entries, 1)
	require.Len(t, entries[0].FieldValues, 2, "and prev, as all have it")
	require.Equal(t, "gap", entries[0].FieldValues[0].Field)
	require.Equal(t, "oversize", entries[0].FieldValues[0].Value)

	r := newRecorder()
	require.NoError(t, s.Range(t.Context(), []string{"a"}, w.id(0, 0), w.id(2, 0), r))
	require.Empty(t, r.lost[0])
	require.Len(t, r.events[0], 3)
	want := sseproto.AppendGap(nil, sseproto.Gap{ID: place, Reason: sseproto.ReasonOversize, Channel: "a"})
	require.Equal(t, string(want), string(sseproto.AppendEvent(nil, place, r.whole[1])))
}

// Only ssed's own entries are gap events: one that somebody added with data is a message.
func TestEntriesOfOthersAreNoPlaces(t *testing.T) {
	w := newWorld(t)
	w.clock("e1")
	s := w.store(w.config("a"), newTestLog(w.id(0, 0)))
	for _, fields := range [][]string{
		{"gap", "oversize", "data", "x"},
		{"gap", "trimmed"},
		{"event_type", "gap", "data", "y"},
	} {
		require.NoError(t, w.do(append([]string{"XADD", testPrefix + "a", "*"}, fields...)...).Error())
	}
	r := newRecorder()
	_, err := s.Page(t.Context(), "a", sseproto.ID{}, 10, r)
	require.NoError(t, err)
	require.Len(t, r.events[0], 2)
	require.Equal(t, []string{sseproto.EventMessage, sseproto.EventMessage}, r.types)
}
