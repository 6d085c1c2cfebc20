package ssed_test

import (
	"fmt"
	"math/bits"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed"
	"ssed/internal/redistest"
)

// TestConnectionsToRedis counts those of an instance, as OPERATIONS.md has them: one for each
// subscription, and for each server of those for commands what one partition has.
func TestConnectionsToRedis(t *testing.T) {
	for _, partitions := range []int{1, 4, 16} {
		s := redistest.Start(t)
		testConnections(t, s.URL(), partitions, 1, s)
		c := redistest.StartCluster(t, 3, 0)
		testConnections(t, c.URL(), partitions, 1, c.Nodes...)
	}
	s := redistest.Start(t)
	testConnections(t, s.URL(), 4, 2, s)
}

func testConnections(t *testing.T, url string, partitions, subscriptions int, servers ...*redistest.Server) {
	t.Helper()
	cfg := partitioned(t, url, partitions)
	cfg.Redis.ClientName, cfg.Feed.Subscriptions = "counted", subscriptions
	gateway, stop := serve(t, cfg)
	awaitReady(gateway)
	var channels []string
	for q := range partitions {
		channels = append(channels, channelOf(q, partitions))
	}
	publish := func(data string) {
		t.Helper()
		for _, name := range channels {
			_, err := gateway.Publish(t.Context(), name, ssed.Message{Data: data})
			require.NoError(t, err)
		}
	}
	publish("first")
	for range 20 { // each reads the history of all partitions, for there is less than it asks for
		stream := open(gateway, strings.Join(channels, "&channel_id=")+"&last=5", "")
		for range channels {
			_, data := stream.event()
			require.Equal(t, "first", data)
		}
		stream.close()
	}
	readers := 1 << min(2, bits.Len(uint(runtime.GOMAXPROCS(0)))-1) // for each server
	used := min(partitions, len(servers))
	least, most := used*(1+1+1)+1, used*(1+1+readers)+1
	var others, subscribed int
	count := func() {
		others, subscribed = 0, 0
		for _, s := range servers {
			reply, err := s.Do("CLIENT", "LIST")
			require.NoError(t, err)
			for line := range strings.Lines(reply.(string)) {
				switch {
				case !strings.Contains(line, " name=counted "):
				case strings.Contains(line, " sub=0 "):
					others++
				default:
					subscribed++
				}
			}
		}
	}
	// What looked for the node of a slot goes by itself.
	require.Eventually(t, func() bool {
		count()
		return others >= least && others <= most && subscribed == partitions*subscriptions
	}, time.Minute, 5*time.Millisecond)
	t.Logf("%d servers, %d partitions, %d subscriptions each: %d subscribed, %d others of %d to %d", len(servers), partitions, subscriptions, subscribed, others, least, most)
	require.NoError(t, stop())
	require.Eventually(t, func() bool {
		count()
		return others+subscribed == 0
	}, time.Minute, 5*time.Millisecond)
}

// TestCutConnectionsConcernNobodyElse: a connection for commands is of all partitions and
// brings no messages, so that nothing is missing without it. A subscription is of one.
func TestCutConnectionsConcernNobodyElse(t *testing.T) {
	const partitions = 4
	server := redistest.Start(t)
	b := newBackend(t, server.URL(), partitions, server)
	cfg := partitioned(t, server.URL(), partitions)
	cfg.Redis.ClientName, cfg.Feed.ProbeTimeout = "cut", time.Hour // a busy machine stands still, too
	gateway, _ := serve(t, cfg)
	awaitReady(gateway)
	var channels []string
	for q := range partitions {
		channels = append(channels, channelOf(q, partitions))
	}
	stream := open(gateway, strings.Join(channels, "&channel_id="), "")
	defer stream.close()
	resyncs := func() (n uint64) {
		for _, feed := range gateway.Parts().Feeds {
			for _, count := range feed.Stats().Resyncs {
				n += count
			}
		}
		return n
	}
	for round := range 20 {
		require.NoError(t, b.cut("cut", "normal"))
		got := map[string]bool{}
		for _, name := range channels {
			require.NoError(t, b.publish(t.Context(), []ssed.OutMessage{{Channel: name, Message: ssed.Message{Data: fmt.Sprint(name, " ", round)}}}))
		}
		for range channels {
			_, data := stream.event()
			got[data] = true
		}
		for _, name := range channels {
			require.True(t, got[fmt.Sprint(name, " ", round)], name)
		}
	}
	require.Zero(t, resyncs())
	require.Eventually(t, func() bool { // they work again
		_, err := gateway.Publish(t.Context(), channels[0], ssed.Message{Data: "again"})
		return err == nil
	}, time.Minute, 5*time.Millisecond)

	reply, err := server.Do("CLIENT", "LIST", "TYPE", "pubsub")
	require.NoError(t, err)
	found := namedClient.FindAllStringSubmatch(reply.(string), -1)
	require.Len(t, found, partitions)
	_, err = server.Do("CLIENT", "KILL", "ID", found[0][1])
	require.NoError(t, err)
	require.Eventually(t, func() bool { return resyncs() == 1 && allUp(gateway) }, time.Minute, 5*time.Millisecond)
}
