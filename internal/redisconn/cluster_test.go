package redisconn

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

var clusterKeys = MakePartitionKeys("p:", Partition{})

// clusterClient returns a lazy client of the cluster.
func clusterClient(t *testing.T, url string) *Client {
	t.Helper()
	o, err := rueidis.ParseURL(url)
	require.NoError(t, err)
	l := New(Options(o), clusterKeys.Slot)
	t.Cleanup(l.Close)
	return l
}

// set writes a key, and returns the answer of the first try that did not fail.
func set(t *testing.T, l *Client, value string) {
	t.Helper()
	var err error
	for range 1000 {
		var c rueidis.Client
		if c, err = l.Get(t.Context()); err == nil {
			if err = c.Do(t.Context(), c.B().Set().Key(clusterKeys.Clock).Value(value).Build()).Error(); err == nil {
				return
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal(err)
}

func hasKey(t *testing.T, s *redistest.Server, value string) bool {
	t.Helper()
	got, err := s.Do("GET", clusterKeys.Clock)
	return err == nil && got == value
}

func TestClientFindsThePrimaryOfTheSlot(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, 0)
	set(t, clusterClient(t, c.URL()), "a")
	require.True(t, hasKey(t, c.Nodes[1], "a"))
	// One name for the whole cluster, given twice; and some nodes that are not there.
	set(t, clusterClient(t, c.Nodes[2].URL()+"?addr="+c.Nodes[2].Addr()), "b")
	require.True(t, hasKey(t, c.Nodes[1], "b"))
	set(t, clusterClient(t, "redis://127.0.0.1:1?addr=127.0.0.1:2&addr="+c.Nodes[0].Addr()), "c")
	require.True(t, hasKey(t, c.Nodes[1], "c"))
}

// TestClientFollowsTheSlot through a move, failovers and a node that wakes up as a second
// primary. The servers of the URL need not be there any more.
func TestClientFollowsTheSlot(t *testing.T) {
	c := redistest.StartCluster(t, 3, 1)
	l := clusterClient(t, c.URL())
	set(t, l, "1")
	require.NoError(t, c.Move(clusterKeys.Slot, c.Nodes[2], nil))
	set(t, l, "2")
	require.True(t, hasKey(t, c.Nodes[2], "2"))

	c.Nodes[2].Kill()
	set(t, l, "3")
	now, err := c.AwaitPrimary(clusterKeys.Slot)
	require.NoError(t, err)
	require.Equal(t, c.Nodes[5].Addr(), now.Addr())
	require.NoError(t, c.Nodes[2].Restart())
	require.NoError(t, c.AwaitHealth())

	require.NoError(t, now.Pause())
	set(t, l, "4")
	require.NoError(t, now.Resume())
	require.True(t, hasKey(t, c.Nodes[2], "4"))
	set(t, l, "5")
	require.NoError(t, c.AwaitHealth())
	require.True(t, hasKey(t, c.Nodes[2], "5"))
}

func TestServersThatAreNoClusterAreNamed(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	_, err := clusterClient(t, s.URL()+"?addr="+s.Addr()).Get(t.Context())
	require.ErrorIs(t, err, errNoCluster)
	require.ErrorContains(t, err, s.Addr())
}

// TestClusterWithoutThePrimaryIsNamed, also where a node that had answered is asked when the
// search ends.
func TestClusterWithoutThePrimaryIsNamed(t *testing.T) {
	t.Parallel()
	f := func(name string, falls bool) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t, "--cluster-enabled", "yes")
			o, err := rueidis.ParseURL(s.URL() + "?addr=" + s.Addr())
			require.NoError(t, err)
			o.ConnWriteTimeout, o.Dialer.KeepAlive = waitLong, waitLong // only the search ends a question
			l := New(Options(o), clusterKeys.Slot)
			t.Cleanup(l.Close)
			found := make(chan error, 1)
			go func() {
				_, err := l.Get(t.Context())
				found <- err
			}()
			if falls {
				require.Eventually(t, func() bool {
					stats, err := s.Do("INFO", "commandstats")
					return err == nil && strings.Contains(stats.(string), "cmdstat_cluster|nodes:")
				}, waitLong, pollEvery)
				require.NoError(t, s.Pause())
			}
			require.ErrorIs(t, <-found, errNoPrimary)
		})
	}
	f("it answers", false)
	f("it falls silent", true)
}

// TestCloseEndsASearch that nobody answers.
func TestCloseEndsASearch(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, "--cluster-enabled", "yes")
	l := clusterClient(t, s.URL()+"?addr="+s.Addr())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := l.Get(ctx)
		done <- err
	}()
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
}

// TestScriptsRunOnTheNodeOfTheirKeys also after it has forgotten them.
func TestScriptsRunOnTheNodeOfTheirKeys(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, 0)
	client, err := clusterClient(t, c.URL()).Get(t.Context())
	require.NoError(t, err)
	script := NewScript(AllowOOM, "redis.call('SPUBLISH', KEYS[1], 'x') return redis.call('RPUSH', KEYS[1], ARGV[1])")
	for want := range 3 {
		n, err := script.Run(t.Context(), client, []string{clusterKeys.Gaps}, []string{"a"}).AsInt64()
		require.NoError(t, err)
		require.EqualValues(t, want+1, n)
		for _, s := range c.Nodes {
			_, err := s.Do("SCRIPT", "FLUSH")
			require.NoError(t, err)
		}
	}
}
