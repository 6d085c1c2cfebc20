package ssed_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed"
	"ssed/internal/redisconn"
	"ssed/internal/redistest"
)

// TestNewcomerWithAnotherNumberOfPartitionsDoesNothing: it ends with both numbers, before it
// has ticked, written a key, been listed, published or taken a client. The fleet goes on under
// load, and notices nothing. With nine partitions the newcomer has names in common with all
// three of the fleet, and in a cluster with one partition with one of them.
func TestNewcomerWithAnotherNumberOfPartitionsDoesNothing(t *testing.T) { onServer(t, testNewcomers) }

func TestNewcomerInAClusterDoesNothing(t *testing.T) { onCluster(t, testNewcomers) }

// tickers are the names of those who tick on a node, also of a cluster.
type tickers struct {
	mu    sync.Mutex
	names map[string]int
}

func listenToTicks(t *testing.T, node *redistest.Server) *tickers {
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{node.Addr()}, ForceSingleClient: true, DisableCache: true})
	require.NoError(t, err)
	heard := &tickers{names: map[string]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = client.Receive(ctx, client.B().Psubscribe().Pattern("__ssed:*").Build(), func(m rueidis.PubSubMessage) {
			if w := strings.Fields(m.Message); len(w) > 7 && w[0] == "tick" {
				heard.mu.Lock()
				defer heard.mu.Unlock()
				heard.names[w[7]]++
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		client.Close()
		<-ended
	})
	return heard
}

func (h *tickers) of(name string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.names[name]
}

func testNewcomers(t *testing.T, b *backend, url string) {
	var gateways []*ssed.Gateway
	for _, name := range []string{"one", "two"} {
		cfg := partitioned(t, url, b.partitions)
		cfg.Feed.Instance = name
		gateway, _ := serve(t, cfg)
		awaitReady(gateway)
		gateways = append(gateways, gateway)
	}
	require.Eventually(t, func() bool {
		return gateways[0].Parts().Fleet.Others() == 1 && gateways[1].Parts().Fleet.Others() == 1
	}, time.Minute, 5*time.Millisecond)
	heard := listenToTicks(t, b.nodes[0])
	require.Eventually(t, func() bool { return heard.of("one")+heard.of("two") > 0 }, time.Minute, 5*time.Millisecond)

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	f := newNumberedFeed(b.publish)
	first := rand.New(rand.NewPCG(seed, 10))
	for slices.ContainsFunc(f.channels, func(name string) bool { return f.count(name) == 0 }) {
		require.NoError(t, f.send(t.Context(), first, 100))
	}
	var done atomic.Bool
	var publishing, running sync.WaitGroup
	publishing.Go(func() {
		for rng := rand.New(rand.NewPCG(seed, 0)); !done.Load(); time.Sleep(time.Millisecond) { // the load itself
			if err := f.send(context.Background(), rng, 1+rng.IntN(5)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	list := &pair{list: [2]*ssed.Gateway(gateways)}
	enough := func(c *starter) func() bool { return func() bool { return done.Load() && c.has(f.count) } }
	for k := range 4 {
		running.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(1+k)))
			c := newStarter(nil, "since=earliest", f.channels)
			for !enough(c)() {
				if err := c.hop(list, rng, 1+rng.IntN(200), enough(c)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for _, partitions := range []int{2, 4, 9, 1} {
		cfg := partitioned(t, url, partitions)
		cfg.Feed.Instance = fmt.Sprint("newcomer", partitions)
		tryNewcomer(t, cfg, b.partitions)
		require.Zero(t, heard.of(cfg.Feed.Instance), "ticks")
	}
	done.Store(true)
	publishing.Wait()
	// Clients that have all look again when something comes, which else is a heartbeat, late.
	require.NoError(t, f.send(t.Context(), first, 1))
	running.Wait()
	var ids []map[string][]uint64
	rng := rand.New(rand.NewPCG(seed, 9))
	for k := range gateways {
		c := newStarter(gateways[k:k+1], "since=earliest", f.channels)
		require.NoError(t, c.read(rng, -1, func() bool { return c.has(f.count) }))
		ids = append(ids, c.ids)
		parts := gateways[k].Parts()
		stats := parts.FeedStats()
		require.Zero(t, stats.Foreign)
		require.Zero(t, stats.ChecksumMismatches)
		require.Zero(t, parts.Engine.Stats().Gaps.Total())
		require.Equal(t, 1, parts.Fleet.Others())
		for name, n := range parts.Fleet.Stats().Mismatches {
			require.Zero(t, n, name)
		}
	}
	for _, name := range f.channels {
		require.Equal(t, ids[0][name][:f.count(name)], ids[1][name][:f.count(name)], name)
	}
	requireNoTrace(t, b, "newcomer")
}

// tryNewcomer runs a gateway that is refused, and asks it for all that it could do meanwhile.
func tryNewcomer(t *testing.T, cfg ssed.Config, others int) {
	t.Helper()
	newcomer, err := ssed.New(cfg)
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- newcomer.Run(t.Context()) }()
	ask := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		select {
		case err := <-ended:
			require.ErrorContains(t, err, fmt.Sprintf("partitions is %d here and %d on ", cfg.Feed.Partitions, others))
			return
		default:
		}
		ok, _ := newcomer.Ready()
		require.False(t, ok)
		_, err := newcomer.Publish(t.Context(), "c0", ssed.Message{Data: "0"})
		require.Error(t, err)
		if resp, err := ask.Get("http://" + newcomer.Addrs()[0].String() + "/sse/connect?channel_id=c0"); err == nil {
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			if resp.StatusCode != http.StatusServiceUnavailable { // it ends, and has not read the request
				require.Regexp(t, `^retry: \d+\n$`, string(body))
			}
		}
	}
}

// requireNoTrace looks for keys that are not of the fleet, and for a name in those of it.
func requireNoTrace(t *testing.T, b *backend, name string) {
	t.Helper()
	option, err := rueidis.ParseURL("redis://" + b.nodes[0].Addr())
	require.NoError(t, err)
	if len(b.nodes) > 1 {
		option.InitAddress = append(option.InitAddress, b.nodes[1].Addr())
	}
	whole := redisconn.KeysOf(option, "sse:stream:", redisconn.Partition{})
	begins := []string{whole.Instances, whole.Own() + "instance:", whole.Own() + "owner:", whole.Prefixes}
	var clocks []string
	for q := range b.partitions {
		keys := redisconn.MakePartitionKeys("sse:stream:", redisconn.Partition{Number: q, Of: b.partitions})
		begins = append(begins, keys.Prefix, keys.Own(), keys.Inbox("sse:inbox"))
		clocks = append(clocks, keys.Clock, keys.Lease)
	}
	for _, node := range b.nodes {
		reply, err := node.Do("KEYS", "*")
		require.NoError(t, err)
		for _, key := range reply.([]any) {
			key := key.(string)
			require.True(t, slices.ContainsFunc(begins, func(p string) bool { return strings.HasPrefix(key, p) }), key)
			require.NotContains(t, key, name)
			if slices.Contains(clocks, key) {
				dump, err := node.Do("DUMP", key)
				require.NoError(t, err)
				require.NotContains(t, fmt.Sprint(dump), name) // nil: the lease has just run out
			}
		}
	}
}
