//go:build linux

package engine

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/sock"
	"ssed/sseproto"
)

// joinTCP attaches a client and returns when it is subscribed.
func joinTCP(t testing.TB, e *Engine, resume resumePoint, channels ...string) *testClient {
	fd, conn := tcpPair(t)
	attachFd(e, fd, resume, channels...)
	c := newTestClient(t, conn)
	require.NoError(t, c.read())
	return c
}

func withPolicies(policies ...Policy) func(*Config) {
	return func(cfg *Config) { cfg.RingBytes, cfg.Policies = 32<<20, policies }
}

// until reads to the event with this data.
func (c *testClient) until(data string) (all []event) {
	c.t.Helper()
	for len(all) == 0 || all[len(all)-1].data != data {
		all = append(all, c.next(1)...)
	}
	return all
}

// requireAscending checks that events are some of those that were published, in order.
func requireAscending(t *testing.T, events []event) {
	t.Helper()
	var last sseproto.ID
	for _, ev := range events {
		id, _, err := sseproto.ParseEventID(ev.id)
		require.NoError(t, err)
		require.True(t, last.Less(id), "%v after %v", id, last)
		last = id
	}
}

// Two readers of a channel of SlowLatest: one reads what comes, the other one reads
// nothing until the end. What it gets then is little, though neither socket nor ring was
// full, and ends with the newest.
func TestReaderOfLatestThatIsBehindGetsWhatIsNewest(t *testing.T) {
	t.Parallel()
	e := startEngine(t, withPolicies(Policy{"price*", SlowLatest}))
	f := startFeed(e, 1000)
	frozen, brisk := joinTCP(t, e, resumePoint{}, "price"), joinTCP(t, e, resumePoint{}, "price")
	other := joinTCP(t, e, resumePoint{}, "chat")
	const n = 1000
	pad := strings.Repeat("x", 1000)
	for i := 1; i <= n; i++ {
		f.publish("price", fmt.Sprint(i, pad))
		f.publish("chat", fmt.Sprint(i, pad))
		// Some at a time might be taken for a backlog: it waits 50 ms then, on a busy machine often.
		require.Equal(t, fmt.Sprint(i, pad), brisk.next(1)[0].data)
	}
	got := frozen.until(fmt.Sprint(n, pad))
	requireAscending(t, got)
	require.Less(t, len(got), n/4)
	t.Logf("%d of %d messages", len(got), n)
	require.Len(t, other.next(n), n, "a channel without a policy is sent whole")

	// Read up, it is live again.
	for i := range 5 {
		f.publish("price", fmt.Sprint("live", i))
		require.Equal(t, fmt.Sprint("live", i), frozen.next(1)[0].data)
	}
}

// A reader that takes each message before the next one is published lacks none, however
// large they are.
func TestReaderOfLatestThatKeepsUpGetsAll(t *testing.T) {
	t.Parallel()
	for _, size := range []int{100, 5_000, 20_000, 200_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			e := startEngine(t, withPolicies(Policy{"price", SlowLatest}))
			f := startFeed(e, 1000)
			c := joinTCP(t, e, resumePoint{}, "price")
			pad := strings.Repeat("x", size)
			for i := range 50 {
				f.publish("price", fmt.Sprint(i, pad))
				require.Equal(t, fmt.Sprint(i, pad), c.next(1)[0].data)
			}
		})
	}
}

// A stream over channels of both kinds: all of one, in the order of the log with what is
// newest of the other, and an ID from which a resume goes on without a hole.
func TestMixedStreamLosesNothingOfItsOtherChannels(t *testing.T) {
	e := startEngine(t, withPolicies(Policy{"price", SlowLatest}))
	f := startFeed(e, 1000)
	frozen := joinTCP(t, e, resumePoint{}, "price", "chat")
	brisk := joinTCP(t, e, resumePoint{}, "price")
	pad := strings.Repeat("x", 500)
	const n = 3600
	for i := 1; i <= n; i++ {
		f.publish("price", fmt.Sprint("p", i, pad))
		if i%9 == 0 {
			f.publish("chat", fmt.Sprint("c", i, pad))
		}
		brisk.until(fmt.Sprint("p", i, pad))
	}
	read := frozen.next(300)
	require.NoError(t, frozen.conn.Close())
	last, _, err := sseproto.ParseEventID(read[299].id)
	require.NoError(t, err)
	again := joinTCP(t, e, after(last), "price", "chat")
	read = append(read, again.until(fmt.Sprint("c", n, pad))...)
	requireAscending(t, read)
	chat, prices := 0, 0
	for _, ev := range read {
		if ev.data[0] == 'c' {
			chat++
			require.Equal(t, fmt.Sprint("c", 9*chat, pad), ev.data)
			continue
		}
		prices++
	}
	require.Equal(t, n/9, chat)
	require.Less(t, prices, n/2)
	require.Contains(t, datas(read), fmt.Sprint("p", n, pad))
}

// A resume brings the newest alone, from the ring as well as from the history, whatever lies
// behind the ID.
func TestResumeOfLatestGetsTheNewestAlone(t *testing.T) {
	h := newMemoryHistory()
	e := startEngine(t, func(cfg *Config) {
		withHistory(h, minRingBytes)(cfg)
		cfg.Policies = []Policy{{"price*", SlowLatest}}
	})
	f := startFeed(e, 1000)
	start := sseproto.ID{Ms: 900}
	for i := 1; i <= 3000; i++ {
		for k, channel := range []string{"price1", "price2", "chat"} {
			if channel != "price2" || i < 1000 {
				h.add(sseproto.ID{Ms: 900, Seq: uint64(3*i + k)}, channel, fmt.Sprint(channel, " ", i))
			}
		}
	}
	f.publish("price1", "price1 old")
	f.tick(sseproto.ID{Ms: 1000})
	f.publish("price1", "price1 new")
	got := join(t, e, after(start), "price1", "price2", "chat").until("price1 new")
	requireAscending(t, got)
	prices := []string{}
	for _, ev := range got {
		if !strings.HasPrefix(ev.data, "chat") {
			prices = append(prices, ev.data)
		}
	}
	require.Equal(t, []string{"price2 999", "price1 new"}, prices)
	require.Len(t, got, 3000+2)
	for _, ev := range got {
		require.NotEqual(t, "gap", ev.kind)
	}
}

func TestReaderOfCloseThatIsBehindIsClosed(t *testing.T) {
	e := startEngine(t, withPolicies(Policy{"strict", SlowClose}))
	f := startFeed(e, 1000)
	frozen, brisk := joinTCP(t, e, resumePoint{}, "strict"), joinTCP(t, e, resumePoint{}, "strict")
	lenient := joinTCP(t, e, resumePoint{}, "chat")
	pad := strings.Repeat("x", 1000)
	const n = 4000
	for i := 1; i <= n; i++ {
		f.publish("strict", fmt.Sprint(i, pad))
		f.publish("chat", fmt.Sprint(i, pad))
		brisk.next(1)
	}
	got := frozen.ended()
	require.Less(t, len(got), n)
	require.NotEmpty(t, got)
	for i, ev := range got {
		require.Equal(t, fmt.Sprint(i+1, pad), ev.data)
	}
	require.EqualValues(t, 1, e.Stats().Closed[CloseSlow])
	require.Len(t, lenient.next(n), n)

	// It comes back and goes on where it was.
	last, _, err := sseproto.ParseEventID(got[len(got)-1].id)
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(len(got)+1, pad), joinTCP(t, e, after(last), "strict").next(1)[0].data)
}

// A client with a backlog that reads more slowly than ssed writes is not closed while it
// resumes, however busy the channel is: it would come back and be closed again.
func TestResumeOfCloseReachesTheEndWithOneStream(t *testing.T) {
	const backlog = 1000
	pad := strings.Repeat("x", 1000)
	for _, from := range []string{"ring", "history"} {
		t.Run(from, func(t *testing.T) {
			h := newMemoryHistory()
			e := startEngine(t, func(cfg *Config) {
				cfg.RingBytes, cfg.Policies, cfg.History = 32<<20, []Policy{{"strict", SlowClose}}, h
			})
			start := sseproto.ID{Ms: 1000}
			if from == "history" {
				start = sseproto.ID{Ms: 900}
				for i := range backlog {
					h.add(sseproto.ID{Ms: 900, Seq: uint64(i + 1)}, "strict", fmt.Sprint(i+1, pad))
				}
			}
			f := startFeed(e, 1000)
			f.tick(sseproto.ID{Ms: 1000})
			published := len(h.stored["strict"])
			publish := func() {
				published++
				f.publish("strict", fmt.Sprint(published, pad))
			}
			for published < backlog {
				publish()
			}
			c := joinTCP(t, e, after(start), "strict")
			for read := 0; read < published; {
				for range min(10, published-read) {
					read++
					require.Equal(t, fmt.Sprint(read, pad), c.next(1)[0].data)
				}
				if read < backlog {
					publish()
				}
			}
			require.Greater(t, published, backlog+90)
			require.Zero(t, e.Stats().Closed[CloseSlow])

			// It has caught up. When it stops now, it is behind.
			const n = 4000
			brisk := joinTCP(t, e, resumePoint{}, "strict")
			for range n {
				publish()
				brisk.next(1)
			}
			require.Less(t, len(c.ended()), n)
			require.EqualValues(t, 1, e.Stats().Closed[CloseSlow])
		})
	}
}

// A gap event that comes while the replayer looks for the newest messages does not pass for
// one: the resume would get it, and not the newest message of the history.
func TestGapEventIsNoNewestMessageForAResume(t *testing.T) {
	const outages, channels = 2000, 1000
	id := func(ms int) sseproto.ID { return sseproto.ID{Ms: uint64(ms)} }
	h := newMemoryHistory()
	h.add(id(1), "price", "newest")
	cfg := (&Config{RingBytes: minRingBytes, SegmentBytes: minSegmentBytes, History: h, Policies: []Policy{{"price*", SlowLatest}}}).withDefaults()
	l := newLog(cfg.RingBytes, cfg.SegmentBytes, 1, false, func(uint64) {})
	l.dir.subscribe("price") // it is told of each outage
	l.OpenSpan(id(1000))
	r := newReplayer(t.Context(), l, &cfg)
	q := &replayRequest{line: l.Partition(0), history: h}
	for i := range channels - 1 {
		q.channels = append(q.channels, fmt.Sprint("price", i))
	}
	q.channels = append(q.channels, "price")
	ended := make(chan struct{})
	defer func() { <-ended }()
	go func() {
		defer close(ended)
		for i := 1; i <= outages; i++ {
			l.CloseSpan(id(1000 + 2*i))
			l.OpenSpan(id(1000 + 2*i + 1))
		}
	}()
	for isOver := false; !isOver; {
		select {
		case <-ended:
			isOver = true
		default:
		}
		from, err := r.fromNewest(t.Context(), q, id(1000))
		require.NoError(t, err)
		require.Equal(t, id(1), from[channels-1])
	}
	require.NotZero(t, l.Stats().Gaps.Total())
}

// The newest message of the ring is taken back at a failover, before a resume has come to
// it. The resume gets the newest one of the history, which nothing replaces any more.
func TestResumeOfLatestOutlivesAMessageThatIsTakenBack(t *testing.T) {
	h := newMemoryHistory()
	h.block = make(chan struct{})
	h.add(sseproto.ID{Ms: 900, Seq: 1}, "price", "older")
	h.add(sseproto.ID{Ms: 900, Seq: 2}, "price", "newest")
	e := startEngine(t, func(cfg *Config) {
		withHistory(h, minRingBytes)(cfg)
		cfg.Policies = []Policy{{"price", SlowLatest}}
	})
	f := startFeed(e, 1000)
	f.tick(sseproto.ID{Ms: 1000})
	f.publish("price", "taken back")
	c := join(t, e, after(sseproto.ID{Ms: 800}), "price")
	require.Eventually(t, func() bool { return h.waiting.Load() == 1 }, waitLong, pollEvery)
	e.log.CloseSpan(sseproto.ID{Ms: f.t})
	f = startFeed(e, 2000)
	f.tick(sseproto.ID{Ms: 2000})
	close(h.block)
	require.Equal(t, "newest", c.next(1)[0].data)
	f.publish("price", "live")
	c.until("live")
}

// blockedByHand is a client of channel a whose socket takes nothing until release.
func blockedByHand(t *testing.T, h byHand) (c *testClient, release func()) {
	t.Helper()
	c = h.arrive(t, resumePoint{}, "a")
	send := h.send
	h.send = func(int, []sock.Iovec) (int, sock.Result) { return 0, sock.Again }
	h.f.publish("a", "stuck")
	h.pass()
	require.Equal(t, phaseBlocked, h.slots.at(1).phase)
	return c, func() {
		for h.reader.cursor.Load() < h.log.head.Load() {
			h.pass()
		}
		h.send = send
		h.later(1)
	}
}

// Gap events are no values: the newest message in front of them is sent too.
func TestGapEventsDoNotHideTheNewestMessage(t *testing.T) {
	h := shardByHand(t, func(cfg *Config) { cfg.Policies = []Policy{{"a", SlowLatest}} })
	c, release := blockedByHand(t, h)
	h.f.publish("a", "older")
	newest := h.f.publish("a", "newest")
	h.log.CloseSpan(newest)
	h.log.OpenSpan(sseproto.ID{Ms: 2000})
	release()
	h.pass()
	got := c.next(2)
	require.Equal(t, "newest", got[0].data)
	require.Equal(t, "gap", got[1].kind)
}

// A message that is half written is finished, and the newest comes then.
func TestHalfWrittenMessageOfLatestIsFinished(t *testing.T) {
	for _, form := range []form{0, formChunked} {
		h := shardByHand(t, func(cfg *Config) { cfg.Policies = []Policy{{"a", SlowLatest}} })
		fd, conn := socketPair(t)
		attachFormed(h.engine, fd, form, resumePoint{}, "a", "b")
		h.pass()
		c := newFormedClient(t, conn, form)
		require.NoError(t, c.read())
		send := h.send
		h.send = func(fd int, vec []sock.Iovec) (int, sock.Result) {
			half := vec[0]
			half.SetLen(int(half.Len) / 2)
			return send(fd, []sock.Iovec{half})
		}
		h.f.publish("a", "half")
		h.pass()
		require.NotZero(t, h.slots.at(1).off)
		for i := range 10 {
			h.f.publish("a", fmt.Sprint("left out ", i))
			h.f.publish("b", fmt.Sprint(i))
		}
		h.f.publish("a", "newest")
		h.pass()
		h.send = send
		h.later(1)
		h.pass()
		require.Equal(t, []string{"half", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "newest"}, datas(c.next(12)))
	}
}

// However many messages a reader of SlowLatest is behind, its turn costs the same.
func TestTurnOfLatestDoesNotCostByWhatIsLeftOut(t *testing.T) {
	t.Parallel()
	costOf := func(behind int) int64 {
		h := shardByHand(t, func(cfg *Config) {
			cfg.RingBytes, cfg.SegmentBytes = 64<<20, maxSegmentBytes
			cfg.Policies = []Policy{{"a", SlowLatest}}
		})
		c, release := blockedByHand(t, h)
		for range behind {
			h.f.publish("a", "left out")
		}
		newest := h.f.publish("a", "newest")
		release()
		before := h.budget.looks
		h.pass()
		looks := h.budget.looks - before
		got := c.next(1)
		require.Equal(t, newest.String(), got[0].id)
		require.Equal(t, "newest", got[0].data)
		require.Equal(t, phaseLive, h.slots.at(1).phase)
		return looks
	}
	few, many := costOf(10), costOf(20_000)
	require.LessOrEqual(t, many, few+100, "records looked at")
}

// The way by trees back to a position and the way by every message agree.
func TestNewestFindsWhatAWalkFinds(t *testing.T) {
	t.Parallel()
	eachViewOfChannels(t, 20_000, func(v *view, ch uint32) {
		all, _ := v.walk(ch)
		for pos := max(v.tail, 3) - 3; pos < v.head; pos += 211 + pos%29 {
			for target := pos + 1; target < v.head; target += 197 + target%53 {
				got, lost := v.newest(ch, pos, target)
				var want uint64
				if n, _ := slices.BinarySearch(all, target+1); n > 0 && all[n-1] > pos {
					want = all[n-1]
				}
				if want != 0 || !lost {
					if want != got || lost { // so often that require would take most of the time
						require.Failf(t, "they differ", "%d in (%d, %d]: %d and %d, lost %t", ch, pos, target, want, got, lost)
					}
				}
			}
		}
	})
}
