package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

func TestHistoryWithAnEventLargerThanAPageIsReadWhole(t *testing.T) {
	h := newMemoryHistory()
	large := strings.Repeat("x", 2*minPageBytes)
	for i := 1; i <= 30; i++ {
		channel, payload := "a", fmt.Sprint("m", i)
		if i%3 == 0 {
			channel = "b"
		}
		if i%5 == 0 {
			payload = large
		}
		h.add(sseproto.ID{Ms: 900, Seq: uint64(i)}, channel, payload)
	}
	e := startEngine(t, withHistory(h, minRingBytes))
	f := startFeed(e, 1000)
	f.tick(sseproto.ID{Ms: 1000})
	for _, channels := range [][]string{{"a", "b"}, {"b", "a"}} {
		c := join(t, e, after(sseproto.ID{Ms: 800}), channels...)
		for i, got := range c.next(30) {
			require.Equal(t, fmt.Sprint("900-", i+1), got.id)
		}
	}
	f.publish("a", "live")
}

// trimmedHistory tells of its losses only those who stand before left.
type trimmedHistory struct {
	*memoryHistory
	left sseproto.ID
}

func (h trimmedHistory) Range(ctx context.Context, channels []string, after, upTo sseproto.ID, r sseproto.Replay) error {
	if !after.Less(sseproto.ID{Ms: h.left.Ms, Seq: h.left.Seq - 1}) {
		h.mu.Lock()
		h.lost = nil
		h.mu.Unlock()
	}
	return h.memoryHistory.Range(ctx, channels, after, upTo, r)
}

func (h trimmedHistory) Merge(ctx context.Context, channels []string, from []sseproto.ID, after, upTo sseproto.ID, limit int64, r sseproto.Replay) (sseproto.ID, error) {
	return mergeRange(ctx, h.Range, channels, from, after, upTo, limit, r)
}

// TestLossOfManyChannelsIsOneEvent: it names them, and survives a full socket.
func TestLossOfManyChannelsIsOneEvent(t *testing.T) {
	h := newMemoryHistory()
	var channels, lost []string
	for i := range 500 {
		name := fmt.Sprint("channel-with-a-name-of-some-length-", i)
		if i > 0 {
			h.lost[name] = sseproto.ReasonTrimmed
			lost = append(lost, name)
		}
		channels = append(channels, name)
	}
	h.add(sseproto.ID{Ms: 900, Seq: 7}, channels[1], "left")
	e := startEngine(t, withHistory(trimmedHistory{h, sseproto.ID{Ms: 900, Seq: 7}}, minRingBytes))
	f := startFeed(e, 1000)
	f.tick(sseproto.ID{Ms: 1000})
	fd, conn := socketPair(t)
	require.NoError(t, syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, 8<<10))
	c := newTestClient(t, conn)
	attachFd(e, fd, after(sseproto.ID{Ms: 800}), channels...)
	got := c.next(2)
	var told struct {
		Reason, Channel, Requested string
		Channels                   []string
	}
	require.NoError(t, json.Unmarshal([]byte(got[0].data), &told))
	require.Equal(t, []string{"gap", "900-6"}, []string{got[0].kind, got[0].id})
	require.Equal(t, []string{"trimmed", "", "800-0"}, []string{told.Reason, told.Channel, told.Requested})
	require.ElementsMatch(t, lost, told.Channels)
	require.Equal(t, "left", got[1].data)
	require.Eventually(t, func() bool { return e.Stats().Delivered == 1 }, waitLong, pollEvery)
	require.EqualValues(t, 1, e.Stats().Gaps.Total(), "once, though the socket took it in parts")
	require.Equal(t, 1, e.RecentGaps()[0].Streams)
}

// TestCopiesOfALargeEventForThoseWhoDoNotReadAreBounded: the first one gets it whole, in
// its own time; the others when there is room.
func TestCopiesOfALargeEventForThoseWhoDoNotReadAreBounded(t *testing.T) {
	h := newMemoryHistory()
	large := strings.Repeat("x", minRingBytes)
	h.add(sseproto.ID{Ms: 900, Seq: 1}, "a", large)
	e := startEngine(t, func(cfg *Config) {
		cfg.History, cfg.RingBytes, cfg.Shards, cfg.Heartbeat = h, minRingBytes, 1, time.Hour
	})
	f := startFeed(e, 1000)
	f.tick(sseproto.ID{Ms: 1000})
	resume := func() *testClient {
		fd, conn := socketPair(t)
		require.NoError(t, syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, 8<<10))
		attachFd(e, fd, after(sseproto.ID{Ms: 800}), "a")
		return newTestClient(t, conn)
	}
	first := resume()
	require.Eventually(t, func() bool { return e.Stats().Slow == 1 }, waitLong, pollEvery)
	for range 5 {
		require.Empty(t, resume().ended())
	}
	require.EqualValues(t, 5, e.Stats().Closed[CloseSlow])
	require.Equal(t, large, first.next(1)[0].data)
	f.publish("a", "live")
	require.Equal(t, "live", first.next(1)[0].data)
	require.Equal(t, []string{large, "live"}, datas(resume().next(2)))
}

// takeLarge gives a slot an event of the history that its socket does not take at once.
func (h byHand) takeLarge(slot uint32) {
	p := newPage([]string{"a"}, sseproto.ID{Ms: 800})
	p.Event(0, sseproto.ID{Ms: 900, Seq: 1}, sseproto.Message{Data: strings.Repeat("x", 1<<20)})
	r := &replay{page: p, upTo: sseproto.ID{Ms: 1000}, taken: make(chan struct{})}
	r.arrange()
	r.refs.Store(1)
	c := h.slots.at(slot)
	h.enter(c, phaseResuming)
	h.post(command{page: r, to: ref{slot, c.gen}})
	h.pass()
}

// TestWhoTakesNothingMakesRoomForOthers: a client that does not read keeps nobody out.
func TestWhoTakesNothingMakesRoomForOthers(t *testing.T) {
	h := shardByHand(t, nil)
	var clients []*testClient
	for range 3 {
		clients = append(clients, h.arrive(t, resumePoint{}, "a"))
	}
	h.takeLarge(1)
	require.Greater(t, h.pendingSize, h.maxPending)
	h.slots.at(1).idle = staleVisits
	h.takeLarge(2)
	require.Empty(t, clients[0].ended())
	h.takeLarge(3)
	require.Empty(t, clients[2].ended(), "the one before has taken something just now")
	require.EqualValues(t, 2, h.count.closed[CloseSlow].Load())
	require.Len(t, h.pending, 1)
	h.closeSlot(2, CloseAdmin)
	require.Zero(t, h.pendingSize)
}

func TestIDBeforeTheFirstSpanIsWaitedFor(t *testing.T) {
	for _, from := range []sseproto.ID{{}, {Ms: 900, Seq: 5}} {
		e := startEngine(t, nil)
		c := joined(t, e, after(from), "a")
		require.Eventually(t, func() bool { return e.Stats().Attached == 1 }, waitLong, pollEvery)
		f := startFeed(e, 1000)
		f.publish("a", "first")
		got := c.next(2)
		require.Equal(t, []string{"gap", "1000-0"}, []string{got[0].kind, got[0].id})
		require.JSONEq(t, fmt.Sprintf(`{"reason":"trimmed","requested":"%s","oldest":"1000-0"}`, from), got[0].data)
		require.Equal(t, event{"1000-1", "", "first"}, event{got[1].id, "", got[1].data})
	}
}

func TestWhatWaitedForABackfillIsStillThereForTheHistoryWriter(t *testing.T) {
	h := newMemoryHistory()
	h.block = make(chan struct{})
	e := startEngine(t, withHistory(h, minRingBytes))
	f := startFeed(e, 1000)
	joined(t, e, resumePoint{}, "a")
	e.log.CloseSpan(f.publish("a", "m"))
	again := startFeed(e, 2000)
	again.tick(sseproto.ID{Ms: 2000})
	n := 0
	for bytes := int64(0); bytes < minRingBytes/2; bytes += ringOverhead + 2 { // as much as may wait
		again.publish("b", "x")
		n++
	}
	again.tick(sseproto.ID{Ms: 2000})
	close(h.block)
	require.Eventually(t, func() bool { return !e.log.cover.Load().backfilling }, waitLong, pollEvery)
	got, _, _ := collect(e.log, sseproto.ID{Ms: 2000})
	require.Len(t, got, n)
}

func TestHistoryWriterThatIsTooLateIsToldWhereItGoesOn(t *testing.T) {
	e := startEngine(t, withHistory(newMemoryHistory(), minRingBytes))
	f := startFeed(e, 1000)
	for range 5000 {
		f.publish("a", "x")
	}
	f.tick(sseproto.ID{})
	got, through, low := collect(e.log, sseproto.ID{Ms: 1000})
	require.Empty(t, got)
	require.Equal(t, sseproto.ID{Ms: 1000}, through)
	evicted := e.Stats().Log.Evicted
	require.Equal(t, sseproto.ID{Ms: 1000, Seq: evicted}, low)
	got, through, _ = collect(e.log, low)
	require.Len(t, got, 5000-int(evicted))
	require.Equal(t, sseproto.ID{Ms: 1100}, through)
}

// endlessHistory has more for a backfill than anybody can take.
type endlessHistory struct {
	*memoryHistory
	given int
}

func (h *endlessHistory) Range(ctx context.Context, _ []string, after, _ sseproto.ID, r sseproto.Replay) error {
	data := strings.Repeat("x", 1000)
	for h.given = 0; ctx.Err() == nil; h.given++ {
		r.Event(0, sseproto.ID{Ms: after.Ms, Seq: after.Seq + uint64(h.given) + 1}, sseproto.Message{Data: data})
	}
	return ctx.Err()
}

// TestBackfillThatIsTooLargeIsNotReadToItsEnd: streams are sent to the history at once.
func TestBackfillThatIsTooLargeIsNotReadToItsEnd(t *testing.T) {
	h := &endlessHistory{memoryHistory: newMemoryHistory()}
	e := startEngine(t, withHistory(h, minRingBytes))
	f := startFeed(e, 1000)
	c := joined(t, e, resumePoint{}, "a")
	e.log.CloseSpan(f.publish("a", "m"))
	again := startFeed(e, 2000)
	again.tick(sseproto.ID{Ms: 2000})
	c.ended()
	require.EqualValues(t, 1, e.Stats().Closed[CloseHistory])
	require.Less(t, h.given, minRingBytes/1000)
}
