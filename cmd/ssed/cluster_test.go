package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redisconn"
	"ssed/internal/redistest"
)

// clusterKeys are the names of docs/OPERATIONS.md.
var clusterKeys = redisconn.MakePartitionKeys("sse:stream:", redisconn.Partition{})

// userOfDocs makes the user of docs/OPERATIONS.md on every node, for one of the feeds or for
// partitions, and returns a URL with it.
func userOfDocs(t *testing.T, c *redistest.Cluster, feed string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/OPERATIONS.md")
	require.NoError(t, err)
	blocks := regexp.MustCompile(`(?m)^ +ACL SETUSER ssed (.+(?:\n {8}.+)*)`).FindAllStringSubmatch(string(text), -1)
	rights := blocks[0][1] + " " + blocks[1][1]
	kind := slices.Index([]string{"sharded", "pattern", "partitions"}, feed)
	rights += " " + blocks[2+kind][1]
	for _, s := range c.Nodes {
		_, err := s.Do(append([]string{"ACL", "SETUSER", "ssed"}, strings.Fields(strings.Replace(rights, ">PASSWORD", ">s3cret", 1))...)...)
		require.NoError(t, err)
	}
	return strings.Replace(c.URL(), "redis://", "redis://ssed:s3cret@", 1)
}

// TestClusterIsServedByBothFeeds, by a user with no more rights than the docs give it:
// every way to publish, the same IDs on two instances, and a resume from the history.
func TestClusterIsServedByBothFeeds(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	for _, feed := range []string{"pattern", "sharded"} {
		for _, s := range c.Nodes {
			_, err := s.Do("FLUSHALL")
			require.NoError(t, err)
		}
		url := userOfDocs(t, c, feed)
		flags := []string{"--redis-url", url, "--feed", feed}
		one, two := start(t, flags...), start(t, flags...)
		one.waitReady()
		two.waitReady()
		primary, err := c.AwaitPrimary(clusterKeys.Slot)
		require.NoError(t, err)

		a, b := connect(t, one, "", "user123"), connect(t, two, "", "user123")
		var ids []string
		want := func(text string) {
			t.Helper()
			a.want(text)
			b.want(text)
			require.Equal(t, a.lastID, b.lastID)
			ids = append(ids, a.lastID)
		}
		answer := one.publish("user123", "by POST")
		want("by POST")
		require.Equal(t, ids[0], answer.ID)
		_, err = primary.Do("XADD", "sse:inbox:{8209}", "*", "channel", "user123", "data", "by the inbox")
		require.NoError(t, err)
		want("by the inbox")
		code, stdout, stderr := runProgram(t, nil, "pub", "--redis-url", c.URL(), "--feed", feed, "user123", "by ssed pub")
		require.Equal(t, exitOK, code, stderr)
		require.Equal(t, "receivers: 2\n", stdout)
		want("by ssed pub")
		if feed == "sharded" {
			_, err = primary.Do("SPUBLISH", "sse:{8209}", "user123\nby a backend")
		} else {
			_, err = c.Nodes[0].Do("PUBLISH", "user123", "by a backend")
		}
		require.NoError(t, err)
		want("by a backend")

		two.eventually("the history", func() bool {
			n, err := primary.Do("XLEN", "sse:stream:{8209}user123")
			return err == nil && n == int64(4)
		})
		three := start(t, flags...)
		three.waitReady()
		s := connect(t, three, ids[0], "user123")
		s.want("by the inbox", "by ssed pub", "by a backend")
		require.Equal(t, ids[3], s.lastID)
		for _, in := range []*instance{one, two, three} {
			in.end()
		}
	}
}

func TestFeedMustBeKnown(t *testing.T) {
	code, _, stderr := readFlags(t, nil, "--feed", "shared")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "--feed: ")
	require.Contains(t, stderr, "pattern")
	require.Contains(t, stderr, "sharded")
}

// TestPatternFeedWithoutLinksIsRefused: ssed ends, and names the other feed.
func TestPatternFeedWithoutLinksIsRefused(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	url := userOfDocs(t, c, "sharded")
	for _, s := range c.Nodes {
		_, err := s.Do("ACL", "SETUSER", "ssed", "+psubscribe", "allchannels")
		require.NoError(t, err)
	}
	in := launch(t, "--redis-url", url)
	require.Equal(t, exitFailed, in.wait())
	require.Contains(t, in.Log(), "--feed=sharded")
	require.Contains(t, in.Log(), "cluster|links")
}
