package doctor

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

const replicasCheck = "redis min-replicas-to-write"

// awaitReplicas waits until so many follow a server.
func awaitReplicas(t *testing.T, primary *redistest.Server, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		answer, _ := primary.Do("INFO", "replication")
		text, _ := answer.(string)
		return strings.Count(text, "state=online") == n
	}, time.Minute, 5*time.Millisecond, "%d replicas", n)
}

func replicaOf(t *testing.T, primary *redistest.Server) *redistest.Server {
	return redistest.Start(t, "--replicaof", "127.0.0.1 "+strconv.Itoa(primary.Port()))
}

// TestPrimaryThatMayLiveOnBesideItsSuccessorIsNamed: the fixes work as they stand.
func TestPrimaryThatMayLiveOnBesideItsSuccessorIsNamed(t *testing.T) {
	primary := redistest.Start(t)
	var all map[string]Result
	// f asks until it is as wanted: on a busy machine a replica may be quiet for two seconds.
	f := func(want Status, text, fix string) string {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for {
			all = ofRedis(t, useOf(primary))
			result := all[replicasCheck]
			if result.Status == want && strings.Contains(result.Text, text) && strings.Contains(result.Fix, fix) {
				return result.Fix
			}
			require.True(t, time.Now().Before(deadline), "%v, want %v %q %q", result, want, text, fix)
		}
	}
	// apply types what a fix says to type.
	apply := func(fix string) {
		t.Helper()
		_, fix, _ = strings.Cut(fix, "CONFIG SET ")
		settings, _, _ := strings.Cut(fix, ",")
		do(t, primary, append([]string{"CONFIG", "SET"}, strings.Fields(settings)...)...)
	}

	f(OK, "no replica", "")
	first := replicaOf(t, primary)
	awaitReplicas(t, primary, 1)
	apply(f(Warn, "off, with 1 replicas", "a second replica"))
	f(Warn, "while one is away, Redis takes no writes", "one more replica")
	second := replicaOf(t, primary)
	awaitReplicas(t, primary, 2)
	f(OK, "1, with 2 replicas and min-replicas-max-lag 2", "")

	do(t, primary, "CONFIG", "SET", "min-replicas-to-write", "0")
	apply(f(Warn, "off, with 2 replicas", "CONFIG SET min-replicas-to-write 1 min-replicas-max-lag 2, here and on each replica"))
	f(OK, "1, with 2 replicas", "")
	do(t, primary, "CONFIG", "SET", "min-replicas-max-lag", "10") // the default of Redis
	apply(f(Warn, "ticks for 10 s after its replicas have left it", "CONFIG SET min-replicas-max-lag 2"))
	f(OK, "1, with 2 replicas", "")
	do(t, primary, "CONFIG", "SET", "min-replicas-max-lag", "0")
	apply(f(Warn, "off, with 2 replicas", "CONFIG SET min-replicas-to-write 1 min-replicas-max-lag 2"))
	f(OK, "1, with 2 replicas", "")

	first.Stop()
	second.Stop()
	apply(f(Fail, "0 of 0 replicas answer within 2 s: Redis takes no writes", "CONFIG SET min-replicas-to-write 0"))
	f(OK, "no replica", "")
	requireFine(t, all)
}

// TestWhoMayNotReadSettingsIsToldWhatToLookAt, where a replica may take over.
func TestWhoMayNotReadSettingsIsToldWhatToLookAt(t *testing.T) {
	primary := redistest.Start(t)
	do(t, primary, append([]string{"ACL", "SETUSER", "ssed"}, rightsOfDocs(t)...)...)
	require.NotContains(t, ofRedis(t, asUser(useOf(primary))), replicasCheck)
	replicaOf(t, primary)
	awaitReplicas(t, primary, 1)
	all := ofRedis(t, asUser(useOf(primary)))
	require.Equal(t, Skip, all[replicasCheck].Status)
	require.Contains(t, all[replicasCheck].Text, "may not CONFIG GET")
	requireFine(t, all)
}

func TestPrimaryOfAClusterStopsByItself(t *testing.T) {
	c := redistest.StartCluster(t, 1, 1)
	all := ofRedis(t, onCluster(t, c, true, "+config|get"))
	require.Contains(t, all["redis role"].Text, "with 1 replicas")
	require.Equal(t, OK, all["redis client-output-buffer-limit"].Status)
	require.NotContains(t, all, replicasCheck)
}
