package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed/internal/admin"
	"ssed/internal/redisconn"
	"ssed/internal/redistest"
	"ssed/sseproto"
)

// namesByCommand is what ssed partition prints as JSON.
func namesByCommand(t *testing.T, args ...string) (list []partitionNames) {
	t.Helper()
	code, stdout, stderr := readFlags(t, nil, append([]string{"partition", "--json"}, args...)...)
	require.Equal(t, exitOK, code, stderr)
	for line := range strings.Lines(stdout) {
		var n partitionNames
		require.NoError(t, json.Unmarshal([]byte(line), &n), line)
		list = append(list, n)
	}
	return list
}

// TestPartitionTellsTheNames: of some channels, and of all partitions.
func TestPartitionTellsTheNames(t *testing.T) {
	t.Parallel()
	channels := []string{"user123", "orders:7", "a b\x1b", "ä"}
	list := namesByCommand(t, append([]string{"--partitions=3"}, channels...)...)
	require.Len(t, list, len(channels))
	for i, channel := range channels {
		p := redisconn.Partition{Number: sseproto.PartitionOf(channel, 3), Of: 3}
		keys := redisconn.MakePartitionKeys("sse:stream:", p)
		require.Equal(t, partitionNames{channel, p.Number, keys.Slot, keys.Messages, keys.Stream(channel), keys.Inbox("sse:inbox")}, list[i])
	}
	list = namesByCommand(t, "--all", "--partitions=16", "--stream-prefix=app:stream:", "--inbox=jobs")
	require.Len(t, list, 16)
	for q, n := range list {
		keys := redisconn.MakePartitionKeys("app:stream:", redisconn.Partition{Number: q, Of: 16})
		require.Equal(t, partitionNames{"", q, keys.Slot, "app:{" + redisconn.Partition{Number: q, Of: 16}.Tag() + "}", keys.Prefix, keys.Inbox("jobs")}, n)
	}
	require.Empty(t, namesByCommand(t, "--inbox=off", "a")[0].Inbox)

	// The table has the same, and nothing that a terminal would do.
	code, stdout, stderr := readFlags(t, nil, append([]string{"partition", "--partitions=3"}, channels...)...)
	require.Equal(t, exitOK, code, stderr)
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	require.Len(t, lines, 1+len(channels))
	require.Regexp(t, `^channel +partition +slot +shard channel +stream +inbox$`, lines[0])
	require.Contains(t, lines[3], `a b\x1b`)
	require.NotContains(t, stdout, "\x1b")
	code, stdout, stderr = readFlags(t, nil, "partition", "--all", "--partitions=2")
	require.Equal(t, exitOK, code, stderr)
	require.Regexp(t, `^partition +slot +shard channel +streams +inbox\n0 +4096 +sse:\{[0-9]+\} .*\n1 +12288 +sse:\{[0-9]+\} .*\n$`, stdout)
}

// TestOnePartitionHasTheNamesOfItsServer: a Redis Cluster has others.
func TestOnePartitionHasTheNamesOfItsServer(t *testing.T) {
	t.Parallel()
	f := func(stream, inbox string, flags ...string) {
		t.Helper()
		n := namesByCommand(t, append(flags, "user123")...)[0]
		require.Equal(t, partitionNames{"user123", 0, 8192, "sse:{8209}", stream, inbox}, n)
	}
	f("sse:stream:user123", "sse:inbox")
	f("sse:stream:user123", "sse:inbox", "--redis-url=redis://127.0.0.1:1")
	f("sse:stream:{8209}user123", "sse:inbox:{8209}", "--redis-url=redis://127.0.0.1:1?addr=127.0.0.1:2")
	f("sse:stream:{8209}user123", "sse:inbox:{8209}", "--redis-url-file="+writeFile(t, "url", "redis://127.0.0.1:1?addr=127.0.0.1:2\n"))
	f("sse:stream:{8209}user123", "sse:inbox:{8209}", "--config="+writeFile(t, "ssed.yaml", "redis-url: redis://127.0.0.1:1?addr=127.0.0.1:2\n"))
}

func TestPartitionNamesEveryBadValue(t *testing.T) {
	t.Parallel()
	f := func(args []string, want ...string) {
		t.Helper()
		code, stdout, stderr := readFlags(t, nil, append([]string{"partition"}, args...)...)
		require.Equal(t, exitUsage, code)
		require.Empty(t, stdout)
		for _, text := range want {
			require.Contains(t, stderr, "ssed: "+text)
		}
	}
	f(nil, "CHANNEL: name one, or give --all")
	f([]string{"--all", "a"}, "--all: ")
	f([]string{"--partitions=0", "--stream-prefix=a{b}", "--redis-url=http://x", "__a", ""}, "--partitions: ", "--stream-prefix: ", "--redis-url: ", "CHANNEL: ")
	f([]string{"--partitions=65", "a"}, "--partitions: 65 are more than 64")
	f([]string{"--partitions=two", "a"}, `--partitions: "two"`)
	f([]string{"--redis-url=redis://127.0.0.1:1/2?addr=127.0.0.1:2", "a"}, "--redis-url: a Redis Cluster has no numbered databases")
}

// subscribeShard gets what is published on a shard channel of a node.
func subscribeShard(t *testing.T, s *redistest.Server, channel string) <-chan string {
	t.Helper()
	client := newPublisher(t, s).client
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	got, received := make(chan string, 100), make(chan struct{})
	t.Cleanup(func() { cancel(); <-received })
	go func() {
		defer close(received)
		_ = client.Receive(ctx, client.B().Ssubscribe().Channel(channel).Build(), func(m rueidis.PubSubMessage) { got <- m.Message })
	}()
	for subscribers := int64(0); subscribers == 0; {
		answer, err := s.Do("PUBSUB", "SHARDNUMSUB", channel)
		require.NoError(t, err)
		subscribers = answer.([]any)[1].(int64)
	}
	return got
}

// TestPubGoesToThePartitionOfTheChannel: on one server and on a cluster, alone and in batches.
func TestPubGoesToThePartitionOfTheChannel(t *testing.T) {
	t.Parallel()
	const partitions = 3
	one := redistest.Start(t)
	cluster := redistest.StartCluster(t, 3, 0)
	f := func(url string, node func(slot int) *redistest.Server) {
		t.Helper()
		var got [partitions]<-chan string
		for q := range got {
			keys := redisconn.MakePartitionKeys("sse:stream:", redisconn.Partition{Number: q, Of: partitions})
			got[q] = subscribeShard(t, node(keys.Slot), keys.Messages)
		}
		flags := []string{"pub", "--redis-url", url, "--feed=sharded", fmt.Sprint("--partitions=", partitions)}
		seen := map[int]bool{}
		for i := range 9 {
			channel := fmt.Sprint("user", i)
			q := sseproto.PartitionOf(channel, partitions)
			seen[q] = true
			code, stdout, stderr := runProgram(t, nil, append(flags, channel, "x")...)
			require.Equal(t, exitOK, code, stderr)
			require.Equal(t, "receivers: 1\n", stdout)
			require.Equal(t, channel+"\nx", <-got[q])
		}
		require.Len(t, seen, partitions)
		code, stdout, stderr := runInput(t, nil, "1\n2\n", append(flags, batchFlag, "--lines", "user1")...)
		require.Equal(t, exitOK, code, stderr)
		require.Equal(t, strings.Repeat("receivers: 1\n", 2), stdout)
		want := sseproto.AppendBatched(sseproto.AppendBatched(nil, "user1", "1"), "user1", "2")
		require.Equal(t, "ssed:batch\n"+string(want), <-got[sseproto.PartitionOf("user1", partitions)])
	}
	f(one.URL(), func(int) *redistest.Server { return one })
	f(cluster.URL(), func(slot int) *redistest.Server {
		s, err := cluster.AwaitPrimary(slot)
		require.NoError(t, err)
		return s
	})
	code, _, stderr := runProgram(t, nil, "pub", "--redis-url", one.URL(), "--partitions=3", "a", "x")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "ssed: --partitions: several need --feed=sharded")
}

// TestDocumentedPartitionsAreTrue: the examples of the docs, run as they stand.
func TestDocumentedPartitionsAreTrue(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"../../docs/COMMAND.md", "../../docs/PUBLISHING.md"} {
		tried := 0
		for _, call := range documentedCalls(t, path) {
			args, ok := strings.CutPrefix(call.command, "ssed partition ")
			if !ok {
				continue
			}
			tried++
			code, stdout, stderr := readFlags(t, nil, append([]string{"partition"}, strings.Fields(args)...)...)
			require.Equal(t, exitOK, code, stderr)
			require.Equal(t, call.answer, stdout, call.command)
		}
		require.Equal(t, 1, tried, path)
	}
}

// TestDocsTellTheShardChannels of the default prefix, which publishers have in their text.
func TestDocsTellTheShardChannels(t *testing.T) {
	table := "\n| partitions | shard channels, in their order |\n|---|---|\n"
	for _, of := range []int{1, 2, 3, 4, 6, 8} {
		var names []string
		for q := range of {
			names = append(names, "`"+redisconn.MakePartitionKeys("sse:stream:", redisconn.Partition{Number: q, Of: of}).Messages+"`")
		}
		table += fmt.Sprintf("| %d | %s |\n", of, strings.Join(names, " "))
	}
	requireTable(t, "../../docs/PUBLISHING.md", "shard channels", table+"\n")
}

// TestDoctorIsContentWithAServingFleetOfPartitions, and no instance says that the message by
// which doctor tries its rights belongs elsewhere.
func TestDoctorIsContentWithAServingFleetOfPartitions(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	flags := []string{"--redis-url", r.URL(), "--feed=sharded", "--partitions=3"}
	in := start(t, flags...)
	in.waitReady()
	for q := range 3 { // the inbox has an owner from the first tick on
		keys := redisconn.MakePartitionKeys("sse:stream:", redisconn.Partition{Number: q, Of: 3})
		in.eventually("the inbox has an owner", func() bool {
			owner, err := r.Do("GET", redisconn.InboxOwner(keys.Inbox("sse:inbox")))
			require.NoError(t, err)
			return owner != nil
		})
	}
	_, stdout, stderr := runProgram(t, nil, append([]string{"doctor"}, flags...)...)
	require.Contains(t, stdout, "ok    redis inbox: sse:inbox:{21418}\n", stderr)
	require.NotContains(t, stdout, "redis inbox of partition", "what is well of one is not told")
	in.eventually("the messages of doctor have come", func() bool { return in.metric(`ssed_feed_skipped_total{reason="unmatched"}`) >= 3 })
	require.Zero(t, in.metric(`ssed_feed_skipped_total{reason="partition"}`))
}

// partitionsOf is what GET /api/partitions answers.
func partitionsOf(in *instance) []admin.Partition {
	var answer struct{ Partitions []admin.Partition }
	in.api("GET", "/api/partitions", "", 200, &answer)
	return answer.Partitions
}

// TestInstancesAgreeWhoLeadsAndWrites each partition.
func TestInstancesAgreeWhoLeadsAndWrites(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	one, two := startRedis(t, r, "--instance", "one"), startRedis(t, r, "--instance", "two")
	isKnown := func(name string) bool { return name == "one" || name == "two" }
	one.eventually("both tell the same", func() bool {
		a, b := partitionsOf(one), partitionsOf(two)
		require.Len(t, a, 1)
		require.Len(t, b, 1)
		return a[0].Up && b[0].Up && isKnown(a[0].Leader) && isKnown(a[0].Writer) && a[0].Leader == b[0].Leader && a[0].Writer == b[0].Writer
	})
	p := partitionsOf(two)[0]
	require.Equal(t, r.Addr(), p.Node)
	require.Equal(t, "sse:{8209}", p.ShardChannel)
	require.Empty(t, p.Reason+p.Problem)
	require.Zero(t, p.Foreign)
	require.Empty(t, partitionsOf(start(t)), "without Redis")
}
