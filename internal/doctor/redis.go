package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"ssed/internal/redisconn"
	"ssed/sseproto"
)

// Redis says how ssed uses Redis.
type Redis struct {
	// Client is what ssed connects with.
	Client rueidis.ClientOption
	// Patterns and Prefix are --patterns and --stream-prefix.
	Patterns []string
	Prefix   string
	// Fingerprint and Rules are the short and the readable form of what all instances on
	// the prefix must have alike.
	Fingerprint, Rules string
	// Sharded is --feed=sharded.
	Sharded bool
	// Partitions is --partitions; 0 is 1.
	Partitions int
	// History tells whether messages are kept.
	History bool
	// Window is how far back the history of a busy channel has to reach. 0: as it comes.
	Window time.Duration
	// WindowOf is the same for channels that have one of their own. Nil: none has.
	WindowOf func(channel string) time.Duration
	// Inbox is the stream that backends add to. Empty: none.
	Inbox string
	// BatchChannel is --batch-channel. Empty: none.
	BatchChannel string
}

// redisTimeout bounds all of the checks of Redis together.
const redisTimeout = 20 * time.Second

// redisDoctor is the doctor with a connection.
type redisDoctor struct {
	*doctor
	*Redis
	at     int // the number of the partition that is looked at
	keys   redisconn.Keys
	client rueidis.Client
	info   redisconn.Server
}

func (d *doctor) redis(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	const check = "redis"
	where := strings.Join(d.Redis.Client.InitAddress, ", ")
	keys := d.Redis.keys(0)
	lazy := redisconn.New(redisconn.Options(d.Redis.Client), keys.Slot)
	defer lazy.Close()
	client, err := lazy.Get(ctx)
	if err != nil {
		d.fail(check, fmt.Sprintf("no connection to %s: %v", where, err), d.connectFix(err))
		return
	}
	r := &redisDoctor{doctor: d, Redis: d.Redis, keys: keys, client: client}
	begin := time.Now()
	if err := client.Do(ctx, client.B().Ping().Build()).Error(); err != nil {
		d.fail(check, fmt.Sprintf("%s does not answer: %v", where, err), d.connectFix(err))
		return
	}
	d.ok(check, fmt.Sprintf("%s answers within %v", where, time.Since(begin).Round(time.Microsecond)))
	d.transport()
	r.server(ctx)
	r.overcommit()
	r.service(ctx)
	r.rights(ctx)
	r.settings(ctx)
	r.clockDifference(ctx)
	r.fleet(ctx)
	r.inbox(ctx)
	r.window(ctx)
	if d.Redis.Partitions > 1 {
		r.partitions(ctx, lazy.Addr())
	}
	r.otherPartitions(ctx)
}

// keys are those of a partition.
func (r *Redis) keys(q int) redisconn.Keys {
	p := redisconn.Partition{}
	if r.Partitions > 1 {
		p = redisconn.Partition{Number: q, Of: r.Partitions}
	}
	return redisconn.KeysOf(r.Client, r.Prefix, p)
}

// transport tells of TLS that protects from nobody.
func (d *doctor) transport() {
	const check = "redis TLS"
	switch config := d.Redis.Client.TLSConfig; {
	case config == nil:
	case config.InsecureSkipVerify:
		d.warn(check, "skip_verify=true: anybody on the way can read and change everything", "--redis-ca with the certificate of the authority, and no skip_verify")
	default:
		d.ok(check, "the certificate of the server was verified")
	}
}

func (d *doctor) connectFix(err error) string {
	var answer *rueidis.RedisError
	isAnswer := errors.As(err, &answer)
	if isAnswer && redisconn.IsCluster(d.Redis.Client) && redisconn.Code(answer) == redisconn.CodeNoPerm {
		return "+cluster|nodes for the user of --redis-url: without it nobody finds the primary"
	}
	if isAnswer {
		return "user and password in --redis-url; special characters in them must be percent-encoded"
	}
	if isUntrusted(err) {
		return "--redis-ca PATH, with the certificate of the authority that signed the one of Redis in PEM"
	}
	return "start Redis, or correct --redis-url; redis-cli -u URL ping must answer from this machine"
}

// server is what INFO tells: version, role, memory, persistence.
func (d *redisDoctor) server(ctx context.Context) {
	text, err := d.client.Do(ctx, d.client.B().Info().Build()).ToString()
	if err != nil {
		d.fail("redis version", "INFO is refused: "+err.Error(), "ACL SETUSER "+d.user()+" +info")
		return
	}
	d.info = redisconn.ParseInfo(text)
	d.version()
	d.role()
	d.memoryOfRedis()
	d.persistence()
}

func (d *redisDoctor) version() {
	const check = "redis version"
	version := d.info["redis_version"]
	first, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(first); err != nil || n < redisconn.LeastVersion {
		d.fail(check, fmt.Sprintf("%q is older than %d.0: ssed does not work with it", version, redisconn.LeastVersion), "Redis 7.0 or later, or Valkey")
		return
	}
	d.ok(check, version)
}

func (d *redisDoctor) role() {
	const check = "redis role"
	switch role := d.info["role"]; {
	case d.info["cluster_enabled"] == "1" && !d.isCluster():
		d.fail(check, "it is a node of a Redis Cluster, and --redis-url names one server", "--redis-url redis://HOST:6379?addr=HOST2:6379, some of the nodes; where one name leads to all of them, this name twice")
	case d.isCluster() && role == "master":
		d.ok(check, fmt.Sprintf("primary of slot %d of a cluster, with %s replicas", d.keys.Slot, d.info["connected_slaves"]))
	case role == "master":
		d.ok(check, fmt.Sprintf("primary with %s replicas", d.info["connected_slaves"]))
	case role == "":
		d.skip(check, "INFO does not tell")
	default:
		d.fail(check, fmt.Sprintf("it is a replica of %s: it takes no writes", net.JoinHostPort(d.info["master_host"], d.info["master_port"])),
			"--redis-url of the primary, or redis://SENTINEL:26379?master_set=NAME, which follows a failover")
	}
	if d.info["loading"] == "1" {
		d.fail(check, "it is loading its data", "wait until it has, and run ssed doctor again")
	}
}

func (d *redisDoctor) isCluster() bool { return redisconn.IsCluster(d.Client) }

func (d *redisDoctor) memoryOfRedis() {
	const check = "redis memory"
	used, _ := strconv.ParseInt(d.info["used_memory"], 10, 64)
	most, err := strconv.ParseInt(d.info["maxmemory"], 10, 64)
	policy := d.info["maxmemory_policy"]
	switch {
	case err != nil:
		d.skip(check, "INFO does not tell")
	case most == 0:
		d.ok(check, size(used)+" used, no maxmemory")
	case strings.HasPrefix(policy, "volatile-"):
		d.warn(check, fmt.Sprintf("maxmemory-policy %s removes histories first when memory is full, because they have an expiry. Clients that come back then get a gap. Evicted so far: %s", policy, d.info["evicted_keys"]),
			"CONFIG SET maxmemory-policy noeviction")
	case policy != "noeviction":
		d.warn(check, fmt.Sprintf("maxmemory-policy %s removes histories, gap markers and the clock when memory is full. Clients that come back then get a gap. Evicted so far: %s", policy, d.info["evicted_keys"]),
			"CONFIG SET maxmemory-policy noeviction")
	case used > most/10*9:
		d.warn(check, fmt.Sprintf("%s of %s used: at the limit nothing is written to the history", size(used), size(most)), "more maxmemory, or a smaller --history-max or --history-ttl")
	default:
		d.ok(check, fmt.Sprintf("%s of %s used, noeviction", size(used), size(most)))
	}
}

// persistence is no condition: it decides what a restart of Redis costs.
func (d *redisDoctor) persistence() {
	const check = "redis persistence"
	switch {
	case d.info["aof_enabled"] == "":
		d.skip(check, "INFO does not tell")
	case d.info["rdb_last_bgsave_status"] == "err" || d.info["aof_last_write_status"] == "err":
		d.warn(check, "the last save has failed: Redis may refuse writes", "see the log of Redis; where it forks, sysctl -w vm.overcommit_memory=1")
	case d.info["aof_enabled"] == "1":
		d.ok(check, "appendonly: a restart of Redis keeps the history")
	default:
		d.ok(check, "no appendonly: a restart of Redis loses the history since the last save; clients are told of a gap")
	}
}

// overcommit is about Redis on this machine, however many servers and partitions there are.
func (d *redisDoctor) overcommit() {
	if overcommit, ok := d.number("vm.overcommit_memory"); ok && overcommit != 1 && d.isLocal() {
		d.warn("vm.overcommit_memory", fmt.Sprintf("%d: Redis on this machine cannot save when more than half of the memory is in use", overcommit), sysctl("vm.overcommit_memory", 1))
	}
}

// isLocal tells whether Redis is on this machine, where the address says so.
func (d *redisDoctor) isLocal() bool {
	for _, addr := range d.Redis.Client.InitAddress {
		host, _, err := net.SplitHostPort(addr)
		ip := net.ParseIP(host)
		if err == nil && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return false
		}
	}
	return true
}

// settings are what only CONFIG GET tells.
func (d *redisDoctor) settings(ctx context.Context) {
	const limitCheck, eventsCheck, replicasCheck = "redis client-output-buffer-limit", "redis keyspace events", "redis min-replicas-to-write"
	names := []string{"notify-keyspace-events", "min-replicas-to-write", "min-replicas-max-lag"}
	settings, err := d.client.Do(ctx, d.client.B().ConfigGet().Parameter("client-output-buffer-limit").Parameter(names...).Build()).AsStrMap()
	mayLiveOn := d.info["role"] == "master" && !d.isCluster()
	if err != nil {
		d.skip(limitCheck, "this user may not CONFIG GET; the default of Redis is enough")
		if mayLiveOn && d.replicas() > 0 {
			d.skip(replicasCheck, "this user may not CONFIG GET; the default of Redis is off, and where a replica can take over it should be 1, with min-replicas-max-lag 2")
		}
		return
	}
	d.outputBuffer(limitCheck, settings["client-output-buffer-limit"])
	d.keyspaceEvents(eventsCheck, settings["notify-keyspace-events"])
	if mayLiveOn {
		d.livesOn(replicasCheck, settings)
	}
}

// leastOutputBuffer is Redis' own default.
const leastOutputBuffer = 32 << 20

// outputBuffer is how far an instance may lag before Redis cuts its link.
func (d *redisDoctor) outputBuffer(check, text string) {
	words := strings.Fields(text)
	for i := 0; i+3 < len(words); i += 4 {
		hard, err := strconv.ParseInt(words[i+1], 10, 64)
		if words[i] != "pubsub" || err != nil {
			continue
		}
		if hard > 0 && hard < leastOutputBuffer {
			d.warn(check, fmt.Sprintf("pubsub %s: Redis cuts off an instance that falls behind by so much for a moment", size(hard)),
				`CONFIG SET client-output-buffer-limit "pubsub 64mb 16mb 60"`)
			return
		}
		d.ok(check, "pubsub "+strings.Join(words[i+1:i+4], " "))
		return
	}
	d.skip(check, "Redis has none for pubsub")
}

// keyspaceEvents are messages on channels that ssed leaves out, but only after they came.
func (d *redisDoctor) keyspaceEvents(check, flags string) {
	if flags == "" {
		d.ok(check, "off")
		return
	}
	for _, pattern := range d.Patterns {
		for _, channel := range []string{"__keyspace@0__:key", "__keyevent@0__:set"} {
			if sseproto.MatchGlob(pattern, channel) {
				d.warn(check, fmt.Sprintf("Redis announces changes of keys (%s), and the pattern %q gets them all, for nothing", flags, pattern),
					`patterns without them, such as --patterns 'user:*', or CONFIG SET notify-keyspace-events ""`)
				return
			}
		}
	}
	d.ok(check, flags+", which no pattern matches")
}

const (
	clockSamples = 5
	// clockWarn is far below what matters to people, and above what NTP leaves.
	clockWarn = time.Second
)

// clockDifference takes the quickest of a few answers: the time lies in its middle.
func (d *redisDoctor) clockDifference(ctx context.Context) {
	const check = "clock"
	best, difference := time.Hour, time.Duration(0)
	for range clockSamples {
		begin := time.Now()
		answer, err := d.client.Do(ctx, d.client.B().Time().Build()).AsStrSlice()
		took := time.Since(begin)
		there, parseErr := redisTime(answer)
		if err = errors.Join(err, parseErr); err != nil {
			d.skip(check, "TIME: "+err.Error())
			return
		}
		if took < best {
			best, difference = took, begin.Add(took/2).Sub(there)
		}
	}
	text := fmt.Sprintf("this machine differs from Redis by %v", difference.Abs().Round(time.Millisecond))
	if difference.Abs() > clockWarn+best {
		d.warn(check, text+": tokens expire by this clock, IDs follow that of Redis", "NTP on both: timedatectl set-ntp true")
		return
	}
	d.ok(check, text)
}

var errTime = errors.New("not an answer of TIME")

func redisTime(answer []string) (time.Time, error) {
	if len(answer) != 2 {
		return time.Time{}, errTime
	}
	seconds, err := strconv.ParseInt(answer[0], 10, 64)
	micros, err2 := strconv.ParseInt(answer[1], 10, 64)
	return time.Unix(seconds, micros*1000), errors.Join(err, err2)
}

// fleet reads the common clock: who runs on the prefix, and by which rules.
func (d *redisDoctor) fleet(ctx context.Context) {
	const check = "fleet"
	fields := []string{"t", "fingerprint", "fingerprint_text", "leader", "leader_until"}
	values, err := d.client.Do(ctx, d.client.B().Hmget().Key(d.keys.Clock).Field(fields...).Build()).AsStrSlice()
	if err != nil {
		d.skip(check, err.Error())
		return
	}
	fingerprint, rules, leader := values[1], values[2], values[3]
	until, _ := strconv.ParseInt(values[4], 10, 64) // 0: nobody leads
	runs := time.Now().Before(time.UnixMilli(until).Add(fleetGrace))
	switch {
	case fingerprint == "":
		d.ok(check, "no instance has used the prefix "+d.Prefix+" yet")
	case fingerprint == d.Fingerprint && runs:
		d.ok(check, fmt.Sprintf("instances with the same patterns use the prefix %s; %s sends the ticks", d.Prefix, leader))
	case fingerprint == d.Fingerprint:
		d.ok(check, "no instance uses the prefix "+d.Prefix+" now")
	case runs:
		d.fail(check, fmt.Sprintf("instances with other settings use the prefix %s: theirs are %s, ours %s", d.Prefix, rules, d.Rules),
			"the same --patterns and --envelope, or another --stream-prefix")
	default:
		d.ok(check, fmt.Sprintf("instances with other settings have used the prefix %s, none does now", d.Prefix))
	}
}

// fleetGrace is for the difference of the clocks, and a lead that is just taken over.
const fleetGrace = 3 * time.Second
