package doctor

import (
	"strings"
	"testing"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed/internal/redisconn"
	"ssed/internal/redistest"
)

// onCluster makes the user of the docs on all nodes, with these changes.
func onCluster(t *testing.T, c *redistest.Cluster, sharded bool, changes ...string) *Redis {
	t.Helper()
	return onClusterOf(t, c, 1, sharded, changes...)
}

func onClusterOf(t *testing.T, c *redistest.Cluster, partitions int, sharded bool, changes ...string) *Redis {
	t.Helper()
	option, err := rueidis.ParseURL(c.URL())
	require.NoError(t, err)
	use := useOf(c.Nodes[0])
	use.Client, use.Sharded = patient(option), sharded
	rights, forSharded, forPattern, forPartitions := aclOfDocs(t)
	if partitions > 1 {
		use.Partitions = partitions
		rights = append(rights, forPartitions...)
	} else if sharded {
		rights = append(rights, forSharded...)
	} else {
		rights = append(rights, forPattern...)
	}
	for _, s := range c.Nodes {
		_, _ = s.Do("ACL", "DELUSER", "ssed")
		do(t, s, append(append([]string{"ACL", "SETUSER", "ssed"}, rights...), changes...)...)
	}
	return asUser(use)
}

func TestClusterIsFineForTheUserOfTheDocs(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	for _, sharded := range []bool{false, true} {
		all := ofRedis(t, onCluster(t, c, sharded))
		requireFine(t, all)
		require.Contains(t, all["redis role"].Text, "slot 8192")
	}
	for _, s := range c.Nodes {
		require.EqualValues(t, 0, do(t, s, "DBSIZE"))
	}
	f := func(sharded bool, taken, check, named string) {
		t.Helper()
		result := ofRedis(t, onCluster(t, c, sharded, strings.Fields(taken)...))[check]
		require.Equal(t, Fail, result.Status, "%s: %v", taken, result)
		require.Contains(t, result.Fix, named)
	}
	f(true, "-ssubscribe", "redis rights", "+ssubscribe")
	f(true, "-spublish", "redis rights", "+spublish")
	f(true, "-cluster|info", "redis rights", "+cluster|info")
	f(true, "resetchannels &other", "redis rights", "&sse:{8209}")
	f(false, "-cluster|links", "redis service", "--feed=sharded")
	f(false, "-cluster|links", "redis rights", "+cluster|links")
	f(false, "-cluster|nodes", "redis", "+cluster|nodes")
	f(false, "resetkeys ~other", "redis rights", "~sse:stream:{8209}*")
}

func TestWhatAServiceLacksIsNamed(t *testing.T) {
	r := redistest.Start(t)
	f := func(taken string, want Status, named string) {
		t.Helper()
		do(t, r, append([]string{"ACL", "SETUSER", "ssed", "reset", "on", ">s3cret", "~*", "&*", "+@all"}, strings.Fields(taken)...)...)
		result := ofRedis(t, asUser(useOf(r)))["redis service"]
		require.Equal(t, want, result.Status, "%v", result)
		require.Contains(t, result.Text, named)
	}
	f("", OK, "has everything")
	f("-config", Skip, "CONFIG is refused")
	f("-client", Skip, "CLIENT is refused")
	f("-config -client", Skip, "CONFIG is refused: limits of subscribers, keyspace events and min-replicas-to-write are not checked here; CLIENT is refused")
}

// TestFieldsOfInfoThatAServiceHides: some do.
func TestFieldsOfInfoThatAServiceHides(t *testing.T) {
	r := redistest.Start(t)
	client, err := rueidis.NewClient(redisconn.Options(useOf(r).Client))
	require.NoError(t, err)
	defer client.Close()
	f := func(hidden string, want Status, named string) {
		t.Helper()
		var got Result
		use := useOf(r)
		d := &redisDoctor{doctor: &doctor{report: func(r Result) { got = r }}, Redis: use, client: client}
		d.info = redisconn.ParseInfo(do(t, r, "INFO").(string))
		delete(d.info, hidden)
		d.service(t.Context())
		require.Equal(t, want, got.Status, "%v", got)
		require.Contains(t, got.Text, named)
	}
	f("", OK, "has everything")
	f("run_id", Fail, "INFO has no run_id")
	f("evicted_keys", Warn, "INFO has no evicted_keys: evicted histories are not noticed")
	f("master_replid2", Warn, "INFO has no master_replid2")
	f("maxmemory_policy", Warn, "INFO has no maxmemory_policy")
}
