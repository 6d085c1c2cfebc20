package rstore

import (
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redisconn"
	"ssed/sseproto"
)

// What belongs into the history depends on the server that numbered it, and on those that the
// clock knows.
func TestWhatAFormerServerNumberedBelongsUpToItsSuccessor(t *testing.T) {
	t.Parallel()
	f := func(name, servers, server string, want bool, fields ...string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.clock("e1")
			clock := redisconn.MakeKeys(testPrefix).Clock
			through := w.id(100, 0)
			told := w.servers(servers)
			require.NoError(t, w.do("HSET", clock, "t", w.ms(150), "servers_t", w.ms(150), "servers", told, "watermark", w.id(0, 0).String()).Error())
			if len(fields) > 0 {
				require.NoError(t, w.do(append([]string{"HSET", clock}, fields...)...).Error())
			}
			log := newTestLog(w.id(0, 0))
			log.commit(through, w.burst(1, 3, 1)...)
			cfg := w.config("a")
			cfg.LeaseTTL = 40 * time.Millisecond
			cfg.ServerOf = func(sseproto.ID) string { return server }
			others := make(chan struct{}, 1)
			cfg.OnOtherServer = func() {
				select {
				case others <- struct{}{}:
				default:
				}
			}
			s := w.store(cfg, log)
			w.start(s)
			if want {
				w.waitMark(s, through)
				require.Len(t, w.history("ch0"), 3)
				require.Zero(t, s.Stats().RefusedServer)
				return
			}
			<-others
			require.Eventually(t, func() bool { return s.Stats().RefusedServer > 1 }, time.Minute, time.Millisecond)
			require.Equal(t, w.id(0, 0).String(), redisText(w, "HGET", clock, "watermark"))
			require.Empty(t, w.history("ch0"))
			require.Eventually(t, func() bool { return !s.Writes() }, time.Minute, time.Millisecond, "the lease is left to others")
		})
	}
	f("servers are not known", "", "a1", true)
	f("its server is not known", "a1:0,b1:50", "", true)
	f("of the present server", "a1:0,b1:50", "b1", true)
	f("of the one before, up to its end", "a1:0,b1:101", "a1", true)
	f("of the one before, beyond its end", "a1:0,b1:100", "a1", false)
	f("of the one before, long after", "a1:0,b1:50", "a1", false)
	f("of one before that", "a1:0,b1:50,c1:200", "a1", false)
	f("of a server that is forgotten", "a1:0,b1:50", "d1", false)
	f("of a forgotten one, before all that are known", "a1:0,b1:101", "d1", true)
	f("of another one, before the last tick", "b1:0", "d1", true)
	f("an earlier version has sent the last tick", "a1:0,b1:50", "a1", true, "servers_t", "1")
}

// A server may be replaced and come back, more than once: what it numbered counts up to the end
// of the term in which it did.
func TestWhatAServerNumberedInALaterTermBelongs(t *testing.T) {
	t.Parallel()
	f := func(name, servers string, want bool) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.clock("e1")
			clock := redisconn.MakeKeys(testPrefix).Clock
			from := w.id(60, 0)
			require.NoError(t, w.do("HSET", clock, "t", w.ms(150), "servers_t", w.ms(150), "servers", w.servers(servers), "watermark", from.String()).Error())
			log := newTestLog(from)
			log.commit(w.id(100, 0), w.burst(61, 3, 1)...)
			cfg := w.config("a")
			cfg.ServerOf = func(sseproto.ID) string { return "a1" }
			s := w.store(cfg, log)
			w.start(s)
			if want {
				w.waitMark(s, w.id(100, 0))
				require.Zero(t, s.Stats().RefusedServer)
				return
			}
			require.Eventually(t, func() bool { return s.Stats().RefusedServer > 1 }, time.Minute, time.Millisecond)
			require.Empty(t, w.history("ch0"))
		})
	}
	f("it came back and was replaced again", "a1:0,b1:20,a1:50,b1:101", true)
	f("beyond the end of the later term", "a1:0,b1:20,a1:50,b1:100", false)
	f("before it came back", "a1:0,b1:20,a1:101,b1:120", false)
	f("another one came between", "a1:0,b1:20,a1:50,c1:101", true)
	f("it is the present one again, before that", "a1:0,b1:101,a1:120", true)
	f("it is the present one again, beyond the end of the term before", "a1:0,b1:80,a1:120", false)
	f("it came back sooner than that was noted", "a1:0,b1:50,a1:80", true)
}

// Of a successor of this server: it lies beyond the last tick here.
func TestWhatASuccessorNumberedIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.clock("e1")
	clock := redisconn.MakeKeys(testPrefix).Clock
	require.NoError(t, w.do("HSET", clock, "t", w.ms(50), "servers_t", w.ms(50), "servers", w.servers("a1:0"), "watermark", w.id(0, 0).String()).Error())
	log := newTestLog(w.id(60, 0)) // it would have to skip a stretch
	log.commit(w.id(100, 0), w.burst(60, 3, 1)...)
	cfg := w.config("a")
	cfg.ServerOf = func(sseproto.ID) string { return "b1" }
	s := w.store(cfg, log)
	w.start(s)
	require.Eventually(t, func() bool { return s.Stats().RefusedServer > 1 }, time.Minute, time.Millisecond)
	require.Equal(t, w.id(0, 0).String(), redisText(w, "HGET", clock, "watermark"))
	require.Empty(t, w.markers())
}

// A log may have stretches of a former server that do not count any more: the writer goes on
// behind them, with a marker.
func TestWriterGoesOnBehindWhatIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.clock("e1")
	clock := redisconn.MakeKeys(testPrefix).Clock
	require.NoError(t, w.do("HSET", clock, "t", w.ms(300), "servers_t", w.ms(300), "servers", w.servers("a1:0,b1:50"), "watermark", w.id(0, 0).String()).Error())
	log := newTestLog(w.id(0, 0))
	log.commit(w.id(100, 0), w.burst(60, 3, 1)...) // of the former one, beyond its end
	log.hole(w.id(200, 0))
	counts := w.burst(200, 3, 1)
	log.commit(w.id(300, 0), counts...)
	cfg := w.config("a")
	second := w.id(200, 0)
	cfg.ServerOf = func(after sseproto.ID) string {
		if after.Less(second) {
			return "a1"
		}
		return "b1"
	}
	s := w.store(cfg, log)
	w.start(s)
	w.waitMark(s, w.id(300, 0))
	w.requireHistory(counts)
	require.Equal(t, []gap{{stretch{w.id(0, 0), w.id(200, 0)}, sseproto.ReasonOutage}}, w.markers())
}

// ms is a tick as the clock has it.
func (w *world) ms(n int) string { return strconv.FormatUint(w.base+uint64(n), 10) }

// servers is what the clock has of them; the first ticks are given as in ms.
func (w *world) servers(text string) string {
	return regexp.MustCompile(`:[1-9]\d*`).ReplaceAllStringFunc(text, func(from string) string {
		n, err := strconv.Atoi(from[1:])
		require.NoError(w.t, err)
		return ":" + w.ms(n)
	})
}

func redisText(w *world, args ...string) string {
	text, err := w.do(args...).ToString()
	require.NoError(w.t, err)
	return text
}
