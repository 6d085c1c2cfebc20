package engine

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/front"
	"ssed/sseproto"
)

// request is a client without Last-Event-ID whose request was read when the log stood
// at since, and that is attached now: an Authorizer took its time.
func request(t *testing.T, e *Engine, since front.Standing, channels ...string) *testClient {
	return requestNamed(t, e, since, false, channels...)
}

// requestNamed is request of a client that may want its stream to begin with a position.
func requestNamed(t testing.TB, e *Engine, since front.Standing, named bool, channels ...string) *testClient {
	return requestFormed(t, e, since, named, 0, channels...)
}

// requestFormed is requestNamed for a stream of some form.
func requestFormed(t testing.TB, e *Engine, since front.Standing, named bool, f form, channels ...string) *testClient {
	fd, conn := socketPair(t)
	e.conns.Add(1)
	e.attach(&front.Stream{
		FD: fd, Head: []byte("HEAD\n"), Channels: channels, Since: since, TakesID: named,
		Chunked: f&formChunked != 0, Told: f&formTold != 0,
	})
	return newFormedClient(t, conn, f)
}

// TestLinkLostDuringTheDecisionIsBackfilled: what was backfilled for others leaves out a
// channel that nobody subscribed to, and takes no place in the log when it is nothing.
func TestLinkLostDuringTheDecisionIsBackfilled(t *testing.T) {
	for _, others := range []string{"", "quiet", "busy"} {
		t.Run("others="+others, func(t *testing.T) {
			h := newMemoryHistory()
			e := startEngine(t, withHistory(h, 4<<20))
			f := startFeed(e, 1000)
			if others != "" {
				joined(t, e, resumePoint{}, others)
			}
			last := f.publish("a", "before")
			since := e.log.standing()
			e.log.CloseSpan(last)
			h.add(last, "a", "before")
			h.add(sseproto.ID{Ms: 1500, Seq: 1}, "busy", "of somebody else")
			h.add(sseproto.ID{Ms: 1500, Seq: 2}, "a", "lost")
			again := startFeed(e, 2000)
			again.tick(sseproto.ID{Ms: 2000})
			require.Eventually(t, func() bool { return !e.log.cover.Load().backfilling }, waitLong, pollEvery)
			again.publish("a", "back")
			c := request(t, e, since, "a")
			require.Equal(t, []string{"lost", "back"}, datas(c.next(2)))
			again.publish("a", "live")
			require.Equal(t, []string{"live"}, datas(c.next(1)))
		})
	}
}

// TestAttachedWhileALossIsBackfilled: the list of channels to backfill is made already.
func TestAttachedWhileALossIsBackfilled(t *testing.T) {
	h := newMemoryHistory()
	h.block = make(chan struct{})
	e := startEngine(t, withHistory(h, 4<<20))
	f := startFeed(e, 1000)
	joined(t, e, resumePoint{}, "busy")
	last := f.publish("a", "before")
	since := e.log.standing()
	e.log.CloseSpan(last)
	h.add(sseproto.ID{Ms: 1500, Seq: 2}, "a", "lost")
	again := startFeed(e, 2000)
	again.tick(sseproto.ID{Ms: 2000})
	require.Eventually(t, func() bool { return h.waiting.Load() == 1 }, waitLong, pollEvery)
	late, fresh := request(t, e, since, "a"), request(t, e, e.log.standing(), "a")
	require.Eventually(t, func() bool { return e.Stats().Attached == 3 }, waitLong, pollEvery)
	close(h.block)
	again.publish("a", "live")
	require.Equal(t, []string{"lost", "live"}, datas(late.next(2)))
	require.Equal(t, []string{"live"}, datas(fresh.next(1)), "it came when the link was back")
}

func TestLossDuringTheDecisionIsToldWithoutAHistory(t *testing.T) {
	h := shardByHand(t, nil)
	since := h.log.standing()
	h.log.CloseSpan(sseproto.ID{Ms: 1100})
	again := startFeed(h.engine, 2000)
	c := request(t, h.engine, since, "a")
	h.pass()
	again.publish("a", "live")
	h.pass()
	got := c.next(2)
	require.Equal(t, []string{"gap", "2000-0"}, []string{got[0].kind, got[0].id})
	require.Equal(t, "live", got[1].data)
}

// TestRingTurnsDuringTheDecision: nobody subscribed, so that the log has forgotten that
// the channel had a message.
func TestRingTurnsDuringTheDecision(t *testing.T) {
	h := shardByHand(t, nil)
	since := h.log.standing()
	h.f.publish("a", "gone")
	h.turn()
	requireForgotten(t, h.log, "a")
	c := request(t, h.engine, since, "a")
	h.pass()
	h.f.publish("a", "live")
	h.pass()
	got := c.next(2)
	require.Equal(t, "gap", got[0].kind)
	require.Equal(t, "live", got[1].data)
}

// TestPlaceOfALongDecisionIsForgotten: the stream starts at now, and its client is told.
func TestPlaceOfALongDecisionIsForgotten(t *testing.T) {
	h := shardByHand(t, nil)
	since := h.log.standing()
	for known := true; known; _, known = h.log.idAt(since.Position) {
		h.f.t, h.f.n = h.f.t+1, 0
		h.f.publish("noise", strings.Repeat("x", 20))
	}
	last := h.f.publish("a", "too early")
	c := request(t, h.engine, since, "a")
	h.pass()
	h.f.publish("a", "live")
	h.pass()
	got := c.next(2)
	require.Equal(t, event{last.String(), "gap", `{"reason":"trimmed"}`}, got[0])
	require.Equal(t, "live", got[1].data)
}

// TestDecisionInQuietTimesCostsNothing: no history is read, and no place in the ring
// looked for.
func TestDecisionInQuietTimesCostsNothing(t *testing.T) {
	e := startEngine(t, withHistory(newMemoryHistory(), 4<<20))
	early := e.log.standing()
	f := startFeed(e, 1000)
	since := e.log.standing()
	for i := range 10 {
		f.publish("a", fmt.Sprint("m", i))
	}
	for _, s := range []front.Standing{early, since} {
		require.Equal(t, numbered("m", 0, 9), datas(request(t, e, s, "a").next(10)))
	}
	require.Zero(t, e.Stats().ResumedHistory+e.Stats().ResumedRing)
}
