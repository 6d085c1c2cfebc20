package rstore

import (
	"cmp"
	"log/slog"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"ssed/internal/invalid"
	"ssed/internal/redisconn"
	"ssed/sseproto"
)

// Config says where and how the history is kept.
type Config struct {
	// Client tells how to reach Redis. The Store makes its own connections,
	// one for writing and some for reading, and never closes others'.
	// What it leaves open is as in redisconn.Options: a stalled Redis is noticed within 1.5 s.
	Client rueidis.ClientOption
	// Prefix comes before the channel name in stream keys. Required.
	Prefix string
	// Partition is the part of the channels whose history this is, with a watermark, a lease
	// and markers of its own; zero is the whole. Callers ask for channels of that part alone.
	Partition redisconn.Partition
	// Shared is the connections that the Stores of all partitions share, with the same Client
	// each; nil: this one has its own.
	Shared *redisconn.Shared
	// Elsewhere counts the other partitions whose history this instance writes: the more,
	// the longer it leaves a free lease to others. Nil: none. It must not block.
	Elsewhere func() int
	// ServerOf returns the run_id of the Redis server whose order the log has behind a
	// position; "" when it is not known. Redis refuses what a server numbered after another
	// one had taken over from it. Nil: never known. It must not block.
	ServerOf func(after sseproto.ID) string
	// OnOtherServer is called when Redis has refused something for that reason: the feed
	// hangs on another server than the history. It must not block. May be nil.
	OnOtherServer func()
	// Instance names this process among the others on the prefix. Required,
	// without spaces.
	Instance string
	// MaxLen is how many messages a channel keeps at least, once it had them;
	// Redis trims in whole nodes of 100. Default 100.
	MaxLen int
	// Window: messages younger than that stay as well, however many, up to Cap.
	// Default 0: MaxLen alone counts.
	Window time.Duration
	// Cap is the most messages that a channel keeps, whatever Window says, give or
	// take a node and a batch. Default 50,000, never less than MaxLen.
	Cap int
	// TTL is how long a channel is kept after its last message. Default 1h. Instances
	// may have different ones while they are replaced one after the other: who writes
	// with another TTL than the last writer notes it, and readers tell clients of
	// whatever may have expired (sseproto.ReasonExpired).
	TTL time.Duration
	// Policies are for channels of which more or less is kept. The first that matches a
	// channel counts; for the others MaxLen, Window and TTL hold. Instances may have
	// different ones for a while, as for TTL.
	Policies []Policy
	// BatchSize is the most messages in one script run. Default 100.
	BatchSize int
	// FlushInterval is over how long what was committed is written while the writer
	// keeps up, in several runs, so that Redis gets to other work in between,
	// and the least time before the next. Default 10ms.
	FlushInterval time.Duration
	// LeaseTTL is how long a silent writer keeps the others waiting. Default 800ms.
	LeaseTTL time.Duration
	// GapWait is how long nobody may advance the watermark before a gap
	// marker is written while an instance that was there a moment ago says
	// nothing. When all have said that they cannot go on, nobody waits. Default 1s; more than LeaseTTL/4, so that every
	// instance has had its turn.
	GapWait time.Duration
	// Logger, default slog.Default().
	Logger *slog.Logger
}

// The defaults of Config.
const (
	DefaultMaxLen = 100
	DefaultTTL    = time.Hour
)

// Bounds that are not worth a flag.
const (
	// maxBatch keeps one script run, which blocks Redis, below about 30 ms.
	maxBatch = 10_000
	// batchBytes bounds the data of one script run; one message may be larger.
	batchBytes = 1 << 20
	// pipelineDepth is how many batches a writer that is behind sends before the
	// first answer is needed: the chain of expected watermarks is known in advance.
	pipelineDepth = 8
	// farDepth is the same where a round trip is long: at 200 ms and 100 messages in
	// a batch 32,000 messages/s get through, with 8 batches it would be 4,000.
	farDepth      = 64
	pipelineBytes = pipelineDepth * batchBytes
	// steps is in how many runs a writer that keeps up writes what a tick has
	// committed. Redis does nothing else during a run: with all in full batches,
	// spread traffic of 2,000 messages/s had a p99 of 1.1 to 1.5 ms, with 8 steps
	// 0.67 to 0.86 ms, with 16 0.56 to 0.77 ms, without history 0.5 to 0.8 ms.
	steps = 16
	// smallBatch is the fewest messages that are worth a run of their own. A run
	// takes Redis 14 µs, and 4 to 7 µs for each message (Redis 7.0).
	smallBatch = 8
	// maxMarkers: when there are more gap markers, the two oldest become one
	// that covers both. 256 outages back, nobody asks for detail.
	maxMarkers = 256
	// maxRejected: when more channels refused messages than this, one gap marker
	// over all channels takes their place.
	maxRejected = 1000
	// defaultCap is 30 s of 1,600 messages/s; of 250 bytes each they take 15 MB of Redis.
	defaultCap = 50_000
	// flushTimeout bounds the last flush of a stopping writer.
	flushTimeout = 2 * time.Second
)

func (c Config) withDefaults() Config {
	c.MaxLen = cmp.Or(c.MaxLen, DefaultMaxLen)
	c.Cap = cmp.Or(c.Cap, defaultCap)
	c.Cap = max(c.Cap, c.MaxLen)
	c.TTL = cmp.Or(c.TTL, DefaultTTL)
	c.BatchSize = cmp.Or(c.BatchSize, 100)
	c.FlushInterval = cmp.Or(c.FlushInterval, 10*time.Millisecond)
	c.LeaseTTL = cmp.Or(c.LeaseTTL, 800*time.Millisecond)
	c.GapWait = cmp.Or(c.GapWait, time.Second)
	if c.Elsewhere == nil {
		c.Elsewhere = func() int { return 0 }
	}
	if c.ServerOf == nil {
		c.ServerOf = func(sseproto.ID) string { return "" }
	}
	if c.OnOtherServer == nil {
		c.OnOtherServer = func() {}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Client = redisconn.Options(c.Client)
	return c
}

// Validate reports every problem of c at once, each by the name of its field.
func (c Config) Validate() error {
	c = c.withDefaults()
	check := invalid.Check{Package: "rstore"}
	for _, err := range redisconn.Check(c.Client) {
		check.Add("Client", "%w", err)
	}
	check.If(c.Prefix == "", "Prefix", "it is empty")
	check.If(!c.Partition.IsValid(sseproto.MaxPartitions), "Partition", "%d of %d is none of at most %d", c.Partition.Number, c.Partition.Of, sseproto.MaxPartitions)
	check.If(c.Instance == "" || strings.ContainsAny(c.Instance, " \t\r\n"), "Instance", "%q is not a name without spaces", c.Instance)
	check.If(c.MaxLen < 1, "MaxLen", "%d is less than 1", c.MaxLen)
	check.If(c.Window < 0, "Window", "%v is negative", c.Window)
	check.If(c.BatchSize < 1, "BatchSize", "%d is less than 1", c.BatchSize)
	check.If(c.BatchSize > maxBatch, "BatchSize", "%d is more than %d: Redis does nothing else while it writes a batch", c.BatchSize, maxBatch)
	check.If(c.TTL < time.Millisecond, "TTL", "%v is less than 1ms", c.TTL)
	c.checkPolicies(&check)
	check.If(c.FlushInterval < 0, "FlushInterval", "%v is negative", c.FlushInterval)
	check.If(c.LeaseTTL < 4*time.Millisecond, "LeaseTTL", "%v is less than 4ms", c.LeaseTTL)
	check.If(c.GapWait < time.Millisecond, "GapWait", "%v is less than 1ms", c.GapWait)
	return check.Err()
}

// poll is how often an instance that does not write looks at the lease.
func (c Config) poll() time.Duration { return c.LeaseTTL / 4 }

// there is how long an instance counts as there after it was heard of: several
// polls, so that one that is merely slow is waited for.
func (c Config) there() time.Duration { return 10 * c.poll() }

// assembled is how long after an outage of Redis all instances have been heard of
// again: a poll, and half of one for the way.
func (c Config) assembled() time.Duration { return c.poll() * 3 / 2 }
