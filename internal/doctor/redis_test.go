package doctor

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed/internal/redisconn"
	"ssed/internal/redistest"
)

// patient is for a busy machine, on which a server may answer later than ssed waits for it.
func patient(o rueidis.ClientOption) rueidis.ClientOption {
	const wait = 20 * time.Second
	o.Dialer.Timeout, o.Dialer.KeepAlive, o.ConnWriteTimeout = wait, wait, wait
	return o
}

// useOf is how ssed uses that server by default.
func useOf(r *redistest.Server) *Redis {
	return &Redis{
		Client: patient(rueidis.ClientOption{InitAddress: []string{r.Addr()}}), Patterns: []string{"*"}, Prefix: "sse:stream:",
		Fingerprint: "f00d", Rules: "patterns=*", History: true, Inbox: "sse:inbox", Window: 30 * time.Second,
	}
}

func do(t *testing.T, r *redistest.Server, args ...string) any {
	t.Helper()
	answer, err := r.Do(args...)
	require.NoError(t, err)
	return answer
}

// ofRedis leaves out what is about this machine.
func ofRedis(t *testing.T, use *Redis, changes ...string) map[string]Result {
	t.Helper()
	cfg := prepared(changes...)
	before := run(t, cfg)
	cfg.Redis = use
	all := run(t, cfg)
	for check := range before {
		delete(all, check)
	}
	return all
}

func requireFine(t *testing.T, all map[string]Result) {
	t.Helper()
	for check, r := range all {
		require.Contains(t, []Status{OK, Skip}, r.Status, "%s: %s %s", check, r.Text, r.Fix)
	}
}

func TestFreshRedisIsFineAndNothingIsLeftInIt(t *testing.T) {
	r := redistest.Start(t)
	all := ofRedis(t, useOf(r))
	require.Len(t, all, 16)
	for _, result := range all {
		require.Equal(t, OK, result.Status, "%v", result)
	}
	require.EqualValues(t, 0, do(t, r, "DBSIZE"))
}

// aclOfDocs is the user that docs/OPERATIONS.md tells to make, in the words of ACL SETUSER:
// on one server, and what to change on a cluster with one feed and the other, and with partitions.
func aclOfDocs(t *testing.T) (rights, sharded, pattern, partitions []string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/OPERATIONS.md")
	require.NoError(t, err)
	blocks := regexp.MustCompile(`(?m)^ +ACL SETUSER ssed (.+(?:\n {8}.+)*)`).FindAllStringSubmatch(string(text), -1)
	require.Len(t, blocks, 5)
	rights = strings.Fields(blocks[0][1] + " " + blocks[1][1])
	require.Contains(t, rights, "-@all")
	rights[slices.Index(rights, ">PASSWORD")] = ">s3cret"
	return rights, strings.Fields(blocks[2][1]), strings.Fields(blocks[3][1]), strings.Fields(blocks[4][1])
}

// rightsOfDocs is that user on one server.
func rightsOfDocs(t *testing.T) []string {
	rights, _, _, _ := aclOfDocs(t)
	return rights
}

func asUser(use *Redis) *Redis {
	use.Client.Username, use.Client.Password = "ssed", "s3cret"
	return use
}

func TestUserOfTheDocsHasAllRights(t *testing.T) {
	r := redistest.Start(t)
	do(t, r, append([]string{"ACL", "SETUSER", "ssed"}, rightsOfDocs(t)...)...)
	all := ofRedis(t, asUser(useOf(r)))
	requireFine(t, all)
	require.Equal(t, Skip, all["redis client-output-buffer-limit"].Status, "this user has no CONFIG")
	require.EqualValues(t, 0, do(t, r, "DBSIZE"))
}

func TestEveryMissingRightIsNamedWithTheFix(t *testing.T) {
	r := redistest.Start(t)
	f := func(taken, check, named string, want Status) {
		t.Helper()
		_, _ = r.Do("ACL", "DELUSER", "ssed")
		do(t, r, append(append([]string{"ACL", "SETUSER", "ssed"}, rightsOfDocs(t)...), strings.Fields(taken)...)...)
		all := ofRedis(t, asUser(useOf(r)))
		require.Equal(t, want, all[check].Status, "%s: %v", taken, all)
		require.Contains(t, all[check].Fix, "ACL SETUSER ssed ")
		require.Contains(t, strings.Fields(all[check].Fix), named)
		// The fix works as it stands.
		do(t, r, strings.Fields(all[check].Fix)...)
		require.Equal(t, OK, ofRedis(t, asUser(useOf(r)))[check].Status, all[check].Fix)
		do(t, r, "FLUSHALL")
	}
	d := &redisDoctor{Redis: useOf(r)}
	tried := map[string]bool{}
	for _, p := range d.purposes("x") {
		for _, trial := range p.trials {
			if tried[trial.right] || trial.right == "+info" { // without INFO nothing else is known
				continue
			}
			tried[trial.right] = true
			f("-"+trial.right[1:], p.check, trial.right, p.status)
		}
	}
	require.Greater(t, len(tried), 34)
	f("-psubscribe", "redis rights", "+psubscribe", Fail)
	f("-subscribe", "redis rights", "+subscribe", Fail)
	f("resetchannels &news", "redis rights", "&*", Fail)
	f("resetchannels &*  resetkeys ~other:*", "redis rights", "~sse:stream:*", Fail)
	f("resetkeys ~sse:stream:* ~{sse:stream:}:*", "redis rights for --inbox", "~sse:inbox", Warn)
}

// TestEveryCommandOfSsedIsTried finds commands in the sources of what speaks with Redis.
func TestEveryCommandOfSsedIsTried(t *testing.T) {
	tried := map[string]bool{"psubscribe": true, "subscribe": true, "ssubscribe": true, "ping": true} // ping is the first thing the doctor does
	cluster := rueidis.ClientOption{InitAddress: []string{"a", "b"}}
	for _, use := range []Redis{{History: true, Inbox: "i"}, {History: true, Sharded: true}, {Client: cluster}} {
		d := &redisDoctor{Redis: &use}
		for _, p := range d.purposes("x") {
			for _, trial := range p.trials {
				tried[strings.ToLower(trial.args[0])] = true
			}
		}
	}
	found := map[string]bool{}
	pattern := regexp.MustCompile(`redis\.p?call\('(\w+)'|\.B\(\)\.(\w+)\(`)
	for _, dir := range []string{"rsub", "rstore", "internal/fleet", "internal/admin"} {
		files, err := filepath.Glob("../../" + dir + "/*")
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") || !strings.HasSuffix(file, ".go") && !strings.HasSuffix(file, ".lua") {
				continue
			}
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			for _, match := range pattern.FindAllStringSubmatch(string(text), -1) {
				command := strings.ToLower(match[1] + match[2])
				command = strings.TrimSuffix(strings.TrimSuffix(command, "load"), "stream") // SCRIPT LOAD, XINFO STREAM
				found[command] = true
				require.True(t, tried[command], "%s: %s", file, command)
			}
		}
	}
	require.Greater(t, len(found), 30)
}

func TestReplicaIsRefused(t *testing.T) {
	primary := redistest.Start(t)
	replica := redistest.Start(t, "--replicaof", strings.Replace(primary.Addr(), ":", " ", 1))
	all := ofRedis(t, useOf(replica))
	require.Equal(t, Fail, all["redis role"].Status)
	require.Contains(t, all["redis role"].Text, primary.Addr())
	require.Equal(t, Skip, all["redis rights"].Status)
}

func TestRedisThatIsNotThereOrNotForUsFails(t *testing.T) {
	r := redistest.Start(t)
	do(t, r, "CONFIG", "SET", "requirepass", "right")
	use := useOf(r)
	use.Client.Password = "s3cret"
	all := ofRedis(t, use)
	require.Equal(t, Fail, all["redis"].Status)
	require.Contains(t, all["redis"].Fix, "user and password")
	require.NotContains(t, all["redis"].Text, "s3cret")
	r.Stop()
	all = ofRedis(t, use)
	require.Len(t, all, 1)
	require.Equal(t, Fail, all["redis"].Status)
	require.Contains(t, all["redis"].Fix, "start Redis")
}

func TestSettingsOfRedisAreJudged(t *testing.T) {
	f := func(check string, want Status, text string, settings ...string) {
		t.Helper()
		r := redistest.Start(t)
		for i := 0; i < len(settings); i += 2 {
			do(t, r, "CONFIG", "SET", settings[i], settings[i+1])
		}
		result := ofRedis(t, useOf(r))[check]
		require.Equal(t, want, result.Status, "%v", result)
		require.Contains(t, result.Text, text)
		if want == Warn && strings.HasPrefix(result.Fix, "CONFIG SET") {
			words := strings.SplitN(result.Fix, " ", 4)
			do(t, r, words[0], words[1], words[2], strings.Trim(words[3], `"`))
			require.Equal(t, OK, ofRedis(t, useOf(r))[check].Status)
		}
	}
	f("redis memory", OK, "no maxmemory", "maxmemory-policy", "allkeys-lru")
	f("redis memory", Warn, "allkeys-lru", "maxmemory-policy", "allkeys-lru", "maxmemory", "100mb")
	f("redis memory", Warn, "removes histories first", "maxmemory-policy", "volatile-lru", "maxmemory", "100mb")
	f("redis memory", OK, "noeviction", "maxmemory-policy", "noeviction", "maxmemory", "100mb")
	f("redis persistence", OK, "keeps the history", "appendonly", "yes")
	f("redis client-output-buffer-limit", Warn, "1 MiB", "client-output-buffer-limit", "pubsub 1mb 1mb 10")
	f("redis keyspace events", Warn, `"*" gets them all`, "notify-keyspace-events", "KEA")
}

func TestKeyspaceEventsThatNoPatternMatchesAreFine(t *testing.T) {
	r := redistest.Start(t)
	do(t, r, "CONFIG", "SET", "notify-keyspace-events", "KEA")
	use := useOf(r)
	use.Patterns = []string{"user:*", "news"}
	requireFine(t, ofRedis(t, use))
}

func TestMemoryThatIsFullIsNamed(t *testing.T) {
	r := redistest.Start(t)
	do(t, r, "SET", "x", strings.Repeat("x", 1<<20))
	do(t, r, "CONFIG", "SET", "maxmemory", "2300000")
	result := ofRedis(t, useOf(r))["redis memory"]
	require.Equal(t, Warn, result.Status, "%v", result)
	require.Contains(t, result.Text, "nothing is written to the history")
}

func TestOvercommitMattersForRedisOnThisMachine(t *testing.T) {
	r := redistest.Start(t)
	all := ofRedis(t, useOf(r), "proc/sys/vm/overcommit_memory", "0")
	require.Equal(t, Warn, all["vm.overcommit_memory"].Status)
	for host, want := range map[string]bool{"127.0.0.1:1": true, "localhost:1": true, "[::1]:1": true, "/run/redis.sock": true, "10.0.0.1:1": false, "redis:1": false} {
		d := &redisDoctor{Redis: &Redis{Client: rueidis.ClientOption{InitAddress: []string{host}}}}
		require.Equal(t, want, d.isLocal(), host)
	}
}

func TestOldVersionsAreRefused(t *testing.T) {
	for version, want := range map[string]Status{"6.2.14": Fail, "5.0": Fail, "": Fail, "7.0.0": OK, "8.2.1": OK, "10.0": OK} {
		var got Result
		d := &redisDoctor{doctor: &doctor{report: func(r Result) { got = r }}, info: redisconn.ParseInfo("redis_version:" + version + "\r\n")}
		d.version()
		require.Equal(t, want, got.Status, version)
	}
}

func TestClusterIsRefused(t *testing.T) {
	r := redistest.Start(t, "--cluster-enabled", "yes")
	do(t, r, "CLUSTER", "ADDSLOTSRANGE", "0", "16383")
	result := ofRedis(t, useOf(r))["redis role"]
	require.Equal(t, Fail, result.Status)
	require.Contains(t, result.Text, "Cluster")
}

func TestFleetWithOtherRulesIsFoundWhileItRuns(t *testing.T) {
	r := redistest.Start(t)
	f := func(fingerprint string, until time.Time, want Status, text string) {
		t.Helper()
		do(t, r, "HSET", "{sse:stream:}:clock", "t", "1", "fingerprint", fingerprint, "fingerprint_text", "patterns=user:*",
			"leader", "other", "leader_until", strconv.FormatInt(until.UnixMilli(), 10))
		result := ofRedis(t, useOf(r))["fleet"]
		require.Equal(t, want, result.Status, "%v", result)
		require.Contains(t, result.Text, text)
	}
	f("beef", time.Now().Add(time.Minute), Fail, "theirs are patterns=user:*, ours patterns=*")
	f("beef", time.Now().Add(-time.Minute), OK, "none does now")
	f("f00d", time.Now().Add(time.Minute), OK, "other sends the ticks")
	f("f00d", time.Now().Add(-time.Minute), OK, "no instance uses the prefix")
}

func TestDoctorEndsWithItsContext(t *testing.T) {
	r := redistest.Start(t)
	require.NoError(t, r.Pause())
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	var failed bool
	cfg := prepared()
	cfg.Redis = useOf(r)
	hasty := &cfg.Redis.Client
	hasty.Dialer.Timeout, hasty.Dialer.KeepAlive, hasty.ConnWriteTimeout = 300*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond
	Run(ctx, cfg, func(result Result) { failed = failed || result.Status == Fail })
	require.True(t, failed)
	require.NoError(t, r.Resume())
}

func TestHistoryThatIsTooShortForItsChannelIsNamed(t *testing.T) {
	r := redistest.Start(t)
	begin := time.Now().Add(-10 * time.Second).UnixMilli()
	for i := range 400 {
		id := strconv.FormatInt(begin+int64(i)*20, 10) + "-1"
		do(t, r, "XADD", "sse:stream:busy", id, "data", "x")
		do(t, r, "XADD", "sse:stream:young", id, "data", "x")
		do(t, r, "XADD", "other:busy", id, "data", "x")
	}
	result := ofRedis(t, useOf(r))["history window"]
	require.Equal(t, OK, result.Status, "%v", result)
	require.Contains(t, result.Text, "channels with messages within 30s: 2;")
	do(t, r, "XTRIM", "sse:stream:busy", "MAXLEN", "100")
	do(t, r, "XTRIM", "other:busy", "MAXLEN", "10")
	result = ofRedis(t, useOf(r))["history window"]
	require.Equal(t, Warn, result.Status, "%v", result)
	require.Contains(t, result.Text, `channel "busy" has 51 messages/s, and its history reaches back 1.98s of 30s`)
	require.Equal(t, "--history-cap 1819 on all instances, or a shorter --history-window", result.Fix)

	// It was long ago.
	use := useOf(r)
	use.Window = time.Second
	require.Equal(t, OK, ofRedis(t, use)["history window"].Status)
}
