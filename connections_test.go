package ssed_test

import (
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
