package engine

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// joinsBesideShut is a loop by hand of two partitions, of which the second one is shut, and a
// stream of both that joins.
func joinsBesideShut(t *testing.T, f form) (h byHand, c *testClient, low sseproto.ID) {
	h, feeds, low := twoPartsByHand(t)
	feeds[1].publish("taken back")
	feeds[1].line.CloseSpan(low)
	fd, conn := socketPair(t)
	attachFormed(h.engine, fd, f, resumePoint{}, feeds[0].channel, feeds[1].channel)
	c = newFormedClient(t, conn, f)
	h.pass()
	require.Equal(t, phaseJoining, h.slots.at(1).phase)
	require.NoError(t, c.read())
	return h, c, low
}

// TestStreamThatJoinsIsToldWhereToGoOnWhenItIsSentAway: a partition may be shut for long. Who
// came without an ID, and has had no message yet, would come back without one. Where the
// places are not those of what the client asks for, it asks again.
func TestStreamThatJoinsIsToldWhereToGoOnWhenItIsSentAway(t *testing.T) {
	t.Parallel()
	f := func(form form, prepare func(j *joining), isTold bool) {
		t.Helper()
		h, c, low := joinsBesideShut(t, form)
		prepare(h.joins[1])
		h.engine.cfg.RetryMin, h.engine.cfg.RetryMax = 7*time.Second, 7*time.Second
		h.disconnect(1, h.slots.at(1), CloseDrain)
		require.Empty(t, c.ended())
		require.Equal(t, form != 0, c.wire.ended)
		retry, _ := c.dec.Retry()
		require.Equal(t, 7*time.Second, retry)
		want := ""
		if isTold {
			want = vector(0, low, low)
		}
		require.Equal(t, want, string(c.dec.LastEventID()))
	}
	f(0, func(*joining) {}, true)
	f(formChunked, func(*joining) {}, true)
	f(0, func(j *joining) { j.places[1] = sseproto.ID{} }, false)
	f(0, func(j *joining) { j.parts[0].from = makeStartIDs([]sseproto.ID{{Ms: 2000}}) }, false)
	f(0, func(j *joining) { j.parts[0].isLost = true }, false)
}

// TestLossesForSeveralReasonsAreAllToldHoweverManyChannelsTheyName: each gap event is larger than
// what is put together for one write, and the socket takes a part of it.
func TestLossesForSeveralReasonsAreAllToldHoweverManyChannelsTheyName(t *testing.T) {
	t.Parallel()
	reasons := []string{sseproto.ReasonTrimmed, sseproto.ReasonExpired}
	history := newMemoryHistory()
	e := startTuned(t, func(cfg *Config) {
		cfg.Partitions, cfg.Histories, cfg.Shards = 2, []History{history, newMemoryHistory()}, 1
	}, func(e *Engine) { e.shards[0].send = takingAtMost(ownBytes / 2) })
	var channels []string
	for n := range 600 {
		name := channelOfPart(fmt.Sprint(strings.Repeat("x", 240), n, "-"), 0, 2)
		channels = append(channels, name)
		history.lost[name] = reasons[n%len(reasons)]
	}
	low := sseproto.ID{Ms: 1000}
	feed := &partFeed{line: e.log.Partition(0), channel: channels[0], t: low.Ms}
	for p := range 2 {
		e.log.Partition(p).OpenSpan(low)
	}
	feed.tick()
	feed.publish("live")
	c := comeBack(t, e, vector(0, sseproto.ID{Ms: 800}, low), channels...)
	var told []string
	for len(c.got) == 0 || c.got[0].kind == "gap" {
		var gap struct{ Reason string }
		got := c.next(1)[0]
		require.NoError(t, json.Unmarshal([]byte(got.data), &gap), got.data)
		told = append(told, gap.Reason)
		for len(c.got) == 0 {
			require.NoError(t, c.read())
		}
	}
	require.Equal(t, "live", c.got[0].data)
	require.ElementsMatch(t, reasons, told)
}
