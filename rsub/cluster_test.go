package rsub

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redisconn"
	"ssed/internal/redistest"
)

var (
	clusterKeys  = redisconn.MakePartitionKeys(testPrefix, redisconn.Partition{})
	clusterInbox = clusterKeys.Inbox(testInbox)
)

// clusterPrimary is the node that serves the slot of all keys.
func clusterPrimary(t testing.TB, c *redistest.Cluster) *redistest.Server {
	t.Helper()
	s, err := c.AwaitPrimary(clusterKeys.Slot)
	require.NoError(t, err)
	return s
}

// startSteadyCluster runs a cluster in which no node is taken for failed: on a busy machine
// one may be silent for a second.
func startSteadyCluster(t testing.TB, primaries, replicas int) *redistest.Cluster {
	t.Helper()
	c := redistest.StartCluster(t, primaries, replicas)
	for _, s := range c.Nodes { // not before: they learn of each other within a part of it
		do(t, s, "CONFIG", "SET", "cluster-node-timeout", "60000")
	}
	return c
}

func TestClusterByTheShardChannel(t *testing.T) {
	t.Parallel()
	c := startSteadyCluster(t, 3, 0)
	testPublishing(t, clusterPrimary(t, c), c.URL(), clusterInbox)
	require.Equal(t, int64(0), do(t, c.Nodes[0], "DBSIZE"))
	require.Equal(t, int64(0), do(t, c.Nodes[2], "DBSIZE"))
}

// TestShardedFeedFollowsItsSlot: the old node says sunsubscribe when it gives the slot
// away, and is a replica after a failover. Everywhere the IDs are the same.
func TestShardedFeedFollowsItsSlot(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, 1)
	a, b := start(t, c.URL(), "a", withSharded), start(t, c.URL(), "b", withSharded, withFeeds(2))
	waitSynced(t, a, b)
	flushSharded(t, clusterPrimary(t, c), "first", a, b)

	require.NoError(t, c.Move(clusterKeys.Slot, c.Nodes[0], nil))
	waitMoved(t, c.Nodes[0], a, b)
	flushShardedAgain(t, c.Nodes[0], a, b)

	require.NoError(t, c.Promote(c.Nodes[3]))
	waitMoved(t, c.Nodes[3], a, b)
	flushShardedAgain(t, c.Nodes[3], a, b)

	c.Nodes[3].Kill()
	waitMoved(t, c.Nodes[0], a, b)
	flushShardedAgain(t, c.Nodes[0], a, b)
	require.Equal(t, common(a, b), common(b, a))
}

// common is what an instance has of the messages that another one has as well.
func common(in, other *instance) (list []message) {
	for _, m := range in.sink.all() {
		if other.has(m.payload) {
			list = append(list, m)
		}
	}
	return list
}

// flushShardedAgain publishes until all have the same message. On a busy machine an
// instance that has moved may lose its connection once more.
func flushShardedAgain(t testing.TB, s *redistest.Server, list ...*instance) {
	t.Helper()
	publishUntilSeen(t, func(mark string) { spublish(t, s, "flush", mark) }, s.Addr(), list)
}

// waitMoved waits until all subscriptions hang on s and number what comes.
func waitMoved(t testing.TB, s *redistest.Server, list ...*instance) {
	t.Helper()
	for _, in := range list {
		eventually(t, func() bool {
			node := redisconn.ParseInfo(fmt.Sprint(must(s.Do("INFO", "server")))).RunID()
			for _, sub := range in.subscriptions {
				if to := sub.subscribedTo.Load(); to == nil || *to != node || !sub.synced.Load() {
					return false
				}
			}
			return in.isSynced()
		}, "%s has not moved", in.cfg.Instance)
	}
}

// must is for answers that an eventual condition may lack.
func must(reply any, _ error) any { return reply }

func TestPublishedOnAnyNodeOfACluster(t *testing.T) {
	t.Parallel()
	c := startSteadyCluster(t, 3, 1)
	a, b := start(t, c.URL(), "a"), start(t, c.URL(), "b", withFeeds(2))
	waitSynced(t, a, b)
	for i, s := range c.Nodes {
		for k := range 50 {
			do(t, s, "PUBLISH", "a", fmt.Sprintf("%d-%d", i, k))
		}
	}
	eventually(t, func() bool { return len(a.sink.all()) == 300 && len(b.sink.all()) == 300 }, "not all")
	require.Equal(t, a.sink.all(), b.sink.all())
	require.Len(t, a.sink.spans, 1)
	r, err := a.Publish(t.Context(), "a", "x")
	require.NoError(t, err)
	require.NotZero(t, r.ID)
}

// TestLossOnTheBusIsADiscontinuity: while the node to which all are subscribed is frozen,
// the others cut their links to it, after half of the node timeout to the whole of it, and
// make them anew. What they had to send is lost, and the connections of the instances stand.
func TestLossOnTheBusIsADiscontinuity(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, 0)
	s := clusterPrimary(t, c)
	patient := func(in *Config) { in.ProbeTimeout = time.Minute }
	a, b := start(t, c.URL(), "a", patient), start(t, c.URL(), "b", patient, withFeeds(2))
	eventually(t, func() bool { return a.Stats().SubscriptionsSynced+b.Stats().SubscriptionsSynced == 3 }, "not synced")
	flush(t, c.Nodes[0], "before", a, b)
	require.NoError(t, s.Pause())
	sent := 0
	client := dial(t, c.Nodes[2])
	for began := time.Now(); time.Since(began) < 2*time.Second; sent += 20 { // some are on the way whenever links are cut
		publish(client, 4, 5, fmt.Sprint(sent))
		time.Sleep(pause)
	}
	require.NoError(t, s.Resume())
	for _, in := range []*instance{a, b} {
		eventually(t, func() bool { return in.Stats().Resyncs["bus"] > 0 }, "%s: no loss is told", in.cfg.Instance)
		require.EqualValues(t, max(in.cfg.Feeds, 1), in.Stats().Connects, "the connections stand")
	}
	waitSynced(t, a, b)
	flushAgain(t, c.Nodes[0], a, b)
	got := slices.DeleteFunc(a.sink.all(), func(m message) bool { return m.channel == "flush" })
	require.Less(t, len(got), sent, "nothing was lost: that shows nothing")
	require.Equal(t, a.sink.all(), b.sink.all())
	spans, _, _ := a.sink.counts()
	require.Greater(t, spans, 1)
}

// TestNodeThatDiesIsOneDiscontinuity: from the last tick before, until most take it for
// failed. Messages of the others are delivered meanwhile, and instances stay ready.
func TestNodeThatDiesIsOneDiscontinuity(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, 1)
	a, b := start(t, c.URL(), "a"), start(t, c.URL(), "b", withFeeds(2))
	eventually(t, func() bool { return a.Stats().SubscriptionsSynced+b.Stats().SubscriptionsSynced == 3 }, "not synced")
	flush(t, c.Nodes[0], "before", a, b)
	eventually(t, func() bool { _, _, commits := a.sink.counts(); return commits > 0 }, "nothing is committed")
	c.Nodes[5].Kill()
	for i := 0; a.Stats().Resyncs["bus"] == 0; i++ {
		require.Less(t, i, 10000, "no end of it")
		do(t, c.Nodes[2], "PUBLISH", "a", fmt.Sprintf("meanwhile %d", i))
		require.True(t, a.isSynced())
		time.Sleep(2 * time.Millisecond) // a pace
	}
	flushAgain(t, c.Nodes[2], a, b)
	require.NoError(t, c.Nodes[5].Restart())
	require.NoError(t, c.AwaitHealth())
	eventually(t, func() bool { return a.Stats().Resyncs["bus"] >= 2 }, "a new link")
	flushAgain(t, c.Nodes[5], a, b)
	require.Equal(t, a.sink.all(), b.sink.all())
	for _, in := range []*instance{a, b} {
		require.EqualValues(t, in.cfg.Feeds, in.Stats().Connects)
		require.Less(t, in.Stats().Resyncs["bus"], uint64(5*in.cfg.Feeds), "one for each change, not for each tick")
	}
}

// flushAgain publishes until all have the same message: another link may still change.
func flushAgain(t testing.TB, s *redistest.Server, list ...*instance) {
	t.Helper()
	publishUntilSeen(t, func(mark string) { do(t, s, "PUBLISH", "flush", mark) }, s.Addr(), list)
}

func publishUntilSeen(t testing.TB, publish func(mark string), name string, list []*instance) {
	t.Helper()
	eventually(t, func() bool {
		mark := fmt.Sprintf("%s %d", name, time.Now().UnixNano()) // another one each time
		publish(mark)
		for range 100 {
			if !slices.ContainsFunc(list, func(in *instance) bool { return !in.has(mark) }) {
				return true
			}
			time.Sleep(time.Millisecond)
		}
		return false
	}, "no message comes")
}

// TestLinksThatCannotBeSeen: then nobody can tell what the bus loses.
func TestLinksThatCannotBeSeen(t *testing.T) {
	t.Parallel()
	c := startSteadyCluster(t, 3, 0)
	for _, s := range c.Nodes {
		do(t, s, "ACL", "SETUSER", "u", "on", ">u", "~*", "&*", "+@all", "-cluster|links")
	}
	as := func(in *Config) { in.Client.Username, in.Client.Password = "u", "u" }
	in, err := New(testConfig(t, c.URL(), "a", as), discard{})
	require.NoError(t, err)
	err = in.Run(t.Context())
	require.True(t, errors.Is(err, ErrNoLinks), "%v", err)
	require.ErrorContains(t, err, "sharded")
	waitSynced(t, start(t, c.URL(), "b", as, withSharded))
}

// TestFormerPrimaryThatWakesUpGivesNothingASecondNumber: what it is asked while it is frozen it
// publishes when it wakes up, before it hears that it was replaced. The bus brings that to its
// successor.
func TestFormerPrimaryThatWakesUpGivesNothingASecondNumber(t *testing.T) {
	for feeds := 1; feeds <= 2; feeds++ {
		c := redistest.StartCluster(t, 3, 1)
		a, b := start(t, c.URL(), "a", withSharded, withFeeds(feeds)), start(t, c.URL(), "b", withSharded)
		waitSynced(t, a, b)
		rounds := 1
		for !freezeUntilReplaced(t, c, "late", a, b) {
			require.Less(t, rounds, 10, "it always knew: that shows nothing")
			rounds++
		}
		for _, in := range []*instance{a, b} {
			eventually(t, func() bool { return in.Stats().Resyncs["bus"] > 0 }, "%s: it is not noticed", in.cfg.Instance)
		}
		require.NoError(t, c.AwaitHealth())
		waitSynced(t, a, b)
		flushShardedAgain(t, clusterPrimary(t, c), a, b)
		for _, in := range []*instance{a, b} {
			require.False(t, in.has("late"), in.cfg.Instance)
			require.LessOrEqual(t, in.Stats().Resyncs["bus"], uint64(2*in.cfg.Feeds), "once, not with each tick")
		}
		require.Equal(t, common(a, b), common(b, a))
	}
}

// freezeUntilReplaced freezes the primary, asks it to publish, and wakes it up when another one is
// in its place. It returns whether it has published: it may hear first that it was replaced.
func freezeUntilReplaced(t *testing.T, c *redistest.Cluster, payload string, list ...*instance) bool {
	t.Helper()
	old := clusterPrimary(t, c)
	successor := c.ReplicaOf(old)
	require.NotNil(t, successor)
	conn, err := redistest.Dial(old.Addr(), time.Minute)
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Do("PING") // the connection is accepted
	require.NoError(t, err)
	require.NoError(t, old.Pause())
	asked := make(chan error, 1)
	go func() {
		_, err := conn.Do("SPUBLISH", clusterKeys.Messages, payload+"\n"+payload)
		asked <- err
	}()
	waitMoved(t, successor, list...)
	flushShardedAgain(t, successor, list...)
	require.NoError(t, old.Resume())
	if err = <-asked; errors.As(err, new(redistest.Error)) { // MOVED
		require.NoError(t, c.AwaitHealth())
		return false
	}
	require.NoError(t, err)
	return true
}

// TestPublishedOnAReplica comes by the bus, too, and has its number: no primary is away.
func TestPublishedOnAReplica(t *testing.T) {
	c := redistest.StartCluster(t, 3, 1)
	a := start(t, c.URL(), "a", withSharded)
	waitSynced(t, a)
	replica := c.Nodes[slices.Index(c.Nodes, clusterPrimary(t, c))+3]
	for i := range 20 {
		spublish(t, replica, "c", fmt.Sprint(i))
		require.NoError(t, a.CommitNow(t.Context()))
	}
	eventually(t, func() bool { return a.has("19") }, "not all has come")
	require.Len(t, a.sink.all(), 20)
	require.Zero(t, a.Stats().Resyncs["bus"])
}

// TestTicksGoOnWhileASlotMoves until the key of the clock is at the other node: the keys of
// an inbox that is empty may be anywhere.
func TestTicksGoOnWhileASlotMoves(t *testing.T) {
	t.Parallel()
	c := startSteadyCluster(t, 2, 0)
	a := start(t, c.URL(), "a", withSharded, withInbox)
	waitSynced(t, a)
	from := clusterPrimary(t, c)
	to := c.Nodes[0]
	if to == from {
		to = c.Nodes[1]
	}
	slot := fmt.Sprint(clusterKeys.Slot)
	do(t, to, "CLUSTER", "SETSLOT", slot, "IMPORTING", fmt.Sprint(do(t, from, "CLUSTER", "MYID")))
	do(t, from, "CLUSTER", "SETSLOT", slot, "MIGRATING", fmt.Sprint(do(t, to, "CLUSTER", "MYID")))
	ticks := a.Stats().TicksSeen
	eventually(t, func() bool { return a.Stats().TicksSeen > ticks+5 }, "no ticks")
	require.Contains(t, a.InboxTrouble(), redisconn.CodeTryAgain)
	require.NoError(t, c.Move(clusterKeys.Slot, to, nil))
	waitMoved(t, to, a)
	eventually(t, func() bool { return a.InboxTrouble() == "" }, "the inbox stands still")
	flushShardedAgain(t, to, a)
}

// TestLateTickMovesNothing: a node that was frozen and replaced takes up what it was asked
// before. The bus would bring to all what it moves of the inbox then.
func TestLateTickMovesNothing(t *testing.T) {
	t.Parallel()
	c := startSteadyCluster(t, 2, 0)
	in := start(t, c.URL(), "a", withSharded)
	waitSynced(t, in)
	client, err := in.client.Get(t.Context())
	require.NoError(t, err)
	args := in.ticker.args(modeJoin)
	f := func(due time.Duration, want string) {
		t.Helper()
		args[15] = fmt.Sprintf("0 %d", time.Now().Add(due).UnixMilli())
		words, err := tickScript.Run(t.Context(), client, []string{in.keys.Clock}, args).AsStrSlice()
		require.NoError(t, err)
		require.Equal(t, want, words[0])
	}
	f(time.Minute, "tick")
	f(-time.Minute, "late")
	// A clock that was set back by an hour, or another one, is learned with the next call.
	in.clockSkew.Store(time.Hour.Milliseconds())
	ticks := in.Stats().TicksSent
	eventually(t, func() bool { return in.Stats().TicksSent > ticks+3 }, "no ticks")
	require.Less(t, in.clockSkew.Load(), time.Minute.Milliseconds())
}
