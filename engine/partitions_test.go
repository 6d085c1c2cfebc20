package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/front"
	"ssed/sseproto"
)

// partFeed drives a partition like its Redis feed does.
type partFeed struct {
	line    *Lineage
	channel string // one of its channels
	h       *memoryHistory
	t, n    uint64
}

// startParts runs an engine of several partitions whose feeds are linked at tick 1000, but
// for those that are left out.
func startParts(t testing.TB, partitions int, change func(*Config), leftOut ...int) (*Engine, []*partFeed) {
	feeds := make([]*partFeed, partitions)
	for p := range feeds {
		feeds[p] = &partFeed{channel: channelOfPart("c", p, partitions), h: newMemoryHistory(), t: 1000}
	}
	e := startEngine(t, func(cfg *Config) {
		cfg.Partitions = partitions
		for _, f := range feeds {
			cfg.Histories = append(cfg.Histories, f.h)
		}
		if change != nil {
			change(cfg)
		}
	})
	isLeftOut := make(map[int]bool)
	for _, p := range leftOut {
		isLeftOut[p] = true
	}
	for p, f := range feeds {
		if f.line = e.log.Partition(p); !isLeftOut[p] {
			f.line.OpenSpan(f.id())
		}
	}
	return e, feeds
}

// channelOfPart is a channel of a partition.
func channelOfPart(prefix string, part, partitions int) string {
	for n := 0; ; n++ {
		if name := fmt.Sprint(prefix, n); sseproto.PartitionOf(name, partitions) == part {
			return name
		}
	}
}

func (f *partFeed) id() sseproto.ID { return sseproto.ID{Ms: f.t, Seq: f.n} }

func (f *partFeed) publish(payload string) sseproto.ID {
	f.n++
	f.line.Append(f.id(), f.channel, payload)
	return f.id()
}

// store puts a message into the history alone.
func (f *partFeed) store(payload string) sseproto.ID {
	f.n++
	f.h.add(f.id(), f.channel, payload)
	return f.id()
}

// tick lets the history be written up to the new tick.
func (f *partFeed) tick() {
	f.t, f.n = f.t+100, 0
	f.line.Commit(f.id(), f.id())
}

// vector is the event ID of some places, of which one is its own.
func vector(own int, places ...sseproto.ID) string {
	return string(sseproto.AppendVector(nil, own, places))
}

// placesIn reads an event ID.
func placesIn(t testing.TB, id string, partitions int) (own int, places []sseproto.ID) {
	places = make([]sseproto.ID, partitions)
	own, _, err := sseproto.ParseEventVector(id, places)
	require.NoError(t, err, id)
	return own, places
}

// comeBack attaches a client with an event ID; "": without one, and it takes one.
func comeBack(t testing.TB, e *Engine, lastID string, channels ...string) *testClient {
	return attachStream(t, e, &front.Stream{LastEventID: lastID, Resumes: lastID != "", TakesID: lastID == ""}, channels...)
}

func attachStream(t testing.TB, e *Engine, a *front.Stream, channels ...string) *testClient {
	fd, conn := socketPair(t)
	a.FD, a.Head, a.Channels, a.Since = fd, []byte("HEAD\n"), channels, e.log.standing()
	e.conns.Add(1)
	e.attach(a)
	return newTestClient(t, conn)
}

// startID is the ID with which a stream begins.
func (c *testClient) startID() string {
	for len(c.dec.LastEventID()) == 0 {
		require.NoError(c.t, c.read())
	}
	return string(c.dec.LastEventID())
}

func TestFramesNameAPlaceInEachPartition(t *testing.T) {
	e, f := startParts(t, 3, nil)
	one := comeBack(t, e, "", f[0].channel)
	two := comeBack(t, e, "", f[0].channel, f[2].channel)
	low := sseproto.ID{Ms: 1000}
	for _, c := range []*testClient{one, two} {
		_, places := placesIn(t, c.startID(), 3)
		require.Equal(t, []sseproto.ID{low, low, low}, places)
	}
	a := f[0].publish("a")
	b := f[2].publish("b")
	f[1].tick()
	c := f[0].publish("c")
	want := []string{vector(0, a, low, low), vector(2, a, low, b), vector(0, c, f[1].id(), b)}
	var got []string
	for _, ev := range two.next(3) {
		got = append(got, ev.id)
	}
	require.Equal(t, want, got)
	require.Equal(t, []event{{want[0], "message", "a"}, {want[2], "message", "c"}}, one.next(2))
	large := strings.Repeat("x", asideBytes) // encoded beside the lock
	d := f[2].publish(large)
	f[2].line.Oversize(sseproto.ID{Ms: 1000, Seq: 3}, f[2].channel)
	got2 := two.next(2)
	require.Equal(t, event{vector(2, c, f[1].id(), d), "message", large}, got2[0])
	require.Equal(t, []string{vector(2, c, f[1].id(), sseproto.ID{Ms: 1000, Seq: 3}), "gap"}, []string{got2[1].id, got2[1].kind})
}

// TestStreamGoesOnOnAnInstanceThatHasThePartitionsInAnotherOrder: what it has of the one
// partition lies behind what it lacks of the other.
func TestStreamGoesOnOnAnInstanceThatHasThePartitionsInAnotherOrder(t *testing.T) {
	e, f := startParts(t, 2, nil)
	other, g := startParts(t, 2, nil)
	channels := []string{f[0].channel, f[1].channel}
	first := comeBack(t, e, "", channels...)
	first.startID()
	f[0].publish("a1")
	f[1].publish("b1")
	got := first.next(2)
	require.Equal(t, []string{"a1", "b1"}, datas(got))
	for n := 1; n <= 4; n++ {
		g[1].publish(fmt.Sprint("b", n))
	}
	for n := 1; n <= 3; n++ {
		g[0].publish(fmt.Sprint("a", n))
	}
	second := comeBack(t, other, got[1].id, channels...)
	got = second.next(5)
	require.Equal(t, []string{"b2", "b3", "b4", "a2", "a3"}, datas(got))
	// Its own place until it has joined, that of the ring then.
	require.Equal(t, vector(1, sseproto.ID{Ms: 1000, Seq: 1}, sseproto.ID{Ms: 1000, Seq: 2}), got[0].id)
	require.Equal(t, vector(0, sseproto.ID{Ms: 1000, Seq: 3}, sseproto.ID{Ms: 1000, Seq: 4}), got[4].id)
	g[1].publish("b5")
	require.Equal(t, "b5", second.next(1)[0].data)
	for n := 2; n <= 3; n++ {
		f[0].publish(fmt.Sprint("a", n))
		f[1].publish(fmt.Sprint("b", n))
	}
	third := comeBack(t, e, got[0].id, channels...) // cut off right behind b2
	require.Equal(t, []string{"a2", "a3", "b3"}, datas(third.next(3)))
	f[1].publish("b4")
	require.Equal(t, "b4", third.next(1)[0].data)
}

// TestPartitionThatCannotBeServedStopsNobodysOthers: it was truncated, and comes back later.
func TestPartitionThatCannotBeServedStopsNobodysOthers(t *testing.T) {
	e, f := startParts(t, 2, nil)
	channels := []string{f[0].channel, f[1].channel}
	kept := f[0].publish("a1")
	f[0].publish("taken back")
	f[0].line.CloseSpan(kept)
	b := f[1].publish("b1")
	c := comeBack(t, e, vector(1, sseproto.ID{Ms: 1000}, sseproto.ID{Ms: 1000}), channels...)
	require.Equal(t, []event{{vector(1, sseproto.ID{Ms: 1000}, b), "message", "b1"}}, c.next(1))
	b = f[1].publish("b2")
	require.Equal(t, []event{{vector(1, sseproto.ID{Ms: 1000}, b), "message", "b2"}}, c.next(1))
	f[1].tick()
	f[0].h.add(kept, f[0].channel, "a1")
	f[0].t, f[0].n = 2000, 0
	f[0].h.mu.Lock()
	f[0].h.written = f[0].id()
	f[0].h.mu.Unlock()
	f[0].line.OpenSpan(f[0].id())
	a := f[0].publish("a2")
	b = f[1].publish("b3")
	got := map[string]string{}
	for _, ev := range c.next(3) {
		got[ev.data] = ev.id
	}
	require.Equal(t, []string{"a1", "a2", "b3"}, sortedKeys(got))
	_, places := placesIn(t, got["a1"], 2)
	require.Equal(t, kept, places[0])
	f[0].publish("a3")
	last := c.next(1)[0]
	require.Equal(t, "a3", last.data)
	_, places = placesIn(t, last.id, 2)
	require.Equal(t, []sseproto.ID{{Ms: 2000, Seq: a.Seq + 1}, b}, places)
}

func sortedKeys(m map[string]string) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// TestStreamThatIsAheadInOnePartitionWaitsThereAlone: until the log comes to its place, or
// for a while.
func TestStreamThatIsAheadInOnePartitionWaitsThereAlone(t *testing.T) {
	t.Parallel()
	e, f := startParts(t, 2, func(cfg *Config) { cfg.HistoryWait = 100 * time.Millisecond })
	channels := []string{f[0].channel, f[1].channel}
	f[1].publish("b1")
	c := comeBack(t, e, vector(0, sseproto.ID{Ms: 1000, Seq: 1}, sseproto.ID{Ms: 1000}), channels...)
	require.Equal(t, "b1", c.next(1)[0].data)
	gap := c.next(1)[0]
	require.Equal(t, event{
		vector(0, sseproto.ID{Ms: 1000}, sseproto.ID{Ms: 1000, Seq: 1}), "gap",
		`{"reason":"unknown-id","channel":"` + f[0].channel + `","requested":"` + vector(0, sseproto.ID{Ms: 1000, Seq: 1}, sseproto.ID{Ms: 1000}) + `"}`,
	}, gap)
	f[0].publish("a1")
	require.Equal(t, "a1", c.next(1)[0].data)

	e, f = startParts(t, 2, func(cfg *Config) { cfg.HistoryWait = time.Minute })
	c = comeBack(t, e, vector(0, sseproto.ID{Ms: 1000, Seq: 1}, sseproto.ID{Ms: 1000}), channels...)
	f[1].publish("b1")
	require.Equal(t, "b1", c.next(1)[0].data)
	f[0].publish("a1")
	f[0].publish("a2")
	f[1].publish("b2")
	require.ElementsMatch(t, []string{"a2", "b2"}, datas(c.next(2)))
}

// TestHistoryOfAPartitionIsReadForItsChannelsAlone: once for all who stand at the same place
// in it, wherever they stand in others; each gets IDs of its own.
func TestHistoryOfAPartitionIsReadForItsChannelsAlone(t *testing.T) {
	e, f := startParts(t, 2, nil)
	f[0].t = 900
	var ids []sseproto.ID
	for n := 1; n <= 3; n++ {
		ids = append(ids, f[0].store(fmt.Sprint("a", n)))
	}
	f[0].t, f[0].n = 1000, 0
	f[0].tick()
	b := f[1].publish("b1")
	f[1].publish("b2")
	f[0].h.block = make(chan struct{})
	low := sseproto.ID{Ms: 1000}
	one := comeBack(t, e, vector(0, sseproto.ID{Ms: 800}, low), f[0].channel, f[1].channel)
	require.Equal(t, []string{"b1", "b2"}, datas(one.next(2)), "the others do not wait for it")
	two := comeBack(t, e, vector(0, sseproto.ID{Ms: 800}, b), f[0].channel, f[1].channel)
	require.Equal(t, "b2", two.next(1)[0].data)
	three := comeBack(t, e, vector(0, sseproto.ID{Ms: 800}, sseproto.ID{}), f[0].channel)
	require.Eventually(t, func() bool { return e.Stats().ResumedHistory == 3 }, waitLong, pollEvery)
	close(f[0].h.block)
	for _, c := range []*testClient{one, two, three} {
		for n, ev := range c.next(3) {
			other := sseproto.ID{Ms: 1000, Seq: 2}
			if c == three {
				other = sseproto.ID{}
			}
			require.Equal(t, event{vector(0, ids[n], other), "message", fmt.Sprint("a", n+1)}, ev)
		}
	}
	require.Equal(t, 1, f[0].h.readCount())
	require.Zero(t, f[1].h.readCount())
	f[0].publish("a4")
	for _, c := range []*testClient{one, two, three} {
		require.Equal(t, "a4", c.next(1)[0].data)
	}
}

// TestGapEventsOfAPartitionMoveItAlone: of several the last one.
func TestGapEventsOfAPartitionMoveItAlone(t *testing.T) {
	e, f := startParts(t, 2, nil)
	second := channelOfPart("other", 0, 2)
	f[0].h.lost = map[string]string{f[0].channel: sseproto.ReasonTrimmed, second: sseproto.ReasonExpired}
	f[0].t = 900
	f[0].store("a1")
	left := f[0].store("a2")
	f[0].t, f[0].n = 1000, 0
	f[0].tick()
	b := sseproto.ID{Ms: 1000}
	c := comeBack(t, e, vector(1, sseproto.ID{Ms: 800}, b), f[0].channel, second, f[1].channel)
	got := c.next(4)
	before := sseproto.ID{Ms: 900}
	require.Equal(t, []string{vector(0, sseproto.ID{Ms: 800}, b), vector(0, before, b), vector(0, sseproto.ID{Ms: 900, Seq: 1}, b), vector(0, left, b)},
		[]string{got[0].id, got[1].id, got[2].id, got[3].id})
	require.Equal(t, []string{"gap", "gap", "message", "message"}, []string{got[0].kind, got[1].kind, got[2].kind, got[3].kind})
	require.EqualValues(t, 2, e.Stats().Gaps.Total())
}

// TestGapOfAllChannelsOfAPartitionNamesThem: a gap event without names is one of all channels of
// the stream.
func TestGapOfAllChannelsOfAPartitionNamesThem(t *testing.T) {
	e, f := startParts(t, 2, nil)
	second := channelOfPart("other", 0, 2)
	f[0].h.lost = map[string]string{f[0].channel: sseproto.ReasonTrimmed, second: sseproto.ReasonTrimmed}
	f[0].tick()
	c := comeBack(t, e, vector(1, sseproto.ID{Ms: 800}, sseproto.ID{Ms: 1000}), f[0].channel, second, f[1].channel)
	got := c.next(1)[0]
	require.Equal(t, "gap", got.kind)
	var gap struct {
		Reason   string
		Channels []string
	}
	require.NoError(t, json.Unmarshal([]byte(got.data), &gap))
	require.Equal(t, sseproto.ReasonTrimmed, gap.Reason)
	require.ElementsMatch(t, []string{f[0].channel, second}, gap.Channels)
}

// TestEachLossIsToldToAStreamThatJoinsForLong: one partition is shut for long, and messages of the
// other are lost twice meanwhile, for the same reason.
func TestEachLossIsToldToAStreamThatJoinsForLong(t *testing.T) {
	e, f := startParts(t, 2, nil)
	f[1].publish("taken back")
	f[1].line.CloseSpan(sseproto.ID{Ms: 1000})
	f[0].h.lost = map[string]string{f[0].channel: sseproto.ReasonOutage}
	f[0].tick()
	c := comeBack(t, e, vector(1, sseproto.ID{Ms: 800}, sseproto.ID{Ms: 1000}), f[0].channel, f[1].channel)
	for n := range 3 {
		gap := c.next(1)[0]
		require.Equal(t, "gap", gap.kind, n)
		require.Contains(t, gap.data, sseproto.ReasonOutage)
		id := f[0].publish(fmt.Sprint("a", n))
		require.Equal(t, fmt.Sprint("a", n), c.next(1)[0].data)
		f[0].line.CloseSpan(id)
		f[0].tick()
		f[0].h.mu.Lock()
		f[0].h.written = f[0].id()
		f[0].h.mu.Unlock()
		f[0].line.OpenSpan(f[0].id())
	}
}

// TestNewStreamWaitsForAPartitionThatWasNeverOpen: its ID could name no place in it.
func TestNewStreamWaitsForAPartitionThatWasNeverOpen(t *testing.T) {
	e, f := startParts(t, 2, func(cfg *Config) { cfg.HistoryWait = time.Hour }, 1)
	c := comeBack(t, e, "", f[0].channel, f[1].channel)
	other := comeBack(t, e, "", f[0].channel)
	other.startID()
	a := f[0].publish("a1")
	require.Equal(t, "a1", other.next(1)[0].data)
	f[1].line.OpenSpan(f[1].id())
	got := c.next(1)
	require.Equal(t, []event{{vector(0, a, sseproto.ID{Ms: 1000}), "message", "a1"}}, got)
	f[1].publish("b1")
	require.Equal(t, "b1", c.next(1)[0].data)
}

// TestIDThatAPublisherWasToldStartsTheOtherPartitionsEarlier: by more than clocks differ.
func TestIDThatAPublisherWasToldStartsTheOtherPartitionsEarlier(t *testing.T) {
	e, f := startParts(t, 2, nil)
	for _, feed := range f {
		feed.h.written = sseproto.ID{Ms: 30_000}
	}
	f[1].t = 10_000
	f[1].store("long before")
	f[1].t = 25_000
	f[1].store("b1")
	for _, feed := range f {
		feed.line.CloseSpan(sseproto.ID{Ms: 1000})
		feed.t, feed.n = 30_000, 0
		feed.line.OpenSpan(feed.id())
	}
	a := f[0].publish("a1")
	f[0].publish("a2")
	f[1].publish("b2")
	f[0].tick()
	f[1].tick()
	c := comeBack(t, e, a.String()+".0", f[0].channel, f[1].channel)
	require.ElementsMatch(t, []string{"a2", "b1", "b2"}, datas(c.next(3)))
}

// TestIDOfAnotherKindIsTold.
func TestIDOfAnotherKindIsTold(t *testing.T) {
	e, f := startParts(t, 2, nil)
	for _, id := range []string{"1000-1", "1000-1.2", "x"} {
		c := comeBack(t, e, id, f[0].channel, f[1].channel)
		gap := c.next(1)[0]
		require.Equal(t, "gap", gap.kind)
		require.JSONEq(t, fmt.Sprintf(`{"reason":"unknown-id","requested":%q}`, id), gap.data)
		f[0].publish("a" + id)
		require.Equal(t, "a"+id, c.next(1)[0].data)
	}
}

// TestBarrierOfAPartitionClosesItsStreamsAlone.
func TestBarrierOfAPartitionClosesItsStreamsAlone(t *testing.T) {
	e, f := startParts(t, 2, func(cfg *Config) { cfg.RingBytes = minRingBytes })
	mine := comeBack(t, e, "", f[0].channel)
	both := comeBack(t, e, "", f[0].channel, f[1].channel)
	others := comeBack(t, e, "", f[1].channel)
	for _, c := range []*testClient{mine, both, others} {
		c.startID()
	}
	f[0].line.CloseSpan(f[0].id())
	large := strings.Repeat("x", 4000)
	for range 100 {
		f[0].store(large)
	}
	f[0].h.written = sseproto.ID{Ms: 2000}
	f[0].t, f[0].n = 2000, 0
	f[0].line.OpenSpan(f[0].id())
	f[0].publish("a")
	mine.ended()
	both.ended()
	f[1].publish("b")
	require.Equal(t, "b", others.next(1)[0].data)
	require.EqualValues(t, 2, e.Stats().Closed[CloseHistory])
	again := comeBack(t, e, string(both.dec.LastEventID()), f[0].channel, f[1].channel)
	got := again.next(102)
	small := slices.DeleteFunc(datas(got), func(data string) bool { return data == large })
	require.ElementsMatch(t, []string{"a", "b"}, small)
}

// startlessHistory fails so often to tell where streams start; -1: always.
type startlessHistory struct {
	*memoryHistory
	failures atomic.Int64
	asked    atomic.Int64
}

func (h *startlessHistory) Starts(ctx context.Context, channels []string, at sseproto.StartPoint, counts []int, upTo sseproto.ID) ([]sseproto.ID, sseproto.ID, error) {
	if n := h.asked.Add(1); h.failures.Load() < 0 || n <= h.failures.Load() {
		return nil, sseproto.ID{}, errors.New("away")
	}
	return h.memoryHistory.Starts(ctx, channels, at, counts, upTo)
}

// TestPartitionWhoseHistoryIsAwayKeepsNoStartFromTheOthers: it is told of, in the end.
func TestPartitionWhoseHistoryIsAwayKeepsNoStartFromTheOthers(t *testing.T) {
	away := &startlessHistory{memoryHistory: newMemoryHistory()}
	e, f := startParts(t, 2, func(cfg *Config) { cfg.Histories[1], cfg.HistoryWait = away, 80*time.Millisecond })
	for p, feed := range f {
		feed.t, feed.n = 900, 0
		feed.store(fmt.Sprint("old", p))
		feed.t, feed.n = 1000, 0
		feed.tick()
	}
	start := func(channels ...string) *testClient {
		return attachStream(t, e, &front.Stream{Start: &sseproto.StartPoint{Kind: sseproto.FromLast, Count: 2}}, channels...)
	}
	away.failures.Store(-1)
	c := start(f[0].channel, f[1].channel)
	got := c.next(2)
	_, places := placesIn(t, got[0].id, 2)
	require.Equal(t, f[1].id(), places[1])
	require.Equal(t, []string{"gap", "old0"}, []string{got[0].kind, got[1].data})
	require.JSONEq(t, fmt.Sprintf(`{"reason":"unavailable","channel":%q}`, f[1].channel), got[0].data)
	f[1].publish("new1")
	require.Equal(t, "new1", c.next(1)[0].data)
	require.Empty(t, start(f[1].channel).ended(), "there is nothing else")
	require.EqualValues(t, 1, e.Stats().Closed[CloseHistory])
}

// TestStartIsAskedForAgain: a link that was lost for a moment is no gap.
func TestStartIsAskedForAgain(t *testing.T) {
	t.Parallel()
	away := &startlessHistory{memoryHistory: newMemoryHistory()}
	e, f := startParts(t, 2, func(cfg *Config) { cfg.Histories[1], cfg.HistoryWait = away, time.Minute })
	away.add(sseproto.ID{Ms: 900, Seq: 1}, f[1].channel, "old1")
	f[0].tick()
	f[1].tick()
	away.written = f[1].id()
	away.failures.Store(1)
	c := attachStream(t, e, &front.Stream{Start: &sseproto.StartPoint{Kind: sseproto.FromLast, Count: 2}}, f[0].channel, f[1].channel)
	require.Equal(t, "old1", c.next(1)[0].data)
	require.EqualValues(t, 2, away.asked.Load())
}

// TestStartIsFoundInEachPartition: in the ring, and in the history.
func TestStartIsFoundInEachPartition(t *testing.T) {
	e, f := startParts(t, 2, nil)
	for p, feed := range f {
		feed.t, feed.n = 900, 0
		for n := 1; n <= 3; n++ {
			feed.store(fmt.Sprintf("old%d%d", p, n))
		}
		feed.t, feed.n = 1000, 0
		feed.tick()
		feed.publish(fmt.Sprint("new", p))
	}
	last := attachStream(t, e, &front.Stream{Start: &sseproto.StartPoint{Kind: sseproto.FromLast, Count: 2}}, f[0].channel, f[1].channel)
	require.ElementsMatch(t, []string{"old03", "new0", "old13", "new1"}, datas(last.next(4)))
	since := attachStream(t, e, &front.Stream{Start: &sseproto.StartPoint{Kind: sseproto.FromTime, Time: 1100}}, f[0].channel, f[1].channel)
	require.ElementsMatch(t, []string{"new0", "new1"}, datas(since.next(2)))
	tick := f[0].t
	f[0].tick() // beyond it is nothing
	again := attachStream(t, e, &front.Stream{Start: &sseproto.StartPoint{Kind: sseproto.FromTime, Time: tick + 50}}, f[0].channel)
	require.Equal(t, []string{"new0"}, datas(again.next(1)))
	f[0].publish("newer")
	f[0].tick()
	again = attachStream(t, e, &front.Stream{Start: &sseproto.StartPoint{Kind: sseproto.FromTime, Time: f[0].t - 50}}, f[0].channel)
	require.Equal(t, []string{"newer"}, datas(again.next(1)))
	last.next(1)
	since.next(1)
	f[0].publish("live0")
	require.Equal(t, "live0", again.next(1)[0].data)
	last.next(1)
	since.next(1)
	all := attachStream(t, e, &front.Stream{Start: &sseproto.StartPoint{Kind: sseproto.FromEarliest}}, f[0].channel, f[1].channel)
	for _, ev := range all.next(10) { // each names where it goes on in the other, too
		_, places := placesIn(t, ev.id, 2)
		require.NotContains(t, places, sseproto.ID{})
	}
	f[1].publish("live")
	for _, c := range []*testClient{last, since, all} {
		require.Equal(t, "live", c.next(1)[0].data)
	}
}

// TestAgeIsCountedFromTheSlowestClock: by a later one a start by age would leave out what came at
// the beginning of that age in the partition whose server has a slower clock.
func TestAgeIsCountedFromTheSlowestClock(t *testing.T) {
	e, f := startParts(t, 4, nil, 3)
	tickTo := func(p int, ms uint64) {
		f[p].t = ms - 100
		f[p].tick()
	}
	tickTo(0, 60_000)
	tickTo(1, 57_000)
	require.EqualValues(t, 57_000, e.log.clock(), "partition 2 has no ticks for long, 3 never had any")
	tickTo(2, 60_500)
	require.EqualValues(t, 57_000, e.log.clock())
	tickTo(1, 61_000)
	require.EqualValues(t, 60_000, e.log.clock())
}

// TestReaderThatLosesTheRingOfSeveralPartitionsMissesNothing: its messages have left the ring
// while only its loop was behind, or while it did not read. It joins again, or comes back.
func TestReaderThatLosesTheRingOfSeveralPartitionsMissesNothing(t *testing.T) {
	e, f := startParts(t, 2, func(cfg *Config) { cfg.RingBytes, cfg.SegmentBytes = minRingBytes, minSegmentBytes })
	fd, conn := socketPair(t)
	require.NoError(t, syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, 4<<10))
	channels := []string{f[0].channel, f[1].channel}
	e.conns.Add(1)
	e.attach(&front.Stream{FD: fd, Head: []byte("HEAD\n"), Channels: channels, Since: e.log.standing(), TakesID: true})
	c := newTestClient(t, conn)
	c.startID()
	const n = 2000
	want := map[string]bool{}
	for k := range n {
		feed := f[k%2]
		payload := fmt.Sprint(k, strings.Repeat("x", 200))
		feed.h.add(feed.publish(payload), feed.channel, payload)
		want[payload] = true
	}
	f[0].tick()
	f[1].tick()
	next := [2]int{0, 1}
	got := 0
	for got < n {
		if len(c.got) == 0 && c.read() != nil {
			last := string(c.dec.LastEventID())
			_ = c.conn.Close()
			c = comeBack(t, e, last, channels...)
			continue
		}
		for _, ev := range c.got {
			require.Equal(t, "message", ev.kind, ev.data)
			var k int
			_, err := fmt.Sscanf(strings.TrimRight(ev.data, "x"), "%d", &k)
			require.NoError(t, err)
			require.Equal(t, next[k%2], k)
			next[k%2] += 2
			got++
		}
		c.got = c.got[:0]
	}
	require.Positive(t, e.Stats().Log.Evicted)
}

// TestPlaceIsKnownOfWhatHasLeftTheRing.
func TestPlaceIsKnownOfWhatHasLeftTheRing(t *testing.T) {
	l := newLog(minRingBytes, minSegmentBytes, 1, false, func(uint64) {})
	l.divide(3)
	want := map[uint64][]sseproto.ID{}
	places := make([]sseproto.ID, 3)
	feeds := make([]*partFeed, 3)
	for p := range feeds {
		feeds[p] = &partFeed{line: l.Partition(p), channel: channelOfPart("c", p, 3), t: 1000 + uint64(p)}
		feeds[p].line.OpenSpan(feeds[p].id())
	}
	payload := strings.Repeat("x", 300)
	for k := range 5000 {
		p := k * k % 7 % 3
		places[p] = feeds[p].publish(payload)
		want[l.Position()] = append([]sseproto.ID(nil), places...)
	}
	require.Greater(t, l.tail.Load(), uint64(4000))
	for pos, ids := range want {
		got, known := l.placeAt(pos)
		require.True(t, known)
		if pos > 20 { // all have begun
			require.Equal(t, ids, got, pos)
		}
	}
	_, known := l.placeAt(l.head.Load())
	require.False(t, known)
	v := l.readers[0].open()
	defer v.close()
	for pos := v.tail; pos < v.head; pos++ {
		for p, id := range want[pos] {
			at := v.seekOf(l.Partition(p), v.tail, id)
			require.GreaterOrEqual(t, at, pos)
			if at+1 < v.head {
				e, _ := v.at(at + 1)
				require.EqualValues(t, p, e.part)
				require.True(t, id.Less(e.id))
			}
		}
	}
}

// TestWriterOfAPartitionReadsItsMessagesAlone.
func TestWriterOfAPartitionReadsItsMessagesAlone(t *testing.T) {
	e, f := startParts(t, 2, nil)
	var want [2][]string
	for k := range 1000 {
		p := k * k % 3 % 2
		payload := fmt.Sprint(k)
		f[p].publish(payload)
		want[p] = append(want[p], payload)
	}
	f[0].tick()
	for p, feed := range f {
		var got []string
		after := sseproto.ID{Ms: 1000}
		for {
			through, low := feed.line.ReadCommitted(after, 7, 1<<20, func(_ sseproto.ID, channel string, m sseproto.Message, _ sseproto.ID) {
				require.Equal(t, feed.channel, channel)
				got = append(got, m.Data)
			})
			require.Equal(t, after, low)
			if through == after {
				break
			}
			after = through
		}
		if p == 0 {
			require.Equal(t, want[0], got)
			require.Equal(t, f[0].id(), after)
		} else {
			require.Empty(t, got, "no tick has come behind them")
		}
	}
	_ = e
}

// fromTheBeginning is a history that answers a wish for the oldest message as one in Redis
// may: with a place before all.
type fromTheBeginning struct{ *memoryHistory }

func (h fromTheBeginning) Starts(ctx context.Context, channels []string, at sseproto.StartPoint, counts []int, upTo sseproto.ID) ([]sseproto.ID, sseproto.ID, error) {
	from, written, err := h.memoryHistory.Starts(ctx, channels, at, counts, upTo)
	for k := range from {
		if !from[k].IsZero() {
			from[k] = sseproto.ID{Seq: 1}
		}
	}
	return from, written, err
}

// TestStartBeforeAllIsAPlace: an event ID that named none in a partition would let its
// client start there anywhere when it comes back.
func TestStartBeforeAllIsAPlace(t *testing.T) {
	e, f := startParts(t, 2, func(cfg *Config) {
		for k, h := range cfg.Histories {
			cfg.Histories[k] = fromTheBeginning{h.(*memoryHistory)}
		}
	})
	for _, feed := range f {
		feed.t, feed.n = 900, 0
		feed.store("old")
		feed.t = 1000
		feed.tick()
	}
	c := attachStream(t, e, &front.Stream{Start: &sseproto.StartPoint{Kind: sseproto.FromEarliest}}, f[0].channel, f[1].channel)
	first := c.next(1)[0]
	own, places := placesIn(t, first.id, 2)
	require.Equal(t, sseproto.ID{Seq: 1}, places[1-own])
	again := comeBack(t, e, first.id, f[0].channel, f[1].channel)
	require.Equal(t, []string{"old"}, datas(again.next(1)))
}

// TestStreamThatJoinsGetsTheNewestMessageAlone: of a channel whose policy says so. Then it
// has joined.
func TestStreamThatJoinsGetsTheNewestMessageAlone(t *testing.T) {
	latest := channelOfPart("c", 0, 2)
	e, f := startParts(t, 2, func(cfg *Config) { cfg.Policies = []Policy{{latest, SlowLatest}} })
	for n := 1; n <= 5; n++ {
		f[0].publish(fmt.Sprint("a", n))
		f[1].publish(fmt.Sprint("b", n))
	}
	low := sseproto.ID{Ms: 1000}
	f[0].publish("a6")
	c := comeBack(t, e, vector(0, low, sseproto.ID{Ms: 1000, Seq: 4}), latest, f[1].channel) // behind b5 it could join
	require.Equal(t, []string{"b5", "a6"}, datas(c.next(2)))
	f[0].publish("a7")
	require.Equal(t, "a7", c.next(1)[0].data)
	c = comeBack(t, e, vector(0, low, sseproto.ID{Ms: 1000, Seq: 5}), latest, f[1].channel)
	require.Equal(t, []string{"a7"}, datas(c.next(1)))
	f[1].publish("b6")
	require.Equal(t, "b6", c.next(1)[0].data)
}

// TestHistoryThatFailsHoldsUpNoOtherPartition: it is asked again.
func TestHistoryThatFailsHoldsUpNoOtherPartition(t *testing.T) {
	e, f := startParts(t, 2, func(cfg *Config) { cfg.HistoryWait = 50 * time.Millisecond })
	f[0].t = 900
	f[0].store("a1")
	f[0].t, f[0].n = 1000, 0
	f[0].h.mu.Lock()
	f[0].h.err = context.DeadlineExceeded
	f[0].h.mu.Unlock()
	f[0].tick()
	c := comeBack(t, e, vector(0, sseproto.ID{Ms: 800}, sseproto.ID{Ms: 1000}), f[0].channel, f[1].channel)
	f[1].publish("b1")
	require.Equal(t, "b1", c.next(1)[0].data)
	require.Eventually(t, func() bool { return f[0].h.readCount() >= 2 }, waitLong, pollEvery)
	f[1].publish("b2")
	require.Equal(t, "b2", c.next(1)[0].data)
	f[0].h.mu.Lock()
	f[0].h.err = nil
	f[0].h.mu.Unlock()
	require.Equal(t, "a1", c.next(1)[0].data)
	started := attachStream(t, e, &front.Stream{Start: &sseproto.StartPoint{Kind: sseproto.FromLast, Count: 1}}, f[0].channel, f[1].channel)
	require.ElementsMatch(t, []string{"a1", "b2"}, datas(started.next(2)))
}

// twoPartsByHand is a shard by hand of two partitions, each with a feed. That of the second
// one has a span, which begins at low.
func twoPartsByHand(t *testing.T) (h byHand, feeds []*partFeed, low sseproto.ID) {
	h = shardByHand(t, func(cfg *Config) { cfg.Partitions = 2 })
	low = sseproto.ID{Ms: 1000}
	for p := range 2 {
		feeds = append(feeds, &partFeed{line: h.log.Partition(p), channel: channelOfPart("c", p, 2), t: low.Ms})
	}
	feeds[1].line.OpenSpan(low)
	return h, feeds, low
}

// TestStreamWhosePlaceIsForgottenIsToldOrComesBack: so much has left the ring while its loop
// stood still that nobody knows where it stood. With an ID it comes back, else it is told.
func TestStreamWhosePlaceIsForgottenIsToldOrComesBack(t *testing.T) {
	t.Parallel()
	h, feeds, low := twoPartsByHand(t)
	nameless := attachStream(t, h.engine, &front.Stream{}, feeds[0].channel, feeds[1].channel)
	named := attachStream(t, h.engine, &front.Stream{TakesID: true}, feeds[0].channel, feeds[1].channel)
	h.pass()
	require.Equal(t, vector(0, low, low), named.startID())
	feeds[1].publish("lost")
	other := &partFeed{line: feeds[0].line, channel: channelOfPart("nobody", 0, 2), t: 1000}
	for range 2 * maxLeftEntries {
		other.publish("x")
	}
	h.passAll()
	require.Empty(t, named.ended())
	require.EqualValues(t, 1, h.count.closed[CloseSlow].Load())
	gap := nameless.next(1)[0]
	_, places := placesIn(t, gap.id, 2)
	require.Equal(t, []sseproto.ID{other.id(), {Ms: 1000, Seq: 1}}, places)
	require.Equal(t, []string{"gap", `{"reason":"trimmed"}`}, []string{gap.kind, gap.data})
	feeds[1].publish("live")
	h.pass()
	require.Equal(t, "live", nameless.next(1)[0].data)
}

// TestStreamThatOnlyItsLoopHasKeptWaitingJoinsAgain: what it lacks has left the ring, and its
// place is still known.
func TestStreamThatOnlyItsLoopHasKeptWaitingJoinsAgain(t *testing.T) {
	h, feeds, _ := twoPartsByHand(t)
	c := attachStream(t, h.engine, &front.Stream{TakesID: true}, feeds[0].channel, feeds[1].channel)
	h.pass()
	c.startID()
	feeds[0].publish("m1")
	h.pass()
	require.Equal(t, "m1", c.next(1)[0].data)
	feeds[1].publish("lost")
	other := &partFeed{line: feeds[0].line, channel: channelOfPart("nobody", 0, 2), t: 1000, n: 1}
	for range maxLeftEntries / 8 {
		other.publish("x")
	}
	feeds[0].n = other.n
	feeds[0].publish("m2")
	h.passAll()
	got := c.next(3) // without a history each partition has a gap
	require.Equal(t, []string{"gap", "gap", "message"}, []string{got[0].kind, got[1].kind, got[2].kind})
	require.Equal(t, "m2", got[2].data)
	_, places := placesIn(t, got[0].id, 2)
	require.Contains(t, places, sseproto.ID{Ms: 1000, Seq: 1}, "of m1, where it stood in the first partition, or of what is lost")
	require.Zero(t, h.count.closed[CloseSlow].Load())
	require.EqualValues(t, 1, h.count.reattached.Load())
	require.Empty(t, h.joins)
}

// TestNothingIsSentBeforeEachPartitionHasAPlace: where a stream starts in the one partition is
// known, and its history is there, while the other is still asked.
func TestNothingIsSentBeforeEachPartitionHasAPlace(t *testing.T) {
	slow := &slowStarts{let: make(chan struct{})}
	e, f := startParts(t, 2, func(cfg *Config) {
		slow.memoryHistory = cfg.Histories[1].(*memoryHistory)
		cfg.Histories[1] = slow
	})
	for _, feed := range f {
		feed.t, feed.n = 900, 0
		feed.store("old" + feed.channel)
		feed.t = 1000
		feed.tick()
	}
	c := attachStream(t, e, &front.Stream{Start: &sseproto.StartPoint{Kind: sseproto.FromEarliest}}, f[0].channel, f[1].channel)
	require.NoError(t, c.read())
	require.Eventually(t, func() bool { return slow.asked.Load() && !isAtWorkFor(e, 0) }, waitLong, pollEvery)
	close(slow.let)
	for range 2 {
		_, places := placesIn(t, c.next(1)[0].id, 2)
		require.NotContains(t, places, sseproto.ID{})
	}
}

// isAtWorkFor reports whether the replayer or a loop has something left to do for a partition.
func isAtWorkFor(e *Engine, part int) bool {
	for _, s := range e.shards {
		a := &workAsk{make(chan bool, 1)}
		s.post(command{ask: a})
		if <-a.reply {
			return true
		}
	}
	e.replayer.mu.Lock()
	defer e.replayer.mu.Unlock()
	for key := range e.replayer.asked {
		if int(key.part) == part {
			return true
		}
	}
	return false
}

// slowStarts is a history that tells where streams start when it is let.
type slowStarts struct {
	*memoryHistory
	asked atomic.Bool
	let   chan struct{}
}

func (h *slowStarts) Starts(ctx context.Context, channels []string, at sseproto.StartPoint, counts []int, upTo sseproto.ID) ([]sseproto.ID, sseproto.ID, error) {
	h.asked.Store(true)
	<-h.let
	return h.memoryHistory.Starts(ctx, channels, at, counts, upTo)
}
