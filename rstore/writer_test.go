package rstore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redisconn"
	"ssed/sseproto"
)

func TestConfigReportsEveryProblemAtOnce(t *testing.T) {
	_, err := New(Config{Instance: "a b", MaxLen: -1, BatchSize: 20_000, TTL: time.Microsecond, FlushInterval: -1, LeaseTTL: 1, GapWait: 1}, nil)
	for _, want := range []string{
		"no source", "Client: no Redis address", "Prefix: it is empty", "Instance", "MaxLen",
		"BatchSize", "TTL", "FlushInterval", "LeaseTTL", "GapWait",
	} {
		require.ErrorContains(t, err, "rstore: "+want)
	}
}

func TestHistoryHoldsEveryMessageOnceInOrder(t *testing.T) {
	w, log, s := startWriter(t, nil)
	var all []message
	for tick := 1; tick <= 20; tick++ {
		m := w.burst(tick, 90, 20)
		all = append(all, m...)
		log.commit(w.id(tick+1, 0), m...)
	}
	w.waitMark(s, w.id(21, 0))
	w.requireHistory(all)
	st := s.Stats()
	require.EqualValues(t, len(all), st.Appended)
	require.True(t, st.Writer)
	require.Zero(t, st.TakeOvers)
	require.Equal(t, []gap{{stretch{sseproto.ID{}, w.id(0, 0)}, sseproto.ReasonOutage}}, w.markers(),
		"what lies before the first position is marked")
}

func TestPayloadIsStoredByteForByte(t *testing.T) {
	w, log, s := startWriter(t, nil)
	var messages []message
	for i, data := range []string{"", "\x00\xff\xfe", "a\r\nb\rc\n", strings.Repeat("x", 3<<20), "{\"text\": \"☃\"}"} {
		messages = append(messages, message{w.id(0, i+1), "bytes", data})
	}
	log.commit(w.id(1, 0), messages...)
	w.waitMark(s, w.id(1, 0))
	w.requireHistory(messages)
	ttl, err := w.do("PTTL", testPrefix+"bytes").AsInt64()
	require.NoError(t, err)
	require.InDelta(t, time.Hour.Milliseconds(), ttl, 60_000)
}

func TestLongStreamsAreTrimmed(t *testing.T) {
	w, log, s := startWriter(t, func(cfg *Config) { cfg.MaxLen = 50 })
	log.commit(w.id(1, 0), w.burst(0, 1000, 1)...)
	w.waitMark(s, w.id(1, 0))
	got := w.history("ch0")
	require.GreaterOrEqual(t, len(got), 50)
	require.LessOrEqual(t, len(got), 200)
	require.Equal(t, w.id(0, 1000), got[len(got)-1].id)
}

func sum(counts []uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// 5,000 messages are 50 batches of 100, whatever the number of channels: a writer
// that is behind does not write in small steps.
func TestBatchesOfAWriterThatIsBehindAreFull(t *testing.T) {
	t.Parallel()
	w, log := newWorldAndLog(t)
	log.commit(w.id(1, 0), w.burst(0, 5000, 300)...)
	cfg := w.config("a")
	cfg.FlushInterval = 3 * time.Second // a round trip is shorter, on a busy machine too: Redis is near
	s := w.store(cfg, log)
	w.start(s)
	w.waitMark(s, w.id(1, 0))
	require.EqualValues(t, 5000, s.Stats().Appended)
	require.LessOrEqual(t, s.Stats().Batches, uint64(48+steps), "six pipelines, and the rest in steps")
	st := s.Stats()
	require.GreaterOrEqual(t, st.BatchSizes[slices.Index(SizeBounds[:], 100)], uint64(48), "up to 100")
	require.Equal(t, st.Batches, sum(st.BatchSizes))
	require.EqualValues(t, 5000, st.BatchMessages)
	require.GreaterOrEqual(t, sum(st.WriteTimes), st.Batches/pipelineDepth)
	require.Positive(t, st.WriteTime)
	require.Len(t, st.BatchSizes, len(SizeBounds)+1)
	require.Len(t, st.WriteTimes, len(TimeBounds)+1)
	info, err := w.do("INFO", "commandstats").ToString()
	require.NoError(t, err)
	var calls int
	for line := range strings.Lines(info) {
		if rest, ok := strings.CutPrefix(line, "cmdstat_evalsha:calls="); ok {
			_, err := fmt.Sscanf(rest, "%d", &calls)
			require.NoError(t, err)
		}
	}
	require.GreaterOrEqual(t, calls, 50)
	require.LessOrEqual(t, calls, 150, "the batches and a few looks at the lease")
}

// While a batch is written nobody else gets an answer from Redis.
func TestWhatATickCommitsIsWrittenInSmallSteps(t *testing.T) {
	w, log, s := startWriter(t, nil)
	w.waitMark(s, w.id(0, 0))
	all := w.burst(1, 30*steps, 50)
	log.commit(w.id(2, 0), all...)
	w.waitMark(s, w.id(2, 0))
	w.requireHistory(all)
	st := s.Stats()
	require.EqualValues(t, steps, st.Batches)
	require.EqualValues(t, steps, st.BatchSizes[slices.Index(SizeBounds[:], 50)], "alike: 30 each")

	few := w.burst(2, smallBatch+1, 3)
	log.commit(w.id(3, 0), few...)
	w.waitMark(s, w.id(3, 0))
	require.EqualValues(t, steps+2, s.Stats().Batches, "a run for each message would not pay")
}

// What waits for its turn was read in an epoch that Redis has lost meanwhile.
func TestStepsOfALostEpochAreReadAgain(t *testing.T) {
	w, log := newWorldAndLog(t)
	wr := &writer{Store: w.store(w.config("a"), log)}
	w.settle(wr)
	all := w.burst(1, 4*smallBatch, 3)
	log.commit(w.id(2, 0), all...)
	require.Equal(t, wr.watermark, wr.read())
	wr.took = 0 // Redis is near
	wr.append(t.Context())
	require.Equal(t, all[smallBatch-1].id, wr.watermark)
	require.Len(t, wr.queue.batches, 3)

	require.NoError(t, w.do("FLUSHALL").Error())
	w.clock("e2")
	wr.append(t.Context())
	require.Equal(t, "e2", wr.epoch)
	require.Empty(t, wr.queue.batches)
	w.settle(wr)
	require.Equal(t, w.id(2, 0), wr.watermark)
	w.requireHistory(all)
}

func TestQuietTimeAdvancesTheWatermark(t *testing.T) {
	w, log, s := startWriter(t, nil)
	for tick := 1; tick <= 5; tick++ {
		log.commit(w.id(tick, 0))
		w.waitMark(s, w.id(tick, 0))
	}
	require.Zero(t, s.Stats().Batches)
	require.Positive(t, s.Stats().Advances)
}

// Two writers that both believe to hold the lease, all the time.
func TestTwoForcedWritersWriteOnce(t *testing.T) {
	w, log := newWorldAndLog(t)
	const ticks = 40
	var all []message
	for tick := range ticks {
		m := w.burst(tick, 130, 7)
		all = append(all, m...)
		log.commit(w.id(tick+1, 0), m...)
	}
	var stores []*Store
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b"} {
		cfg := w.config(name)
		cfg.FlushInterval, cfg.MaxLen, cfg.BatchSize = 1, 10_000, 10
		s := w.store(cfg, log)
		stores = append(stores, s)
		wg.Go(func() {
			wr := &writer{Store: s}
			for wr.watermark.Less(w.id(ticks, 0)) && t.Context().Err() == nil {
				if wr.epoch != "" && !wr.watermark.IsZero() {
					wr.state = writing
				}
				wr.lookAt = time.Time{}
				wr.step(t.Context(), true)
			}
		})
	}
	wg.Wait()
	w.requireHistory(all)
	a, b := stores[0].Stats(), stores[1].Stats()
	require.EqualValues(t, len(all), a.Appended+b.Appended)
	require.Positive(t, a.RefusedStale+b.RefusedStale, "they were in each other's way")
}

// The zombie has collected a batch, is stopped, loses the lease, and sends it later.
func TestZombieWriterChangesNothing(t *testing.T) {
	w, log := newWorldAndLog(t)
	zombie := &writer{Store: w.store(w.config("zombie"), log)}
	w.settle(zombie)
	require.Equal(t, writing, zombie.state)

	first := w.burst(1, 50, 3)
	log.commit(w.id(2, 0), first...)
	require.Equal(t, zombie.watermark, zombie.read())

	require.NoError(t, w.do("DEL", zombie.keys.Lease).Error())
	other := &writer{Store: w.store(w.config("other"), log)}
	second := w.burst(2, 50, 3)
	log.commit(w.id(3, 0), second...)
	w.settle(other)
	require.Equal(t, w.id(3, 0), other.watermark)
	require.EqualValues(t, 1, other.Stats().TakeOvers)

	zombie.append(t.Context())
	require.EqualValues(t, 1, zombie.Stats().RefusedStale)
	require.NotEqual(t, writing, zombie.state, "it learns that another instance writes")
	require.Equal(t, w.id(3, 0), zombie.watermark)
	w.requireHistory(append(first, second...))
}

// settle runs steps until the writer has nothing left to do but wait.
func (w *world) settle(wr *writer) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		wr.lookAt = time.Time{}
		return wr.step(w.ctx(), true).onLog
	}, time.Minute, time.Millisecond, "%+v", wr.Stats())
}

func TestFlushallHealsFromTheLog(t *testing.T) {
	w, log, s := startWriter(t, nil)
	first := w.burst(1, 250, 5)
	log.commit(w.id(2, 0), first...)
	w.waitMark(s, w.id(2, 0))

	require.NoError(t, w.do("FLUSHALL").Error())
	second := w.burst(2, 250, 5)
	log.commit(w.id(3, 0), second...)
	require.Eventually(t, func() bool { return s.Watermark().IsZero() }, time.Minute, time.Millisecond,
		"no clock, no history")
	w.clock("e2")
	w.waitMark(s, w.id(3, 0))
	w.requireHistory(append(first, second...))
	require.Positive(t, s.Stats().RefusedEpoch)
	require.Equal(t, []gap{{stretch{sseproto.ID{}, w.id(0, 0)}, sseproto.ReasonOutage}}, w.markers())
}

func TestScriptFlushIsNotNoticed(t *testing.T) {
	w, log, s := startWriter(t, nil)
	var all []message
	for tick := 1; tick <= 20; tick++ {
		require.NoError(t, w.do("SCRIPT", "FLUSH").Error())
		m := w.burst(tick, 120, 4)
		all = append(all, m...)
		log.commit(w.id(tick+1, 0), m...)
		w.waitMark(s, w.id(tick+1, 0))
	}
	w.requireHistory(all)
	require.Equal(t, ErrorCounts{}, s.Stats().Errors)
}

func TestRestartWithoutDataHealsFromTheLog(t *testing.T) {
	w, log, s := startWriter(t, nil)
	all := w.burst(1, 300, 5)
	log.commit(w.id(2, 0), all...)
	w.waitMark(s, w.id(2, 0))

	w.server.Kill()
	more := w.burst(2, 300, 5)
	log.commit(w.id(3, 0), more...)
	require.Eventually(t, func() bool { return s.Stats().Errors.Link >= 2 }, time.Minute, time.Millisecond)
	require.Positive(t, s.Stats().Lag)
	require.NoError(t, w.server.Restart())
	require.Eventually(t, func() bool { return w.do("PING").Error() == nil }, time.Minute, time.Millisecond)
	w.clock("e2")
	require.Eventually(t, func() bool { return s.Stats().RefusedEpoch > 0 && !s.Watermark().Less(w.id(3, 0)) }, time.Minute, time.Millisecond)
	w.requireHistory(append(all, more...))
	require.Eventually(t, func() bool { return s.Stats().Lag == 0 }, time.Minute, time.Millisecond)
}

func TestRedisMayBeAbsentAtStart(t *testing.T) {
	w := newWorld(t)
	w.server.Stop()
	log := newTestLog(w.id(0, 0))
	s := w.store(w.config("a"), log)
	w.start(s)
	all := w.burst(1, 10, 2)
	log.commit(w.id(2, 0), all...)
	require.Eventually(t, func() bool { return s.Stats().Errors.Link >= 3 }, time.Minute, time.Millisecond)
	err := s.Range(t.Context(), []string{"ch0"}, w.id(0, 0), w.id(2, 0), newRecorder())
	require.Error(t, err)
	require.NoError(t, w.server.Restart())
	require.Eventually(t, func() bool { return w.do("PING").Error() == nil }, time.Minute, time.Millisecond)
	w.clock("e1")
	w.waitMark(s, w.id(2, 0))
	w.requireHistory(all)
}

// Connections are cut while batches are in flight: each may have run or not.
func TestCutConnectionsLoseAndRepeatNothing(t *testing.T) {
	t.Parallel()
	w, log, s := startWriter(t, func(cfg *Config) { cfg.MaxLen, cfg.BatchSize = 10_000, 20 })
	var all []message
	kills := int64(0)
	for tick := 1; tick <= 60; tick++ {
		m := w.burst(tick, 400, 5)
		all = append(all, m...)
		log.commit(w.id(tick+1, 0), m...)
		n, err := w.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").AsInt64()
		require.NoError(t, err)
		kills += n
	}
	w.waitMark(s, w.id(61, 0))
	w.requireHistory(all)
	require.Positive(t, kills)
	require.EqualValues(t, 1, s.Stats().GapMarkers, "the one at the start")
}

func TestFrozenRedisIsCaughtUp(t *testing.T) {
	w, log, s := startWriter(t, func(cfg *Config) {
		cfg.Client.Dialer.KeepAlive, cfg.Client.ConnWriteTimeout = 50*time.Millisecond, 100*time.Millisecond
	})
	all := w.burst(1, 300, 5)
	log.commit(w.id(2, 0), all...)
	w.waitMark(s, w.id(2, 0))
	require.NoError(t, w.server.Pause())
	more := w.burst(2, 300, 5)
	log.commit(w.id(3, 0), more...)
	require.Eventually(t, func() bool { return s.Stats().Errors.Link >= 2 }, time.Minute, time.Millisecond)
	require.NoError(t, w.server.Resume())
	w.waitMark(s, w.id(3, 0))
	w.requireHistory(append(all, more...))
}

// What fell off the log before it could be written is marked and said.
func TestWriterThatFallsOffTheLogLeavesAMarker(t *testing.T) {
	w, log := newWorldAndLog(t)
	wr := &writer{Store: w.store(w.config("a"), log)}
	kept := w.burst(1, 10, 2)
	log.commit(w.id(2, 0), kept...)
	w.settle(wr)

	lost := w.burst(2, 10, 2)
	log.commit(w.id(3, 0), lost...)
	wr.read()
	w.server.Stop()
	wr.append(t.Context())
	log.evict(w.id(3, 0))
	require.NoError(t, w.server.Restart())
	require.Eventually(t, func() bool { return w.do("PING").Error() == nil }, time.Minute, time.Millisecond)
	w.clock("e1")
	require.NoError(t, w.do("HSET", wr.keys.Clock, "watermark", w.id(2, 0).String(), "writer", "a").Error())
	w.settle(wr)
	require.Equal(t, []gap{{stretch{w.id(2, 0), w.id(3, 0)}, sseproto.ReasonUnavailable}}, w.markers())
	require.EqualValues(t, 2, wr.Stats().GapMarkers)
}

// With memory full nothing of a batch is written; afterwards all of it is.
func TestFullMemoryRefusesWholeBatches(t *testing.T) {
	w, log := newWorldAndLog(t, "--maxmemory-policy", "noeviction")
	s := w.store(w.config("a"), log)
	w.start(s)
	all := w.burst(1, 150, 3)
	log.commit(w.id(2, 0), all...)
	w.waitMark(s, w.id(2, 0))
	require.NoError(t, w.do("CONFIG", "SET", "maxmemory", "1").Error())
	more := w.burst(2, 150, 3)
	log.commit(w.id(3, 0), more...)
	require.Eventually(t, func() bool { return s.Stats().Errors.Memory >= 3 }, time.Minute, time.Millisecond)
	w.requireHistory(all)
	require.Equal(t, w.id(2, 0), s.Watermark())
	require.Positive(t, s.Stats().Lag)
	require.NoError(t, w.do("CONFIG", "SET", "maxmemory", "0").Error())
	w.waitMark(s, w.id(3, 0))
	w.requireHistory(append(all, more...))
}

func TestStreamsThatRefuseDoNotHoldUpOthers(t *testing.T) {
	w := newWorld(t)
	w.clock("e1")
	require.NoError(t, w.do("SET", testPrefix+"ch1", "a string").Error())
	high := sseproto.ID{Ms: 1<<64 - 2, Seq: 7}
	require.NoError(t, w.do("XADD", testPrefix+"ch2", high.String(), "by", "hand").Error())
	log := newTestLog(w.id(0, 0))
	s := w.store(w.config("a"), log)
	w.start(s)
	all := w.burst(1, 40, 4)
	log.commit(w.id(2, 0), all...)
	w.waitMark(s, w.id(2, 0))
	st := s.Stats()
	require.EqualValues(t, 20, st.Appended)
	require.EqualValues(t, 20, st.RefusedMessages)
	require.Len(t, w.history("ch0"), 10)
	require.Len(t, w.history("ch3"), 10)

	// Readers are told, also when the key has been put right since.
	require.NoError(t, w.do("DEL", testPrefix+"ch2").Error())
	r := newRecorder()
	require.NoError(t, s.Range(t.Context(), []string{"ch0", "ch1", "ch2"}, w.id(1, 0), w.id(2, 0), r))
	require.Empty(t, r.lost[0])
	require.Equal(t, []string{sseproto.ReasonUnavailable}, r.lost[1])
	require.Equal(t, []string{sseproto.ReasonUnavailable}, r.lost[2])
}

// An error in the middle of a batch leaves the watermark at the last message
// that was written. ACL rules deny one stream here.
func TestErrorInTheMiddleLeavesAPrefix(t *testing.T) {
	w := newWorld(t)
	w.clock("e1")
	require.NoError(t, w.do("ACL", "SETUSER", "writer", "on", ">pw", "+@all", "-xadd", "~*", "&*",
		"(+xadd ~"+testPrefix+"ch0)").Error())
	log := newTestLog(w.id(0, 0))
	all := w.burst(1, 10, 1)
	all[6].channel = "denied"
	log.commit(w.id(2, 0), all...)
	cfg := w.config("a")
	cfg.Client.Username, cfg.Client.Password = "writer", "pw"
	s := w.store(cfg, log)
	w.start(s)
	require.Eventually(t, func() bool { return s.Stats().Errors.Other >= 3 }, time.Minute, time.Millisecond)
	w.requireHistory(all[:6])
	require.Equal(t, w.id(1, 6), s.Watermark())
	require.NoError(t, w.do("ACL", "SETUSER", "writer", "+xadd").Error())
	w.waitMark(s, w.id(2, 0))
	w.requireHistory(all)
}

func TestTakeOverAfterSilenceIsOneStep(t *testing.T) {
	w, log := newWorldAndLog(t)
	cfg := w.config("a")
	cfg.LeaseTTL = time.Hour
	a := &writer{Store: w.store(cfg, log)}
	cfg.Instance = "b"
	b := &writer{Store: w.store(cfg, log)}
	first := w.burst(1, 30, 3)
	log.commit(w.id(2, 0), first...)
	w.settle(a)

	wait := b.step(t.Context(), true)
	require.NotEqual(t, writing, b.state)
	require.Equal(t, b.cfg.LeaseTTL/4, wait.wait, "it looks again four times per lease")
	ttl, err := w.do("PTTL", a.keys.Lease).AsInt64()
	require.NoError(t, err)
	require.LessOrEqual(t, ttl, b.cfg.LeaseTTL.Milliseconds())

	// a is gone and its lease has run out.
	second := w.burst(2, smallBatch, 3)
	log.commit(w.id(3, 0), second...)
	require.NoError(t, w.do("DEL", a.keys.Lease).Error())
	b.lookAt = time.Time{}
	b.step(t.Context(), false)
	require.Equal(t, writing, b.state)
	require.Equal(t, w.id(3, 0), b.watermark)
	require.EqualValues(t, 1, b.Stats().TakeOvers)
	w.requireHistory(append(first, second...))
}

func TestStoppedWriterFlushesAndHandsOver(t *testing.T) {
	w, log := newWorldAndLog(t)
	cfg := w.config("a")
	cfg.LeaseTTL = time.Hour // nobody gets in by waiting
	a := w.store(cfg, log)
	stopA := w.start(a)
	log.commit(w.id(1, 0))
	w.waitMark(a, w.id(1, 0))
	cfg.Instance = "b"
	b := w.store(cfg, log)
	w.start(b)
	w.waitMark(b, w.id(1, 0)) // it has looked; its next look is in 15 minutes

	heard := make(chan string, 1)
	ctx, cancel := context.WithCancel(t.Context())
	ready := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		c, release := w.redis.Dedicate()
		defer release()
		hooks := pubsubHooks(func(m string) { heard <- m }, ready)
		c.SetPubSubHooks(hooks)
		_ = c.Do(ctx, c.B().Subscribe().Channel("__ssed:{"+testPrefix+"}").Build()).Error()
		<-ctx.Done()
	})
	defer wg.Wait()
	defer cancel()
	<-ready

	all := w.burst(1, 30, 3)
	log.commit(w.id(2, 0), all...)
	stopA()
	w.requireHistory(all)
	require.Equal(t, "free a", <-heard)
	require.False(t, a.Stats().Writer)
	b.TryLease()
	more := w.burst(2, 30, 3)
	log.commit(w.id(3, 0), more...)
	w.waitMark(b, w.id(3, 0))
	require.EqualValues(t, 1, b.Stats().TakeOvers)
	w.requireHistory(append(all, more...))
}

// Of several instances that cannot go on from the watermark, the one that goes
// back furthest wins, and only what none has is given up.
func TestLowestOfferWins(t *testing.T) {
	w := newWorld(t)
	w.clock("e1")
	require.NoError(t, w.do("HSET", redisconn.MakeKeys(testPrefix).Clock, "watermark", w.id(10, 0).String(), "writer", "gone").Error())
	var writers []*writer
	round := func() {
		for _, wr := range writers {
			wr.lookAt = time.Time{}
			wr.step(t.Context(), true)
		}
	}
	for i, low := range []int{50, 30, 40} {
		cfg := w.config(fmt.Sprint("i", i))
		cfg.GapWait, cfg.LeaseTTL = time.Hour, time.Hour
		log := newTestLog(w.id(low, 0))
		log.commit(w.id(60, 0))
		writers = append(writers, &writer{Store: w.store(cfg, log)})
	}
	round()
	require.Empty(t, w.markers())
	// An hour later.
	ago := time.Now().Add(-time.Hour - time.Second).UnixMilli()
	require.NoError(t, w.do("HSET", redisconn.MakeKeys(testPrefix).Clock, "offer_at", fmt.Sprint(ago)).Error())
	round()
	require.Equal(t, []gap{{stretch{w.id(10, 0), w.id(30, 0)}, sseproto.ReasonOutage}}, w.markers())
	require.EqualValues(t, 1, writers[1].Stats().GapMarkers)
	require.EqualValues(t, 1, writers[1].Stats().TakeOvers)
}

// A lease that could not be given up, because the server had just been demoted, does not
// keep the others from offering.
func TestLeaseOfWhoOffersIsGivenUp(t *testing.T) {
	w := newWorld(t)
	w.clock("e1")
	keys := redisconn.MakeKeys(testPrefix)
	require.NoError(t, w.do("HSET", keys.Clock, "watermark", w.id(10, 0).String(), "writer", "i0").Error())
	require.NoError(t, w.do("SET", keys.Lease, "i0", "PX", "3600000").Error())
	cfg := w.config("i0")
	cfg.GapWait, cfg.LeaseTTL = time.Hour, time.Hour
	log := newTestLog(w.id(30, 0))
	log.commit(w.id(60, 0))
	wr := &writer{Store: w.store(cfg, log), state: watching, epoch: "e1", watermark: w.id(10, 0)}
	wr.step(t.Context(), true)
	require.Equal(t, offering, wr.state)
	there, err := w.do("EXISTS", keys.Lease).AsInt64()
	require.NoError(t, err)
	require.Zero(t, there)
	require.Empty(t, w.markers())
}

// Nobody waits for more when everybody who is there has offered, and it is known
// who is there.
func TestGapIsMarkedAtOnceWhenAllHaveOffered(t *testing.T) {
	w := newWorld(t)
	w.clock("e1")
	clock := redisconn.MakeKeys(testPrefix).Clock
	require.NoError(t, w.do("HSET", clock, "watermark", w.id(10, 0).String(), "writer", "i1").Error())
	var writers []*writer
	for i, low := range []int{50, 30, 40} {
		cfg := w.config(fmt.Sprint("i", i))
		cfg.GapWait, cfg.LeaseTTL = time.Hour, time.Hour
		log := newTestLog(w.id(low, 0))
		log.commit(w.id(60, 0))
		writers = append(writers, &writer{Store: w.store(cfg, log)})
	}
	step := func(list ...int) {
		for _, i := range list {
			writers[i].lookAt = time.Time{}
			writers[i].step(t.Context(), true)
		}
	}
	writers[2].watch(t.Context()) // there, but it has not said what it has
	step(0, 1)
	step(0, 1)
	require.Empty(t, w.markers())
	step(2)
	step(0, 1, 2)
	require.Empty(t, w.markers(), "others may still come back: the first was heard of just now")
	long := time.Now().Add(-writers[0].cfg.assembled() - time.Second).UnixMilli()
	require.NoError(t, w.do("HSET", clock, "there_since", fmt.Sprint(long)).Error())
	step(0, 2)
	require.Empty(t, w.markers(), "only the lowest offer goes ahead")
	step(1)
	require.Equal(t, []gap{{stretch{w.id(10, 0), w.id(30, 0)}, sseproto.ReasonOutage}}, w.markers())
	require.Equal(t, writing, writers[1].state)
}

// Who was not heard of for long is not waited for, and who comes back after
// everybody was away begins the count anew.
func TestInstancesThatAreGoneAreForgotten(t *testing.T) {
	w := newWorld(t)
	w.clock("e1")
	clock := redisconn.MakeKeys(testPrefix).Clock
	a := &writer{Store: w.store(w.config("a"), newTestLog(w.id(0, 0)))}
	now := time.Now().UnixMilli()
	long := now - a.cfg.there().Milliseconds() - 1000
	require.NoError(t, w.do("HSET", clock, "there", fmt.Sprintf("gone %d b %d", long, now), "there_since", fmt.Sprint(long)).Error())
	a.watch(t.Context())
	there, err := w.do("HGET", clock, "there").ToString()
	require.NoError(t, err)
	require.Regexp(t, `^a \d+ b \d+$`, there)
	since, err := w.do("HGET", clock, "there_since").AsInt64()
	require.NoError(t, err)
	require.Equal(t, long, since)

	require.NoError(t, w.do("HSET", clock, "there", fmt.Sprintf("gone %d", long)).Error())
	a.watch(t.Context())
	since, err = w.do("HGET", clock, "there_since").AsInt64()
	require.NoError(t, err)
	require.GreaterOrEqual(t, since, now)
}

// A bidder that is gone holds the others up by one lease, not for ever.
func TestOfferOfAGoneInstanceLapses(t *testing.T) {
	w := newWorld(t)
	w.clock("e1")
	cfg := w.config("gone")
	cfg.GapWait, cfg.LeaseTTL = 20*time.Millisecond, 20*time.Millisecond
	gone := &writer{Store: w.store(cfg, newTestLog(w.id(10, 0)))}
	gone.step(t.Context(), true)
	cfg.Instance = "b"
	log := newTestLog(w.id(20, 0))
	b := &writer{Store: w.store(cfg, log)}
	w.settle(b)
	require.Equal(t, w.id(20, 0), b.watermark)
}

func TestInstanceWithoutLinkDoesNotTakeTheLease(t *testing.T) {
	w := newWorld(t)
	w.clock("e1")
	require.NoError(t, w.do("HSET", redisconn.MakeKeys(testPrefix).Clock, "watermark", w.id(10, 0).String()).Error())
	log := newTestLog(w.id(0, 0))
	log.spans = []span{{low: w.id(0, 0), end: w.id(5, 0)}}
	wr := &writer{Store: w.store(w.config("a"), log)}
	for range 5 {
		wr.lookAt = time.Time{}
		wr.step(t.Context(), true)
	}
	require.NotEqual(t, writing, wr.state)
	require.Equal(t, w.id(10, 0), wr.Watermark())
	require.Empty(t, w.markers())
}

// The log knows nothing of what follows and its link is down: it stands still.
func TestInstanceThatStandsStillNeitherTakesNorKeepsTheLease(t *testing.T) {
	w := newWorld(t)
	w.clock("e1")
	require.NoError(t, w.do("HSET", redisconn.MakeKeys(testPrefix).Clock, "watermark", w.id(10, 0).String()).Error())
	log := newTestLog(w.id(0, 0))
	log.commit(w.id(5, 0))
	cfg := w.config("a")
	cfg.LeaseTTL = 50 * time.Millisecond
	s := w.store(cfg, log)
	w.start(s)
	w.waitMark(s, w.id(10, 0))
	exists := func() bool {
		n, err := w.do("EXISTS", s.keys.Lease).AsInt64()
		require.NoError(t, err)
		return n == 1
	}
	require.False(t, exists())
	log.commit(w.id(11, 0))
	w.waitMark(s, w.id(11, 0))
	require.Eventually(t, func() bool { return !s.Stats().Writer && !exists() }, time.Minute, time.Millisecond)
	log.commit(w.id(12, 0))
	w.waitMark(s, w.id(12, 0))
	require.Zero(t, s.Stats().GapMarkers)
}

func TestDemotedNodeIsLeftAndRetried(t *testing.T) {
	w, log, s := startWriter(t, nil)
	all := w.burst(1, 20, 2)
	log.commit(w.id(2, 0), all...)
	w.waitMark(s, w.id(2, 0))
	require.NoError(t, w.do("REPLICAOF", "127.0.0.1", "1").Error())
	more := w.burst(2, 20, 2)
	log.commit(w.id(3, 0), more...)
	require.Eventually(t, func() bool { return s.Stats().Errors.ReadOnly >= 3 }, time.Minute, time.Millisecond)
	require.NoError(t, w.do("REPLICAOF", "NO", "ONE").Error())
	w.waitMark(s, w.id(3, 0))
	w.requireHistory(append(all, more...))
}

func TestOldMarkersAreMerged(t *testing.T) {
	w := newWorld(t)
	w.clock("e1")
	s := w.store(w.config("a"), newTestLog(w.id(0, 0)))
	for i := range maxMarkers + 5 {
		require.NoError(t, s.Invalidate(t.Context(), w.id(10*i, 0), w.id(10*i+5, 0)))
	}
	got := w.markers()
	require.Len(t, got, maxMarkers)
	require.Equal(t, stretch{w.id(0, 0), w.id(55, 0)}, got[0].stretch, "the oldest six are one")
	require.Equal(t, stretch{w.id(60, 0), w.id(65, 0)}, got[1].stretch)
}

func TestInvalidatedStretchIsRecordedOnceAndTold(t *testing.T) {
	w, log, s := startWriter(t, nil)
	all := w.burst(1, 5, 1)
	log.commit(w.id(2, 0), all...)
	w.waitMark(s, w.id(2, 0))
	require.Error(t, s.Invalidate(t.Context(), w.id(2, 0), w.id(1, 0)))
	require.NoError(t, s.Invalidate(t.Context(), w.id(1, 1), w.id(1, 3)))
	require.NoError(t, s.Invalidate(t.Context(), w.id(1, 1), w.id(1, 3)))
	require.EqualValues(t, 1, s.Stats().Invalidations)
	require.Equal(t, w.id(2, 0), s.Watermark())
	r := newRecorder()
	require.NoError(t, s.Range(t.Context(), []string{"ch0", "other"}, w.id(1, 2), w.id(2, 0), r))
	require.Equal(t, []string{sseproto.ReasonOutage}, r.lost[0])
	require.Equal(t, []string{sseproto.ReasonOutage}, r.lost[1])
	require.Len(t, r.events[0], 3, "what is left is reported too")
	r = newRecorder()
	require.NoError(t, s.Range(t.Context(), []string{"ch0"}, w.id(1, 3), w.id(2, 0), r))
	require.Empty(t, r.lost)
}

func TestClosedStoreSaysSo(t *testing.T) {
	w := newWorld(t)
	s := w.store(w.config("a"), newTestLog(w.id(0, 0)))
	s.Close()
	require.ErrorIs(t, s.Range(t.Context(), []string{"x"}, sseproto.ID{}, w.id(1, 0), newRecorder()), redisconn.ErrClosed)
	require.ErrorIs(t, s.Invalidate(t.Context(), sseproto.ID{}, w.id(1, 0)), redisconn.ErrClosed)
}

// TestLastOneWritesWhatNobodyElseWould: an instance that never held the lease has a
// burst in its log when it is stopped, and who had the lease is gone.
func TestLastOneWritesWhatNobodyElseWould(t *testing.T) {
	f := func(name string, prepare func(w *world, k redisconn.Keys), markers int) {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.clock("e1")
			log := newTestLog(w.id(0, 0))
			a := w.store(w.config("a"), log)
			prepare(w, a.keys)
			all := w.burst(1, 1500, 3)
			log.commit(w.id(2, 0), all...)
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(context.Canceled) // before it could take anything
			require.ErrorIs(t, a.Run(ctx), context.Canceled)
			w.requireHistory(all)
			require.Equal(t, w.id(2, 0), a.Watermark())
			require.Len(t, w.markers(), markers)
			held, err := w.do("EXISTS", a.keys.Lease).AsBool()
			require.NoError(t, err)
			require.False(t, held, "the lease is given up")
		})
	}
	stand := func(w *world, k redisconn.Keys) {
		require.NoError(t, w.do("HSET", k.Clock, "watermark", w.id(0, 0).String()).Error())
	}
	f("nobody has the lease", stand, 0)
	f("the lease of a dead one runs out", func(w *world, k redisconn.Keys) {
		stand(w, k)
		require.NoError(t, w.do("SET", k.Lease, "dead", "PX", "300").Error())
	}, 0)
	f("the history is empty", func(*world, redisconn.Keys) {}, 1)
}

func TestStoppedInstanceLeavesTheHistoryToOneThatWrites(t *testing.T) {
	t.Parallel()
	w, log := newWorldAndLog(t)
	cfg := w.config("a")
	cfg.LeaseTTL = time.Hour
	a := w.store(cfg, log)
	w.start(a)
	log.commit(w.id(1, 0))
	w.waitMark(a, w.id(1, 0))
	cfg.Instance = "b"
	all := w.burst(1, 600, 3)
	log.commit(w.id(2, 0), all...)
	b := w.store(cfg, log)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(context.Canceled)
	require.ErrorIs(t, b.Run(ctx), context.Canceled)
	w.waitMark(a, w.id(2, 0))
	w.requireHistory(all)
	holder, err := w.do("GET", a.keys.Lease).ToString()
	require.NoError(t, err)
	require.Equal(t, "a", holder)
	require.Zero(t, b.Stats().Batches)
}

// TestNobodyWaitsForWhoHasLeft: the history goes on with the first tick of the next
// instance, though that one does not know where it ended.
func TestNobodyWaitsForWhoHasLeft(t *testing.T) {
	w, log := newWorldAndLog(t)
	a := w.store(w.config("a"), log)
	idle := w.store(w.config("idle"), newTestLog(w.id(0, 0)))
	stopA, stopIdle := w.start(a), w.start(idle)
	log.commit(w.id(1, 0), w.burst(0, 10, 3)...)
	w.waitMark(a, w.id(1, 0))
	require.Eventually(t, func() bool {
		there, err := w.do("HGET", a.keys.Clock, "there").ToString()
		return err == nil && strings.Contains(there, "idle ") && strings.Contains(there, "a ")
	}, time.Minute, time.Millisecond)
	stopIdle()
	stopA()
	there, err := w.do("HMGET", a.keys.Clock, "there", "left").AsStrSlice()
	require.NoError(t, err)
	require.Equal(t, []string{"", "a"}, there)

	cfg := w.config("b")
	cfg.GapWait = time.Hour
	next := newTestLog(w.id(5, 0))
	all := w.burst(5, 10, 3)
	next.commit(w.id(6, 0), all...)
	b := w.store(cfg, next)
	w.start(b)
	w.waitMark(b, w.id(6, 0))
	require.Len(t, w.markers(), 2, "the start, and what lies between the two")
}

// TestStoppedInstanceWritesWhatTheOtherDoesNot: who has the lease moves the watermark
// once more, and is gone before it has written what the stopped instance has.
func TestStoppedInstanceWritesWhatTheOtherDoesNot(t *testing.T) {
	w, log := newWorldAndLog(t)
	all := w.burst(1, 600, 3)
	log.commit(w.id(2, 0), all...)
	b := w.store(w.config("b"), log)
	require.NoError(t, w.do("HSET", b.keys.Clock, "watermark", w.id(0, 0).String()).Error())
	require.NoError(t, w.do("SET", b.keys.Lease, "other", "PX", "300").Error())
	var moved error
	move := sync.OnceFunc(func() { moved = w.do("HSET", b.keys.Clock, "watermark", w.id(1, 0).String()).Error() })
	log.after = move
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(context.Canceled)
	require.ErrorIs(t, b.Run(ctx), context.Canceled)
	require.NoError(t, moved)
	w.requireHistory(all)
	require.Empty(t, w.markers())
}
