package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// connectionsOf lists all connections of a channel, page by page.
func connectionsOf(t testing.TB, e *Engine, channel string, limit int) (all []Connection) {
	t.Helper()
	for next, pages := "", 0; ; pages++ {
		list, after, err := e.Connections(t.Context(), Match{Channel: channel}, next, limit)
		require.NoError(t, err)
		require.LessOrEqual(t, len(list), limit)
		require.Less(t, pages, 10_000, "the list has no end")
		all = append(all, list...)
		if next = after; next == "" {
			return all
		}
	}
}

func idsOf(list []Connection) []string {
	ids := make([]string, len(list))
	for i, c := range list {
		ids[i] = c.ID
	}
	slices.Sort(ids)
	return ids
}

func TestConnectionsAreListedOnceEach(t *testing.T) {
	e := startEngine(t, nil)
	startFeed(e, 1000)
	began := time.Now()
	for i := range 60 {
		joined(t, e, resumePoint{}, "all", fmt.Sprint("third", i%3))
	}
	for _, limit := range []int{1, 7, 60, 1000} {
		all := connectionsOf(t, e, "", limit)
		require.Len(t, slices.Compact(idsOf(all)), 60)
		third := connectionsOf(t, e, "third1", limit)
		require.Len(t, slices.Compact(idsOf(third)), 20)
		for _, c := range third {
			require.Equal(t, []string{"all", "third1"}, c.Channels)
			require.Empty(t, c.Client, "a unix socket")
			require.False(t, c.Blocked)
			require.Equal(t, sseproto.ID{Ms: 1000}, c.Position)
			require.WithinRange(t, c.Opened, began.Add(-time.Second), time.Now(), "it is told to the second")
		}
	}
	require.Empty(t, connectionsOf(t, e, "nobody", 10))
	for _, bad := range []string{"x", "1", "1-", "0-1-2", "-1-1", "fffff-1"} {
		_, _, err := e.Connections(t.Context(), Match{}, bad, 10)
		require.ErrorIs(t, err, ErrBadCursor, bad)
	}
	list, next, err := e.Connections(t.Context(), Match{}, "40-1", 10)
	require.NoError(t, err)
	require.Empty(t, list)
	require.Empty(t, next)
}

// A list that is longer than what a loop looks at for one answer.
func TestLongListsComeInParts(t *testing.T) {
	e := startEngine(t, func(cfg *Config) { cfg.Shards = 1 })
	startFeed(e, 1000)
	const n = askLooks + 300
	for i := range n {
		join(t, e, resumePoint{}, "large", fmt.Sprint("c", i))
	}
	require.Eventually(t, func() bool { return e.Stats().Attached == n }, waitLong, pollEvery)
	require.Len(t, slices.Compact(idsOf(connectionsOf(t, e, "large", 450))), n)
	one := connectionsOf(t, e, fmt.Sprint("c", n-1), 450)
	require.Len(t, one, 1)
	require.Equal(t, []string{"large", fmt.Sprint("c", n-1)}, one[0].Channels)
}

func TestClosedConnectionIsToldWhenToComeBack(t *testing.T) {
	e := startEngine(t, nil)
	startFeed(e, 1000)
	c, other := joined(t, e, resumePoint{}, "a"), joined(t, e, resumePoint{}, "b")
	list := connectionsOf(t, e, "a", 10)
	require.Len(t, list, 1)
	found, err := e.CloseConnection(t.Context(), list[0].ID)
	require.NoError(t, err)
	require.True(t, found)
	require.NoError(t, c.read())
	require.Contains(t, string(c.buf[:32]), "retry: ")
	require.Empty(t, c.ended())
	require.EqualValues(t, 1, e.Stats().Closed[CloseAdmin])
	require.Len(t, connectionsOf(t, e, "", 10), 1)
	found, err = e.CloseConnection(t.Context(), list[0].ID)
	require.NoError(t, err)
	require.False(t, found, "it is gone")
	e.log.Append(sseproto.ID{Ms: 1000, Seq: 1}, "b", "still there")
	require.Equal(t, []string{"still there"}, datas(other.next(1)))
}

func TestUnknownConnectionIsNotFound(t *testing.T) {
	e := startEngine(t, nil)
	joined(t, e, resumePoint{}, "a")
	id := connectionsOf(t, e, "", 1)[0].ID
	for _, text := range []string{"", "-", "0-0-0", "1-0-0", "ff-1-1", id + "0", "0" + id, strings.ToUpper(id) + "-", "0-ffffffff-1", "0-1"} {
		found, err := e.CloseConnection(t.Context(), text)
		require.NoError(t, err)
		require.False(t, found, text)
	}
	require.EqualValues(t, 1, e.Stats().Streams)
}

// Slots go from hand to hand while somebody closes connections by IDs, most of
// which are out of date.
func TestOldIDsNeverCloseSomebodyElsesConnection(t *testing.T) {
	e := startEngine(t, nil)
	startFeed(e, 1000)
	visits := 200
	if testing.Short() {
		visits = 50
	}
	var kept []*testClient
	for range 20 {
		kept = append(kept, joined(t, e, resumePoint{}, "kept"))
	}
	ctx, over := context.WithCancel(context.Background())
	defer over()
	var visitors, closers sync.WaitGroup
	for k := range 4 {
		visitors.Go(func() {
			for i := range visits {
				c := join(t, e, resumePoint{}, fmt.Sprint("visitor", k))
				if i%3 > 0 {
					_ = c.read()
				}
				_ = c.conn.Close()
			}
		})
	}
	closed := make([]int, 2)
	for k := range closed {
		closers.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(k), 5))
			var ids []string
			for ctx.Err() == nil {
				list, _, _ := e.Connections(ctx, Match{Channel: fmt.Sprint("visitor", rng.IntN(4))}, "", 5)
				ids = append(ids, idsOf(list)...)
				ids = ids[max(0, len(ids)-200):]
				for range min(len(ids), 10) {
					if found, _ := e.CloseConnection(ctx, ids[rng.IntN(len(ids))]); found {
						closed[k]++
					}
				}
			}
		})
	}
	visitors.Wait()
	over()
	closers.Wait()
	require.Eventually(t, func() bool { return e.conns.Load() == int64(len(kept)) }, waitLong, pollEvery)
	require.GreaterOrEqual(t, int(e.Stats().Closed[CloseAdmin]), closed[0]+closed[1])
	e.log.Append(sseproto.ID{Ms: 1000, Seq: 1}, "kept", "m1")
	for _, c := range kept {
		require.Equal(t, []string{"m1"}, datas(c.next(1)))
	}
}

func TestFullSocketAndPositionAreSeen(t *testing.T) {
	e := startEngine(t, nil)
	f := startFeed(e, 1000)
	joined(t, e, resumePoint{}, "frozen")
	first := f.publish("other", "x")
	for !connectionsOf(t, e, "", 1)[0].Blocked {
		f.publish("frozen", strings.Repeat("x", 8000))
	}
	c := connectionsOf(t, e, "frozen", 1)[0]
	require.True(t, first.Less(c.Position), "it got the first ones")
	require.True(t, c.Position.Less(sseproto.ID{Ms: f.t, Seq: f.n}))
	quiet := joined(t, e, resumePoint{}, "quiet")
	last := f.publish("other", "x")
	require.Eventually(t, func() bool { return connectionsOf(t, e, "quiet", 1)[0].Position == last }, waitLong, pollEvery,
		"who misses nothing is at the end of the log")
	require.NoError(t, quiet.conn.Close())
}

func TestConnectionTellsTheClientsAddress(t *testing.T) {
	s := serveEngine(t, Config{})
	w := s.dial().Send(getStream("a"))
	require.Equal(t, 200, w.Answer(http.MethodGet).StatusCode)
	require.Equal(t, w.LocalAddr().String(), connectionsOf(t, s.Engine, "a", 1)[0].Client)
}

func TestConnectionTellsForWhomAProxySpeaks(t *testing.T) {
	s := serveEngine(t, Config{MaxPerAddress: 5, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	for channel, client := range map[string]string{"four": "203.0.113.9", "six": "2001:db8:1:2::7"} {
		w := s.dial().Send(getStream(channel, "X-Forwarded-For: "+client))
		require.Equal(t, 200, w.Answer(http.MethodGet).StatusCode)
	}
	require.Equal(t, "203.0.113.9", connectionsOf(t, s.Engine, "four", 1)[0].Client)
	require.Equal(t, "2001:db8:1:2::/64", connectionsOf(t, s.Engine, "six", 1)[0].Client)
}

func TestQuestionsEndWithTheirContextAndWithTheEngine(t *testing.T) {
	s := serveEngine(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := s.Connections(ctx, Match{}, "", 1)
	require.ErrorIs(t, err, context.Canceled)
	_, err = s.CloseConnection(ctx, "0-1-1")
	require.ErrorIs(t, err, context.Canceled)
	_, err = s.TopChannels(ctx, BySubscribers, 1)
	require.ErrorIs(t, err, context.Canceled)
	s.stop()
	_, _, err = s.Connections(t.Context(), Match{}, "", 1)
	require.ErrorIs(t, err, ErrStopped)
	_, err = s.CloseConnection(t.Context(), "0-1-1")
	require.ErrorIs(t, err, ErrStopped)
	require.Empty(t, s.asking)
	require.Empty(t, s.log.inspecting)
}

func TestAnIdleSlotHasNotGrown(t *testing.T) {
	require.EqualValues(t, 40, unsafe.Sizeof(slot{}))
	require.EqualValues(t, 20, unsafe.Sizeof(subscription{}))
}

// TestAnswerIsBoundedBySubscriptionsToo: slots with many channels take longer to look at.
func TestAnswerIsBoundedBySubscriptionsToo(t *testing.T) {
	h := shardByHand(t, nil)
	const streams, each = 60, 50
	for range streams {
		h.arrive(t, resumePoint{}, numbered("c", 1, each)...)
	}
	for _, channel := range []string{"", "c7"} {
		pages, found, last := 0, 0, uint32(0)
		for ; pages == 0 || last != 0; pages++ {
			q := &listAsk{ctx: t.Context(), match: Match{Channel: channel}, after: last, limit: askFound, reply: make(chan listed, 1)}
			q.answer(h.shard)
			part := <-q.reply
			require.LessOrEqual(t, len(part.found)*each, askLooks+each)
			found, last = found+len(part.found), part.last
		}
		require.Equal(t, streams, found)
	}
}

// TestPlannedEndTellsAPlaceToWhoHasNone: a client without an ID would miss what comes
// until it is back; one that has an ID is not told another, some show that as an event.
// Who does not gets a place in any case: its ID may be old.
func TestPlannedEndTellsAPlaceToWhoHasNone(t *testing.T) {
	h := shardByHand(t, nil)
	quiet, served := h.arrive(t, resumePoint{}, "quiet"), h.arrive(t, resumePoint{}, "a")
	first := h.f.publish("a", "x")
	back, browser := h.arrive(t, after(first), "quiet"), h.arrive(t, after(first), "quiet")
	h.slots.at(4).flags |= slotTakesID
	served.next(1)
	for _, c := range []*testClient{quiet, back, browser} {
		require.NoError(t, c.read(), "the head")
	}
	last := h.f.publish("noise", "x")
	h.pass()
	for i, reason := range []CloseReason{CloseDrain, CloseAdmin, CloseExpired, CloseDrain} {
		h.disconnect(uint32(i+1), h.slots.at(uint32(i+1)), reason)
	}
	for _, c := range []*testClient{quiet, served, back, browser} {
		c.forget()
		require.Empty(t, c.ended())
		_, told := c.dec.Retry()
		require.True(t, told)
	}
	require.Equal(t, last.String(), string(quiet.dec.LastEventID()))
	require.Equal(t, last.String(), string(browser.dec.LastEventID()))
	require.Empty(t, served.dec.LastEventID())
	require.Empty(t, back.dec.LastEventID())
}
