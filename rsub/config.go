package rsub

import (
	"log/slog"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"ssed/internal/invalid"
	"ssed/internal/redisconn"
	"ssed/sseproto"
)

// Defaults of Config.
const (
	DefaultTickInterval = 100 * time.Millisecond
	DefaultProbeTimeout = 2 * time.Second
	DefaultNumberWait   = time.Second
)

const (
	// maxFeeds: two subscriptions halve the risk of a lost one; a third adds load only.
	maxFeeds = 2
	// maxPatternBytes is a bound on nonsense; channel names have 255 at most.
	maxPatternBytes = 1024
)

// Config is what a Feed needs.
type Config struct {
	// Client says how to reach Redis; rueidis.ParseURL makes one. RESP2 is
	// refused: subscriptions and commands have to share a connection.
	Client rueidis.ClientOption
	// Patterns are subscribed to with PSUBSCRIBE. At least one.
	Patterns []string
	// Sharded says how messages come. False: backends PUBLISH, and the patterns are subscribed
	// to. True: backends SPUBLISH on one shard channel (Feed.ShardChannel) the channel, a line
	// feed and the payload. All of them are numbered, whatever the patterns are. All instances
	// of a prefix have it alike: it is part of the fingerprint.
	//
	// In a Redis Cluster Redis copies what is published without it to every node, and may lose
	// it on the way: then ticks tell of it, which takes the right to CLUSTER LINKS.
	Sharded bool
	// Prefix is the prefix of the streams; the clock key and the control channel
	// have it in their names. Instances that work together have the same one.
	Prefix string
	// Partition is the part of the channels that the Feed is of, with a clock, a control
	// channel, a shard channel and an inbox of its own; zero is the whole. A part takes
	// Sharded: patterns bring the messages of all parts. How many there are is part of the
	// fingerprint. What comes here and belongs to another part keeps its number and is
	// left out.
	Partition redisconn.Partition
	// Shared is the connections for commands that the Feeds of all partitions share, with the
	// same Client each; nil: this one has its own. Subscriptions have connections of their own.
	Shared *redisconn.Shared
	// Elsewhere counts the other partitions whose ticks this instance sends: the more, the
	// longer it leaves a clock that nobody leads to others. Nil: none. It must not block.
	Elsewhere func() int
	// Cleared is closed when it is known that no instance with other settings is harmed:
	// until then the Feed listens, and neither ticks nor publishes. Nil: from the start.
	Cleared <-chan struct{}
	// Instance is the name of this process, unique among the instances, without spaces.
	Instance string
	// Feeds is the number of connections that are subscribed and merged: 1 or 2.
	// 0 is 1. With 2 the loss of one loses nothing, at twice the traffic.
	Feeds int
	// TickInterval is the time between ticks. 0 is 100 ms.
	TickInterval time.Duration
	// ProbeTimeout is how long a subscription may be silent until it is cut, or bring
	// nothing while a published tick is expected. One that brings messages, or parts of
	// them, is given thirty times as long for the tick. 0 is 2 s.
	ProbeTimeout time.Duration
	// MaxMessageBytes is the size of the largest payload that is delivered. 0 is
	// no limit. A larger one keeps its number and is counted, and the sink gets its place alone. An entry of
	// the inbox has the limit of the instance that publishes it.
	MaxMessageBytes int
	// Envelope says that payloads may be envelopes, see sseproto.ParseEnvelope. Then
	// entries of the inbox may have the fields event_type, id and retry. All instances
	// of a prefix have it alike, or a message would become two different events: it is
	// part of the fingerprint.
	Envelope bool
	// Inbox is the key of a stream to which backends XADD, with the fields channel
	// and data; the instance that leads the ticks publishes its entries behind them,
	// each once. "" is none. It needs a history, for an entry stays in the stream
	// until the history is written beyond it. On the same server as the clock.
	Inbox string
	// BatchChannel is a channel of which each message carries many, see sseproto.CutBatched;
	// they are numbered one by one. Publish, PublishBatch and the inbox use it. "" is none.
	// All instances of a prefix have the same one, or they would number differently: it is
	// part of the fingerprint. Who may publish on it may publish on every channel. With
	// Sharded it is a channel of the shard channel, like any other.
	BatchChannel string
	// Logger gets what an operator should know, throttled. nil is slog.Default.
	Logger *slog.Logger
	// OnLeaseReleased is called when an instance has given up the lease of the history
	// writer. It runs on a read loop, must not block, and may be called twice for
	// one release. May be nil.
	OnLeaseReleased func()
	// NumberWait is how long Publish waits for the number of its message, which
	// comes with the message itself: after a round trip, as a rule. 0 is 1 s.
	NumberWait time.Duration
	// OnNotice gets the words of what Notify has sent, on this instance or another
	// one, and of control messages of later versions. It is called on a read loop,
	// must not block, and is called once by each of two feeds. May be nil.
	OnNotice func(words []string)
	// ClockOffset is added to the time of Redis in this instance's ticks. For
	// fault injection: a clock that was set wrong.
	ClockOffset time.Duration
}

// withDefaults returns c with its zeros replaced, or everything that is wrong.
func (c Config) withDefaults() (Config, error) {
	if c.Feeds == 0 {
		c.Feeds = 1
	}
	if c.TickInterval == 0 {
		c.TickInterval = DefaultTickInterval
	}
	if c.ProbeTimeout == 0 {
		c.ProbeTimeout = DefaultProbeTimeout
	}
	if c.NumberWait == 0 {
		c.NumberWait = DefaultNumberWait
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.OnLeaseReleased == nil {
		c.OnLeaseReleased = func() {}
	}
	if c.OnNotice == nil {
		c.OnNotice = func([]string) {}
	}
	if c.Elsewhere == nil {
		c.Elsewhere = func() int { return 0 }
	}
	err := c.validate()
	c.Client = redisconn.Options(c.Client)
	if c.Client.WriteBufferEachConn == 0 {
		c.Client.WriteBufferEachConn = redisconn.SmallBufferBytes // it sends ticks and an occasional PUBLISH
	}
	return c, err
}

// Validate reports every problem of c at once, each by the name of its field.
func (c Config) Validate() error {
	_, err := c.withDefaults()
	return err
}

func (c *Config) validate() error {
	check := invalid.Check{Package: "rsub"}
	for _, err := range redisconn.Check(c.Client) {
		check.Add("Client", "%w", err)
	}
	check.If(len(c.Patterns) == 0, "Patterns", "no pattern given")
	for _, p := range c.Patterns {
		check.If(p == "" || len(p) > maxPatternBytes || strings.ContainsRune(p, 0), "Patterns", "%.50q is not 1 to %d bytes without NUL", p, maxPatternBytes)
		check.If(Reserved(p), "Patterns", "%.50q: channels that start with %s are never delivered", p, reservedPrefix)
	}
	check.If(len(c.BatchChannel) > maxPatternBytes || strings.ContainsFunc(c.BatchChannel, isSpaceOrControl),
		"BatchChannel", "%.50q is longer than %d bytes or has spaces", c.BatchChannel, maxPatternBytes)
	check.If(Reserved(c.BatchChannel), "BatchChannel", "%.50q: channels that start with %s are never delivered", c.BatchChannel, reservedPrefix)
	check.If(!c.Partition.IsValid(sseproto.MaxPartitions), "Partition", "%d of %d is none of at most %d", c.Partition.Number, c.Partition.Of, sseproto.MaxPartitions)
	check.If(!c.Partition.IsWhole() && !c.Sharded, "Partition", "several of them take Sharded: with patterns each would get the messages of all")
	if other, ok := redisconn.SharesMessages(c.Prefix); ok && c.Sharded {
		check.Add("Prefix", "%q has the shard channels of the prefix %q: choose another one", c.Prefix, other)
	}
	check.If(c.Prefix == "" || strings.ContainsAny(c.Prefix, "{}"), "Prefix", "%q is empty or has braces", c.Prefix)
	check.If(c.Instance == "" || strings.ContainsFunc(c.Instance, isSpaceOrControl), "Instance", "%q is empty or has spaces", c.Instance)
	check.If(c.Feeds < 1 || c.Feeds > maxFeeds, "Feeds", "%d is not 1 or %d", c.Feeds, maxFeeds)
	check.If(c.TickInterval < time.Millisecond, "TickInterval", "%v is less than 1ms", c.TickInterval)
	check.If(c.ProbeTimeout < 2*c.TickInterval, "ProbeTimeout", "%v is less than two tick intervals", c.ProbeTimeout)
	check.If(c.NumberWait < 0, "NumberWait", "%v is negative", c.NumberWait)
	check.If(c.MaxMessageBytes < 0, "MaxMessageBytes", "%d is negative", c.MaxMessageBytes)
	return check.Err()
}

func isSpaceOrControl(r rune) bool { return r <= ' ' || r == 0x7f }
