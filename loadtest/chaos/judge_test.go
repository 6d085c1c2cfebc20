//go:build linux

package main

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// world is a run on paper: two publishers, three channels, one client that saw
// everything in order and one history that holds it.
type world struct {
	evidence
	a, b *client
}

const paperMessages = 60

// at is the time of message i; its ID follows from it.
func at(i int) time.Duration { return time.Duration(i) * 10 * time.Millisecond }

func idOf(i int) sseproto.ID { return sseproto.ID{Ms: 1000 + uint64(i/4)*100, Seq: uint64(i%4) + 1} }

// keyOf: the publishers take turns.
func keyOf(i int) key { return key{i % 2, i / 2} }

func newWorld() *world {
	w := &world{evidence: evidence{channels: 3, messages: make([][]message, 2)}}
	w.histories = []history{{channels: make([][]entry, 3), holes: map[int][]stretch{}}}
	w.a = &client{index: 0, channels: []int{0, 1}}
	w.b = &client{index: 1, channels: []int{2}}
	w.clients = []*client{w.a, w.b}
	for _, c := range w.clients {
		c.records = append(c.records, record{kind: recordOpened, at: 0})
	}
	for i := range paperMessages {
		ch := i % 3
		w.messages[i%2] = append(w.messages[i%2], message{channel: ch, sent: at(i) + 1, answered: at(i) + 2, receivers: 4, acked: true})
		w.histories[0].channels[ch] = append(w.histories[0].channels[ch], entry{idOf(i), keyOf(i)})
		c := w.a
		if ch == 2 {
			c = w.b
		}
		c.records = append(c.records, record{kind: recordEvent, at: at(i) + 3, id: idOf(i), places: []sseproto.ID{idOf(i)}, key: keyOf(i)})
	}
	return w
}

// find returns the place of message i in the record.
func (c *client) find(i int) int {
	for at, r := range c.records {
		if r.kind == recordEvent && r.key == keyOf(i) {
			return at
		}
	}
	panic("not there")
}

func (c *client) remove(at, n int) { c.records = append(c.records[:at:at], c.records[at+n:]...) }

func (c *client) insert(at int, list ...record) {
	c.records = append(c.records[:at:at], append(list, c.records[at:]...)...)
}

func gapAt(i int, id sseproto.ID, channel int) record {
	return record{kind: recordGap, at: at(i), places: []sseproto.ID{id}, channel: channel, reason: sseproto.ReasonOutage}
}

func TestCleanRunIsFoundClean(t *testing.T) {
	v := passJudgement(newWorld().evidence)
	require.Zero(t, v.wrong(), v.examples)
	require.Equal(t, 2, v.Exact)
	require.Equal(t, paperMessages, v.Acknowledged)
	require.Equal(t, paperMessages, v.Received)
	require.Equal(t, paperMessages, v.HistoryHas)
}

// TestEveryKindOfMistakeIsFound plants one mistake each.
func TestEveryKindOfMistakeIsFound(t *testing.T) {
	for name, c := range map[string]struct {
		plant func(w *world)
		count func(v *verdict) int
	}{
		"message lost": {
			func(w *world) { w.a.remove(w.a.find(12), 1) },
			func(v *verdict) int { return v.SilentlyMissing },
		},
		"last message lost": {
			func(w *world) { w.b.remove(len(w.b.records)-1, 1) },
			func(v *verdict) int { return v.SilentlyMissing },
		},
		"first message after the head lost": {
			func(w *world) { w.b.remove(1, 1) },
			func(v *verdict) int { return v.SilentlyMissing },
		},
		"lost before the gap event that speaks of later ones": {
			func(w *world) {
				w.a.remove(w.a.find(12), 1)
				w.a.insert(w.a.find(21), gapAt(21, idOf(20), allChannels))
			},
			func(v *verdict) int { return v.SilentlyMissing },
		},
		"published after the gap event": {
			func(w *world) {
				w.a.insert(w.a.find(21), gapAt(21, idOf(20), allChannels))
				w.a.remove(w.a.find(30), 1)
			},
			func(v *verdict) int { return v.SilentlyMissing },
		},
		"gap event of another channel": {
			func(w *world) {
				w.a.remove(w.a.find(21), 1)
				w.a.insert(w.a.find(22), gapAt(22, idOf(21), 1))
			},
			func(v *verdict) int { return v.SilentlyMissing },
		},
		"told before the first message, of another channel": {
			func(w *world) {
				w.b.remove(1, 4)
				w.b.insert(1, record{kind: recordGap, at: at(13), places: make([]sseproto.ID, 1), channel: 1})
			},
			func(v *verdict) int { return v.SilentlyMissing },
		},
		"published after the first gap event, before the first message": {
			func(w *world) {
				w.b.remove(1, 4)
				w.b.insert(1, record{kind: recordGap, at: at(10), places: make([]sseproto.ID, 1), channel: allChannels})
			},
			func(v *verdict) int { return v.SilentlyMissing },
		},
		"given again, and the network was whole": {
			func(w *world) {
				again := w.a.records[w.a.find(12)]
				again.id = idOf(10)
				again.id.Seq += 50
				w.histories[0].gaps = []stretch{{idOf(10), again.id}}
				w.a.insert(w.a.find(12), again)
			},
			func(v *verdict) int { return v.DifferentIDs },
		},
		"given again where the history lacks nothing": {
			func(w *world) {
				w.divided = true
				again := w.a.records[w.a.find(12)]
				again.id = idOf(10)
				again.id.Seq += 50
				w.a.insert(w.a.find(12), again)
			},
			func(v *verdict) int { return v.DifferentIDs },
		},
		"cut between the gap events of two channels": {
			func(w *world) {
				w.a.remove(w.a.find(12), 2)
				w.a.insert(w.a.find(15), gapAt(15, idOf(14), 0), record{kind: recordClosed}, record{kind: recordOpened})
			},
			func(v *verdict) int { return v.SilentlyMissing },
		},
		"nobody knows it, not even the history": {
			func(w *world) {
				w.a.remove(w.a.find(21), 1)
				w.histories[0].channels[0] = append(w.histories[0].channels[0][:7:7], w.histories[0].channels[0][8:]...)
			},
			func(v *verdict) int { return v.SilentlyMissing },
		},
		"message of the inbox lost under a gap marker": {
			func(w *world) {
				w.messages[0][6].kept = true // 12
				w.histories[0].channels[0] = append(w.histories[0].channels[0][:4:4], w.histories[0].channels[0][5:]...)
				w.histories[0].gaps = []stretch{{idOf(0), idOf(59)}}
			},
			func(v *verdict) int { return v.KeptMissing },
		},
		"messages of the inbox in another order": {
			func(w *world) {
				w.messages[0][6].kept, w.messages[0][9].kept = true, true // 12 and 18
				list := w.histories[0].channels[0]
				list[4].key, list[6].key = list[6].key, list[4].key
			},
			func(v *verdict) int { return v.KeptDisorder },
		},
		"message twice": {
			func(w *world) { w.a.insert(w.a.find(13), w.a.records[w.a.find(12)]) },
			func(v *verdict) int { return v.Duplicated },
		},
		"message again after a reconnect": {
			func(w *world) {
				again := w.a.records[w.a.find(12)]
				w.a.insert(w.a.find(13), record{kind: recordClosed}, record{kind: recordOpened}, again)
			},
			func(v *verdict) int { return v.Duplicated },
		},
		"order": {
			func(w *world) {
				x, y := w.a.find(12), w.a.find(13)
				w.a.records[x], w.a.records[y] = w.a.records[y], w.a.records[x]
			},
			func(v *verdict) int { return v.OutOfOrder },
		},
		"another ID on another instance": {
			func(w *world) { w.a.records[w.a.find(12)].id.Seq += 10 },
			func(v *verdict) int { return v.DifferentIDs },
		},
		"one ID on two messages": {
			func(w *world) {
				w.b.records[w.b.find(14)].id = idOf(13)
				w.histories[0].channels[2][4].id = idOf(13)
			},
			func(v *verdict) int { return v.SharedIDs },
		},
		"message of another channel": {
			func(w *world) { w.b.records[w.b.find(14)].key = keyOf(12) },
			func(v *verdict) int { return v.Refused },
		},
		"history twice": {
			func(w *world) {
				again := w.histories[0].channels[0][3]
				again.id.Seq += 100
				w.histories[0].channels[0] = append(w.histories[0].channels[0], again)
			},
			func(v *verdict) int { return v.HistoryTwice },
		},
		"history disorder": {
			func(w *world) {
				list := w.histories[0].channels[0]
				list[3].key, list[4].key = list[4].key, list[3].key
			},
			func(v *verdict) int { return v.HistoryDisorder },
		},
		"history missing": {
			func(w *world) { w.histories[0].channels[1] = w.histories[0].channels[1][1:] },
			func(v *verdict) int { return v.HistoryMissing },
		},
		"history missing beside a marker": {
			func(w *world) {
				w.histories[0].channels[1] = w.histories[0].channels[1][1:]
				w.histories[0].gaps = []stretch{{idOf(1), idOf(20)}}
			},
			func(v *verdict) int { return v.HistoryMissing },
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			c.plant(w)
			v := passJudgement(w.evidence)
			require.Positive(t, c.count(v), "%+v", v)
			require.Positive(t, v.wrong())
			require.NotEmpty(t, v.examples)
		})
	}
}

// TestToldLossesAreNoMistakes: losses under gap events, and what follows from them.
func TestToldLossesAreNoMistakes(t *testing.T) {
	for name, plant := range map[string]func(w *world){
		"lost and told": func(w *world) {
			w.a.remove(w.a.find(12), 2)
			w.a.insert(w.a.find(15), gapAt(15, idOf(14), allChannels))
		},
		"told on its channel": func(w *world) {
			w.a.remove(w.a.find(12), 1)
			w.a.insert(w.a.find(13), gapAt(13, idOf(12), 0))
		},
		"two channels told in a row": func(w *world) {
			w.a.remove(w.a.find(12), 2)
			w.a.insert(w.a.find(15), gapAt(15, idOf(14), 0), gapAt(15, idOf(14), 1))
		},
		"never numbered, told": func(w *world) {
			w.a.remove(w.a.find(12), 1)
			w.a.insert(w.a.find(13), gapAt(13, idOf(11), 0))
			w.histories[0].channels[0] = append(w.histories[0].channels[0][:4:4], w.histories[0].channels[0][5:]...)
		},
		"taken back and given again under other IDs": func(w *world) {
			from := w.a.find(12)
			again := append([]record{gapAt(14, idOf(10), allChannels)}, w.a.records[from:from+2]...)
			w.a.records[from].id.Seq += 50
			w.a.records[from+1].id.Seq += 50
			w.a.insert(from+2, again...)
		},
		"nobody was subscribed": func(w *world) {
			w.a.remove(w.a.find(12), 1)
			w.messages[0][6].receivers = 0
			w.histories[0].channels[0] = append(w.histories[0].channels[0][:4:4], w.histories[0].channels[0][5:]...)
		},
		"published on a former primary": func(w *world) {
			w.a.remove(w.a.find(12), 1)
			w.messages[0][6].astray = true
			w.histories[0].channels[0] = append(w.histories[0].channels[0][:4:4], w.histories[0].channels[0][5:]...)
		},
		"never numbered, beside what a former primary had": func(w *world) {
			w.a.remove(w.a.find(12), 1)
			w.messages[1][6].astray = true // 13
			w.a.insert(w.a.find(13)+1, gapAt(14, idOf(13), allChannels))
			w.histories[0].channels[0] = append(w.histories[0].channels[0][:4:4], w.histories[0].channels[0][5:]...)
		},
		"never numbered, beside what nobody knows to be published": func(w *world) {
			w.a.remove(w.a.find(12), 1)
			w.messages[1][6].acked = false // 13
			w.a.insert(w.a.find(13)+1, gapAt(14, idOf(13), allChannels))
			w.histories[0].channels[0] = append(w.histories[0].channels[0][:4:4], w.histories[0].channels[0][5:]...)
		},
		"told before the first message": func(w *world) {
			w.b.remove(1, 4) // 2, 5, 8, 11
			w.b.insert(1, record{kind: recordGap, at: at(13), places: make([]sseproto.ID, 1), channel: allChannels})
		},
		"given again after the network was divided": func(w *world) {
			w.divided = true
			again := w.a.records[w.a.find(12)]
			again.id = idOf(10) // before it came with the ID that the history has
			again.id.Seq += 50
			w.histories[0].gaps = []stretch{{idOf(10), again.id}}
			w.a.insert(w.a.find(12), again)
		},
		"unknown whether published": func(w *world) {
			w.a.remove(w.a.find(12), 1)
			w.messages[0][6].acked = false
			w.histories[0].channels[0] = append(w.histories[0].channels[0][:4:4], w.histories[0].channels[0][5:]...)
		},
		"history under a marker": func(w *world) {
			w.histories[0].channels[0] = w.histories[0].channels[0][1:]
			w.histories[0].gaps = []stretch{{sseproto.ID{}, idOf(0)}}
		},
		"refused by its stream": func(w *world) {
			w.histories[0].channels[0] = w.histories[0].channels[0][1:]
			w.histories[0].holes[0] = []stretch{{sseproto.ID{}, idOf(0)}}
		},
		"left before the first message": func(w *world) {
			w.b.remove(1, 4)
			w.b.insert(1, record{kind: recordClosed, at: at(10)}, record{kind: recordOpened, at: at(13)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			plant(w)
			v := passJudgement(w.evidence)
			require.Zero(t, v.wrong(), v.examples)
			require.Equal(t, 2, v.Exact+v.Told)
		})
	}
}

// TestClientWithoutAPositionIsNoWitness: nothing is promised to it, and it shows
// nothing either.
// TestHistoryMayForgetWhatClientsHave: what has expired is no mistake of the history, and
// no excuse for what a client lacks.
func TestHistoryMayForgetWhatClientsHave(t *testing.T) {
	w := newWorld()
	w.forgets = true
	w.histories[0].channels = make([][]entry, 3)
	require.Zero(t, passJudgement(w.evidence).wrong())
	w.a.remove(w.a.find(12), 1)
	v := passJudgement(w.evidence)
	require.Equal(t, 1, v.SilentlyMissing)
	require.Equal(t, 1, v.wrong())
}

func TestClientWithoutAPositionIsNoWitness(t *testing.T) {
	w := newWorld()
	w.b.records = []record{{kind: recordOpened}, {kind: recordClosed, at: at(30)}, {kind: recordOpened, at: at(31)}}
	v := passJudgement(w.evidence)
	require.Zero(t, v.wrong(), v.examples)
	require.Equal(t, 1, v.Exact)
	require.Equal(t, 1, v.Unplaced)
}

func TestTimelineFindsTheLongestSilence(t *testing.T) {
	line := newTimeline(10 * time.Second)
	for ms := 0; ms <= 5000; ms += 10 {
		if ms <= 1000 || ms >= 1400 {
			line.advance(sseproto.ID{Ms: uint64(ms + 1)}, time.Duration(ms)*time.Millisecond)
		}
	}
	line.advance(sseproto.ID{Ms: 500}, 1200*time.Millisecond) // told again: no delivery
	f := func(from, to, want time.Duration) {
		t.Helper()
		require.InDelta(t, want.Seconds(), line.silence(from, to).Seconds(), 2*sliceLength.Seconds())
	}
	f(0, 5*time.Second, 400*time.Millisecond)
	f(1200*time.Millisecond, 5*time.Second, 200*time.Millisecond)
	f(2*time.Second, 3*time.Second, 10*time.Millisecond)
	f(4*time.Second, 6*time.Second, time.Second)
	next, ok := line.next(1100 * time.Millisecond)
	require.True(t, ok)
	require.InDelta(t, 1.4, next.Seconds(), 0.01)
	_, ok = line.next(6 * time.Second)
	require.False(t, ok)
}

func TestPayloadsNameTheirMessage(t *testing.T) {
	for _, k := range []key{{0, 0}, {7, 123456}} {
		got, err := parsePayload([]byte(k.payload(20)))
		require.NoError(t, err)
		require.Equal(t, k, got)
	}
	for _, bad := range []string{"", "x", "1", "1.", ".1", "1.x y"} {
		_, err := parsePayload([]byte(bad))
		require.ErrorIs(t, err, errPayload, bad)
	}
}

// TestLinksOfTheBusMayBeLate: while the node that numbers is frozen, what comes by one link
// may overtake what another one would have brought, had it not been cut.
func TestLinksOfTheBusMayBeLate(t *testing.T) {
	f := func(want int, late, later time.Duration) {
		t.Helper()
		w := newWorld()
		w.late, w.later = late, later
		w.a.remove(w.a.find(12), 1)
		w.histories[0].channels[0] = append(w.histories[0].channels[0][:4:4], w.histories[0].channels[0][5:]...)
		w.a.insert(w.a.find(33), gapAt(33, idOf(31), allChannels)) // message 31 was sent 189 ms after 12 was answered
		v := passJudgement(w.evidence)
		require.Equal(t, want, v.SilentlyMissing)
		require.Equal(t, want, v.wrong())
	}
	f(1, 0, 0)
	f(1, 100*time.Millisecond, 0)
	f(0, 100*time.Millisecond, 100*time.Millisecond)
}

// newSpreadWorld is a run with three partitions and one client of channels of two of them,
// 1 and 2. A message says where the client is in each.
func newSpreadWorld() (w *world, c *client) {
	w = newWorld()
	empty := w.histories[0]
	w.histories = nil
	for q := range 3 {
		h := history{channels: make([][]entry, 3), holes: map[int][]stretch{}}
		for ch := range empty.channels {
			if partitionOf(ch, 3) == q {
				h.channels[ch] = empty.channels[ch]
			}
		}
		w.histories = append(w.histories, h)
	}
	c = &client{channels: []int{0, 1, 2}, records: []record{{kind: recordOpened}}}
	places := make([]sseproto.ID, 3)
	for i := range paperMessages {
		q := partitionOf(i%3, 3)
		places[q] = idOf(i)
		c.records = append(c.records, record{kind: recordEvent, at: at(i) + 3, partition: q, id: idOf(i), places: slices.Clone(places), key: keyOf(i)})
	}
	w.clients = []*client{c}
	return w, c
}

func TestPartitionsAreJudgedByThemselves(t *testing.T) {
	require.Equal(t, []int{1, 1, 2}, []int{partitionOf(0, 3), partitionOf(1, 3), partitionOf(2, 3)}, "what the cases below rely on")
	clean := func(plant func(w *world, c *client)) {
		t.Helper()
		w, c := newSpreadWorld()
		plant(w, c)
		v := passJudgement(w.evidence)
		require.Zero(t, v.wrong(), v.examples)
		require.Equal(t, 1, v.Exact+v.Told)
		require.Equal(t, paperMessages, v.Published)
		require.Equal(t, paperMessages, v.Acknowledged)
	}
	gap := func(c *client, before, i, channel int) {
		at := c.find(before)
		r := gapAt(before, sseproto.ID{}, channel)
		r.places = slices.Clone(c.records[at-1].places)
		r.places[partitionOf(channel, 3)] = idOf(i)
		c.insert(at, r)
	}
	clean(func(*world, *client) {})
	clean(func(w *world, c *client) { // between partitions there is no order
		x := c.find(13)
		c.records[x], c.records[x+1] = c.records[x+1], c.records[x]
		c.records[x].places, c.records[x+1].places = []sseproto.ID{{}, idOf(12), idOf(14)}, []sseproto.ID{{}, idOf(13), idOf(14)}
	})
	clean(func(w *world, c *client) { // nor are their IDs different
		list := w.histories[2].channels[2]
		list[4].id = idOf(13)
		c.records[c.find(14)].id = idOf(13)
		for i := range c.records {
			if c.records[i].kind == recordEvent && c.records[i].places[2] == idOf(14) {
				c.records[i].places[2] = idOf(13)
			}
		}
	})
	clean(func(w *world, c *client) { // lost and told
		c.remove(c.find(14), 1)
		gap(c, 15, 14, 2)
	})
	clean(func(w *world, c *client) { // put back, and a message of another partition names the place before that
		gap(c, 15, 11, 2)
		again := c.records[c.find(14)]
		c.insert(c.find(16), again)
	})

	for name, m := range map[string]struct {
		plant func(w *world, c *client)
		count func(v *verdict) int
	}{
		"lost while the other partition goes on": {
			func(w *world, c *client) { c.remove(c.find(14), 1) },
			func(v *verdict) int { return v.SilentlyMissing },
		},
		"lost under a gap event of the other partition": {
			func(w *world, c *client) {
				c.remove(c.find(14), 1)
				gap(c, 16, 15, 0)
			},
			func(v *verdict) int { return v.SilentlyMissing },
		},
		"lost after the first message, which is of the other partition": {
			func(w *world, c *client) {
				c.records[0].at = at(2) + 1 // later than message 2 was sent
				c.remove(1, 3)              // up to 2
				c.records[1].places[2] = sseproto.ID{Ms: 1}
			},
			func(v *verdict) int { return v.SilentlyMissing },
		},
		"a place ahead of what comes": {
			func(w *world, c *client) { c.records[c.find(13)].places[2] = idOf(14) },
			func(v *verdict) int { return v.OutOfOrder },
		},
		"twice": {
			func(w *world, c *client) { c.insert(c.find(16), c.records[c.find(14)]) },
			func(v *verdict) int { return v.Duplicated },
		},
		"in the history of another partition": {
			func(w *world, c *client) {
				w.histories[1].channels[2], w.histories[2].channels[2] = w.histories[2].channels[2], nil
			},
			func(v *verdict) int { return v.HistoryMissing },
		},
		"with an ID of another partition": {
			func(w *world, c *client) { c.records[c.find(14)].partition = 1 },
			func(v *verdict) int { return v.Refused },
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, c := newSpreadWorld()
			m.plant(w, c)
			v := passJudgement(w.evidence)
			require.Positive(t, m.count(v), "%+v", v)
			require.NotEmpty(t, v.examples)
		})
	}
}

// TestSilenceIsThatOfThePartitionThatWasSilentLongest: the others are no delivery of it.
func TestSilenceIsThatOfThePartitionThatWasSilentLongest(t *testing.T) {
	lines := newTimelines(2, 10*time.Second)
	for ms := 0; ms <= 5000; ms += 10 {
		id, now := sseproto.ID{Ms: uint64(ms + 1)}, time.Duration(ms)*time.Millisecond
		lines[0].advance(id, now)
		if ms <= 1000 || ms >= 3000 {
			lines[1].advance(id, now)
		}
	}
	require.InDelta(t, 2, lines.silence(0, 5*time.Second).Seconds(), 0.02)
	next, ok := lines.next(1500 * time.Millisecond)
	require.True(t, ok)
	require.InDelta(t, 3, next.Seconds(), 0.01)
}
