package engine

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// joinNamed attaches a new stream that begins with its position, and reads that.
func joinNamed(t testing.TB, e *Engine, channels ...string) (c *testClient, start sseproto.ID) {
	t.Helper()
	c = requestNamed(t, e, e.log.standing(), true, channels...)
	for len(c.dec.LastEventID()) == 0 {
		require.NoError(t, c.read())
	}
	start, _, err := sseproto.ParseEventID(string(c.dec.LastEventID()))
	require.NoError(t, err)
	return c, start
}

// Whoever leaves before the first event and goes to another instance misses nothing
// that was published from the head of the answer on, and gets nothing from before.
func TestNewStreamThatNamesItsStartLosesNothing(t *testing.T) {
	for name, before := range map[string]func(f *feed){
		"empty":             func(*feed) {},
		"behind a message":  func(f *feed) { f.publish("a", "old") },
		"of another":        func(f *feed) { f.publish("z", "old") },
		"behind a tick":     func(f *feed) { f.publish("a", "old"); f.tick(sseproto.ID{}) },
		"behind many ticks": func(f *feed) { f.publish("a", "old"); f.tick(sseproto.ID{}); f.tick(sseproto.ID{}) },
	} {
		t.Run(name, func(t *testing.T) {
			here, there := startEngine(t, nil), startEngine(t, nil)
			f, g := startFeed(here, 1000), startFeed(there, 1000)
			both := func(act func(*feed)) { act(f); act(g) }
			both(before)
			c, start := joinNamed(t, here, "a", "b")
			require.Empty(t, c.got)
			both(func(f *feed) { f.publish("b", "one"); f.tick(sseproto.ID{}); f.publish("a", "two") })
			require.Equal(t, []string{"one", "two"}, datas(c.next(2)))
			c = join(t, there, after(start), "a", "b")
			require.Equal(t, []string{"one", "two"}, datas(c.next(2)))
		})
	}
}

// Nothing but the retry time comes before the position, and both are one block: some
// clients show a block without data as an event.
func TestStartIsOneBlockWithTheRetryTime(t *testing.T) {
	e := startEngine(t, func(cfg *Config) { cfg.RetryMin, cfg.RetryMax = time.Second, time.Second })
	startFeed(e, 1000)
	c := requestNamed(t, e, e.log.standing(), true, "a")
	n, err := c.conn.Read(c.buf)
	require.NoError(t, err)
	require.Equal(t, "HEAD\nretry: 1000\nid: 1000-0\n\n", string(c.buf[:n]))
}

// A position named in front of a backfill would promise what the backfill brings to those
// who were there before.
func TestStartDuringABackfillIsBehindIt(t *testing.T) {
	h := newMemoryHistory()
	h.block, h.written = make(chan struct{}), sseproto.ID{Ms: 2000}
	here := startEngine(t, func(cfg *Config) { cfg.History, cfg.HistoryWait = h, time.Hour })
	there := startEngine(t, nil)
	f, g := startFeed(here, 1000), startFeed(there, 1000)
	old := joined(t, here, resumePoint{}, "a")
	last := f.publish("a", "m1")
	g.publish("a", "m1")
	here.log.CloseSpan(last)
	lost := g.publish("a", "lost here")
	h.add(lost, "a", "lost here")
	f, g.t, g.n = startFeed(here, 2000), 2000, 0
	there.log.Commit(sseproto.ID{Ms: 2000}, sseproto.ID{Ms: 2000})
	require.Eventually(t, func() bool { return h.waiting.Load() == 1 }, waitLong, pollEvery, "the backfill is under way")
	f.publish("a", "held")
	g.publish("a", "held")
	f.tick(sseproto.ID{})
	g.tick(sseproto.ID{})
	c, start := joinNamed(t, here, "a")
	require.Equal(t, sseproto.ID{Ms: 2100}, start, "the last tick")
	f.publish("a", "new")
	g.publish("a", "new")
	close(h.block)
	require.Equal(t, []string{"new"}, datas(c.next(1)))
	require.Equal(t, []string{"m1", "lost here", "held", "new"}, datas(old.next(4)))
	require.Equal(t, []string{"new"}, datas(join(t, there, after(start), "a").next(1)))
}

// Without a history the live streams are told of a loss; who comes meanwhile is not.
func TestStartBesideALossWithoutHistory(t *testing.T) {
	e := startEngine(t, nil)
	f := startFeed(e, 1000)
	e.log.CloseSpan(f.publish("a", "m1"))
	f = startFeed(e, 2000)
	c, start := joinNamed(t, e, "a")
	require.Equal(t, sseproto.ID{Ms: 2000}, start)
	f.publish("a", "m2")
	require.Equal(t, "m2", c.next(1)[0].data)
}

// An ID ahead of the log is another instance's when ticks can explain it. Waiting for
// any other would be to take for seen what comes meanwhile.
func TestIDThatTicksCannotExplainIsUnknown(t *testing.T) {
	for name, id := range map[string]sseproto.ID{
		"far ahead":             sseproto.MaxID,
		"of another Redis":      {Ms: 1000 + 30_000, Seq: 7},
		"of a clock a bit back": {Ms: 1000 + 4000},
	} {
		t.Run(name, func(t *testing.T) {
			e := startEngine(t, func(cfg *Config) { cfg.HistoryWait = time.Millisecond })
			f := startFeed(e, 1000)
			f.publish("a", "old")
			c := join(t, e, after(id), "a")
			gap := c.next(1)[0]
			require.Equal(t, "gap", gap.kind)
			require.JSONEq(t, fmt.Sprintf(`{"reason":"unknown-id","requested":"%v"}`, id), gap.data)
			f.publish("a", "new")
			require.Equal(t, "new", c.next(1)[0].data)
		})
	}
}

// A process without Redis is alone: no other one can have been quicker, so that an ID
// ahead of its log is from before a restart with a clock that went back.
func TestRestartWithAClockThatWentBackIsTold(t *testing.T) {
	e := startEngine(t, nil)
	e.log.OpenLocal()
	id := e.log.Publish("a", sseproto.Message{Data: "old"})
	id.Ms++
	c := join(t, e, after(id), "a")
	gap := c.next(1)[0]
	require.Equal(t, "gap", gap.kind)
	require.Contains(t, gap.data, sseproto.ReasonUnknownID)
	e.log.Publish("a", sseproto.Message{Data: "new"})
	require.Equal(t, "new", c.next(1)[0].data)
}

// The wait for a quicker instance ends: whatever made the ID, the client is told.
func TestWaitForAnIDAheadEnds(t *testing.T) {
	h := shardByHand(t, func(cfg *Config) { cfg.HistoryWait = time.Minute })
	h.f.publish("a", "one")
	c := h.arrive(t, after(sseproto.ID{Ms: 1000, Seq: 3}), "a")
	began := time.Now()
	pass := func(at, heard time.Duration) slotPhase {
		h.log.mu.Lock()
		h.log.heard = arrival{at: began.Add(heard)}
		h.log.mu.Unlock()
		h.shard.pass(began.Add(at))
		return h.slots.at(1).phase
	}
	const silence = 10 * time.Minute
	require.Equal(t, phaseAhead, pass(silence, 0), "no tick came: the log could not get there")
	require.Equal(t, phaseAhead, pass(silence+time.Second, silence))
	require.Equal(t, phaseAhead, pass(silence+59*time.Second, silence+59*time.Second))
	require.Equal(t, phaseLive, pass(silence+61*time.Second, silence+61*time.Second))
	gap := c.next(1)[0]
	require.Equal(t, "gap", gap.kind)
	require.Contains(t, gap.data, sseproto.ReasonUnknownID)
	require.Equal(t, "1000-1", gap.id, "where it goes on")
	h.f.publish("a", "two")
	h.shard.pass(began.Add(silence + 62*time.Second))
	require.Equal(t, "two", c.next(1)[0].data)
}

// On a link with a backlog ticks come late, and others are ahead by as much. A new span has
// another link, and may be of another Redis.
func TestLateTicksExplainAnIDAhead(t *testing.T) {
	const wait = time.Second
	l := newLog(minRingBytes, minSegmentBytes, 1, false, func(uint64) {})
	l.OpenSpan(sseproto.ID{Ms: 1000})
	began := l.heard.at
	l.heard.note(sseproto.ID{Ms: 1100}, began.Add(5*time.Second))
	l.ticked.Store(&sseproto.ID{Ms: 1100})
	now := began.Add(5 * time.Second)
	require.Equal(t, 4900*time.Millisecond, l.heard.lag)
	require.True(t, l.explains(sseproto.ID{Ms: 1100 + 5900}, now, wait))
	require.False(t, l.explains(sseproto.ID{Ms: 1100 + 5901}, now, wait))
	require.True(t, l.explains(sseproto.ID{Ms: 1100 + 6900}, now.Add(wait), wait), "since the last tick, too")
	require.True(t, l.isBehind(now, wait))
	l.heard.note(sseproto.ID{Ms: 1000 + 5010}, now.Add(10*time.Millisecond))
	require.Zero(t, l.heard.lag, "it has caught up")

	l.heard.note(sseproto.ID{Ms: 6100}, now.Add(time.Hour))
	require.False(t, l.explains(sseproto.ID{Ms: 6100 + 11_001}, now.Add(time.Hour), wait), "the clock was set back")
	l.CloseSpan(sseproto.ID{Ms: 6100})
	l.OpenSpan(sseproto.ID{Ms: 6200})
	require.Zero(t, l.heard.lag)
}

// Behind a failover ticks run ahead of the clock of Redis, a millisecond each, until it has caught
// up. The link is no later for that.
func TestTicksAheadOfTheClockDoNotCountAsLate(t *testing.T) {
	l := newLog(minRingBytes, minSegmentBytes, 1, false, func(uint64) {})
	l.OpenSpan(sseproto.ID{Ms: 3000})
	at := l.heard.at
	for ms := uint64(3001); ms <= 3020; ms++ { // two seconds
		at = at.Add(100 * time.Millisecond)
		l.heard.note(sseproto.ID{Ms: ms}, at)
		require.Zero(t, l.heard.lag)
	}
	at = at.Add(100 * time.Millisecond)
	l.heard.note(sseproto.ID{Ms: 3100}, at) // it has
	require.Equal(t, 20*time.Millisecond, l.heard.lag)
	l.heard.note(sseproto.ID{Ms: 3200}, at.Add(400*time.Millisecond))
	require.Equal(t, 320*time.Millisecond, l.heard.lag, "a link that is late is")
}

// Messages that came while the request was decided do not make the start a guess.
func TestStartBetweenMessagesIsTheIDOfTheOneBefore(t *testing.T) {
	h := shardByHand(t, nil)
	first := h.f.publish("a", "one")
	since := h.log.standing()
	h.f.publish("a", "two")
	h.f.publish("a", "three")
	id, covered := h.log.startAt(since)
	require.True(t, covered)
	require.Equal(t, first, id)
}
