package rstore

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redisconn"
	"ssed/sseproto"
)

// gone waits until the key of a channel is not there.
func (w *world) gone(channel string) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		n, err := w.do("EXISTS", testPrefix+channel).AsInt64()
		return err == nil && n == 0
	}, time.Minute, time.Millisecond)
}

// expire lets the key of a channel expire now.
func (w *world) expire(channel string) {
	w.t.Helper()
	require.NoError(w.t, w.do("PEXPIRE", testPrefix+channel, "1").Error())
	w.gone(channel)
}

// requireLost reads a channel up to a position and checks why something is lost, "" for
// not at all.
func (w *world) requireLost(s *Store, channel string, after, upTo sseproto.ID, reason string) {
	w.t.Helper()
	want := map[int][]string{}
	if reason != "" {
		want[0] = []string{reason}
	}
	r := newRecorder()
	require.NoError(w.t, s.Range(w.t.Context(), []string{channel}, after, upTo, r))
	require.Equal(w.t, want, r.lost)
	r = newRecorder()
	through, err := s.Merge(w.t.Context(), []string{channel}, nil, after, upTo, 1<<30, r)
	require.NoError(w.t, err)
	require.Equal(w.t, upTo, through)
	require.Equal(w.t, want, r.lost, "Merge")
}

func (w *world) clockField(name string) string {
	w.t.Helper()
	text, err := optional(w.do("HGET", redisconn.MakeKeys(testPrefix).Clock, name).ToString())
	require.NoError(w.t, err)
	return text
}

// A wrote with a short TTL, B starts with a long one: what A wrote expired all the same.
func TestRaisedTTLDoesNotHideWhatExpired(t *testing.T) {
	w, log := newWorldAndLog(t)
	short, long := w.config("a"), w.config("b")
	short.TTL = 100 * time.Millisecond
	a := &writer{Store: w.store(short, log)}
	b := &writer{Store: w.store(long, log)}
	log.commit(w.id(2, 0), w.burst(1, 6, 1)...)
	w.settle(a)
	a.free(t.Context())
	w.gone("ch0")
	w.requireLost(b.Store, "ch0", w.id(1, 1), w.id(2, 0), sseproto.ReasonExpired) // b has not written yet

	log.commit(w.id(3, 0), w.burst(2, 1, 1)...)
	w.settle(b)
	require.Equal(t, w.id(3, 0), b.watermark)
	require.Equal(t, w.id(2, 0).String(), w.clockField("horizon"))
	w.requireLost(b.Store, "ch0", w.id(1, 1), w.id(3, 0), sseproto.ReasonExpired)
	w.requireLost(b.Store, "ch0", w.id(2, 0), w.id(3, 0), "")
	w.requireLost(b.Store, "never", w.id(2, 0), w.id(3, 0), "")

	// Whatever the TTL is at present: what is written with it does not move the horizon.
	log.commit(w.id(4, 0), w.burst(3, 1, 1)...)
	w.settle(b)
	require.Equal(t, w.id(2, 0).String(), w.clockField("horizon"))
	require.Equal(t, w.id(4, 0).String(), w.clockField("horizon_mark"))
}

// A lowered TTL deletes nothing that is written: who has a message of the stream misses
// nothing.
func TestLoweredTTLKeepsWhatIsWritten(t *testing.T) {
	w, log := newWorldAndLog(t)
	short, long := w.config("b"), w.config("a")
	short.TTL = time.Minute
	a := &writer{Store: w.store(long, log)}
	b := &writer{Store: w.store(short, log)}
	all := w.burst(1, 6, 1)
	log.commit(w.id(2, 0), all...)
	w.settle(a)
	a.free(t.Context())
	log.commit(w.id(3, 0), message{w.id(2, 1), "other", "x"})
	w.settle(b)
	require.Equal(t, "60000", w.clockField("ttl"))
	w.requireLost(b.Store, "ch0", w.id(1, 1), w.id(3, 0), "")
	w.requireLost(b.Store, "other", w.id(1, 1), w.id(3, 0), sseproto.ReasonExpired)
}

// The clock of Redis is a day ahead for some ticks, and right again. What expired
// meanwhile is told by the greatest t that a tick ever had.
func TestClockThatJumpedAheadIsRemembered(t *testing.T) {
	w := newWorld(t)
	s := w.written(w.config("a"), w.id(5, 0), w.burst(1, 3, 1)...)
	w.requireLost(s, "none", w.id(1, 1), w.id(5, 0), "")
	day := w.id(int((24 * time.Hour).Milliseconds()), 0)
	require.NoError(t, w.do("HSET", redisconn.MakeKeys(testPrefix).Clock, "t", fmt.Sprint(day.Ms)).Error())
	w.expire("ch0")
	w.requireLost(s, "ch0", w.id(1, 1), w.id(5, 0), sseproto.ReasonExpired)
	w.requireLost(s, "ch0", w.id(5, 0), w.id(5, 0), "")
}

// The writer dies just before a key expires. The message after it is written by the next
// one, a moment later, into a stream that is new. Its ID is less than a TTL behind those
// that are gone.
func TestMessageThatWaitedWhileItsKeyExpired(t *testing.T) {
	w := newWorld(t)
	w.base -= 20_150
	cfg := w.config("a")
	cfg.TTL = 20 * time.Second
	w.clock("e1")
	log := newTestLog(w.id(0, 0))
	wr := &writer{Store: w.store(cfg, log)}
	log.commit(w.id(100, 0), message{w.id(10, 1), "c", "m1a"}, message{w.id(20, 1), "c", "m1b"})
	w.settle(wr)
	w.expire("c") // 20 s after m1b, to the clock of Redis
	log.commit(w.id(20_150, 0), message{w.id(19_600, 1), "c", "m2"})
	w.settle(wr)
	w.requireLost(wr.Store, "c", w.id(10, 1), w.id(20_150, 0), sseproto.ReasonExpired)
}

// Redis refuses writes while a key expires.
func TestRefusedWritesAcrossAnExpiry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.config("a")
	cfg.TTL = 300 * time.Millisecond
	s := w.written(cfg, w.id(2, 0), message{w.id(1, 1), "c", "m1a"}, message{w.id(1, 2), "c", "m1b"})
	log := s.src.(*testLog)
	require.NoError(t, w.do("CONFIG", "SET", "min-replicas-to-write", "1").Error())
	log.commit(w.id(250, 0), message{w.id(200, 1), "c", "m2"})
	w.gone("c")
	require.NoError(t, w.do("CONFIG", "SET", "min-replicas-to-write", "0").Error())
	w.waitMark(s, w.id(250, 0))
	w.requireLost(s, "c", w.id(1, 1), w.id(250, 0), sseproto.ReasonExpired)
}

// An instance of an older version moves the watermark and notes no TTL. Nobody knows
// then what a missing stream means, until one that notes it writes again.
func TestWriterThatNotesNoTTL(t *testing.T) {
	w := newWorld(t)
	s := w.written(w.config("a"), w.id(5, 0), message{w.id(1, 1), "c", "x"})
	w.requireLost(s, "none", w.id(1, 0), w.id(5, 0), "")
	require.NoError(t, w.do("HSET", redisconn.MakeKeys(testPrefix).Clock, "watermark", w.id(7, 0).String(), "writer", "old").Error())
	w.requireLost(s, "none", w.id(1, 0), w.id(7, 0), sseproto.ReasonExpired)
	w.requireLost(s, "c", w.id(1, 1), w.id(7, 0), "") // the stream goes back to the position
	w.requireLost(s, "none", w.id(7, 0), w.id(7, 0), "")

	s.src.(*testLog).commit(w.id(9, 0), message{w.id(8, 1), "c", "y"})
	w.waitMark(s, w.id(9, 0))
	require.Equal(t, w.id(7, 0).String(), w.clockField("horizon"))
	w.requireLost(s, "none", w.id(6, 0), w.id(9, 0), sseproto.ReasonExpired)
	w.requireLost(s, "none", w.id(7, 0), w.id(9, 0), "")
}

// A gap that is marked moves the watermark too.
func TestGapMarkerKeepsTheHorizon(t *testing.T) {
	w := newWorld(t)
	s := w.written(w.config("a"), w.id(5, 0), message{w.id(1, 1), "c", "x"})
	require.Equal(t, "0-0", w.clockField("horizon"))
	log := s.src.(*testLog)
	log.hole(w.id(8, 0))
	log.commit(w.id(9, 0))
	w.waitMark(s, w.id(9, 0))
	require.Equal(t, "0-0", w.clockField("horizon"))
	require.Equal(t, w.id(9, 0).String(), w.clockField("horizon_mark"))
	w.requireLost(s, "none", w.id(8, 0), w.id(9, 0), "")
}

// With memory full and a policy that evicts what has an expiry, the streams go first.
func TestEvictionIsTold(t *testing.T) {
	for _, policy := range []string{"volatile-lru", "allkeys-random"} {
		t.Run(policy, func(t *testing.T) {
			w := newWorld(t)
			s := w.written(w.config("a"), w.id(5, 0), w.burst(1, 3, 1)...)
			w.requireLost(s, "ch0", w.id(1, 0), w.id(5, 0), "")
			w.evict(policy, "ch0")
			// No tick has told the clock yet.
			keepsClock := policy == "volatile-lru"
			if keepsClock {
				w.requireLost(s, "ch0", w.id(1, 0), w.id(5, 0), sseproto.ReasonEvicted)
				w.requireLost(s, "ch0", w.id(5, 0), w.id(5, 0), "")
				return
			}
			r := newRecorder()
			require.NoError(t, s.Range(t.Context(), []string{"ch0"}, w.id(1, 0), w.id(5, 0), r))
			require.Len(t, r.lost[0], 1)
			require.NotEmpty(t, r.lost[0][0], "the clock may be gone as well")
		})
	}
}

// evict fills the memory of Redis until the stream of a channel is gone.
func (w *world) evict(policy, channel string) {
	w.t.Helper()
	info, err := w.do("INFO", "memory").ToString()
	require.NoError(w.t, err)
	var used int
	_, err = fmt.Sscan(infoField(info, "used_memory"), &used)
	require.NoError(w.t, err)
	require.NoError(w.t, w.do("CONFIG", "SET", "maxmemory-policy", policy).Error())
	require.NoError(w.t, w.do("CONFIG", "SET", "maxmemory", fmt.Sprint(used+200_000)).Error())
	for i := range 100_000 {
		n, err := w.do("EXISTS", testPrefix+channel).AsInt64()
		require.NoError(w.t, err)
		if n == 0 {
			return
		}
		require.NoError(w.t, w.do("SET", fmt.Sprint("other", i), strings.Repeat("x", 1000), "EX", "3600").Error())
	}
	w.t.Fatal("nothing was evicted")
}

// What a tick has seen of evictions, and what it could not.
func TestEvictedRules(t *testing.T) {
	check := func(name string, c clock, node, count, want string) {
		t.Helper()
		got, err := c.evicted(node, count)
		require.NoError(t, err)
		require.Equal(t, want, got.String(), name)
	}
	check("no tick has looked, nothing was evicted", clock{"watermark": "9-0"}, "n", "0", "0-0")
	check("no tick has looked", clock{"watermark": "9-0"}, "n", "5", "9-0")
	c := clock{"watermark": "9-0", "evicted": "5", "evicted_node": "n", "evicted_to": "7-0"}
	check("nothing since the tick", c, "n", "5", "7-0")
	check("since the tick", c, "n", "6", "9-0")
	check("the count was reset", c, "n", "0", "9-0")
	check("another server, which does not count what the first one did", c, "m", "0", "9-0")
	c["evicted"] = "0"
	check("another server, none is known to have evicted", c, "m", "0", "9-0")
	check("another server that evicts", c, "m", "1", "9-0")
}

// The list of gap markers is evicted or deleted: outages are told all the same.
func TestLostMarkersAreToldAllTheSame(t *testing.T) {
	w := newWorld(t)
	s := w.written(w.config("a"), w.id(10, 0), message{w.id(9, 1), "a", "before"})
	log := s.src.(*testLog)
	log.hole(w.id(20, 0))
	log.commit(w.id(30, 0), message{w.id(20, 1), "a", "behind"})
	w.waitMark(s, w.id(30, 0))
	w.requireLost(s, "a", w.id(9, 1), w.id(30, 0), w.markers()[1].reason)
	require.NoError(t, w.do("DEL", redisconn.MakeKeys(testPrefix).Gaps).Error())
	w.requireLost(s, "a", w.id(9, 1), w.id(30, 0), sseproto.ReasonOutage)
	w.requireLost(s, "a", w.id(20, 0), w.id(30, 0), "")

	// The next marker brings one back for all that are lost.
	log.hole(w.id(40, 0))
	log.commit(w.id(50, 0))
	w.waitMark(s, w.id(50, 0))
	require.Equal(t, []stretch{{to: w.id(20, 0)}, {w.id(30, 0), w.id(40, 0)}}, []stretch{w.markers()[0].stretch, w.markers()[1].stretch})
	w.requireLost(s, "a", w.id(9, 1), w.id(30, 0), sseproto.ReasonOutage)
	w.requireLost(s, "a", w.id(21, 0), w.id(30, 0), "")

	// An instance of an older version does not: its marker does not begin at 0-0.
	require.NoError(t, w.do("DEL", redisconn.MakeKeys(testPrefix).Gaps).Error())
	require.NoError(t, w.do("RPUSH", redisconn.MakeKeys(testPrefix).Gaps, w.id(60, 0).String()+" "+w.id(61, 0).String()+" outage old 1").Error())
	w.requireLost(s, "a", w.id(9, 1), w.id(30, 0), sseproto.ReasonOutage)
}

// The notes about streams that refused messages are evicted or deleted.
func TestLostNotesOfRejectedStreamsAreToldAllTheSame(t *testing.T) {
	w := newWorld(t)
	w.clock("e1")
	require.NoError(t, w.do("SET", testPrefix+"a", "no stream").Error())
	log := newTestLog(w.id(0, 0))
	log.commit(w.id(5, 0), message{w.id(1, 1), "a", "x"}, message{w.id(2, 1), "b", "y"})
	s := w.store(w.config("a"), log)
	w.start(s)
	w.waitMark(s, w.id(5, 0))
	require.NoError(t, w.do("DEL", testPrefix+"a", redisconn.MakeKeys(testPrefix).Rejected).Error())
	w.requireLost(s, "a", w.id(0, 0), w.id(5, 0), sseproto.ReasonUnavailable)
	w.requireLost(s, "a", w.id(1, 1), w.id(5, 0), "")
}

// The trimmed stretch comes right behind the position, the outage somewhere later.
func TestTrimmedIsToldBeforeAnOutageInTheRange(t *testing.T) {
	w := newWorld(t)
	cfg := w.config("a")
	cfg.MaxLen = 10
	s := w.written(cfg, w.id(2, 0), w.burst(1, 1000, 1)...)
	log := s.src.(*testLog)
	log.hole(w.id(5, 0))
	log.commit(w.id(6, 0))
	w.waitMark(s, w.id(6, 0))
	w.requireLost(s, "ch0", w.id(1, 3), w.id(6, 0), sseproto.ReasonTrimmed)
	w.requireLost(s, "ch0", w.id(1, 999), w.id(6, 0), w.markers()[1].reason)
}

// A channel keeps the messages of the window, however many, and at least MaxLen of those
// that are older. The window counts back from the clock of Redis where IDs are ahead of it, for
// 10 s at most: beyond them it counts back from the IDs.
func TestWindowKeepsWhatIsYoung(t *testing.T) {
	f := func(name string, ahead, behindIDs time.Duration) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.base = uint64(time.Now().Add(ahead).UnixMilli())
			w.clock("e1")
			log := newTestLog(w.id(0, 0))
			cfg := w.config("a")
			cfg.MaxLen, cfg.Window = 50, 10*time.Second
			wr := &writer{Store: w.store(cfg, log)}
			for sec := range 30 {
				log.commit(w.id(1000*(sec+1), 0), w.burst(1000*sec, 300, 1)...)
				w.settle(wr)
			}
			got := w.history("ch0")
			from := 30_000 - int(behindIDs.Milliseconds())
			require.False(t, w.id(from, 1).Less(got[0].id), "the oldest is %v", got[0].id)
			require.LessOrEqual(t, len(got), int(behindIDs/time.Second)*300+400, "and not much more")
			require.Zero(t, wr.Stats().Capped)

			// Quiet for long: the newest stay.
			log.commit(w.id(100_001, 0), message{w.id(100_000, 1), "ch0", "late"})
			w.settle(wr)
			require.GreaterOrEqual(t, len(w.history("ch0")), 50)
			require.LessOrEqual(t, len(w.history("ch0")), 250)
		})
	}
	f("behind the clock", -time.Hour, 10*time.Second)
	f("ahead of the clock for long", time.Hour, 20*time.Second)
}

func TestCapBoundsTheWindow(t *testing.T) {
	w, log := newWorldAndLog(t)
	cfg := w.config("a")
	cfg.MaxLen, cfg.Window, cfg.Cap = 50, time.Hour, 400
	wr := &writer{Store: w.store(cfg, log)}
	for sec := range 10 {
		log.commit(w.id(1000*(sec+1), 0), w.burst(1000*sec, 300, 1)...)
		w.settle(wr)
	}
	require.GreaterOrEqual(t, len(w.history("ch0")), 400)
	require.LessOrEqual(t, len(w.history("ch0")), 700)
	require.Positive(t, wr.Stats().Capped)
	w.requireLost(wr.Store, "ch0", w.id(0, 1), w.id(10_000, 0), sseproto.ReasonTrimmed)
}

// Somebody deletes the stream of a channel by hand. The next message says when the one
// before it was, as far as the log that it comes from goes back.
func TestDeletedByHandIsTold(t *testing.T) {
	w := newWorld(t)
	s := w.written(w.config("a"), w.id(5, 0), message{w.id(1, 1), "c", "1"}, message{w.id(3, 1), "c", "2"}, message{w.id(3, 2), "d", "x"})
	log := s.src.(*testLog)
	require.NoError(t, w.do("DEL", testPrefix+"c").Error())
	log.commit(w.id(9, 0), message{w.id(7, 1), "c", "3"}, message{w.id(8, 1), "new", "y"})
	w.waitMark(s, w.id(9, 0))
	w.requireLost(s, "c", w.id(1, 1), w.id(9, 0), sseproto.ReasonTrimmed)
	w.requireLost(s, "c", w.id(4, 0), w.id(9, 0), "") // nothing was there since
	w.requireLost(s, "c", w.id(7, 1), w.id(9, 0), "")
	w.requireLost(s, "d", w.id(1, 1), w.id(9, 0), "")
	w.requireLost(s, "new", w.id(1, 1), w.id(9, 0), "") // its first message, as far as anybody knows
}

// The first entry proves that nothing of the channel lies between the position and it,
// however long ago the position is and whatever was trimmed.
func TestFirstEntryThatFollowsThePositionLacksNothing(t *testing.T) {
	w := newWorld(t)
	w.base -= 100_000
	cfg := w.config("a")
	cfg.TTL, cfg.MaxLen = 50*time.Second, 1
	s := w.written(cfg, w.id(90_000, 0), message{w.id(10_000, 1), "c", "old"}, message{w.id(80_000, 1), "c", "new"}, message{w.id(80_000, 2), "d", "x"})
	w.requireLost(s, "c", w.id(9_000, 0), w.id(90_000, 0), sseproto.ReasonExpired)
	require.NoError(t, w.do("XTRIM", testPrefix+"c", "MAXLEN", "1").Error())
	w.requireLost(s, "c", w.id(9_000, 0), w.id(90_000, 0), sseproto.ReasonTrimmed)
	w.requireLost(s, "c", w.id(20_000, 0), w.id(90_000, 0), "")
	w.requireLost(s, "d", w.id(20_000, 0), w.id(90_000, 0), sseproto.ReasonExpired)
}
