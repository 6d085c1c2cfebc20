package doctor

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/fleet"
	"ssed/internal/redisconn"
	"ssed/internal/redistest"
)

func TestPartitionsOfAClusterAreLookedAt(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	look := func(changes ...string) map[string]Result { return ofRedis(t, onClusterOf(t, c, 3, true, changes...)) }
	all := look()
	requireFine(t, all)
	require.Equal(t, "3 of them on 3 of 3 primaries", all["redis partitions"].Text)
	require.Equal(t, OK, all["fleet partitions"].Status)
	for _, s := range c.Nodes {
		require.EqualValues(t, 0, do(t, s, "DBSIZE"))
	}

	// Of the machine, however many primaries there are.
	all = ofRedis(t, onClusterOf(t, c, 3, true), "proc/sys/vm/overcommit_memory", "0")
	require.Equal(t, Warn, all["vm.overcommit_memory"].Status)
	for check := range all {
		require.NotContains(t, check, "vm.overcommit_memory of")
	}

	// A right that only the keys of one partition lack.
	all = look("resetkeys", "~sse:stream:{21418}*", "~{21418}*", "~sse:inbox:{21418}*", "~sse:stream:{8209}*", "~{8209}*", "~sse:inbox:{8209}*")
	require.Equal(t, OK, all["redis rights"].Status)
	require.Equal(t, Fail, all["redis rights of partition 2"].Status)
	require.Contains(t, all["redis rights of partition 2"].Fix, "~sse:stream:{16418}*")

	// A slot that was moved by hand.
	require.NoError(t, c.Move(redisconn.MakePartitionKeys("sse:stream:", redisconn.Partition{Number: 2, Of: 3}).Slot, c.Nodes[0], nil))
	all = look()
	require.Equal(t, Warn, all["redis partitions"].Status, "%v", all)
	require.Contains(t, all["redis partitions"].Text, fmt.Sprintf("partitions 0, 2 are all on %s, of 3 primaries", c.Nodes[0].Addr()))
	require.True(t, strings.HasSuffix(all["redis partitions"].Fix, "theirs are 2730, 13653"))
}

// TestWhatIsWrongWithAServerIsToldOnce, however many partitions it has.
func TestWhatIsWrongWithAServerIsToldOnce(t *testing.T) {
	r := redistest.Start(t)
	do(t, r, "CONFIG", "SET", "maxmemory", "1gb")
	do(t, r, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	use := useOf(r)
	use.Sharded, use.Partitions = true, 3
	all := ofRedis(t, use)
	require.Equal(t, Warn, all["redis memory"].Status)
	require.Contains(t, all["redis partitions"].Text, "3 of them on one server")
	for check := range all {
		require.NotContains(t, check, "redis memory of")
	}
}

// TestInstancesWithAnotherNumberOfPartitionsAreNamed, also by who has one.
func TestInstancesWithAnotherNumberOfPartitionsAreNamed(t *testing.T) {
	r := redistest.Start(t)
	f := fleet.New(fleet.Config{
		Client: useOf(r).Client, Prefix: "sse:stream:", Instance: "one", Report: func() []byte { return nil },
		Settings: []fleet.Setting{{Name: fleet.Partitions, Value: "2", Harmful: true}},
		Notify:   func(context.Context, ...string) error { return nil },
	})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = f.Run(ctx) })
	defer running.Wait()
	defer stop()
	require.Eventually(t, func() bool { return f.Stats().Beats > 0 }, time.Minute, 5*time.Millisecond)
	for partitions, want := range map[int]Status{0: Fail, 2: OK, 3: Fail} {
		use := useOf(r)
		use.Sharded, use.Partitions = partitions > 0, partitions
		result := ofRedis(t, use)["fleet partitions"]
		require.Equal(t, want, result.Status, "%v", result)
		if want == Fail {
			require.Contains(t, result.Text, fmt.Sprintf("one runs on sse:stream: with --partitions 2, ours is %d", max(partitions, 1)))
		}
	}
	require.NotContains(t, ofRedis(t, useOf(redistest.Start(t))), "fleet partitions")
}
