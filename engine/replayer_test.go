package engine

import (
	"context"
	"fmt"
	"math"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/front"
	"ssed/sseproto"
)

// resumeAs attaches a client of an address behind an ID, past the front.
func resumeAs(t testing.TB, e *Engine, client uint64, id string, channels ...string) *testClient {
	fd, conn := socketPair(t)
	e.conns.Add(1)
	e.attach(&front.Stream{
		FD: fd, Head: []byte("HEAD\n"), Channels: channels, Since: e.log.standing(),
		LastEventID: id, Resumes: true, Client: client,
	})
	return newTestClient(t, conn)
}

// countingHistory counts the reads of each channel and of each position, in order.
type countingHistory struct {
	*memoryHistory
	mu    sync.Mutex
	asked []string
}

func (h *countingHistory) Merge(ctx context.Context, channels []string, from []sseproto.ID, after, upTo sseproto.ID, limit int64, r sseproto.Replay) (sseproto.ID, error) {
	h.mu.Lock()
	h.asked = append(h.asked, channels[0]+" "+after.String())
	h.mu.Unlock()
	return h.memoryHistory.Merge(ctx, channels, from, after, upTo, limit, r)
}

func (h *countingHistory) reads() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked
}

// blockedHistory is one whose reads wait, with an engine that has one reader.
func blockedHistory(t *testing.T) (*countingHistory, *Engine) {
	h := &countingHistory{memoryHistory: newMemoryHistory()}
	h.block = make(chan struct{})
	h.add(sseproto.ID{Ms: 900, Seq: 1}, "a", "old")
	h.add(sseproto.ID{Ms: 900, Seq: 2}, "b", "old too")
	e := startEngine(t, func(cfg *Config) {
		cfg.History, cfg.RingBytes, cfg.HistoryReaders, cfg.HistoryWait = h, minRingBytes, 1, time.Hour
	})
	f := startFeed(e, 1000)
	f.tick(sseproto.ID{Ms: 1000})
	return h, e
}

// queued is how many requests wait for a reader.
func (r *replayer) queued() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range r.asked {
		if !q.isTaken {
			n++
		}
	}
	return n
}

// waitingForLog is how many requests wait for the log, without a reader.
func (r *replayer) waitingForLog() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.parts[0].waits.requests.Len()
}

// What a client sends behind the position is not part of what it asks for.
func TestReadsAreSharedByPositionWhateverClientsSend(t *testing.T) {
	h, e := blockedHistory(t)
	first := resumeAs(t, e, 1, "1-1", "x") // holds the reader up
	require.Eventually(t, func() bool { return h.waiting.Load() == 1 }, waitLong, pollEvery)
	var all []*testClient
	for i := range 100 {
		all = append(all, resumeAs(t, e, uint64(i%7+1), fmt.Sprint("800-0/", i), "a"))
	}
	require.Eventually(t, func() bool { return e.Stats().ResumedHistory == 101 }, waitLong, pollEvery)
	require.Equal(t, 1, e.replayer.queued())
	close(h.block)
	for _, c := range all {
		require.Equal(t, []string{"old"}, datas(c.next(1)))
	}
	require.Equal(t, []string{"x 1-1", "a 800-0"}, h.reads())
	_ = first
}

// Who leaves while it waits costs nothing any more: no read, no memory, no goroutine.
func TestWhoLeavesIsTakenOutOfTheQueue(t *testing.T) {
	const n = 500
	h, e := blockedHistory(t)
	resumeAs(t, e, 1, "1-1", "x")
	require.Eventually(t, func() bool { return h.waiting.Load() == 1 }, waitLong, pollEvery)
	goroutines := runtime.NumGoroutine()
	var clients []net.Conn
	for i := range n {
		clients = append(clients, resumeAs(t, e, 2, fmt.Sprint("1-", i+2), "x").conn)
	}
	require.Eventually(t, func() bool { return e.replayer.queued() == n }, waitLong, pollEvery)
	require.Less(t, runtime.NumGoroutine(), goroutines+n/10, "they wait without a goroutine")
	for _, conn := range clients {
		require.NoError(t, conn.Close())
	}
	require.Eventually(t, func() bool { return e.Stats().Streams == 1 }, waitLong, pollEvery)
	require.Zero(t, e.replayer.queued())
	require.Len(t, e.replayer.parts[0].queue.lines, 1, "that of the one that is read")
	lawful := resumeAs(t, e, 3, "800-0", "a")
	close(h.block)
	require.Equal(t, []string{"old"}, datas(lawful.next(1)))
	require.Equal(t, []string{"x 1-1", "a 800-0"}, h.reads())
}

// A read that nobody waits for any more is for who asks the same meanwhile: clients that
// ask and leave do not make a read each.
func TestReadOfWhoHasLeftIsForTheNext(t *testing.T) {
	h, e := blockedHistory(t)
	for i := range 20 {
		gone := resumeAs(t, e, 1, "800-0", "a")
		require.Eventually(t, func() bool { return e.Stats().ResumedHistory == uint64(i+1) && h.waiting.Load() == 1 }, waitLong, pollEvery)
		require.NoError(t, gone.conn.Close())
		require.Eventually(t, func() bool { return e.Stats().Streams == 0 }, waitLong, pollEvery)
	}
	lawful := resumeAs(t, e, 1, "800-0", "a")
	require.Eventually(t, func() bool { return e.Stats().ResumedHistory == 21 }, waitLong, pollEvery)
	close(h.block)
	require.Equal(t, []string{"old"}, datas(lawful.next(1)))
	require.Equal(t, []string{"a 800-0"}, h.reads())
	require.Zero(t, e.Stats().Closed[CloseHistory])
}

// One who waits for the log, not for the history, gives its reader back when it leaves.
func TestReaderIsFreeWhenWhoWaitsForTheLogLeaves(t *testing.T) {
	h := newMemoryHistory()
	h.add(sseproto.ID{Ms: 900, Seq: 1}, "a", "old")
	e := startEngine(t, func(cfg *Config) {
		cfg.History, cfg.RingBytes, cfg.HistoryReaders, cfg.HistoryWait = h, minRingBytes, 1, time.Hour
	})
	f := startFeed(e, 1000)
	gone := resumeAs(t, e, 1, "800-0", "a") // nothing is written yet
	require.Eventually(t, func() bool { return e.log.watchers.Load() == 1 }, waitLong, pollEvery)
	require.NoError(t, gone.conn.Close())
	require.Eventually(t, func() bool { return e.log.watchers.Load() == 0 }, waitLong, pollEvery)
	lawful := resumeAs(t, e, 1, "800-0", "a")
	f.tick(sseproto.ID{Ms: 1000})
	require.Equal(t, []string{"old"}, datas(lawful.next(1)))
}

// Thousands wait for a history that stands still, more addresses than there are readers.
// Whoever asks for what is written gets it meanwhile, and they all get theirs when it goes on.
func TestWhoWaitsForTheWatermarkHoldsNoReader(t *testing.T) {
	n := 5000
	if raceEnabled {
		n = 1000
	}
	h := newMemoryHistory()
	h.add(sseproto.ID{Ms: 900, Seq: 1}, "a", "old")
	h.add(sseproto.ID{Ms: 999, Seq: 9}, "a", "late")
	e := startEngine(t, func(cfg *Config) {
		cfg.History, cfg.RingBytes, cfg.HistoryReaders, cfg.HistoryWait = h, minRingBytes, 2, time.Hour
	})
	f := startFeed(e, 2000)
	f.tick(sseproto.ID{Ms: 950})
	var waiting []*testClient
	for i := range n {
		waiting = append(waiting, resumeAs(t, e, uint64(i+1), fmt.Sprint("960-", i), "a"))
	}
	require.Eventually(t, func() bool { return e.replayer.waitingForLog() == n }, waitLong, pollEvery)
	lawful := resumeAs(t, e, math.MaxUint64, "800-0", "a")
	require.Equal(t, []string{"old"}, datas(lawful.next(1)))
	start := join(t, e, lastOf(1), "never")
	f.tick(sseproto.ID{Ms: 2000})
	require.Equal(t, []string{"late"}, datas(lawful.next(1)))
	for _, c := range waiting {
		require.Equal(t, []string{"late"}, datas(c.next(1)))
	}
	f.publish("never", "first")
	require.Equal(t, []string{"first"}, datas(start.next(1)))
	require.Zero(t, e.log.watchers.Load())
	require.EqualValues(t, 0, e.Stats().Gaps.Total())
}

// One look at all who wait would keep the loops waiting, whose streams resume or leave.
func TestThoseWhoWaitForTheLogAreLookedAtAFewAtATime(t *testing.T) {
	const n = 3*readyAtOnce + 1
	h := shardByHand(t, func(cfg *Config) { cfg.History = newMemoryHistory() })
	r := h.engine.replayer
	p := &r.parts[0]
	for i := range uint64(n) {
		r.request(h.shard, ref{uint32(i), math.MaxUint32}, i, 0, []string{"a"}, 0, after(sseproto.ID{Ms: 960, Seq: i}))
		q, client := r.next()
		require.True(t, r.waitForLog(q))
		r.done(q, client)
	}
	first := func() uint64 { return p.waits.requests.Front().Value.(*replayRequest).key.id.Seq }
	require.NotZero(t, r.queueSome(p, time.Time{}, readyAtOnce))
	require.EqualValues(t, readyAtOnce, first(), "the others are next")
	require.NotZero(t, r.queueReady(p, time.Time{}))
	require.EqualValues(t, readyAtOnce, first(), "each once")
	require.Zero(t, r.queued())
	h.f.tick(sseproto.ID{Ms: 1000})
	require.Zero(t, r.queueReady(p, time.Time{}))
	require.Equal(t, n, r.queued())
	for i := range uint32(n) {
		r.leave(h.shard, ref{i, math.MaxUint32}, 0)
	}
}

// The history stays where it is. All who wait for it are told when their time is over, and
// not one after the other: the last one would wait for minutes.
func TestWaitsForTheWatermarkEndTogether(t *testing.T) {
	const n = 600
	h := newMemoryHistory()
	h.add(sseproto.ID{Ms: 999, Seq: 9}, "a", "late")
	e := startEngine(t, func(cfg *Config) {
		cfg.History, cfg.RingBytes, cfg.HistoryReaders, cfg.HistoryWait = h, minRingBytes, 1, 200*time.Millisecond
	})
	f := startFeed(e, 2000)
	f.tick(sseproto.ID{Ms: 950})
	var waiting []*testClient
	for i := range n {
		waiting = append(waiting, resumeAs(t, e, uint64(i+1), fmt.Sprint("960-", i), "a"))
	}
	for _, c := range slices.Backward(waiting) {
		got := c.next(2)
		require.Contains(t, got[0].data, sseproto.ReasonUnavailable)
		require.Equal(t, "late", got[1].data)
	}
}

// An address that asks for much waits behind itself; others pass.
func TestAddressesTakeTurnsAtTheHistory(t *testing.T) {
	h, e := blockedHistory(t)
	var all []*testClient
	all = append(all, resumeAs(t, e, 1, "1-1", "x"))
	require.Eventually(t, func() bool { return h.waiting.Load() == 1 }, waitLong, pollEvery)
	for i := range 50 {
		all = append(all, resumeAs(t, e, 1, fmt.Sprint("2-", i), "greedy"))
	}
	require.Eventually(t, func() bool { return e.replayer.queued() == 50 }, waitLong, pollEvery)
	for i := range 3 {
		all = append(all, resumeAs(t, e, uint64(i+2), fmt.Sprint("3-", i), "modest"))
	}
	// Somebody else asks for what the greedy one would get last.
	all = append(all, resumeAs(t, e, 9, "2-49", "greedy"))
	require.Eventually(t, func() bool { return e.Stats().ResumedHistory == 55 }, waitLong, pollEvery)
	close(h.block)
	require.Eventually(t, func() bool { return len(h.reads()) == 54 }, waitLong, pollEvery)
	require.Subset(t, h.reads()[1:6], []string{"modest 3-0", "modest 3-1", "modest 3-2", "greedy 2-49"})
	for _, c := range all {
		_ = c.conn.Close()
	}
}

// On a unix socket there are no addresses: each connection has a turn of its own.
func TestClientsWithoutAnAddressDoNotShareATurn(t *testing.T) {
	h := newMemoryHistory()
	h.block = make(chan struct{})
	const readers = readerShares
	s := serveEngine(t, Config{
		Listen: []string{"unix:" + filepath.Join(t.TempDir(), "s")}, RingBytes: minRingBytes,
		History: h, HistoryReaders: readers, HistoryWait: time.Hour,
	})
	startFeed(s.Engine, 1000).tick(sseproto.ID{Ms: 1000})
	for i := range readers {
		s.dial().Send(getStream("a", fmt.Sprintf("Last-Event-ID: 90%d-1", i)))
	}
	eventually(t, func() bool { return h.waiting.Load() == readers }, "each of them has a reader")
	close(h.block)
}

func TestFairQueueForgetsWhoWaitsForNothing(t *testing.T) {
	f := newFairQueue(2, newAddresses(2))
	pop := func() *replayRequest {
		q, _ := f.pop()
		return q
	}
	a, b, shared := &replayRequest{}, &replayRequest{}, &replayRequest{}
	f.push(1, a)
	f.push(1, shared)
	f.push(2, b)
	f.push(2, shared)
	f.push(3, shared)
	f.push(3, shared)
	require.Same(t, a, pop())
	require.Same(t, b, pop())
	require.Same(t, shared, pop(), "at the turn of 3")
	require.Nil(t, pop())
	for client := range uint64(3) {
		f.done(client + 1)
	}
	require.Empty(t, f.lines)
	f.push(1, a)
	f.push(2, a)
	f.remove(a)
	require.Nil(t, pop())
	require.Empty(t, f.lines)
}

// An address has no more than its share of the readers, and goes on when one is done.
func TestFairQueueGivesAnAddressItsShareOfReaders(t *testing.T) {
	f := newFairQueue(2, newAddresses(2))
	for range 5 {
		f.push(1, &replayRequest{})
	}
	for range 2 {
		q, client := f.pop()
		require.NotNil(t, q)
		require.EqualValues(t, 1, client)
	}
	q, _ := f.pop()
	require.Nil(t, q)
	other := &replayRequest{}
	f.push(2, other)
	q, _ = f.pop()
	require.Same(t, other, q)
	f.done(1)
	q, client := f.pop()
	require.NotNil(t, q)
	require.EqualValues(t, 1, client)
	q, _ = f.pop()
	require.Nil(t, q)
}

// An address has its share over all queues, and goes on in any of them when one is done.
func TestFairQueuesShareWhatAnAddressMayHave(t *testing.T) {
	all := newAddresses(2)
	queues := []fairQueue{newFairQueue(1, all), newFairQueue(1, all), newFairQueue(1, all)}
	requests := make([]*replayRequest, len(queues))
	for k := range queues {
		requests[k] = &replayRequest{}
		queues[k].push(1, requests[k])
	}
	pop := func(k int) *replayRequest {
		q, _ := queues[k].pop()
		return q
	}
	require.Same(t, requests[0], pop(0))
	require.Same(t, requests[1], pop(1))
	require.Nil(t, pop(2))
	other := &replayRequest{}
	queues[2].push(2, other)
	require.Same(t, other, pop(2))
	queues[0].done(1)
	require.Same(t, requests[2], pop(2))
	queues[0].push(1, requests[0])
	require.Nil(t, pop(0))
	queues[0].remove(requests[0])
	queues[1].done(1)
	queues[2].done(1)
	queues[2].done(2)
	require.Empty(t, all.all)
	for k := range queues {
		require.Empty(t, queues[k].lines)
	}
}

// An address asks for the history of all partitions. Others get their turns meanwhile: of those
// partitions, too, that it waits for.
func TestAddressHasAShareOfTheReadersOverAllPartitions(t *testing.T) {
	const partitions, readers = 16, 16
	hold := make(chan struct{})
	e, f := startParts(t, partitions, func(cfg *Config) {
		cfg.HistoryReaders, cfg.HistoryWait = readers, time.Hour
		for _, h := range cfg.Histories {
			h.(*memoryHistory).block = hold
		}
	})
	defer close(hold)
	for _, part := range f {
		part.tick()
	}
	readersOf := func(client uint64) (n int) {
		e.replayer.mu.Lock()
		defer e.replayer.mu.Unlock()
		for k := range e.replayer.parts {
			if l := e.replayer.parts[k].queue.lines[client]; l != nil {
				n += l.reading
			}
		}
		return n
	}
	ask := func(client uint64, part int) {
		places := slices.Repeat([]sseproto.ID{{Ms: 1000}}, partitions)
		places[part] = sseproto.ID{Ms: 500 + client}
		resumeAs(t, e, client, vector(part, places...), f[part].channel)
	}
	const greedy = 1
	for part := range partitions {
		ask(greedy, part)
	}
	require.Eventually(t, func() bool {
		return e.Stats().ResumedHistory == partitions && readersOf(greedy) == readers/readerShares
	}, waitLong, pollEvery)
	// As many as the readers that are left take; the partitions that are read have none left.
	for part := range partitions {
		ask(uint64(10+part), part)
	}
	all := func() (n int) {
		e.replayer.mu.Lock()
		defer e.replayer.mu.Unlock()
		for k := range e.replayer.parts {
			n += e.replayer.parts[k].reading
		}
		return n
	}
	require.Eventually(t, func() bool { return all() == readers }, waitLong, pollEvery)
	require.Equal(t, readers/readerShares, readersOf(greedy))
}

// silentHistory fails once, and then never answers.
type silentHistory struct {
	*memoryHistory
	asked atomic.Int32
}

func (h *silentHistory) Merge(ctx context.Context, _ []string, _ []sseproto.ID, after, _ sseproto.ID, _ int64, _ sseproto.Replay) (sseproto.ID, error) {
	if h.asked.Add(1) > 1 {
		<-ctx.Done()
	}
	return after, context.DeadlineExceeded
}

// There are more partitions than readers, and most do not answer. Their clients ask again and again.
// The others are served: those have a share of the readers together.
func TestPartitionsThatDoNotAnswerLeaveReadersToOthers(t *testing.T) {
	const partitions, readers = 12, 8
	var silent []*silentHistory
	e, f := startParts(t, partitions, func(cfg *Config) {
		cfg.HistoryReaders, cfg.HistoryWait = readers, time.Hour
		for k := 1; k < partitions; k++ {
			h := &silentHistory{memoryHistory: newMemoryHistory()}
			silent, cfg.Histories[k] = append(silent, h), h
		}
	})
	for _, part := range f {
		part.tick()
	}
	f[0].h.add(sseproto.ID{Ms: 900, Seq: 1}, f[0].channel, "kept")
	ask := func(client uint64, part int) *testClient {
		places := slices.Repeat([]sseproto.ID{{Ms: 1000}}, partitions)
		places[part] = sseproto.ID{Ms: 500 + client}
		return resumeAs(t, e, client, vector(part, places...), f[part].channel)
	}
	asked := func() (n int) {
		for _, h := range silent {
			n += int(h.asked.Load())
		}
		return n
	}
	for k := range silent {
		ask(uint64(10+k), 1+k)
	}
	require.Eventually(t, func() bool {
		e.replayer.mu.Lock()
		defer e.replayer.mu.Unlock()
		return !slices.ContainsFunc(e.replayer.parts[1:], func(p replayPart) bool { return !p.isSilent || p.reading > 0 })
	}, waitLong, pollEvery)
	for k := range silent {
		ask(uint64(30+k), 1+k)
	}
	require.Eventually(t, func() bool { return asked() == len(silent)+readers/readerShares }, waitLong, pollEvery)
	for client := range uint64(3) {
		require.Equal(t, "kept", ask(client, 0).next(1)[0].data)
	}
	require.Equal(t, len(silent)+readers/readerShares, asked())
}

// lossyHistory tells the same loss at each page as the real one does: until the client
// has a message of the channel.
func lossyHistory() *memoryHistory {
	h, payload := newMemoryHistory(), strings.Repeat("x", 200_000)
	for i := range 40 {
		h.add(sseproto.ID{Ms: 900, Seq: uint64(i + 1)}, "a", fmt.Sprint(i, " ", payload))
	}
	h.lost["b"], h.lost["c"] = sseproto.ReasonTrimmed, sseproto.ReasonTrimmed
	return h
}

// lossyResume is a resume of many pages, whose history tells the same losses at each.
func lossyResume(t *testing.T) (*Engine, *memoryHistory, *feed, *testClient) {
	h := lossyHistory()
	e := startEngine(t, withHistory(h, minRingBytes))
	f := startFeed(e, 1000)
	f.tick(sseproto.ID{Ms: 1000})
	fd, conn := socketPair(t)
	// The socket takes parts of a page, so that pages are read again from in between.
	require.NoError(t, syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, 16<<10))
	c := newTestClient(t, conn)
	attachFd(e, fd, after(sseproto.ID{Ms: 800}), "a", "b", "c")
	return e, h, f, c
}

// A resume of many pages tells each loss once.
func TestLossIsToldOnceForAllPages(t *testing.T) {
	e, h, f, c := lossyResume(t)
	f.publish("a", "live")
	got := c.next(42)
	require.Equal(t, "gap", got[0].kind)
	require.JSONEq(t, `{"reason":"trimmed","channels":["c","b"],"requested":"800-0"}`, got[0].data)
	for i, ev := range got[1:41] {
		require.True(t, strings.HasPrefix(ev.data, fmt.Sprint(i, " ")), "message %d: %.20s", i, ev.data)
	}
	require.Equal(t, "live", got[41].data)
	require.Greater(t, h.readCount(), 7)
	require.EqualValues(t, 1, e.Stats().Gaps.Total())
}

// TestLossBehindADiscontinuityIsToldAgain: the client was told, and has acted on it, before the
// log lost its feed a second time. What the history finds from then on may be the second loss.
func TestLossBehindADiscontinuityIsToldAgain(t *testing.T) {
	e, _, f, c := lossyResume(t)
	told := 0
	see := func(ev event) {
		if ev.kind == "gap" && strings.Contains(ev.data, `"b"`) {
			told++
		}
	}
	for _, ev := range c.next(5) {
		see(ev)
	}
	require.Equal(t, 1, told)
	e.log.CloseSpan(sseproto.ID{Ms: f.t})
	e.log.OpenSpan(sseproto.ID{Ms: 2000})
	f.t = 2000
	f.tick(sseproto.ID{Ms: 2000})
	f.publish("a", "live")
	for data := ""; data != "live"; {
		ev := c.next(1)[0]
		see(ev)
		data = ev.data
	}
	require.GreaterOrEqual(t, told, 2)
	require.LessOrEqual(t, told, 3, "not at each page") // live streams may be told of the discontinuity, too
}

func TestToldLossesForgetChannelsThatMovedOn(t *testing.T) {
	lost := func(channels ...int) (list []lostRange) {
		for _, ch := range channels {
			list = append(list, lostRange{channel: ch, reason: "trimmed"})
		}
		return list
	}
	var none toldLosses
	require.Empty(t, none.with(3, nil, []frameRef{{channel: 1}}))
	told := none.with(3, lost(1, 11), nil)
	require.True(t, told.has(1, "trimmed") && told.has(11, "trimmed"))
	require.False(t, told.has(1, "outage") || told.has(2, "trimmed"))
	next := told.with(3, lost(2), []frameRef{{channel: 11, gap: true}, {channel: 1}})
	require.True(t, next.has(11, "trimmed") && next.has(2, "trimmed"))
	require.False(t, next.has(1, "trimmed"), "it got a message since")
	require.Equal(t, next, next.with(3, nil, nil), "who was told the same asks the same")
	require.Equal(t, next, next.asOf(3))
	require.Empty(t, next.asOf(4), "the history may find another loss by now")
	require.Empty(t, none.asOf(3))
}

// Thousands that wait cost a request each, and no stack.
func TestWaitingResumesAreSmall(t *testing.T) {
	const n = 2000
	h, e := blockedHistory(t)
	resumeAs(t, e, 1, "1-1", "x")
	require.Eventually(t, func() bool { return h.waiting.Load() == 1 }, waitLong, pollEvery)
	before := heapInUse()
	for i := range n { // past the shards, whose slots are counted elsewhere
		e.replayer.request(e.shards[0], ref{uint32(i), math.MaxUint32}, uint64(i), 0, []string{"some-channel"}, 0, after(sseproto.ID{Ms: 2, Seq: uint64(i)}))
	}
	grown := heapInUse() - before
	t.Logf("%d bytes for each that waits", grown/n)
	require.Less(t, grown, int64(n*4<<10))
	require.Equal(t, n, e.replayer.queued())
	for i := range n {
		e.replayer.leave(e.shards[0], ref{uint32(i), math.MaxUint32}, 0)
	}
	require.Zero(t, e.replayer.queued())
	close(h.block)
}
