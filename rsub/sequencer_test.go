package rsub

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

func id(ms, seq uint64) sseproto.ID { return sseproto.ID{Ms: ms, Seq: seq} }

func tickAt(t uint64) tick { return tick{t: t, epoch: "e1", fingerprint: "f", node: "n1"} }

func newSequencer() *sequencer { return &sequencer{fingerprint: "f"} }

// A server that stood still while another became the primary, and wakes up, takes the
// tick that had queued up. It does not make the stretch complete.
func TestTickBehindAStallProvesNothing(t *testing.T) {
	s := newSequencer()
	s.stall = 2000
	s.silent = true
	s.subscribe("n1", "")
	require.Equal(t, open, s.tick(tickAt(1000)).action)
	require.Equal(t, commit, s.tick(tickAt(3000)).action)
	id, ok := s.message("c", "doubtful")
	require.True(t, ok)
	st := s.tick(tickAt(5001))
	require.Equal(t, step{action: lose, id: id, cause: CauseProbe}, st)

	s = newSequencer()
	s.stall = 2000
	s.subscribe("n1", "")
	require.Equal(t, open, s.tick(tickAt(1000)).action)
	require.Equal(t, commit, s.tick(tickAt(9000)).action, "the server lived and refused writes")
	s.silent = true
	s.subscribe("n1", "")
	require.Equal(t, open, s.tick(tickAt(20000)).action, "the first tick of a connection has none before it")
}

func TestMessagesBeforeTheFirstTickHaveNoNumber(t *testing.T) {
	s := newSequencer()
	_, ok := s.message("c", "early")
	require.False(t, ok)
	require.Equal(t, ignore, s.tick(tickAt(5)).action, "a tick before all is subscribed is no mark")
	s.subscribe("n1", "")
	_, ok = s.message("c", "before the tick")
	require.False(t, ok)
	require.Equal(t, step{action: open, id: id(10, 0)}, s.tick(tickAt(10)))
	got, ok := s.message("c", "first")
	require.True(t, ok)
	require.Equal(t, id(10, 1), got)
	got, _ = s.message("c", "second")
	require.Equal(t, id(10, 2), got)
	st := s.tick(tickAt(20))
	require.Equal(t, commit, st.action)
	require.Equal(t, id(20, 0), st.id)
	got, _ = s.message("c", "third")
	require.Equal(t, id(20, 1), got)
}

// synchronised returns a sequencer at 10-2.
func synchronised() *sequencer {
	s := newSequencer()
	s.subscribe("n1", "")
	s.tick(tickAt(10))
	s.message("c", "1")
	s.message("c", "2")
	return s
}

func TestTicksThatAreRefused(t *testing.T) {
	f := func(name string, change func(*tick), want step, after state) {
		t.Run(name, func(t *testing.T) {
			s := synchronised()
			tk := tickAt(20)
			change(&tk)
			require.Equal(t, want, s.tick(tk))
			require.Equal(t, after, s.state)
		})
	}
	f("foreign fingerprint changes nothing", func(tk *tick) { tk.fingerprint = "g" },
		step{action: refuse, cause: CauseConfigMismatch}, synced)
	f("another node rolls back to the last good tick", func(tk *tick) { tk.node = "n2" },
		step{action: end, id: id(10, 0), cause: CauseNode}, down)
	f("the same t again ends the span", func(tk *tick) { tk.t = 10 },
		step{action: lose, id: id(10, 2), cause: CauseOrder}, unsynced)
	f("a smaller t of a new epoch ends the span", func(tk *tick) { tk.t, tk.epoch = 9, "e2" },
		step{action: lose, id: id(10, 2), cause: CauseOrder}, unsynced)
	f("a foreign tick of another node is only foreign", func(tk *tick) { tk.node, tk.fingerprint = "n2", "g" },
		step{action: refuse, cause: CauseConfigMismatch}, synced)
}

func TestNewEpochContinuesTheSpan(t *testing.T) {
	s := synchronised()
	tk := tickAt(20)
	tk.epoch = "e2"
	st := s.tick(tk)
	require.Equal(t, commit, st.action)
	require.True(t, st.newEpoch)
	tk.t = 30
	require.False(t, s.tick(tk).newEpoch)
}

func TestDisconnectKeepsWhatCameAndPositionsNeverGoBack(t *testing.T) {
	s := synchronised()
	require.Equal(t, step{action: lose, id: id(10, 2), cause: CauseDisconnect}, s.stop(CauseDisconnect, false))
	require.Equal(t, refuse, s.stop(CauseDisconnect, false).action, "nothing to end any more")
	_, ok := s.message("c", "x")
	require.False(t, ok)
	s.subscribe("n3", "")
	tk := tickAt(10)
	tk.node = "n3"
	require.Equal(t, step{action: refuse, cause: CauseOrder}, s.tick(tk), "its IDs would repeat")
	tk.t = 11
	require.Equal(t, step{action: open, id: id(11, 0)}, s.tick(tk))
}

// TestServerThatWasDemotedMeanwhileIsAnother, even if no tick of the other primary came.
func TestServerThatWasDemotedMeanwhileIsAnother(t *testing.T) {
	f := func(own, told string, want action) {
		t.Helper()
		s := &sequencer{fingerprint: "f"}
		s.subscribe("n1", own)
		require.Equal(t, open, s.tick(tickAt(10)).action)
		s.message("c", "m")
		tk := tickAt(20)
		tk.term = told
		st := s.tick(tk)
		require.Equal(t, want, st.action)
		if want == end {
			require.Equal(t, CauseNode, st.cause)
			require.Equal(t, id(10, 0), st.id, "what came since the last good tick does not count")
		}
	}
	f("0", "0", commit)
	f("0", "a", end)
	f("a", "b", end)
	f("a", "", commit) // of a version before terms
	f("", "a", commit)
}

func TestTickOfAnotherNodeWhileUnsyncedIsRefused(t *testing.T) {
	s := newSequencer()
	s.subscribe("replica", "")
	require.Equal(t, step{action: refuse, cause: CauseNode}, s.tick(tickAt(10)))
	require.Equal(t, down, s.state)
}

func TestChecksumFindsAMissingAChangedAndASwappedMessage(t *testing.T) {
	f := func(name string, theirs func(*sequencer), differs bool) {
		t.Run(name, func(t *testing.T) {
			a, b := newSequencer(), newSequencer()
			for _, s := range []*sequencer{a, b} {
				s.subscribe("n1", "")
				s.tick(tickAt(10))
			}
			a.message("c", "hello 1")
			a.message("c", "hello 2")
			theirs(b)
			a.tick(tickAt(20))
			b.tick(tickAt(20))
			tk := tickAt(30)
			tk.checksum = b.past.last()
			require.Equal(t, differs, a.tick(tk).differs)
		})
	}
	f("same", func(s *sequencer) { s.message("c", "hello 1"); s.message("c", "hello 2") }, false)
	f("missing", func(s *sequencer) { s.message("c", "hello 1") }, true)
	f("swapped", func(s *sequencer) { s.message("c", "hello 2"); s.message("c", "hello 1") }, true)
	f("channel", func(s *sequencer) { s.message("c", "hello 1"); s.message("d", "hello 2") }, true)
	f("payload", func(s *sequencer) { s.message("c", "hello 1"); s.message("c", "hello 3") }, true)
	f("length", func(s *sequencer) { s.message("c", "hello 1"); s.message("c", "hello 22") }, true)
}

func TestChecksumOfAnUnknownIntervalSaysNothing(t *testing.T) {
	s := synchronised()
	tk := tickAt(20)
	tk.checksum = interval{start: 3, count: 99, sum: 1}
	require.False(t, s.tick(tk).differs)
}

func TestChecksumIsOfThePresentConnectionOnly(t *testing.T) {
	s := synchronised()
	s.tick(tickAt(20))
	old := s.past.last()
	require.Equal(t, uint64(10), old.start)
	s.stop(CauseNode, true)
	s.subscribe("n1", "")
	s.tick(tickAt(30))
	tk := tickAt(40)
	tk.checksum = interval{start: 10, count: 99}
	require.False(t, s.tick(tk).differs, "10 was a tick of another node")
}

func TestIntervalAndTickTextRoundTrip(t *testing.T) {
	for _, iv := range []interval{{}, {1, 0, 0}, {1795446080123, 77, 1<<64 - 1}} {
		got, err := parseInterval(iv.String())
		require.NoError(t, err)
		require.Equal(t, iv, got)
	}
	got, err := parseTick("tick 12 e 5-6 fp node 3:2:a caller 7-0,7-1 and links line n1:0,n2:5 7 more")
	require.NoError(t, err)
	require.Equal(t, tick{
		t: 12, epoch: "e", watermark: id(5, 6), fingerprint: "fp", node: "node", checksum: interval{3, 2, 10},
		caller: "caller", batch: "7-0,7-1", term: "and", links: "links", line: "line", servers: "n1:0,n2:5", strays: "7",
	}, got)
	got, err = parseTick("tick 12 e 5-6 fp node - caller  term")
	require.NoError(t, err)
	require.Equal(t, tick{t: 12, epoch: "e", watermark: id(5, 6), fingerprint: "fp", node: "node", caller: "caller", term: "term"}, got)
	require.Zero(t, got.entries())
	got, err = parseTick("tick 12 e 5-6 fp node - caller") // of a version before terms
	require.NoError(t, err)
	require.Empty(t, got.term)
	for _, bad := range []string{"", "tick", "tick 0 e 5-6 fp n - c", "tick x e 5-6 fp n - c", "tick 1 e 5_6 fp n - c", "tick 1 e 5-6 fp n 1:2 c", "tick 1 e 5-6 fp n 0:2:3 c", "tack 1 e 5-6 fp n - c"} {
		_, err := parseTick(bad)
		require.Error(t, err, bad)
	}
}

func FuzzParseTick(f *testing.F) {
	f.Add("tick 12 e 5-6 fp node 3:2:a caller")
	f.Fuzz(func(t *testing.T, s string) {
		tk, err := parseTick(s)
		if err == nil {
			require.NotZero(t, tk.t)
			again, err := parseInterval(tk.checksum.String())
			require.NoError(t, err)
			require.Equal(t, tk.checksum, again)
		}
	})
}

// FuzzInstancesNumberAlike: instances that connect, lose their connection and hang
// on the wrong node at random moments of one order give each message the same ID.
func FuzzInstancesNumberAlike(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) { modelRun(t, rand.New(rand.NewPCG(a, b))) })
}

func TestInstancesNumberAlike(t *testing.T) {
	for seed := range uint64(300) {
		modelRun(t, rand.New(rand.NewPCG(seed, 7)))
	}
}

func modelRun(t *testing.T, r *rand.Rand) {
	ids := map[int]sseproto.ID{}
	instances := []*sequencer{newSequencer(), newSequencer(), newSequencer()}
	clock := uint64(100)
	for n := range 400 {
		switch k := r.IntN(20); {
		case k < 4:
			clock += uint64(1 + r.IntN(5))
			for _, s := range instances {
				st := s.tick(tickAt(clock))
				if st.cause == CauseOrder || st.differs {
					t.Fatalf("tick %d: %+v", clock, st)
				}
			}
		case k < 5:
			instances[r.IntN(3)].stop(CauseDisconnect, false)
		case k < 7:
			if s := instances[r.IntN(3)]; s.state == down {
				s.subscribe("n1", "")
			}
		default:
			for _, s := range instances {
				if got, ok := s.message("c", "p"); ok {
					if want, known := ids[n]; known && want != got {
						t.Fatalf("message %d is %v here and %v there", n, got, want)
					}
					ids[n] = got
				}
			}
		}
	}
	require.NotEmpty(t, ids, "nobody has numbered anything")
	last := sseproto.ID{}
	for n := range 400 {
		if got, ok := ids[n]; ok {
			if !last.Less(got) {
				t.Fatalf("message %d: %v after %v", n, got, last)
			}
			last = got
		}
	}
}

func TestMessagePathAllocatesNothing(t *testing.T) {
	for _, patterns := range [][]string{{"*"}, {"a:*", "b:*", "*"}} {
		cfg := testConfig(t, "redis://127.0.0.1:1", "x", withPatterns(patterns...))
		f, err := New(cfg, discard{})
		require.NoError(t, err)
		l := f.subscriptions[0]
		l.seq.subscribe("n1", "")
		l.seq.fingerprint = "f"
		require.Equal(t, open, l.seq.tick(tickAt(10)).action)
		m := pubsub(f.patterns[0], "channel:1", "a payload of some length")
		h := &hooks{subscription: l}
		require.Zero(t, testing.AllocsPerRun(1000, func() { h.onMessage(m) }))
		require.NotZero(t, f.Stats().Delivered)
	}
}

func BenchmarkMessage(b *testing.B) {
	f, err := New(testConfig(b, "redis://127.0.0.1:1", "x"), discard{})
	require.NoError(b, err)
	l := f.subscriptions[0]
	l.seq.subscribe("n1", "")
	l.seq.fingerprint = "f"
	l.seq.tick(tickAt(10))
	m := pubsub("*", "channel:1", "a payload of some length")
	h := &hooks{subscription: l}
	b.ReportAllocs()
	for b.Loop() {
		h.onMessage(m)
	}
}

// TestLinksOfAClusterEndTheSpan at the last tick before they changed, once however long one
// is missing.
func TestLinksOfAClusterEndTheSpan(t *testing.T) {
	s := sequencer{fingerprint: "f"}
	s.subscribe("n1", "")
	tick := func(at uint64, links string) step {
		next := tickAt(at)
		next.links = links
		st := s.tick(next)
		st.own = interval{}
		return st
	}
	message := func(want sseproto.ID) {
		t.Helper()
		got, ok := s.message("c", "p")
		require.True(t, ok)
		require.Equal(t, want, got)
	}
	require.Equal(t, step{}, tick(5, linksMissing), "no span begins while a link is missing")
	require.Equal(t, step{action: open, id: id(10, 0)}, tick(10, "a"))
	message(id(10, 1))
	require.Equal(t, step{action: commit, id: id(20, 0)}, tick(20, "a"))
	message(id(20, 1))
	require.Equal(t, step{action: hold}, tick(30, linksMissing))
	message(id(20, 2))
	require.Equal(t, step{action: hold}, tick(40, linksMissing))
	require.Equal(t, step{action: end, id: id(20, 0), cause: CauseBus}, tick(50, "a"), "the same again, perhaps of another node")
	require.Equal(t, step{action: open, id: id(50, 0)}, tick(50, "a"))
	message(id(50, 1))
	require.Equal(t, step{action: end, id: id(50, 0), cause: CauseBus}, tick(60, "b"))
	require.Equal(t, step{action: open, id: id(60, 0)}, tick(60, "b"))
	require.Equal(t, step{action: commit, id: id(70, 0)}, tick(70, "b"))
}

// TestStraysOfAFormerPrimaryEndTheSpan: they are counted while one may send some. A tick of an
// earlier version tells of none.
func TestStraysOfAFormerPrimaryEndTheSpan(t *testing.T) {
	s := sequencer{fingerprint: "f"}
	s.subscribe("n1", "")
	at := uint64(0)
	f := func(strays strays, want action) {
		t.Helper()
		at += 10
		next := tickAt(at)
		next.strays = strays
		s.message("c", "p")
		st := s.tick(next)
		require.Equal(t, want, st.action)
		if want == end {
			require.Equal(t, id(at-10, 0), st.id)
			require.Equal(t, CauseBus, st.cause)
			require.Equal(t, open, s.tick(next).action)
		}
	}
	f("5", open)
	f("5", commit)
	f("6", end)
	f("6", commit)
	f("", commit)
	f("8", commit)
	f("10", end)
	f("", commit)
	f("", commit)
	s.subscribe("n1", "")
	f("9", open)
	f("9", commit)
}

// TestTickOfThePredecessorIsNoProof: in a cluster the bus brings what a node publishes that
// was frozen and replaced. That of a successor is one.
func TestTickOfThePredecessorIsNoProof(t *testing.T) {
	s := sequencer{fingerprint: "f"}
	s.subscribe("n1", "history of n0")
	s.tick(tickAt(10))
	other := tickAt(20)
	other.node, other.line = "n0", "history of n0"
	require.Equal(t, step{}, s.tick(other))
	got, ok := s.message("c", "p")
	require.True(t, ok)
	require.Equal(t, id(10, 1), got)
	other.node, other.line = "n2", "history of n2"
	require.Equal(t, step{action: end, id: id(10, 0), cause: CauseNode}, s.tick(other))
}
