package rsub

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// entry is a message or a tick in the order of a node.
type entry struct {
	id     sseproto.ID
	isTick bool
}

// order makes a random order with a tick at its beginning.
func order(r *rand.Rand, n int) []entry {
	pos := id(100, 0)
	list := []entry{{pos, true}}
	for len(list) < n {
		if r.IntN(5) == 0 {
			pos = id(pos.Ms+uint64(1+r.IntN(3)), 0)
			list = append(list, entry{pos, true})
			continue
		}
		pos.Seq++
		list = append(list, entry{pos, false})
	}
	return list
}

// calmEnd are the last entries of an order: two ticks, and messages behind each.
func calmEnd(after uint64) (list []entry) {
	for n := range uint64(modelCalm) {
		list = append(list, entry{id(after+1+n/5, n%5), n%5 == 0})
	}
	return list
}

// modelLink reads the order from some place on and feeds a port.
type modelLink struct {
	p    *port
	next int // in the order
	up   bool
	sync bool
	last sseproto.ID
}

func (l *modelLink) read(e entry) {
	l.next++
	switch {
	case e.isTick && !l.sync:
		l.sync = true
		l.p.open("n1", e.id)
	case e.isTick:
		l.p.commit(e.id, sseproto.ID{})
	case l.sync:
		l.p.append(e.id, "c", e.id.String())
	}
	l.last = e.id
}

func (l *modelLink) lose() {
	if l.sync {
		l.p.lose(l.last)
	}
	l.up, l.sync = false, false
}

func TestMergedSubscriptionsGiveEachMessageOnceInOrderWithoutHoles(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 3))
		mergeRun(t, r, fmt.Sprint("seed ", seed))
	}
}

// modelCalm is how many entries come in the end with both subscriptions up, see calmEnd.
const modelCalm = 10

func mergeRun(t *testing.T, r *rand.Rand, name string) {
	list := order(r, 120)
	base := list[len(list)-1].id.Ms
	list = append(list[:len(list):len(list)], calmEnd(base)...)
	sink := &recorder{}
	m := newMerger(sink, 2)
	subscriptions := []*modelLink{{p: m.ports[0]}, {p: m.ports[1]}}
	published, calm := 1, len(list)-modelCalm
	for published < calm {
		l := subscriptions[r.IntN(2)]
		switch k := r.IntN(30); {
		case k == 0 && l.up:
			l.lose()
		case k < 4 && !l.up:
			l.up, l.next = true, published // what was published earlier never comes
		case k < 12:
			published++
		case l.up && l.next < published:
			l.read(list[l.next])
		}
	}
	for _, l := range subscriptions {
		if !l.up {
			l.up, l.next = true, published
		}
		for l.next < len(list) {
			l.read(list[l.next])
		}
	}
	if sink.spans == nil || !sink.now().open || len(sink.now().messages) == 0 {
		t.Fatal(name, "no span is open, or nothing is in it")
	}
	if wrong := sink.wrong(); len(wrong) > 0 {
		t.Fatal(name, wrong)
	}
	for _, s := range sink.spans {
		requireContiguous(t, list, s, name)
	}
}

// requireContiguous checks that a span holds every message between its ends.
func requireContiguous(t *testing.T, list []entry, s *span, name string) {
	t.Helper()
	through := s.through
	if s.open {
		through = s.last()
	}
	var want, got []sseproto.ID
	for _, e := range list {
		if !e.isTick && s.low.Less(e.id) && !through.Less(e.id) {
			want = append(want, e.id)
		}
	}
	for _, m := range s.messages {
		got = append(got, m.id)
	}
	if !slices.Equal(want, got) {
		t.Fatalf("%s: span after %v has %v, not %v", name, s.low, got, want)
	}
}

func newPorts() (*recorder, *merger, *port, *port) {
	sink := &recorder{}
	m := newMerger(sink, 2)
	return sink, m, m.ports[0], m.ports[1]
}

func TestSpanOutlivesEitherSubscriptionButNotBoth(t *testing.T) {
	sink, _, a, b := newPorts()
	a.open("n", id(10, 0))
	b.open("n", id(10, 0))
	a.append(id(10, 1), "c", "1")
	a.lose(id(10, 1))
	require.True(t, sink.now().open, "b will bring everything after 10-0")
	b.append(id(10, 1), "c", "1")
	b.append(id(10, 2), "c", "2")
	a.open("n", id(11, 0))
	b.commit(id(11, 0), id(0, 0))
	a.append(id(11, 1), "c", "3")
	b.lose(id(11, 0))
	require.True(t, sink.now().open)
	a.lose(id(11, 1))
	require.True(t, sink.now().open, "held until the next node is known")
	b.open("n", id(12, 0))
	require.Equal(t, id(11, 1), sink.spans[0].through, "the same one: everything counts")
	require.Equal(t, id(12, 0), sink.now().low)
	spans, messages, commits := sink.counts()
	require.Equal(t, []int{2, 3, 1}, []int{spans, messages, commits})
}

func TestSubscriptionAheadIsBufferedAndTakesOverWithoutLoss(t *testing.T) {
	sink, _, a, b := newPorts()
	a.open("n", id(10, 0))
	b.open("n", id(20, 0))
	b.append(id(20, 1), "c", "held")
	_, messages, _ := sink.counts()
	require.Zero(t, messages, "a has not come up to 20-0")
	a.append(id(10, 1), "c", "before")
	a.lose(id(10, 1)) // what lies between 10-1 and 20-0 is lost
	require.Len(t, sink.spans, 2)
	require.Equal(t, id(10, 1), sink.spans[0].through)
	require.Equal(t, id(20, 0), sink.spans[1].low)
	require.Equal(t, "held", sink.spans[1].messages[0].payload)
}

func TestDemotedNodeIsRolledBackForAllSubscriptions(t *testing.T) {
	sink, _, a, b := newPorts()
	a.open("old", id(10, 0))
	b.open("old", id(10, 0))
	a.append(id(10, 1), "c", "doubtful")
	b.append(id(10, 1), "c", "doubtful")
	a.end(id(10, 0))
	require.Equal(t, id(10, 0), sink.now().through)
	b.append(id(10, 2), "c", "doubtful too")
	require.Empty(t, sink.all())
	b.end(id(10, 0))
	a.open("new", id(20, 0))
	a.append(id(20, 1), "c", "good")
	require.Equal(t, []message{{id(20, 1), "c", "good"}}, sink.all())
}

// TestDiscontinuityOfTheNodeIsFoundByEachInItsTime: the slower one must not take back what
// the quicker one has begun behind it.
func TestDiscontinuityOfTheNodeIsFoundByEachInItsTime(t *testing.T) {
	sink, _, a, b := newPorts()
	for _, p := range []*port{a, b} {
		p.open("n", id(10, 0))
		p.append(id(10, 1), "c", "taken back")
	}
	a.discontinue(id(10, 0))
	a.open("n", id(20, 0))
	a.append(id(20, 1), "c", "1")
	a.discontinue(id(20, 0))
	a.open("n", id(30, 0))
	a.append(id(30, 1), "c", "2")
	b.append(id(10, 2), "c", "taken back")
	b.discontinue(id(10, 0))
	b.open("n", id(20, 0))
	b.append(id(20, 1), "c", "1")
	b.discontinue(id(20, 0))
	a.append(id(30, 2), "c", "3")
	b.open("n", id(30, 0))
	b.append(id(30, 1), "c", "2")
	b.append(id(30, 2), "c", "3")
	b.append(id(30, 3), "c", "4")
	a.commit(id(40, 0), id(0, 0))
	require.Equal(t, []message{{id(30, 1), "c", "2"}, {id(30, 2), "c", "3"}, {id(30, 3), "c", "4"}}, sink.all())
	require.Len(t, sink.spans, 3)
	require.True(t, sink.isOpen())
	require.Empty(t, sink.wrong())
}

func TestSubscriptionsOfTwoNodesAreNotMixed(t *testing.T) {
	sink, _, a, b := newPorts()
	a.open("old", id(10, 0))
	b.open("new", id(10, 0))
	b.append(id(10, 1), "c", "of the new node")
	a.append(id(10, 1), "c", "of the old node")
	require.Equal(t, "of the old node", sink.now().messages[0].payload)
	a.append(id(10, 2), "c", "x")
	a.lose(id(10, 2))
	require.Len(t, sink.spans, 1, "its order lies behind what the sink has")
	b.commit(id(11, 0), id(0, 0))
	require.Len(t, sink.spans, 2)
	require.Equal(t, id(11, 0), sink.now().low)
	require.Equal(t, id(10, 0), sink.spans[0].through, "another node follows: only what was committed counts")
}

func TestSubscriptionThatBuffersTooMuchBeginsAnew(t *testing.T) {
	sink, _, a, b := newPorts()
	a.open("n", id(10, 0))
	b.open("n", id(20, 0))
	for i := range uint64(maxBuffered + 1) {
		b.append(id(20, i+1), "c", "x")
	}
	require.Equal(t, detached, b.state)
	require.Nil(t, b.buffered)
	b.commit(id(21, 0), id(0, 0))
	require.Equal(t, waiting, b.state)
	a.lose(id(10, 0))
	require.Equal(t, id(21, 0), sink.now().low)
}

// TestLostSpanIsJudgedByTheNextNode: with one subscription and with two.
func TestLostSpanIsJudgedByTheNextNode(t *testing.T) {
	f := func(name, next string, want sseproto.ID) {
		for feeds := 1; feeds <= 2; feeds++ {
			t.Run(fmt.Sprintf("%s, %d subscriptions", name, feeds), func(t *testing.T) {
				sink, _, a, b := newPorts()
				outs := []output{a, b}
				if feeds == 1 {
					outs = []output{&direct{sink: sink}}
				}
				for _, out := range outs {
					out.open("n", id(10, 0))
				}
				for _, out := range outs {
					out.append(id(10, 1), "c", "1")
					out.commit(id(20, 0), sseproto.ID{})
				}
				outs[0].append(id(20, 1), "c", "last")
				outs[0].lose(id(20, 1))
				if feeds == 2 {
					outs[1].lose(id(20, 0)) // has not read it, which says nothing about it
				}
				require.True(t, sink.isOpen())
				if next == "" {
					outs[0].finish()
				} else {
					outs[0].open(next, id(30, 0))
					require.Len(t, sink.spans, 2)
				}
				require.False(t, sink.spans[0].open)
				require.Equal(t, want, sink.spans[0].through)
				for _, out := range outs {
					out.finish()
				}
				require.Empty(t, sink.wrong())
			})
		}
	}
	f("the same node", "n", id(20, 1))
	f("another node", "m", id(20, 0))
	f("the end", "", id(20, 0))
}
