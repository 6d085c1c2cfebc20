package rstore

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redisconn"
	"ssed/internal/redislua"
	"ssed/sseproto"
)

// with is a writer with policies. It takes over from the one before, if there is one.
func (w *world) with(log *testLog, before *writer, change func(*Config)) *writer {
	w.t.Helper()
	cfg := w.config("a")
	if before != nil {
		before.free(w.t.Context())
		cfg.Instance = before.cfg.Instance + "a"
	}
	change(&cfg)
	return &writer{Store: w.store(cfg, log)}
}

func policiesOf(list ...Policy) func(*Config) {
	return func(c *Config) { c.Policies = list }
}

// Length, window and life of a channel follow the first policy that matches it; the
// others follow the settings for all.
func TestEachChannelIsKeptByItsPolicy(t *testing.T) {
	w := newWorld(t)
	w.base -= 30_000 // the IDs reach to now: a window counts back from the clock
	w.clock("e1")
	log := newTestLog(w.id(0, 0))
	wr := w.with(log, nil, func(c *Config) {
		c.MaxLen, c.TTL = 50, time.Hour
		c.Policies = []Policy{
			{Match: "chat:vip:*", MaxLen: 5000},
			{Match: "chat:*", MaxLen: 1000, TTL: 10 * time.Minute},
			{Match: "win:*", Window: 10 * time.Second},
		}
	})
	names := []string{"plain", "chat:1", "chat:vip:1", "win:1"}
	for sec := range 30 {
		var list []message
		for i := range 4 * 100 {
			list = append(list, message{w.id(1000*sec, i+1), names[i%4], "x"})
		}
		log.commit(w.id(1000*(sec+1), 0), list...)
		w.settle(wr)
	}
	between := func(channel string, least, most int) {
		t.Helper()
		n := len(w.history(channel))
		require.GreaterOrEqual(t, n, least, channel)
		require.LessOrEqual(t, n, most, channel)
	}
	between("plain", 50, 250)
	between("chat:1", 1000, 1200)
	between("chat:vip:1", 3000, 3000)
	between("win:1", 10*100, 12*100)

	lives := func(channel string, ttl time.Duration) {
		t.Helper()
		left, err := w.do("PTTL", testPrefix+channel).AsInt64()
		require.NoError(t, err)
		require.LessOrEqual(t, left, (ttl + time.Minute).Milliseconds(), channel)
		require.Greater(t, left, ttl.Milliseconds()/2, channel)
	}
	lives("plain", time.Hour)
	lives("chat:1", 10*time.Minute)
	lives("chat:vip:1", time.Hour)
}

// A missing stream proves nothing below the life of its own policy.
func TestExpiryIsJudgedByThePolicyOfTheChannel(t *testing.T) {
	w := newWorld(t)
	w.base -= 100_000
	w.clock("e1")
	log := newTestLog(w.id(0, 0))
	wr := w.with(log, nil, policiesOf(Policy{Match: "short:*", TTL: 50 * time.Second}, Policy{Match: "long:*", TTL: 2 * time.Hour}))
	log.commit(w.id(90_000, 0), message{w.id(80_000, 1), "other", "x"})
	w.settle(wr)
	from, end := w.id(10_000, 0), w.id(90_000, 0)
	w.requireLost(wr.Store, "short:1", from, end, sseproto.ReasonExpired)
	w.requireLost(wr.Store, "short:1", w.id(70_000, 0), end, "")
	w.requireLost(wr.Store, "long:1", from, end, "")
	w.requireLost(wr.Store, "plain", from, end, "")

	// A reader goes by what the log says, not by its own policies.
	reader := w.store(w.config("reader"), newTestLog(w.id(0, 0)))
	w.requireLost(reader, "short:1", from, end, sseproto.ReasonExpired)
	w.requireLost(reader, "long:1", from, end, "")
}

func TestNothingIsWrittenOfAChannelWithoutHistory(t *testing.T) {
	w, log := newWorldAndLog(t)
	wr := w.with(log, nil, func(c *Config) {
		c.BatchSize = 10
		c.Policies = []Policy{{Match: "live:*", Off: true}}
	})
	var list, kept []message
	for i := range 2000 {
		m := message{w.id(1, i+1), "live:1", "x"}
		if i%100 == 50 {
			m.channel = "kept"
			kept = append(kept, m)
		}
		list = append(list, m)
	}
	log.commit(w.id(2, 0), list...)
	w.settle(wr)
	require.Equal(t, w.id(2, 0), wr.watermark)
	w.requireHistory(kept)
	keys, err := w.do("KEYS", testPrefix+"*").AsStrSlice()
	require.NoError(t, err)
	require.Equal(t, []string{testPrefix + "kept"}, keys)
	require.EqualValues(t, len(kept), wr.Stats().Appended)

	w.requireLost(wr.Store, "live:1", w.id(1, 5), w.id(2, 0), sseproto.ReasonNotKept)
	w.requireLost(wr.Store, "live:2", w.id(1, 5), w.id(2, 0), sseproto.ReasonNotKept)
	w.requireLost(wr.Store, "kept", w.id(1, 5), w.id(2, 0), "")
}

// What clients are told after the policies have changed: of what may be missing, and of no
// channel whose messages are all there.
func TestChangedPoliciesHideNothingAndTellNothingFalse(t *testing.T) {
	off := func(match string) Policy { return Policy{Match: match, Off: true} }
	ttl := func(match string, d time.Duration) Policy { return Policy{Match: match, TTL: d} }
	expired, notKept := sseproto.ReasonExpired, sseproto.ReasonNotKept
	for _, c := range []struct {
		name        string
		first, then []Policy
		want        map[string]string // of a position before the change
	}{
		{"one is added that keeps for less", nil, []Policy{ttl("a:*", time.Minute)}, map[string]string{"a:1": "", "b:1": ""}},
		{"one is added that keeps for longer", nil, []Policy{ttl("a:*", 2*time.Hour)}, map[string]string{"a:1": expired, "b:1": ""}},
		{"one that kept for less is removed", []Policy{ttl("a:*", time.Minute)}, nil, map[string]string{"a:1": expired, "b:1": ""}},
		{"one that kept for longer is removed", []Policy{ttl("a:*", 2*time.Hour)}, nil, map[string]string{"a:1": "", "b:1": ""}},
		{"one without a history is removed", []Policy{off("a:*")}, nil, map[string]string{"a:1": notKept, "b:1": ""}},
		{"one without a history is added", nil, []Policy{off("a:*")}, map[string]string{"a:1": notKept, "b:1": ""}},
		{"it gets a history", []Policy{off("a:*"), ttl("b:*", 2*time.Hour)}, []Policy{ttl("a:*", time.Minute), ttl("b:*", 2*time.Hour)}, map[string]string{"a:1": notKept, "b:1": "", "c": ""}},
		{"others beside it change", []Policy{off("a:*")}, []Policy{ttl("b:*", 2*time.Hour), off("a:*")}, map[string]string{"a:1": notKept, "b:1": expired, "c": ""}},
		{"a narrower one takes a part of it", []Policy{off("a:*")}, []Policy{ttl("a:x:*", time.Hour), off("a:*")}, map[string]string{"a:x:1": notKept, "a:1": notKept, "c": ""}},
		{"the order changes", []Policy{off("a:x:*"), ttl("a:*", time.Minute)}, []Policy{ttl("a:*", time.Minute), off("a:x:*")}, map[string]string{"a:x:1": notKept, "a:1": "", "c": ""}},
		{"globs that meet in the middle", []Policy{ttl("*:x", time.Minute)}, []Policy{ttl("a:*", time.Hour)}, map[string]string{"a:x": expired, "b:x": expired}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.clock("e1")
			log := newTestLog(w.id(0, 0))
			first := w.with(log, nil, policiesOf(c.first...))
			log.commit(w.id(10, 0), message{w.id(1, 1), "other", "x"})
			w.settle(first)
			then := w.with(log, first, policiesOf(c.then...))
			log.commit(w.id(20, 0), message{w.id(11, 1), "other", "y"})
			w.settle(then)
			require.Equal(t, w.id(20, 0), then.watermark)
			for channel, reason := range c.want {
				w.requireLost(then.Store, channel, w.id(5, 0), w.id(20, 0), reason)
				if !then.policies.list[then.policies.of(channel)].Off {
					w.requireLost(then.Store, channel, w.id(10, 0), w.id(20, 0), "") // all of it was written under the new ones
				}
			}
			floors := w.clockField("policy_floors")
			log.commit(w.id(30, 0), message{w.id(21, 1), "other", "z"})
			w.settle(then)
			require.Equal(t, floors, w.clockField("policy_floors"))
		})
	}
}

// A stream that is there does not hide what was not kept in its middle.
func TestHistoryThatWasOffForAWhile(t *testing.T) {
	w, log := newWorldAndLog(t)
	on := w.with(log, nil, policiesOf())
	log.commit(w.id(10, 0), message{w.id(1, 1), "c", "1"})
	w.settle(on)
	off := w.with(log, on, policiesOf(Policy{Match: "c", Off: true}))
	log.commit(w.id(20, 0), message{w.id(11, 1), "c", "2"})
	w.settle(off)
	again := w.with(log, off, policiesOf())
	log.commit(w.id(30, 0), message{w.id(21, 1), "c", "3"})
	w.settle(again)
	require.Len(t, w.history("c"), 2)
	w.requireLost(again.Store, "c", w.id(1, 1), w.id(30, 0), sseproto.ReasonNotKept)
	w.requireLost(again.Store, "c", w.id(15, 0), w.id(30, 0), sseproto.ReasonNotKept)
	w.requireLost(again.Store, "c", w.id(20, 0), w.id(30, 0), "")
	w.requireLost(again.Store, "d", w.id(1, 1), w.id(30, 0), "")
}

// An instance of a version without policies writes for a while, in both directions.
func TestWriterWithoutPoliciesBetween(t *testing.T) {
	w, log := newWorldAndLog(t)
	wr := w.with(log, nil, policiesOf(Policy{Match: "long:*", TTL: 2 * time.Hour}, Policy{Match: "live:*", Off: true}))
	log.commit(w.id(10, 0), message{w.id(1, 1), "c", "x"})
	w.settle(wr)
	require.Equal(t, "1", w.clockField("ttl"), "what the older version goes by")
	clock := redisconn.MakeKeys(testPrefix).Clock
	require.NoError(t, w.do("HSET", clock, "watermark", w.id(12, 0).String(), "horizon_mark", w.id(12, 0).String(),
		"ttl", "3600000", "horizon", w.id(10, 0).String(), "writer", "old").Error())
	for channel, reason := range map[string]string{
		"long:1": sseproto.ReasonExpired, "live:1": sseproto.ReasonNotKept, "none": sseproto.ReasonExpired, "c": "",
	} {
		w.requireLost(wr.Store, channel, w.id(1, 1), w.id(12, 0), reason)
	}
	log.commit(w.id(20, 0))
	wr.lookAt = time.Time{}
	w.settle(wr)
	require.Equal(t, w.id(20, 0), wr.watermark)
	w.requireLost(wr.Store, "long:1", w.id(11, 0), w.id(20, 0), sseproto.ReasonNotKept)
	w.requireLost(wr.Store, "long:1", w.id(12, 0), w.id(20, 0), "")
	w.requireLost(wr.Store, "live:1", w.id(12, 0), w.id(20, 0), sseproto.ReasonNotKept)
}

// What the inbox still has of a stretch that is given up goes into the history by the
// policy of its channel.
func TestStretchThatIsGivenUpKeepsPolicies(t *testing.T) {
	w := newWorld(t)
	w.clock("e1")
	keys := redisconn.MakeKeys(testPrefix)
	log := newTestLog(w.id(0, 0))
	wr := w.with(log, nil, policiesOf(Policy{Match: "live:*", Off: true}, Policy{Match: "chat:[a-c]*", TTL: 10 * time.Minute}))
	log.commit(w.id(5, 0))
	w.settle(wr)
	for i, channel := range []string{"live:1", "chat:b", "chat:x"} {
		id := []string{"1-1", "1-2", "1-3"}[i]
		require.NoError(t, w.do("XADD", "sse:inbox", id, "channel", channel, "data", "kept").Error())
	}
	tick := strings.Split(w.id(6, 0).String(), "-")[0]
	require.NoError(t, w.do("RPUSH", keys.InboxNotes, tick+" 1-1,1-2,1-3 sse:inbox").Error())
	log.hole(w.id(9, 0))
	log.commit(w.id(9, 0))
	require.Eventually(t, func() bool {
		wr.lookAt = time.Time{}
		wr.step(t.Context(), true)
		return wr.watermark == w.id(9, 0)
	}, time.Minute, time.Millisecond)
	require.Empty(t, w.history("live:1"))
	require.Len(t, w.history("chat:b"), 1)
	require.Len(t, w.history("chat:x"), 1)
	left, err := w.do("PTTL", testPrefix+"chat:b").AsInt64()
	require.NoError(t, err)
	require.LessOrEqual(t, left, (11 * time.Minute).Milliseconds())
	require.Equal(t, w.id(9, 0).String(), w.clockField("policies_mark"))
}

func TestPoliciesAreChecked(t *testing.T) {
	w := newWorld(t)
	cfg := w.config("a")
	cfg.Policies = []Policy{
		{Match: ""},
		{Match: "\xff"},
		{Match: "a"},
		{Match: "a"},
		{Match: "b", MaxLen: -1},
		{Match: "c", TTL: time.Microsecond},
		{Match: "d", Off: true, MaxLen: 5},
	}
	err := cfg.Validate()
	for _, want := range []string{
		`"": the pattern is not 1 to 256 bytes`, `"\xff": the pattern`, `"a": it is there twice`, `"b": history-max: -1`,
		`"c": history-ttl: 1µs`, `"d": history: off keeps nothing`,
	} {
		require.ErrorContains(t, err, want)
	}
}

// The script that saves what the inbox has matches channels as the rest of the program does.
func TestGlobsInScriptsMatchAlike(t *testing.T) {
	w := newWorld(t)
	script := redislua.Globs + `
local out = {}
for i = 1, #ARGV, 2 do out[#out + 1] = match_glob(ARGV[i], ARGV[i + 1]) and 1 or 0 end
return out`
	rnd := rand.New(rand.NewPCG(5, 5))
	word := func(letters string, most int) string {
		b := make([]byte, rnd.IntN(most+1))
		for i := range b {
			b[i] = letters[rnd.IntN(len(letters))]
		}
		return string(b)
	}
	matched := 0
	for range 200 {
		words := []string{"EVAL", script, "0"}
		for range 100 {
			words = append(words, word("ab*?[]^-\\\xff\x00", 8), word("ab[]-^*\\\xff\x00", 4))
		}
		got, err := w.do(words...).AsIntSlice()
		require.NoError(t, err)
		for i, n := range got {
			glob, name := words[3+2*i], words[4+2*i]
			require.Equal(t, sseproto.MatchGlob(glob, name), n == 1, "%q on %q", glob, name)
			matched += int(n)
		}
	}
	require.Greater(t, matched, 500)
}

// A start at a time judges by the policy of each channel too: where more was there than is
// left, it is the first event that is left.
func TestStartsFollowPolicies(t *testing.T) {
	w := newWorld(t)
	w.base -= 100_000
	w.clock("e1")
	log := newTestLog(w.id(0, 0))
	wr := w.with(log, nil, policiesOf(Policy{Match: "short", TTL: 50 * time.Second}, Policy{Match: "live", Off: true}))
	names := []string{"short", "live", "plain"}
	var list []message
	for _, name := range names {
		list = append(list, message{w.id(90_000, len(list)+1), name, "x"})
	}
	log.commit(w.id(95_000, 0), list...)
	w.settle(wr)
	at := sseproto.StartPoint{Kind: sseproto.FromTime, Time: w.id(10_000, 0).Ms}
	from, _, err := wr.Starts(t.Context(), names, at, nil, w.id(95_000, 0))
	require.NoError(t, err)
	require.Equal(t, []sseproto.ID{list[0].id, {}, w.id(10_000, 0)}, from)
}
