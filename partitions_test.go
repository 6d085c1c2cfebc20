package ssed_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strconv"
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
	"ssed/sseproto"
)

// partitioned is a Config of several partitions.
func partitioned(t testing.TB, url string, partitions int) ssed.Config {
	t.Helper()
	option, err := rueidis.ParseURL(url)
	require.NoError(t, err)
	cfg := loopback()
	cfg.Redis, cfg.History = &option, &ssed.HistoryConfig{MaxLen: 100_000}
	cfg.Feed.Sharded, cfg.Feed.Partitions, cfg.Feed.BatchChannel, cfg.Feed.Inbox = true, partitions, "batches", "sse:inbox"
	return cfg
}

// backend publishes as programs do that know of partitions: on shard channels.
type backend struct {
	client     rueidis.Client
	partitions int
	parts      []redisconn.Keys // of each partition: a search finds its tag
	nodes      []*redistest.Server
}

func newBackend(t testing.TB, url string, partitions int, nodes ...*redistest.Server) *backend {
	t.Helper()
	option, err := rueidis.ParseURL(url)
	require.NoError(t, err)
	option.DisableCache, option.ForceSingleClient = true, len(option.InitAddress) == 1
	client, err := rueidis.NewClient(option)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	b := &backend{client: client, partitions: partitions, nodes: nodes}
	for q := range partitions {
		b.parts = append(b.parts, redisconn.MakePartitionKeys("sse:stream:", redisconn.Partition{Number: q, Of: partitions}))
	}
	return b
}

func (b *backend) keys(channel string) redisconn.Keys {
	return b.parts[sseproto.PartitionOf(channel, b.partitions)]
}

func (b *backend) publish(ctx context.Context, messages []ssed.OutMessage) error {
	var cmds rueidis.Commands
	for _, m := range messages {
		cmds = append(cmds, b.client.B().Spublish().Channel(b.keys(m.Channel).Messages).Message(m.Channel+"\n"+m.Data).Build())
	}
	for _, r := range b.client.DoMulti(ctx, cmds...) {
		if err := r.Error(); err != nil {
			return err
		}
	}
	return nil
}

// add gives messages to the inboxes.
func (b *backend) add(ctx context.Context, messages []ssed.OutMessage) error {
	for _, m := range messages {
		cmd := b.client.B().Xadd().Key(b.keys(m.Channel).Inbox("sse:inbox")).Id("*").FieldValue().FieldValue("channel", m.Channel).FieldValue("data", m.Data).Build()
		if err := b.client.Do(ctx, cmd).Error(); err != nil {
			return err
		}
	}
	return nil
}

var namedClient = regexp.MustCompile(`\bid=(\d+) .* name=(\S*) `)

// cut ends the connections of a gateway, by its name, on all nodes.
func (b *backend) cut(name, kind string) error {
	for _, node := range b.nodes {
		reply, err := node.Do("CLIENT", "LIST", "TYPE", kind)
		if err != nil {
			return err
		}
		text, _ := reply.(string)
		for _, found := range namedClient.FindAllStringSubmatch(text, -1) {
			if found[2] != name {
				continue
			}
			if _, err := node.Do("CLIENT", "KILL", "ID", found[1]); err != nil {
				return err
			}
		}
	}
	return nil
}

// allUp reports whether all partitions are linked, at two instances: what comes while nobody
// is linked is lost. One that was cut a moment ago may not know it yet, but Redis does.
func (b *backend) allUp(gateways ...*ssed.Gateway) bool {
	for _, keys := range b.parts {
		subscribers := int64(0)
		for _, node := range b.nodes {
			reply, err := node.Do("PUBSUB", "SHARDNUMSUB", keys.Messages)
			if list, _ := reply.([]any); err == nil && len(list) == 2 {
				n, _ := list[1].(int64)
				subscribers += n
			}
		}
		if subscribers != int64(len(gateways)) {
			return false
		}
	}
	return allUp(gateways...)
}

func allUp(gateways ...*ssed.Gateway) bool {
	for _, gateway := range gateways {
		for _, p := range gateway.Partitions() {
			if !p.Up {
				return false
			}
		}
	}
	return true
}

// TestStartsUnderLoadOfPartitions is TestStartsUnderLoad with channels of three partitions.
func TestStartsUnderLoadOfPartitions(t *testing.T) {
	server := redistest.Start(t)
	b := newBackend(t, server.URL(), 3, server)
	var gateways []*ssed.Gateway
	for _, name := range []string{"one", "two"} {
		cfg := partitioned(t, server.URL(), 3)
		cfg.Redis.ClientName = name
		cfg.Streams.RingBytes = 1 << 20
		gateway, _ := serve(t, cfg)
		awaitReady(gateway)
		gateways = append(gateways, gateway)
	}
	f := newNumberedFeed(b.publish)
	of := map[int]bool{}
	for _, name := range f.channels {
		of[sseproto.PartitionOf(name, 3)] = true
	}
	require.Len(t, of, 3)
	cuts := 0
	f.tryStarts(t, gateways, func(rng *rand.Rand) error {
		if !b.allUp(gateways...) {
			return nil
		}
		cuts++
		return b.cut([]string{"one", "two"}[rng.IntN(2)], "pubsub")
	})
	require.Positive(t, cuts)
	require.Positive(t, gateways[0].Parts().Engine.Stats().ResumedHistory)
}

func TestOneStreamOverAllPartitions(t *testing.T) { onServer(t, testOneStream) }

func TestOneStreamOverAllPartitionsOfACluster(t *testing.T) { onCluster(t, testOneStream) }

// onServer runs a test with three partitions on one server.
func onServer(t *testing.T, test func(t *testing.T, b *backend, url string)) {
	t.Parallel()
	server := redistest.Start(t)
	test(t, newBackend(t, server.URL(), 3, server), server.URL())
}

// onCluster is onServer with three primaries.
func onCluster(t *testing.T, test func(t *testing.T, b *backend, url string)) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, 0)
	test(t, newBackend(t, c.URL(), 3, c.Nodes...), c.URL())
}

// pair are the gateways that a client may come to now.
type pair struct {
	mu   sync.Mutex
	list [2]*ssed.Gateway
}

func (p *pair) set(k int, g *ssed.Gateway) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list[k] = g
}

func (p *pair) any(rng *rand.Rand) *ssed.Gateway {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.list[rng.IntN(len(p.list))]
}

// testOneStream: clients read channels of all partitions on one stream, and hop between two
// instances with their last ID, while links are killed, scripts are forgotten, an instance
// is restarted, and messages come by all ways. Of each channel they get every message once
// and in order, and nothing is told to be missing.
func testOneStream(t *testing.T, b *backend, url string) {
	names := []string{"one", "two"}
	var gateways pair
	var stops [2]func() error
	begin := func(k int) {
		cfg := partitioned(t, url, b.partitions)
		cfg.Redis.ClientName = names[k]
		// What comes during a backfill is held in half of it, by the partitions: it is all.
		cfg.Streams.RingBytes = 4 << 20
		gateway, stop := serve(t, cfg)
		awaitReady(gateway)
		stops[k] = stop
		gateways.set(k, gateway)
	}
	begin(0)
	begin(1)

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	byGateway := func(ctx context.Context, messages []ssed.OutMessage) error {
		for _, r := range gateways.list[1].PublishBatch(ctx, messages) {
			if r.Err != nil {
				return r.Err
			}
		}
		return nil
	}
	// One way for each channel: two ways have no order.
	ways := []func(context.Context, []ssed.OutMessage) error{b.publish, b.add, byGateway}
	f := newNumberedFeed(func(ctx context.Context, messages []ssed.OutMessage) error {
		for k, way := range ways {
			list := slices.DeleteFunc(slices.Clone(messages), func(m ssed.OutMessage) bool { return int(m.Channel[1]-'0')%len(ways) != k })
			if len(list) == 0 {
				continue
			}
			if err := way(ctx, list); err != nil {
				return fmt.Errorf("way %d: %w", k, err)
			}
		}
		return nil
	})

	var done atomic.Bool
	var clients sync.WaitGroup
	var streams atomic.Int64
	for k := range 6 {
		clients.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(100+k)))
			c := newStarter(nil, "since=earliest", f.channels)
			enough := func() bool { return done.Load() && c.has(f.count) }
			for !enough() {
				streams.Add(1)
				if err := c.hop(&gateways, rng, 1+rng.IntN(400), enough); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	cuts := 0
	for step := range 18 {
		for range 10 {
			require.NoError(t, f.send(t.Context(), rng, 1+rng.IntN(20)))
		}
		// One fault after the other: what an instance missed is in the history before the other
		// one may miss something.
		require.Eventually(t, func() bool { return b.allUp(gateways.list[:]...) }, time.Minute, 5*time.Millisecond)
		for _, gateway := range gateways.list {
			awaitWritten(t, gateway)
		}
		require.NoError(t, f.send(t.Context(), rng, 1+rng.IntN(20))) // on its way at the fault
		switch step % 6 {
		case 1:
			cuts++
			require.NoError(t, b.cut(names[step/6%2], "pubsub"))
		case 3:
			require.NoError(t, b.cut(names[0], "normal")) // not those of who publishes
		case 4:
			for _, node := range b.nodes {
				_, err := node.Do("SCRIPT", "FLUSH")
				require.NoError(t, err)
			}
		case 5:
			if step == 11 {
				require.NoError(t, stops[0]())
				begin(0)
			}
		}
	}
	done.Store(true)
	// Clients that have all look again when something comes, which else is a heartbeat, late.
	require.NoError(t, f.send(t.Context(), rng, 1))
	clients.Wait()
	sent := 0
	for _, name := range f.channels {
		sent += f.count(name)
	}
	t.Logf("%d messages, %d streams, links cut %d times", sent, streams.Load(), cuts)
	require.Positive(t, cuts)
	for _, gateway := range gateways.list {
		parts := gateway.Parts()
		stats := parts.FeedStats()
		require.Zero(t, stats.Foreign)
		require.Zero(t, stats.ChecksumMismatches)
	}
}

// hop reads some events of one stream at any of the gateways. A stream that ends, or does not
// begin, is no error.
func (c *starter) hop(gateways *pair, rng *rand.Rand, events int, enough func() bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	url := "http://" + gateways.any(rng).Addrs()[0].String() + "/sse/connect?tell=channel&" + c.query
	for _, name := range c.channels {
		url += "&channel_id=" + name
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if c.lastID != "" {
		request.Header.Set("Last-Event-ID", c.lastID)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return ctx.Err() // it is being restarted
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil
	}
	lines := bufio.NewScanner(response.Body)
	var id, channel, data string
	for !enough() && events > 0 && lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch {
		case name == "id":
			id = value
		case name == "event":
			channel = value
		case name == "data":
			data = value
		case lines.Text() == "" && data != "":
			if err := c.take(id, channel, data); err != nil {
				return fmt.Errorf("%w (%s, last ID %q)", err, url, c.lastID)
			}
			c.lastID, data = id, ""
			events--
		case lines.Text() == "" && id != "":
			c.lastID = id
		}
	}
	return ctx.Err()
}

// TestClocksAndHistoriesOfPartitionsAreSpread over two and three instances: none has all, and
// what a stopped one had is taken.
func TestClocksAndHistoriesOfPartitionsAreSpread(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	const partitions = 4
	gateways, stops := map[string]*ssed.Gateway{}, map[string]func() error{}
	held := func() (leads, writes map[string]int) {
		leads, writes = map[string]int{}, map[string]int{}
		for name, gateway := range gateways {
			for _, p := range gateway.Partitions() {
				if p.Leading {
					leads[name]++
				}
				if p.Writing {
					writes[name]++
				}
			}
		}
		return leads, writes
	}
	// spread waits until all is held once, and by nobody more than most.
	spread := func(most int) {
		t.Helper()
		require.Eventually(t, func() bool {
			leads, writes := held()
			for _, counts := range []map[string]int{leads, writes} {
				all := 0
				for _, n := range counts {
					if all += n; n > most {
						return false
					}
				}
				if all != partitions {
					return false
				}
			}
			return true
		}, time.Minute, 10*time.Millisecond)
	}
	for i, name := range []string{"a", "b", "c"} {
		cfg := partitioned(t, server.URL(), partitions)
		cfg.Feed.Instance = name
		gateways[name], stops[name] = serve(t, cfg)
		awaitReady(gateways[name])
		spread([]int{4, 2, 2}[i])
	}
	require.NoError(t, stops["a"]())
	delete(gateways, "a")
	spread(2)
	require.Eventually(t, func() bool { // each sees who has what
		leads, writes := held()
		for _, gateway := range gateways {
			seenLeads, seenWrites := map[string]int{}, map[string]int{}
			for _, p := range gateway.Partitions() {
				seenLeads[p.Leader]++
				seenWrites[p.Writer]++
			}
			if fmt.Sprint(seenLeads, seenWrites) != fmt.Sprint(leads, writes) {
				return false
			}
		}
		return true
	}, time.Minute, 10*time.Millisecond)
	require.NoError(t, stops["b"]())
	delete(gateways, "b")
	spread(4)
}

// TestAnotherNumberOfPartitionsIsRefused with both, whichever was there first.
func TestAnotherNumberOfPartitionsIsRefused(t *testing.T) {
	t.Parallel()
	f := func(url string, first, second int) {
		t.Helper()
		gateway, _ := serve(t, partitioned(t, url, first))
		awaitReady(gateway)
		require.Eventually(t, func() bool {
			members, err := gateway.Parts().Fleet.Members(t.Context())
			return err == nil && len(members) == 1
		}, time.Minute, 5*time.Millisecond)
		other, err := ssed.New(partitioned(t, url, second))
		require.NoError(t, err)
		err = other.Run(t.Context())
		require.ErrorContains(t, err, fmt.Sprintf("partitions is %d here and %d on", second, first))
	}
	f(redistest.Start(t).URL(), 1, 3)
	f(redistest.Start(t).URL(), 3, 1)
	f(redistest.Start(t).URL(), 2, 4)
	f(redistest.StartCluster(t, 3, 0).URL(), 4, 2)
}

func TestPartitionsAreChecked(t *testing.T) {
	f := func(change func(*ssed.Config), want string) {
		t.Helper()
		cfg := partitioned(t, "redis://127.0.0.1:1", 3)
		change(&cfg)
		require.EqualError(t, cfg.Validate(), "ssed: Feed.Partitions: "+want)
	}
	f(func(c *ssed.Config) { c.Feed.Partitions = 65 }, "65 is not 1 to 64")
	f(func(c *ssed.Config) { c.Feed.Partitions = -1 }, "-1 is not 1 to 64")
	f(func(c *ssed.Config) { c.Feed.Sharded = false }, "3 of them take Feed.Sharded=true: with patterns each would get the messages of all")
	f(func(c *ssed.Config) { c.Redis = nil }, "3 of them take Redis: an embedded gateway has one")
	cfg := partitioned(t, "redis://127.0.0.1:1", 64)
	require.NoError(t, cfg.Validate())
}

// channelOf returns a name that belongs to a partition.
func channelOf(q, partitions int) string {
	for i := 0; ; i++ {
		if name := fmt.Sprint("n", i); sseproto.PartitionOf(name, partitions) == q {
			return name
		}
	}
}

// TestNodeOfOnePartitionIsAway: streams of the others go on, the gateway stays ready and
// names it, and one that begins meanwhile is not ready.
func TestNodeOfOnePartitionIsAway(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, 0, "--cluster-require-full-coverage", "no")
	b := newBackend(t, c.URL(), 3)
	gateway, _ := serve(t, partitioned(t, c.URL(), 3))
	awaitReady(gateway)
	here, away := channelOf(0, 3), channelOf(1, 3)
	stream := open(gateway, here+"&channel_id="+away, "")
	defer stream.close()
	c.Nodes[1].Kill()
	require.Eventually(t, func() bool { return !gateway.Partitions()[1].Up }, time.Minute, 5*time.Millisecond)
	ok, reason := gateway.Ready()
	require.True(t, ok)
	require.Contains(t, reason, "partition 1: ")
	require.NotContains(t, reason, "partition 0")
	for i := range 3 {
		require.NoError(t, b.publish(t.Context(), []ssed.OutMessage{{Channel: here, Message: ssed.Message{Data: strconv.Itoa(i)}}}))
		_, data := stream.event()
		require.Equal(t, strconv.Itoa(i), data)
	}
	other, _ := serve(t, partitioned(t, c.URL(), 3))
	require.Eventually(t, func() bool { return other.Partitions()[0].Up && other.Partitions()[2].Up }, time.Minute, 5*time.Millisecond)
	ok, reason = other.Ready()
	require.False(t, ok)
	require.Contains(t, reason, "partition 1: ")

	require.NoError(t, c.Nodes[1].Restart())
	awaitReady(other)
	require.Eventually(t, func() bool { return allUp(gateway, other) }, time.Minute, 5*time.Millisecond)
	require.Eventually(t, func() bool { // what it lost is told, then all goes on
		return b.publish(t.Context(), []ssed.OutMessage{{Channel: away, Message: ssed.Message{Data: "back"}}}) == nil
	}, time.Minute, 5*time.Millisecond)
	for data := ""; data != "back"; {
		_, data = stream.event()
	}
}

// TestPublishIsRoutedByChannel: each message gets an ID of the partition of its channel.
func TestPublishIsRoutedByChannel(t *testing.T) {
	server := redistest.Start(t)
	gateway, _ := serve(t, partitioned(t, server.URL(), 5))
	awaitReady(gateway)
	var messages []ssed.OutMessage
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprint("p", i))
		messages = append(messages, ssed.OutMessage{Channel: names[i], Message: ssed.Message{Data: names[i]}})
	}
	stream := open(gateway, strings.Join(names, "&channel_id="), "")
	defer stream.close()
	place, err := gateway.Place()
	require.NoError(t, err)
	_, err = gateway.Position()
	require.ErrorIs(t, err, ssed.ErrSeveralPlaces)
	results := gateway.PublishBatch(t.Context(), messages)
	got := map[string]string{}
	for range messages {
		id, data := stream.event()
		got[data] = id
	}
	for i, r := range results {
		require.NoError(t, r.Err)
		own, _, _ := strings.Cut(got[names[i]], "~")
		require.Equal(t, fmt.Sprintf("%v.%d", r.ID, sseproto.PartitionOf(names[i], 5)), own)
		require.Equal(t, own, gateway.EventID(names[i], r.ID))
	}
	resumed := open(gateway, strings.Join(names, "&channel_id="), place)
	defer resumed.close()
	for range messages {
		_, data := resumed.event()
		require.Contains(t, got, data)
		delete(got, data)
	}
	id, err := gateway.Publish(t.Context(), "p1", ssed.Message{Data: "once more"})
	require.NoError(t, err)
	require.NotZero(t, id)
}

// TestMoveToAnotherNumberOfPartitions, as UPGRADE.md tells it.
func TestMoveToAnotherNumberOfPartitions(t *testing.T) {
	server := redistest.Start(t)
	old, stopOld := serve(t, onRedis(t, server))
	awaitReady(old)
	cfg := partitioned(t, server.URL(), 3)
	cfg.Feed.Prefix, cfg.Feed.Inbox = "sse2:stream:", "sse2:inbox"
	next, _ := serve(t, cfg)
	awaitReady(next)
	channels := []string{"c0", "c1", "c2", "c3"}
	sent := 0
	both := func() {
		sent++
		for _, name := range channels {
			m := ssed.Message{Data: strconv.Itoa(sent), ID: strconv.Itoa(sent)}
			for _, gateway := range []*ssed.Gateway{old, next} {
				_, err := gateway.Publish(t.Context(), name, m)
				require.NoError(t, err)
			}
		}
	}
	query := strings.Join(channels, "&channel_id=")
	stream := open(old, query, "")
	both()
	both()
	var lastID string
	for range 2 * len(channels) {
		lastID, _ = stream.event()
	}
	stream.close()
	for range 10 {
		both() // while the client is away
	}
	require.NoError(t, stopOld())

	// With its last ID it is told of a gap.
	resumed := open(next, query, lastID)
	_, data := resumed.event()
	require.Contains(t, data, sseproto.ReasonUnknownID)
	resumed.close()
	// By the time of its last ID it misses nothing, and drops what it has had.
	ms, _, _ := strings.Cut(lastID, "-")
	again := open(next, query+"&since="+ms, "")
	defer again.close()
	got := map[string]int{}
	for n := 0; n < len(channels); {
		id, data := again.event()
		_, own, _ := strings.Cut(id, "/")
		require.Equal(t, data, own)
		got[own]++
		if data == strconv.Itoa(sent) {
			n++
		}
	}
	for n := 3; n <= sent; n++ {
		require.Equal(t, len(channels), got[strconv.Itoa(n)], "message %d", n)
	}
}

// TestInstanceThatStartsWhileANodeIsAway is not ready. It serves the other partitions to who
// comes all the same, and turns away who wants the missing one: an EventSource comes back.
func TestInstanceThatStartsWhileANodeIsAway(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0, "--cluster-require-full-coverage", "no")
	b := newBackend(t, c.URL(), 3)
	c.Nodes[0].Kill()
	cfg := partitioned(t, c.URL(), 3)
	cfg.History.Wait = 100 * time.Millisecond
	gateway, _ := serve(t, cfg)
	require.Eventually(t, func() bool { return gateway.Partitions()[1].Up && gateway.Partitions()[2].Up }, time.Minute, 5*time.Millisecond)
	away, here := channelOf(0, 3), channelOf(1, 3)
	url := "http://" + gateway.Addrs()[0].String()
	get := func(path, accept string) (status int, body string) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+path, nil)
		require.NoError(t, err)
		request.Header.Set("Accept", accept)
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		text, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		return response.StatusCode, string(text)
	}
	status, body := get("/ready", "")
	require.Equal(t, []any{http.StatusServiceUnavailable, "not linked to Redis\n"}, []any{status, body})
	stream := open(gateway, here, "")
	defer stream.close()
	for i := range 3 {
		require.NoError(t, b.publish(t.Context(), []ssed.OutMessage{{Channel: here, Message: ssed.Message{Data: strconv.Itoa(i)}}}))
		_, data := stream.event()
		require.Equal(t, strconv.Itoa(i), data)
	}
	for _, channels := range []string{away, here + "&channel_id=" + away} {
		status, body = get("/sse/connect?channel_id="+channels, "*/*")
		require.Equal(t, []any{http.StatusServiceUnavailable, "not linked to Redis\n"}, []any{status, body})
		status, body = get("/sse/connect?channel_id="+channels, "text/event-stream")
		require.Equal(t, http.StatusOK, status)
		require.Regexp(t, `^retry: \d+\n$`, body)
	}
	require.EqualValues(t, 4, gateway.Stats().Refused["not-ready"])
	require.NoError(t, c.Nodes[0].Restart())
	awaitReady(gateway)
	whole := open(gateway, here+"&channel_id="+away, "")
	defer whole.close()
	require.NoError(t, b.publish(t.Context(), []ssed.OutMessage{{Channel: away, Message: ssed.Message{Data: "back"}}}))
	_, data := whole.event()
	require.Equal(t, "back", data)
}

// TestTickIntervalsAreCompared: they may differ while an instance after the other gets another
// one, and are told.
func TestTickIntervalsAreCompared(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	var gateways []*ssed.Gateway
	for _, interval := range []time.Duration{0, 200 * time.Millisecond} {
		cfg := partitioned(t, server.URL(), 2)
		cfg.Feed.TickInterval = interval
		gateway, _ := serve(t, cfg)
		awaitReady(gateway)
		gateways = append(gateways, gateway)
	}
	for _, gateway := range gateways {
		require.Eventually(t, func() bool { return gateway.Parts().Fleet.Stats().Mismatches["tick interval"] == 1 }, time.Minute, 5*time.Millisecond)
	}
}
