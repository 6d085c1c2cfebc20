package rsub

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redisconn"
	"ssed/internal/redistest"
	"ssed/sseproto"
)

// partitioned are the feeds of one instance, one for each partition.
type partitioned []*instance

func startPartitions(t testing.TB, url, name string, of int, options ...option) partitioned {
	t.Helper()
	list := make(partitioned, of)
	var all atomic.Pointer[partitioned] // nil until all are there
	for q := range list {
		part := func(c *Config) {
			c.Sharded, c.Partition = true, redisconn.Partition{Number: q, Of: of}
			c.Elsewhere = func() (n int) {
				if all := all.Load(); all != nil {
					for i, in := range *all {
						if i != q && in.Leads() {
							n++
						}
					}
				}
				return n
			}
		}
		list[q] = start(t, url, name, append([]option{part}, options...)...)
	}
	all.Store(&list)
	return list
}

// channelsOf returns so many names that belong to a partition.
func channelsOf(q, of, n int) (names []string) {
	for i := 0; len(names) < n; i++ {
		if name := fmt.Sprintf("user:%d", i); sseproto.PartitionOf(name, of) == q {
			names = append(names, name)
		}
	}
	return names
}

// home is where the messages of a partition are published.
type home struct {
	server *redistest.Server
	keys   redisconn.Keys
}

// homesOf are those of all partitions, on one server.
func homesOf(s *redistest.Server, of int) (list []home) {
	for q := range of {
		list = append(list, home{s, redisconn.MakePartitionKeys(testPrefix, redisconn.Partition{Number: q, Of: of})})
	}
	return list
}

// homesIn are the same in a cluster, by who serves the slots now.
func homesIn(t testing.TB, c *redistest.Cluster, of int) []home {
	t.Helper()
	list := homesOf(nil, of)
	for q := range list {
		s, err := c.AwaitPrimary(list[q].keys.Slot)
		require.NoError(t, err)
		list[q].server = s
	}
	return list
}

// send is what a backend does for one message.
func (p home) send(t testing.TB, channel, payload string) {
	t.Helper()
	do(t, p.server, "SPUBLISH", p.keys.Messages, channel+"\n"+payload)
}

// flushPartitions publishes in each partition until all have the same message: a connection
// may be about to go.
func flushPartitions(t testing.TB, homes []home, mark string, list ...partitioned) {
	t.Helper()
	for q, p := range homes {
		n := 0
		eventually(t, func() bool {
			n++
			text := fmt.Sprintf("%s %d", mark, n)
			p.send(t, channelsOf(q, len(homes), 1)[0], text)
			for range 100 {
				if !slices.ContainsFunc(list, func(in partitioned) bool { return !in[q].has(text) }) {
					return true
				}
				time.Sleep(time.Millisecond)
			}
			return false
		}, "no %q of partition %d", mark, q)
	}
}

// requireAlike: two instances have the same messages at the positions that both have.
func requireAlike(t testing.TB, a, b *instance) (common int) {
	t.Helper()
	at := map[sseproto.ID]message{}
	for _, m := range a.sink.all() {
		at[m.id] = m
	}
	for _, m := range b.sink.all() {
		if same, ok := at[m.id]; ok {
			require.Equal(t, same, m)
			common++
		}
	}
	return common
}

func (in *instance) payloads() (list []string) {
	for _, m := range in.sink.all() {
		list = append(list, m.payload)
	}
	return list
}

func TestPartitionsOnOneServer(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	testPartitions(t, s.URL(), homesOf(s, 3))
}

func TestPartitionsInACluster(t *testing.T) {
	t.Parallel()
	c := startSteadyCluster(t, 3, 0)
	homes := homesIn(t, c, 3)
	testPartitions(t, c.URL(), homes)
	nodes := map[string]bool{}
	for _, p := range homes {
		nodes[p.server.Addr()] = true
	}
	require.Len(t, nodes, 3, "each on a primary of its own")
}

// testPartitions: each partition is a log of its own, with the same IDs on all instances,
// whoever publishes, alone or in batches.
func testPartitions(t *testing.T, url string, homes []home) {
	const each = 60
	of := len(homes)
	batched := func(c *Config) { c.BatchChannel = "batches" }
	a, b := startPartitions(t, url, "a", of, batched), startPartitions(t, url, "b", of, batched, withFeeds(2))
	waitSynced(t, append(slices.Clone(a), b...)...)
	want := make([][]string, of)
	var wg sync.WaitGroup
	for q, p := range homes {
		names := channelsOf(q, of, 5)
		for i := range each {
			want[q] = append(want[q], fmt.Sprintf("sent %d", i), fmt.Sprintf("published %d", i))
		}
		wg.Go(func() {
			for i := range each {
				p.send(t, names[i%5], fmt.Sprintf("sent %d", i))
			}
		})
		wg.Go(func() {
			var batch []OutMessage
			for i := range each {
				batch = append(batch, OutMessage{names[i%5], fmt.Sprintf("published %d", i)})
			}
			results, err := a[q].PublishBatch(t.Context(), batch)
			require.NoError(t, err)
			for i, r := range results {
				require.True(t, slices.Contains(a[q].sink.all(), message{r.ID, batch[i].Channel, batch[i].Payload}), "%v", r)
			}
		})
	}
	wg.Wait()
	flushPartitions(t, homes, "end", a, b)
	for q := range of {
		got := slices.DeleteFunc(a[q].payloads(), func(text string) bool { return strings.HasPrefix(text, "end") })
		require.ElementsMatch(t, want[q], got)
		require.Equal(t, tail(a[q].sink.all(), b[q].sink.spans[0].low), tail(b[q].sink.all(), a[q].sink.spans[0].low))
		require.Len(t, a[q].sink.spans, 1)
		require.Zero(t, a[q].Stats().Foreign)
		require.NotZero(t, a[q].Stats().Batches)
		view := a[q].View()
		require.Equal(t, homes[q].server.Addr(), view.Node)
		require.Contains(t, []string{"a", "b"}, view.Leader)
		require.NotZero(t, view.Last.Ms)
	}
}

// TestMessageOfAnotherPartition has a number on all instances alike, is counted, told once
// and left out, alone and in a batch.
func TestMessageOfAnotherPartition(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	log := &lockedBuffer{}
	told := func(c *Config) { c.BatchChannel, c.Logger = "batches", slog.New(slog.NewTextHandler(log, nil)) }
	a := startPartitions(t, s.URL(), "a", 3, told)
	waitSynced(t, a...)
	p, mine, foreign := homesOf(s, 3)[1], channelsOf(1, 3, 1)[0], channelsOf(2, 3, 1)[0]
	var batch []byte
	for _, channel := range []string{mine, foreign, mine} {
		batch = sseproto.AppendBatched(batch, channel, channel)
	}
	for range 2 {
		p.send(t, foreign, "x")
		p.send(t, "batches", string(batch))
	}
	p.send(t, mine, "end")
	eventually(t, func() bool { return a[1].has("end") }, "no end")
	require.Equal(t, []string{mine, mine, mine, mine, "end"}, a[1].payloads())
	require.EqualValues(t, 4, a[1].Stats().Foreign)
	require.EqualValues(t, 9, a[1].Stats().Numbered)
	a[1].tell()
	f := &a[1].found.foreign
	f.mu.Lock()
	f.next = f.next.Add(-patience) // the next line of its kind could be written
	f.mu.Unlock()
	p.send(t, foreign, "x")
	eventually(t, func() bool { return a[1].Stats().Foreign == 5 }, "it is not counted")
	a[1].tell()
	require.Equal(t, 1, strings.Count(log.String(), "another partition"), log.String())
	require.Contains(t, log.String(), fmt.Sprintf("partition=1 channel=%s belongsTo=2", foreign))
	_, err := a[1].Publish(t.Context(), foreign, "x")
	require.ErrorIs(t, err, ErrPartition)
}

// TestNumberOfPartitionsIsCompared where the slots of two of them are the same, and named.
func TestNumberOfPartitionsIsCompared(t *testing.T) {
	t.Parallel()
	c := startSteadyCluster(t, 1, 0)
	waitSynced(t, start(t, c.URL()+"?addr="+c.Nodes[0].Addr(), "whole", withSharded)) // in the slot of the middle one of three
	of3 := func(c *Config) { c.Sharded, c.Partition = true, redisconn.Partition{Number: 1, Of: 3} }
	in, err := New(testConfig(t, c.URL()+"?addr="+c.Nodes[0].Addr(), "b", of3), discard{})
	require.NoError(t, err)
	err = in.Run(t.Context())
	require.ErrorIs(t, err, ErrConfigMismatch)
	require.ErrorContains(t, err, "partitions=3")
}

func TestPartitionMustExistAndBeSharded(t *testing.T) {
	f := func(p redisconn.Partition, sharded bool, want string) {
		t.Helper()
		_, err := New(testConfig(t, "redis://127.0.0.1:1", "x", func(c *Config) { c.Partition, c.Sharded = p, sharded }), discard{})
		if want == "" {
			require.NoError(t, err)
			return
		}
		require.ErrorContains(t, err, "rsub: Partition: "+want)
	}
	f(redisconn.Partition{}, false, "")
	f(redisconn.Partition{Number: 0, Of: 1}, false, "")
	f(redisconn.Partition{Number: 2, Of: 3}, true, "")
	f(redisconn.Partition{Number: 2, Of: 3}, false, "several of them take Sharded")
	f(redisconn.Partition{Number: 3, Of: 3}, true, "3 of 3 is none of at most 64")
	f(redisconn.Partition{Number: 0, Of: 65}, true, "0 of 65 is none of at most 64")
	f(redisconn.Partition{Number: -1, Of: 3}, true, "-1 of 3 is none of at most 64")
}

// TestKilledLinksOfPartitions: while all connections of instances are killed again and
// again, each partition goes on by itself, and no two instances number differently.
func TestKilledLinksOfPartitions(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	homes := homesOf(s, 3)
	a, b := startPartitions(t, s.URL(), "a", 3), startPartitions(t, s.URL(), "b", 3)
	all := append(slices.Clone(a), b...)
	waitSynced(t, all...)
	for round := range 10 {
		for q, p := range homes {
			for i := range 30 {
				p.send(t, channelsOf(q, 3, 3)[i%3], fmt.Sprintf("%d-%d", round, i))
			}
		}
		kind := []string{"pubsub", "normal"}[round%2]
		do(t, s, "CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
		waitSynced(t, all...)
		flushPartitions(t, homes, fmt.Sprintf("round %d", round), a, b)
	}
	for q := range homes {
		require.GreaterOrEqual(t, requireAlike(t, a[q], b[q]), 10)
		require.NotZero(t, a[q].Stats().Resyncs["disconnect"])
	}
}

// TestFailoverOfOnePartition: those on other nodes have no discontinuity.
func TestFailoverOfOnePartition(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, 1)
	a, b := startPartitions(t, c.URL(), "a", 3), startPartitions(t, c.URL(), "b", 3, withFeeds(2))
	waitSynced(t, append(slices.Clone(a), b...)...)
	homes := homesIn(t, c, 3)
	flushPartitions(t, homes, "first", a, b)
	replica := c.ReplicaOf(homes[1].server)
	require.NoError(t, c.Promote(replica))
	waitMoved(t, replica, a[1], b[1])
	homes[1].server = replica
	flushPartitions(t, homes, "failed over", a, b)

	replica.Kill() // its old primary takes over
	eventually(t, func() bool { s, err := c.Primary(homes[1].keys.Slot); return err == nil && s != replica }, "nobody takes over")
	waitMoved(t, homesIn(t, c, 3)[1].server, a[1], b[1])
	flushPartitions(t, homesIn(t, c, 3), "killed", a, b)
	for q := range homes {
		common := requireAlike(t, a[q], b[q])
		spans, _, _ := a[q].sink.counts()
		if q == 1 { // what no tick had committed is taken back
			require.Positive(t, common)
			require.Greater(t, spans, 1)
			continue
		}
		require.GreaterOrEqual(t, common, 3)
		require.Equal(t, 1, spans, "of partition %d", q)
	}
}

// TestLeadOfTheClocksIsSpread: who leads many leaves a clock that is given up to others, and
// who stops leaves all of them.
func TestLeadOfTheClocksIsSpread(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	a := startPartitions(t, s.URL(), "a", 4)
	waitSynced(t, a...)
	leads := func(list partitioned) (n int) {
		for _, in := range list {
			if in.Leads() {
				n++
			}
		}
		return n
	}
	eventually(t, func() bool { return leads(a) == 4 }, "a leads not all")
	b, c := startPartitions(t, s.URL(), "b", 4), startPartitions(t, s.URL(), "c", 4)
	waitSynced(t, append(slices.Clone(b), c...)...)
	require.Equal(t, 4, leads(a), "nothing is taken away")
	// Who asks for the lead too late, on a busy machine, leaves it to a; so again.
	for _, q := range []int{1, 2} {
		eventually(t, func() bool { a[q].Yield(); return b[q].Leads() || c[q].Leads() }, "nobody takes the lead of %d", q)
	}
	eventually(t, func() bool { return leads(a) == 2 && leads(b)+leads(c) == 2 }, "%d %d %d", leads(a), leads(b), leads(c))
	for _, in := range a {
		require.NoError(t, in.stop())
	}
	eventually(t, func() bool { return leads(b)+leads(c) == 4 }, "clocks without a leader")
	eventually(t, func() bool { v := b[0].View(); return v.Leader == "b" || v.Leader == "c" }, "who leads is not seen")
}

// TestInboxOfAPartition takes what belongs to the partition, and sets the rest aside.
func TestInboxOfAPartition(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	var parts []*gateway
	for q := range 2 {
		parts = append(parts, startGateway(t, s, "a", withSharded, func(c *Config) { c.Partition = redisconn.Partition{Number: q, Of: 2} }))
	}
	waitWritten(t, parts...)
	homes := homesOf(s, 2)
	for q, p := range homes {
		inbox := p.keys.Inbox(testInbox)
		for i := range 20 {
			do(t, s, "XADD", inbox, "*", "channel", channelsOf(q, 2, 3)[i%3], "data", fmt.Sprint(i))
		}
		do(t, s, "XADD", inbox, "*", "channel", channelsOf(1-q, 2, 1)[0], "data", "misled")
	}
	for q, p := range homes {
		inbox := p.keys.Inbox(testInbox)
		eventually(t, func() bool { return do(t, s, "XLEN", inbox) == int64(0) }, "the inbox of %d is not empty", q)
		eventually(t, func() bool { return parts[q].Stats().Inbox.Acknowledged == 20 }, "it was not told")
		require.EqualValues(t, 1, parts[q].Stats().Inbox.Refused["partition"])
		require.EqualValues(t, 1, do(t, s, "XLEN", redisconn.Refused(inbox)))
		n := int64(0)
		for _, channel := range channelsOf(q, 2, 3) {
			length, _ := do(t, s, "XLEN", p.keys.Stream(channel)).(int64)
			n += length
		}
		require.EqualValues(t, 20, n, "in the history of partition %d", q)
	}
}

// TestSumsOfFeeds have each count of both.
func TestSumsOfFeeds(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	a := startPartitions(t, s.URL(), "a", 2)
	waitSynced(t, a...)
	flushPartitions(t, homesOf(s, 2), "end", a)
	x, y := a[0].Stats(), a[1].Stats()
	sum := x.Plus(y)
	require.Equal(t, x.Delivered+y.Delivered, sum.Delivered)
	require.Equal(t, x.TicksSeen+y.TicksSeen, sum.TicksSeen)
	require.Equal(t, 2, sum.SubscriptionsSynced)
	require.Equal(t, slices.Sorted(maps.Keys(x.Inbox.Refused)), slices.Sorted(maps.Keys(sum.Inbox.Refused)))
	require.Equal(t, x.Delivered, Stats{}.Plus(x).Delivered)
	require.NotSame(t, &x.LagCounts, &sum.LagCounts)
	var counts uint64
	for i := range sum.LagCounts {
		counts += sum.LagCounts[i] - x.LagCounts[i] - y.LagCounts[i]
	}
	require.Zero(t, counts)
}
