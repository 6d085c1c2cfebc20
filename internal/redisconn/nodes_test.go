package redisconn

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

const (
	waitLong  = time.Minute
	pollEvery = 5 * time.Millisecond
)

// named returns options whose connections are found by their name.
func named(t *testing.T, url string) rueidis.ClientOption {
	t.Helper()
	o, err := rueidis.ParseURL(url)
	require.NoError(t, err)
	o.ClientName = "counted"
	return Options(o)
}

// connections counts those of named.
func connections(t *testing.T, servers ...*redistest.Server) (n int) {
	t.Helper()
	for _, s := range servers {
		reply, err := s.Do("CLIENT", "LIST")
		require.NoError(t, err)
		n += strings.Count(reply.(string), " name=counted ")
	}
	return n
}

func requireConnections(t *testing.T, want int, servers ...*redistest.Server) {
	t.Helper()
	require.Eventually(t, func() bool { return connections(t, servers...) == want }, waitLong, pollEvery)
}

func get(t *testing.T, l *Client) rueidis.Client {
	t.Helper()
	c, err := l.Get(t.Context())
	require.NoError(t, err)
	require.NoError(t, c.Do(t.Context(), c.B().Ping().Build()).Error())
	return c
}

// TestClientsOfAServerShareItsConnection, of each kind. One that gives it up disturbs nobody's
// commands, and the others follow.
func TestClientsOfAServerShareItsConnection(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	var shared Shared
	clients := make([]*Client, 8)
	var wg sync.WaitGroup
	for i := range clients {
		clients[i] = shared.Nodes("a", named(t, s.URL())).Client(i)
		wg.Go(func() { _, _ = clients[i].Get(t.Context()) })
	}
	wg.Wait()
	other := shared.Nodes("b", named(t, s.URL())).Client(0)
	first := get(t, clients[0])
	for _, l := range clients {
		require.Same(t, first, get(t, l))
	}
	require.NotSame(t, first, get(t, other))
	requireConnections(t, 2, s)

	clients[0].Discard(first)
	kept, err := clients[1].Current()
	require.NoError(t, err)
	require.Same(t, first, kept)
	require.NoError(t, kept.Do(t.Context(), kept.B().Ping().Build()).Error())
	second := get(t, clients[0])
	require.NotSame(t, first, second)
	clients[2].Discard(first) // as clients[0] has
	for _, l := range clients[1:] {
		require.Same(t, second, get(t, l))
	}
	requireConnections(t, 2, s)

	for _, l := range clients {
		l.Close()
	}
	requireConnections(t, 1, s)
	other.Close()
	requireConnections(t, 0, s)
	require.Empty(t, clients[0].nodes.list)
}

func TestNothingIsSharedUnlessAsked(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	var none *Shared
	for range 2 {
		l := none.Nodes("a", named(t, s.URL())).Client(0)
		t.Cleanup(l.Close)
		get(t, l)
	}
	require.Equal(t, 2, connections(t, s))
}

// TestLostConnectionIsMadeAgainForAll who share it, and once.
func TestLostConnectionIsMadeAgainForAll(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, 0)
	var shared Shared
	clients := make([]*Client, 12)
	for i := range clients {
		clients[i] = shared.Nodes("a", named(t, c.URL())).Client(Slots / len(clients) * i)
		t.Cleanup(clients[i].Close)
	}
	// Who noticed nothing follows, also where a busy machine was too late for a connection.
	haveThree := func() {
		t.Helper()
		require.Eventually(t, func() bool {
			for _, l := range clients {
				client, err := l.Get(t.Context())
				if err != nil || client.Do(t.Context(), client.B().Ping().Build()).Error() != nil {
					return false
				}
			}
			return connections(t, c.Nodes...) == 3
		}, waitLong, pollEvery)
	}
	haveThree()
	for _, node := range c.Nodes {
		_, err := node.Do("CLIENT", "KILL", "TYPE", "normal")
		require.NoError(t, err)
	}
	haveThree()
}

// TestClientsFollowTheirSlotsApart: one slot moves to another node. Its client goes with it,
// and those of the other slots stay.
func TestClientsFollowTheirSlotsApart(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, 0)
	var shared Shared
	var keys []Keys
	var clients []*Client
	for q := range 6 {
		keys = append(keys, MakePartitionKeys("p:", Partition{Number: q, Of: 6}))
		clients = append(clients, shared.Nodes("a", named(t, c.URL())).Client(keys[q].Slot))
		t.Cleanup(clients[q].Close)
	}
	write := func(q int, value string) {
		t.Helper()
		require.Eventually(t, func() bool {
			client, err := clients[q].Get(t.Context())
			return err == nil && client.Do(t.Context(), client.B().Set().Key(keys[q].Clock).Value(value).Build()).Error() == nil
		}, waitLong, pollEvery)
	}
	isAt := func(q, node int, value string) {
		t.Helper()
		got, err := c.Nodes[node].Do("GET", keys[q].Clock)
		require.NoError(t, err)
		require.Equal(t, value, got)
	}
	for q := range clients {
		write(q, "before")
		isAt(q, q/2, "before")
	}
	requireConnections(t, 3, c.Nodes...)
	require.NoError(t, c.Move(keys[0].Slot, c.Nodes[2], nil))
	for q := range clients {
		write(q, "after")
	}
	isAt(0, 2, "after")
	for q := 1; q < len(clients); q++ {
		isAt(q, q/2, "after")
	}
	requireConnections(t, 3, c.Nodes...)
	require.NoError(t, c.Move(keys[0].Slot, c.Nodes[0], nil))
	write(0, "back")
	isAt(0, 0, "back")
}

// TestClientOfAServerThatIsAwayIsNotKept: who shares it gets one when the server is there.
func TestClientOfAServerThatIsAwayIsNotKept(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, 0, "--cluster-require-full-coverage", "no")
	var shared Shared
	nodes := shared.Nodes("a", named(t, c.URL()))
	addr := c.Nodes[1].Addr()
	c.Nodes[1].Kill()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			d := nodes.join(addr)
			defer d.leave()
			if d.err == nil {
				t.Error("it is away")
			}
		})
	}
	wg.Wait()
	require.Empty(t, nodes.list)
	require.NoError(t, c.Nodes[1].Restart())
	d := nodes.join(addr)
	require.NoError(t, d.err)
	d.leave()
	require.Empty(t, nodes.list)
}

// TestSubscribingClientHasItsDedicatedConnectionsAlone: at a single server and in a cluster.
func TestSubscribingClientHasItsDedicatedConnectionsAlone(t *testing.T) {
	t.Parallel()
	f := func(url string, servers ...*redistest.Server) {
		t.Helper()
		var bytes atomic.Int64
		l := NewSubscribing(named(t, url), clusterKeys.Slot, &bytes)
		c, err := l.Get(t.Context())
		require.NoError(t, err)
		conn, release := c.Dedicate()
		require.NoError(t, conn.Do(t.Context(), conn.B().Ping().Build()).Error())
		requireConnections(t, 1, servers...)
		require.Positive(t, bytes.Load())
		release()
		l.Close()
		requireConnections(t, 0, servers...)
	}
	s := redistest.Start(t)
	f(s.URL(), s)
	c := redistest.StartCluster(t, 3, 0)
	f(c.URL(), c.Nodes...)
}
