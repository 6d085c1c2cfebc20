package engine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// A message that is too large leaves a gap event in its place: live, in the ring, and for
// the writer of the history.
func TestPlaceOfAMessageThatIsTooLargeIsTold(t *testing.T) {
	e := startEngine(t, nil)
	f := startFeed(e, 1000)
	c := joined(t, e, resumePoint{}, "a", "b")
	first := f.publish("a", "one")
	f.n++
	place := sseproto.ID{Ms: f.t, Seq: f.n}
	e.log.Oversize(place, "a")
	f.publish("b", "two")
	f.tick(sseproto.ID{})
	for _, c := range []*testClient{c, join(t, e, after(sseproto.ID{Ms: 1000}), "a", "b")} {
		got := c.next(3)
		require.Equal(t, "one", got[0].data)
		require.Equal(t, event{place.String(), "gap", `{"reason":"oversize","channel":"a"}`}, got[1])
		require.Equal(t, "two", got[2].data)
	}
	others := join(t, e, after(first), "b")
	require.Equal(t, "two", others.next(1)[0].data, "no event for other channels")
	behind := join(t, e, after(place), "a", "b")
	require.Equal(t, "two", behind.next(1)[0].data, "told once")

	var kept []sseproto.Message
	e.log.ReadCommitted(sseproto.ID{Ms: 1000}, 10, 1<<20, func(_ sseproto.ID, _ string, m sseproto.Message, _ sseproto.ID) {
		kept = append(kept, m)
	})
	require.Len(t, kept, 3)
	require.Equal(t, sseproto.Oversize("a"), kept[1])
	require.Equal(t, sseproto.ReasonOversize, e.RecentGaps()[0].Reason)
}
