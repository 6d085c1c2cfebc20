package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// memoryHistory is a History kept by the test: what a writer would have stored.
type memoryHistory struct {
	mu          sync.Mutex
	stored      map[string][]heldMessage
	lost        map[string]string // channel → reason, reported for every read
	reads       int
	written     sseproto.ID // told by Written
	invalidated []sseproto.ID
	err         error
	block       chan struct{} // reads wait until it is closed; nil: they do not
	waiting     atomic.Int32  // reads that wait for it
}

func newMemoryHistory() *memoryHistory {
	return &memoryHistory{stored: make(map[string][]heldMessage), lost: make(map[string]string)}
}

func (h *memoryHistory) add(id sseproto.ID, channel, payload string) {
	h.store(id, channel, sseproto.Message{Data: payload})
}

func (h *memoryHistory) store(id sseproto.ID, channel string, m sseproto.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stored[channel] = append(h.stored[channel], heldMessage{id: id, channel: channel, message: m})
}

func (h *memoryHistory) Range(ctx context.Context, channels []string, after, upTo sseproto.ID, r sseproto.Replay) error {
	if h.block != nil {
		h.waiting.Add(1)
		defer h.waiting.Add(-1)
		select {
		case <-h.block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reads++
	if h.err != nil {
		return h.err
	}
	for i, name := range channels {
		if reason, ok := h.lost[name]; ok {
			r.Lost(i, reason, sseproto.ID{})
		}
		for _, m := range h.stored[name] {
			if after.Less(m.id) && !upTo.Less(m.id) {
				r.Event(i, m.id, m.message)
			}
		}
	}
	return nil
}

func (h *memoryHistory) Merge(ctx context.Context, channels []string, from []sseproto.ID, after, upTo sseproto.ID, limit int64, r sseproto.Replay) (sseproto.ID, error) {
	return mergeRange(ctx, h.Range, channels, from, after, upTo, limit, r)
}

// rangeFunc is History.Range.
type rangeFunc func(ctx context.Context, channels []string, after, upTo sseproto.ID, r sseproto.Replay) error

// mergeRange is History.Merge made of History.Range.
func mergeRange(ctx context.Context, read rangeFunc, channels []string, from []sseproto.ID, after, upTo sseproto.ID, limit int64, r sseproto.Replay) (sseproto.ID, error) {
	var all collected
	if err := read(ctx, channels, after, upTo, &all); err != nil {
		return after, err
	}
	slices.SortStableFunc(all.events, func(a, b collectedEvent) int { return a.id.Compare(b.id) })
	for _, l := range all.lost {
		r.Lost(l.channel, l.reason, l.oldest)
	}
	if from != nil {
		all.events = slices.DeleteFunc(all.events, func(e collectedEvent) bool { return e.id.Less(from[e.channel]) })
	}
	for k, e := range all.events {
		if r.Event(e.channel, e.id, e.message); k+1 < len(all.events) {
			if limit -= int64(len(e.message.Data)); limit <= 0 {
				return e.id, nil
			}
		}
	}
	return upTo, nil
}

// collected is a sseproto.Replay that keeps what it gets.
type collected struct {
	events []collectedEvent
	lost   []lostRange
}

type collectedEvent struct {
	channel int
	id      sseproto.ID
	message sseproto.Message
}

func (c *collected) Event(channel int, id sseproto.ID, m sseproto.Message) {
	c.events = append(c.events, collectedEvent{channel, id, m})
}

func (c *collected) Lost(channel int, reason string, oldest sseproto.ID) {
	c.lost = append(c.lost, lostRange{channel, reason, oldest})
}

// Starts is History.Starts, for what is stored and never trimmed.
func (h *memoryHistory) Starts(_ context.Context, channels []string, at sseproto.StartPoint, counts []int, upTo sseproto.ID) ([]sseproto.ID, sseproto.ID, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	from := make([]sseproto.ID, len(channels))
	for i, name := range channels {
		var list []sseproto.ID
		for _, m := range h.stored[name] {
			if !upTo.Less(m.id) {
				list = append(list, m.id)
			}
		}
		switch {
		case at.Kind == sseproto.FromTime:
			from[i] = sseproto.ID{Ms: at.Time, Seq: 1}
			for _, id := range list {
				if id.Ms <= at.Time {
					from[i] = sseproto.ID{Ms: id.Ms}
				}
			}
		case len(list) == 0:
		case at.Kind == sseproto.FromLast:
			from[i] = list[max(len(list)-counts[i], 0)]
		default:
			from[i] = list[0]
		}
	}
	return from, h.written, h.err
}

func (h *memoryHistory) Written(context.Context) (sseproto.ID, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.written, nil
}

func (h *memoryHistory) Invalidate(_ context.Context, after, upTo sseproto.ID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.invalidated = append(h.invalidated, after, upTo)
	return nil
}

func (h *memoryHistory) readCount() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.reads
}

func withHistory(h History, ringBytes int64) func(*Config) {
	return func(cfg *Config) { cfg.History, cfg.RingBytes = h, ringBytes }
}

func TestResumeReadsTheHistoryAndThenTheRing(t *testing.T) {
	h := newMemoryHistory()
	e := startEngine(t, withHistory(h, minRingBytes))
	f := startFeed(e, 1000)
	var first sseproto.ID
	for i := 1; i <= 20000; i++ {
		id := f.publish("a", fmt.Sprint("m", i))
		h.add(id, "a", fmt.Sprint("m", i))
		if i == 1 {
			first = id
		}
	}
	require.Greater(t, e.Stats().Log.Evicted, uint64(1000))
	f.tick(sseproto.ID{Ms: f.t, Seq: f.n})
	c := join(t, e, after(first), "a")
	require.Equal(t, numbered("m", 2, 20000), datas(c.next(19999)))
	f.publish("a", "m20001")
	require.Equal(t, "m20001", c.next(1)[0].data)
}

func TestResumeWaitsUntilTheHistoryIsWrittenUpToTheRing(t *testing.T) {
	h := newMemoryHistory()
	e := startEngine(t, withHistory(h, minRingBytes))
	f := startFeed(e, 1000)
	first := f.publish("a", "m1")
	c := join(t, e, after(sseproto.ID{Ms: 999}), "a")
	h.add(first, "a", "m1")
	h.add(sseproto.ID{Ms: 999, Seq: 5}, "a", "m0")
	c.read() // the head
	f.tick(sseproto.ID{Ms: 1000})
	require.Equal(t, []string{"m0", "m1"}, datas(c.next(2)))
}

func TestResumeIsNotHeldUpByLateTicks(t *testing.T) {
	h := newMemoryHistory()
	e := startEngine(t, withHistory(h, minRingBytes))
	f := startFeed(e, 1000)
	h.add(sseproto.ID{Ms: 999, Seq: 5}, "a", "m0")
	c := join(t, e, after(sseproto.ID{Ms: 999}), "a")
	c.read() // the head
	h.mu.Lock()
	h.written = sseproto.ID{Ms: 1000}
	h.mu.Unlock()
	require.Equal(t, []string{"m0"}, datas(c.next(1)), "without a tick")
	f.publish("a", "m1")
	require.Equal(t, []string{"m1"}, datas(c.next(1)))
}

func TestIdenticalResumesShareOneRead(t *testing.T) {
	h := newMemoryHistory()
	h.block = make(chan struct{})
	e := startEngine(t, withHistory(h, minRingBytes))
	f := startFeed(e, 1000)
	h.add(sseproto.ID{Ms: 900, Seq: 1}, "a", "old")
	f.tick(sseproto.ID{Ms: 1000})
	var all []*testClient
	for range 100 {
		all = append(all, join(t, e, after(sseproto.ID{Ms: 800}), "a"))
	}
	require.Eventually(t, func() bool { return e.Stats().ResumedHistory == 100 }, waitLong, pollEvery)
	close(h.block)
	for _, c := range all {
		require.Equal(t, []string{"old"}, datas(c.next(1)))
	}
	require.Equal(t, 1, h.readCount())
	h.add(sseproto.ID{Ms: 901, Seq: 1}, "b", "other")
	for range 2 * e.cfg.HistoryReaders { // the readers have their pages back
		require.Equal(t, []string{"other"}, datas(join(t, e, after(sseproto.ID{Ms: 800}), "b").next(1)))
	}
}

func TestHistoryThatTellsOfALossBecomesAGapEvent(t *testing.T) {
	h := newMemoryHistory()
	h.lost["a"] = sseproto.ReasonTrimmed
	h.add(sseproto.ID{Ms: 900, Seq: 7}, "a", "left")
	e := startEngine(t, withHistory(h, minRingBytes))
	f := startFeed(e, 1000)
	f.tick(sseproto.ID{Ms: 1000})
	c := join(t, e, after(sseproto.ID{Ms: 800}), "a", "b")
	got := c.next(2)
	require.Equal(t, "gap", got[0].kind)
	require.Equal(t, "900-6", got[0].id)
	require.JSONEq(t, `{"reason":"trimmed","channel":"a","requested":"800-0"}`, got[0].data)
	require.Equal(t, "left", got[1].data)
}

func TestHistoryThatFailsClosesTheStreamSoThatTheClientAsksAgain(t *testing.T) {
	h := newMemoryHistory()
	h.err = context.DeadlineExceeded
	e := startEngine(t, withHistory(h, minRingBytes))
	f := startFeed(e, 1000)
	f.tick(sseproto.ID{Ms: 1000})
	c := join(t, e, after(sseproto.ID{Ms: 800}), "a")
	require.Empty(t, c.ended())
	require.EqualValues(t, 1, e.Stats().Closed[CloseHistory])
}

func TestLostLinkIsBackfilledFromTheHistoryWithoutTheClientsNotice(t *testing.T) {
	h := newMemoryHistory()
	e := startEngine(t, withHistory(h, 4<<20))
	f := startFeed(e, 1000)
	one, both := joined(t, e, resumePoint{}, "a"), joined(t, e, resumePoint{}, "a", "b")
	last := f.publish("a", "m1")
	e.log.CloseSpan(last)
	h.add(sseproto.ID{Ms: 1000, Seq: 2}, "b", "n2")
	h.add(sseproto.ID{Ms: 1000, Seq: 3}, "a", "m3")
	again := startFeed(e, 2000)
	again.publish("a", "m4") // waits for what is before it
	again.tick(sseproto.ID{Ms: 2000})
	again.publish("b", "n5")
	require.Equal(t, []string{"m1", "m3", "m4"}, datas(one.next(3)))
	require.Equal(t, []string{"m1", "n2", "m3", "m4", "n5"}, datas(both.next(5)))
	require.EqualValues(t, 2, e.Stats().Log.Backfilled)
	late := join(t, e, after(last), "a", "b")
	require.Equal(t, []string{"n2", "m3", "m4", "n5"}, datas(late.next(4)))
}

func TestLostStretchWithoutHistoryIsTold(t *testing.T) {
	e := startEngine(t, nil)
	f := startFeed(e, 1000)
	c := joined(t, e, resumePoint{}, "a", "b")
	last := f.publish("a", "m1")
	e.log.CloseSpan(last)
	again := startFeed(e, 2000)
	again.publish("b", "n2")
	got := c.next(4)
	require.Equal(t, "m1", got[0].data)
	require.Equal(t, []string{"gap", "gap"}, []string{got[1].kind, got[2].kind})
	require.Equal(t, "n2", got[3].data)
	late := join(t, e, after(last), "a", "b")
	require.Equal(t, "gap", late.next(1)[0].kind)
	found := late.next(1)[0]
	for found.kind == "gap" { // those of the live streams are still in the ring
		found = late.next(1)[0]
	}
	require.Equal(t, "n2", found.data)
}

func TestHistoryThatIsNotWrittenInTimeIsTold(t *testing.T) {
	h := newMemoryHistory()
	e := startEngine(t, func(cfg *Config) { cfg.History, cfg.HistoryWait = h, 1 })
	f := startFeed(e, 1000)
	c := joined(t, e, resumePoint{}, "a")
	e.log.CloseSpan(f.publish("a", "m1"))
	again := startFeed(e, 2000)
	again.publish("a", "m2")
	got := c.next(3)
	require.Equal(t, []string{"message", "gap", "message"}, []string{got[0].kind, got[1].kind, got[2].kind})
	require.Contains(t, got[1].data, sseproto.ReasonUnavailable)
}

func TestSpanCutBackToAGoodTickTellsWhoWasServedSince(t *testing.T) {
	h := newMemoryHistory()
	e := startEngine(t, withHistory(h, 4<<20))
	f := startFeed(e, 1000)
	a, b := joined(t, e, resumePoint{}, "a"), joined(t, e, resumePoint{}, "b")
	f.publish("b", "good")
	f.tick(sseproto.ID{Ms: 1000})
	f.publish("a", "doubtful")
	e.log.CloseSpan(sseproto.ID{Ms: 1100})
	h.add(sseproto.ID{Ms: 1100, Seq: 1}, "a", "true")
	again := startFeed(e, 2000)
	again.tick(sseproto.ID{Ms: 2000})
	got := a.next(3)
	require.Equal(t, "doubtful", got[0].data)
	require.Equal(t, "gap", got[1].kind)
	require.Equal(t, "1100-1", got[1].id, "a gap event for all has no ID: each keeps its own")
	require.Equal(t, "true", got[2].data)
	again.publish("b", "more")
	require.Equal(t, []string{"good", "more"}, datas(b.next(2)))
	h.mu.Lock()
	defer h.mu.Unlock()
	require.Equal(t, []sseproto.ID{{Ms: 1100}, {Ms: 2000}}, h.invalidated)
}

// All of a span was numbered by a primary that another one had replaced: it is cut back beyond its
// beginning. Who was served is told, gets what the history has, and the writer gets nothing of it.
func TestSpanThatIsVoidAsAWhole(t *testing.T) {
	h := newMemoryHistory()
	e := startEngine(t, withHistory(h, 4<<20))
	f := startFeed(e, 1000)
	a := joined(t, e, resumePoint{}, "a")
	f.publish("a", "good")
	f.tick(sseproto.ID{Ms: 1000})
	e.log.CloseSpan(sseproto.ID{Ms: f.t})
	void := startFeed(e, 2000)
	void.tick(sseproto.ID{Ms: 2000})
	require.Equal(t, "good", a.next(1)[0].data)
	void.publish("a", "void")
	void.tick(sseproto.ID{Ms: 2000})
	require.Equal(t, "void", a.next(1)[0].data)
	e.log.CloseSpan(sseproto.ID{Ms: 1500})
	h.add(sseproto.ID{Ms: 1600, Seq: 1}, "a", "of the other one")
	again := startFeed(e, 3000)
	again.tick(sseproto.ID{Ms: 3000})
	again.publish("a", "next")
	got := a.next(3)
	require.Equal(t, "gap", got[0].kind)
	require.Equal(t, []string{"of the other one", "next"}, datas(got[1:]))
	texts, _, low := collect(e.log, sseproto.ID{Ms: 1500})
	require.Empty(t, texts)
	require.Equal(t, sseproto.ID{Ms: 3000}, low)
	h.mu.Lock()
	defer h.mu.Unlock()
	require.Equal(t, []sseproto.ID{{Ms: 1500}, {Ms: 3000}}, h.invalidated)
}

// What a void span was preceded by lies beyond its end as well: who got some of that is told
// before it comes again.
func TestBackfilledBeforeAVoidSpanIsTold(t *testing.T) {
	h := newMemoryHistory()
	e := startEngine(t, withHistory(h, 4<<20))
	f := startFeed(e, 1000)
	a, b := joined(t, e, resumePoint{}, "a"), joined(t, e, resumePoint{}, "b")
	quiet := joined(t, e, resumePoint{}, "c")
	f.publish("a", "good")
	f.tick(sseproto.ID{Ms: 1000})
	e.log.CloseSpan(sseproto.ID{Ms: 1100})
	h.add(sseproto.ID{Ms: 1200, Seq: 1}, "c", "of both")
	h.add(sseproto.ID{Ms: 1600, Seq: 1}, "a", "of the other one")
	void := startFeed(e, 2000)
	void.tick(sseproto.ID{Ms: 2000})
	require.Equal(t, []string{"good", "of the other one"}, datas(a.next(2)))
	void.publish("b", "void")
	void.tick(sseproto.ID{Ms: 2000})
	require.Equal(t, "void", b.next(1)[0].data)
	e.log.CloseSpan(sseproto.ID{Ms: 1500})
	again := startFeed(e, 3000)
	again.tick(sseproto.ID{Ms: 3000})
	for _, name := range []string{"a", "b", "c"} {
		again.publish(name, "next")
	}
	got := a.next(3)
	require.Equal(t, "gap", got[0].kind)
	require.Equal(t, []string{"of the other one", "next"}, datas(got[1:]))
	got = b.next(2)
	require.Equal(t, "gap", got[0].kind)
	require.Equal(t, "next", got[1].data)
	require.Equal(t, []string{"of both", "next"}, datas(quiet.next(2)), "what lies before the end comes once")
}

// A span is cut back on one instance; a client of it is told for one of its two channels,
// cut off, and goes on at an instance that has not noticed yet. What it got of the other
// channel, which it was not told of, must not come again.
func TestClientCutOffBetweenTwoGapEventsGetsNothingTwice(t *testing.T) {
	h := newMemoryHistory()
	here, there := startEngine(t, withHistory(h, 4<<20)), startEngine(t, withHistory(h, 4<<20))
	f, g := startFeed(here, 1000), startFeed(there, 1000)
	c := joined(t, here, resumePoint{}, "a", "b")
	for _, channel := range []string{"a", "b"} { // of the demoted primary
		f.publish(channel, "doubtful "+channel)
		g.publish(channel, "doubtful "+channel)
	}
	c.next(2)
	here.log.CloseSpan(sseproto.ID{Ms: 1000})
	startFeed(here, 2000).tick(sseproto.ID{Ms: 2000})
	first := c.next(1)[0]
	require.Equal(t, "gap", first.kind)

	id, _, err := sseproto.ParseEventID(first.id)
	require.NoError(t, err)
	c = joined(t, there, after(id), "a", "b")
	g.publish("a", "next")
	require.Equal(t, []string{"next"}, datas(c.next(1)))
}

// Between the end of a span that was cut back and the next one a client that resumes
// waits: the ring still has what does not count any more.
func TestNobodyResumesIntoWhatWasTakenBack(t *testing.T) {
	h := newMemoryHistory()
	e := startEngine(t, withHistory(h, 4<<20))
	f := startFeed(e, 1000)
	f.publish("a", "doubtful")
	e.log.CloseSpan(sseproto.ID{Ms: 1000})
	c := joined(t, e, after(sseproto.ID{Ms: 1000}), "a")
	h.add(sseproto.ID{Ms: 1000, Seq: 1}, "a", "true")
	again := startFeed(e, 2000)
	again.tick(sseproto.ID{Ms: 2000})
	again.publish("a", "next")
	require.Equal(t, []string{"true", "next"}, datas(c.next(2)))
}

// collect reads all that a history writer would get behind after.
func collect(l *Log, after sseproto.ID) (got []string, through, low sseproto.ID) {
	through = after
	for {
		var next sseproto.ID
		next, low = l.ReadCommitted(through, 7, 1<<20, func(id sseproto.ID, channel string, m sseproto.Message, _ sseproto.ID) {
			got = append(got, fmt.Sprintf("%s %s %s", id, channel, m.Data))
		})
		if low != through || next == through {
			return got, through, low
		}
		through = next
	}
}

// The writer learns where the channel's message before each was, within the span.
func TestHistoryWriterLearnsWhatCameBefore(t *testing.T) {
	e := startEngine(t, withHistory(newMemoryHistory(), 4<<20))
	f := startFeed(e, 1000)
	for _, channel := range []string{"a", "b", "a", "a"} {
		f.publish(channel, "x")
	}
	f.tick(sseproto.ID{})
	e.log.CloseSpan(e.log.last())
	again := startFeed(e, 9000)
	again.publish("b", "y")
	again.publish("b", "z")
	again.tick(sseproto.ID{})
	var got []string
	for after := (sseproto.ID{Ms: 1000}); ; {
		through, low := e.log.ReadCommitted(after, 10, 1<<20, func(id sseproto.ID, channel string, _ sseproto.Message, prev sseproto.ID) {
			got = append(got, fmt.Sprintf("%s %s %s", id, channel, prev))
		})
		if low == after && through == after {
			break
		}
		if after = through; through.Less(low) {
			after = low
		}
	}
	require.Equal(t, []string{
		"1000-1 a 0-0", "1000-2 b 0-0", "1000-3 a 1000-1", "1000-4 a 1000-3", "9000-1 b 0-0", "9000-2 b 9000-1",
	}, got)
}

func TestHistoryWriterGetsCommittedMessagesOnly(t *testing.T) {
	e := startEngine(t, withHistory(newMemoryHistory(), 4<<20))
	f := startFeed(e, 1000)
	for i := range 20 {
		f.publish("a", fmt.Sprint(i, "\r\n\xff"))
	}
	got, through, _ := collect(e.log, sseproto.ID{Ms: 1000})
	require.Empty(t, got)
	require.Equal(t, sseproto.ID{Ms: 1000}, through)
	f.tick(sseproto.ID{})
	f.publish("a", "later")
	got, through, _ = collect(e.log, sseproto.ID{Ms: 1000})
	require.Len(t, got, 20)
	require.Equal(t, "1000-1 a 0\r\n\xff", got[0])
	require.Equal(t, sseproto.ID{Ms: 1100}, through)
}

func TestHistoryWriterIsToldOfDiscontinuities(t *testing.T) {
	e := startEngine(t, withHistory(newMemoryHistory(), 4<<20))
	_, _, low := collect(e.log, sseproto.ID{})
	require.Equal(t, sseproto.ID{}, low, "nothing is known yet")
	f := startFeed(e, 1000)
	_, _, low = collect(e.log, sseproto.ID{})
	require.Equal(t, sseproto.ID{Ms: 1000}, low)
	last := f.publish("a", "m1")
	e.log.CloseSpan(last)
	startFeed(e, 2000)
	got, through, low := collect(e.log, sseproto.ID{Ms: 1000})
	require.Equal(t, []string{"1000-1 a m1"}, got)
	require.Equal(t, last, through)
	require.Equal(t, sseproto.ID{Ms: 2000}, low)
}
