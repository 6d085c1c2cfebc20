package ssed

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"ssed/engine"
	"ssed/internal/invalid"
	"ssed/rstore"
	"ssed/rsub"
	"ssed/sseproto"
)

// Config says what a Gateway does. Only Listen must be given: the zero value of every
// other field means the default that its comment names.
type Config struct {
	// Listen holds the public addresses: "host:port", ":port" or "unix:/path". Port 0
	// picks a free one, see Gateway.Addrs.
	Listen []string
	// Redis is how to reach Redis 7.0 or later; rueidis.ParseURL makes it from a URL. Several
	// addresses without Sentinel are nodes of a Redis Cluster. Nil: embedded. The gateway is
	// alone then, takes messages by Publish and keeps them in memory.
	Redis *rueidis.ClientOption
	// Feed is how messages come from Redis. Without Redis it is checked, and only
	// Instance has a meaning.
	Feed FeedConfig
	// History keeps messages in Redis, for clients that come back when memory does not have
	// what they missed any more. Nil: off. &HistoryConfig{} turns it on with its defaults,
	// which is what most want. Without Redis it is checked and not used.
	History *HistoryConfig
	// Policies are settings for some channels: how many messages are kept, and what readers
	// that are behind get. The first that matches a channel counts. Channels without one are
	// kept as History says. The same on all instances; they may differ while you change the
	// instances one after the other.
	Policies []Policy
	// Streams is about the clients, their connections and their streams.
	Streams StreamConfig
	// Auth decides who may open a stream. Nil: everyone.
	Auth Authorizer
	// Logger gets what an operator should know, and no line per message or connection. Nil:
	// slog.Default().
	Logger *slog.Logger
}

// FeedConfig is how messages come from Redis. Prefix, Patterns, Sharded, Partitions, Envelope,
// BatchChannel and Inbox are the same on all instances that work together.
type FeedConfig struct {
	// Patterns are the channels to deliver, as for PSUBSCRIBE. Default "*".
	Patterns []string
	// Sharded: backends publish all messages on one shard channel, by SPUBLISH sse:{8209} of
	// channel, line feed and payload (see rsub.Config). False: each on its own, by PUBLISH. On
	// a Redis Cluster that takes the right to CLUSTER LINKS.
	Sharded bool
	// Partitions is into how many parts the channels are divided, each with a clock, an order
	// and a history of its own, in a hash slot of its own: so several primaries of a Redis
	// Cluster share the work. A channel belongs to the part sseproto.PartitionOf. It takes
	// Redis and Sharded. Another number is another fleet: it takes another Prefix. Default 1,
	// at most 64.
	Partitions int
	// Prefix begins the keys: the history of a channel is the stream at prefix plus
	// channel. Default "sse:stream:".
	Prefix string
	// Instance names this gateway among the others, without spaces. Default: host name,
	// process id and a random part.
	Instance string
	// Subscriptions is how many connections receive everything, 1 or 2. With two the loss
	// of one loses nothing, at twice the traffic. Default 1.
	Subscriptions int
	// TickInterval is the time between two ticks of the common clock, over all instances.
	// A message enters the history with the next tick. Default 100 ms.
	TickInterval time.Duration
	// ProbeTimeout: reconnect to Redis when nothing arrives on a subscription for this long.
	// Default 2 s.
	ProbeTimeout time.Duration
	// Envelope: a payload that is a JSON object of data and optionally event, id and
	// retry becomes an event of that type (see sseproto.ParseEnvelope). What the gateways
	// themselves publish has its type, ID and retry time in any case.
	Envelope bool
	// BatchChannel: each message of this channel carries many, see sseproto.CutBatched. That
	// costs Redis less. PublishBatch and the inbox use it. Whoever may publish on it in Redis
	// may publish on every channel. Empty: none.
	BatchChannel string
	// Inbox is the key of a stream to which backends XADD channel and data, so that
	// nothing is lost while no instance runs. It needs a History. Empty: none. The
	// program ssed has "sse:inbox" with the default Prefix. An inbox belongs to one Prefix:
	// Run fails when instances with another one take from it.
	Inbox string
	// ClockOffset is added to the time of Redis in the ticks of this instance. For fault
	// injection: a clock that was set wrong.
	ClockOffset time.Duration
}

// HistoryConfig is how messages are kept in Redis.
type HistoryConfig struct {
	// MaxLen is how many messages a channel keeps at least; Redis trims in nodes of 100.
	// It is the largest last=N of a client, too, also without Redis.
	// Default 100.
	MaxLen int
	// Window: messages younger than this are kept as well, up to Cap. So clients that change
	// to another instance miss nothing. Default: the sum of Streams.RetryMax, Streams.Drain
	// and 15 s; negative: MaxLen alone counts.
	Window time.Duration
	// Cap is the most messages that a channel keeps, give or take a batch. Default 50,000,
	// never less than MaxLen.
	Cap int
	// TTL is how long a channel is kept after its last message. Default 1 h, at least 1 s.
	TTL time.Duration
	// BatchSize is the most messages that are written at once. Default 100, at most 10,000.
	BatchSize int
	// FlushInterval is the time over which the writer spreads its work. Default 10 ms.
	FlushInterval time.Duration
	// GapWait: when this instance does not have the messages that the history needs next, wait
	// this long for one that has. After that a gap is written. Default 1 s, at least 250 ms.
	GapWait time.Duration
	// Wait is how long a client that comes back waits until the history is written far
	// enough. After that it gets a gap event. Default 3 s.
	Wait time.Duration
	// Readers is how many reads run at once. Default 16.
	Readers int
}

// StreamConfig is about the clients.
type StreamConfig struct {
	// SocketMode is the permissions of unix sockets: who may write to one may connect.
	// Zero: 0777 less the umask. Abstract sockets have none.
	SocketMode fs.FileMode
	// ReusePort sets SO_REUSEPORT on TCP listeners, so that several processes can share a port.
	ReusePort bool
	// Shards is the number of event loops. Default GOMAXPROCS. A program that does little
	// else gains from a GOMAXPROCS two above it: a loop with work keeps its thread.
	Shards int
	// RingBytes bounds the memory for recent messages, which serves slow and reconnecting
	// clients. Default 64 MiB, at least 256 KiB.
	RingBytes int64
	// MaxMessageBytes: in the place of a larger message clients get a gap event with the
	// reason oversize, and Publish refuses it. The same on all instances.
	// Default 1 MiB.
	MaxMessageBytes int
	// MaxConnections bounds open client connections, requests included. Default: the
	// limit of open files less 256.
	MaxConnections int
	// MaxPerAddress bounds the open connections of one client address, IPv6 by its first
	// 64 bits. Zero: no limit. Addresses of this machine and of TrustedProxies are not limited.
	MaxPerAddress int
	// MaxPerSubject bounds the open streams of one subject that Config.Auth has named.
	// Zero: no limit.
	MaxPerSubject int
	// ConnectRate bounds the new connections per second of one client address, after a
	// burst of ConnectBurst. Behind a proxy that is one of TrustedProxies requests for streams
	// count in their place. Zero: no limit.
	ConnectRate int
	// ConnectBurst is how many may come at once. Default ten times ConnectRate.
	ConnectBurst int
	// TrustedProxies are the peers whose X-Forwarded-For and PROXY header tell the client.
	// Peers on unix sockets are among them when there are any.
	TrustedProxies []netip.Prefix
	// ProxyProtocol requires a PROXY header, version 1 or 2, of every connection from
	// TrustedProxies. From others it is refused as bad HTTP.
	ProxyProtocol bool
	// PeerTimeout: close a TCP client that acknowledges or takes nothing for this long. With a
	// Heartbeat rarer than this the kernel sends probes besides. Default 60 s; negative: the
	// kernel decides.
	PeerTimeout time.Duration
	// HandshakeTimeout bounds the time from accept to a complete request. Default 5 s.
	HandshakeTimeout time.Duration
	// AuthTimeout bounds one decision of Config.Auth. Default 2 s.
	AuthTimeout time.Duration
	// MaxAge: close streams at this age, less a random part of up to a fifth. Zero: never.
	MaxAge time.Duration
	// MaxChannels bounds the channels of one stream. Default 32, at most 1024.
	MaxChannels int
	// MaxHeadBytes bounds a request head: the line, which has the channels, and all fields,
	// with cookies. Default 16 KiB, at most 64 KiB. Larger ones get 431 or 414.
	MaxHeadBytes int
	// BroadcastChannel is a channel that every stream gets besides its own, whatever Auth
	// says. Patterns must match it. It does not count for MaxChannels. Empty: none.
	BroadcastChannel string
	// Heartbeat is the longest silence on a stream. Default 15 s, at least 1 s; negative: none.
	Heartbeat time.Duration
	// HeartbeatEvent is the type of the event that is sent as heartbeat, with empty data
	// and no ID. Empty: a comment line, which clients do not see.
	HeartbeatEvent string
	// StartID says which new streams begin with their position, so that a client that is cut
	// off before its first event can come back and miss nothing. Default StartIDAuto.
	StartID StartID
	// Unchunked sends streams without chunks, also to clients of HTTP/1.1. Some clients and
	// proxies then show events late, or when the stream ends.
	Unchunked bool
	// RetryMin and RetryMax bound how long clients wait before they reconnect. A time between
	// the two is drawn for each. Defaults 2 s and 5 s; RetryMax is never less than RetryMin.
	RetryMin, RetryMax time.Duration
	// Drain is the time over which Run closes the streams at its end. Default 10 s.
	Drain time.Duration
	// Hosts: answer requests for streams only by these names, such as "sse.example.com", or
	// addresses, without ports. Others get 421. Default: any.
	Hosts []string
	// CORSOrigins are the web origins whose pages may read: "*", or a list such as
	// "https://app.example.com". Default "*".
	CORSOrigins []string
	// CORSCredentials allows cross-origin requests with cookies: the answer names the origin
	// of the page, also where CORSOrigins is "*".
	CORSCredentials bool
}

// StartID says which new streams begin with an id alone, without data. A client can ask
// for it or refuse it by start=id and start=none in its query, whatever this says.
type StartID = engine.StartID

const (
	// StartIDAuto: a browser's own EventSource gets it. Other clients may show it as an
	// event without data.
	StartIDAuto = engine.StartIDAuto
	StartIDOn   = engine.StartIDOn  // every stream gets it
	StartIDOff  = engine.StartIDOff // only a stream that asks
)

// Defaults of what the packages under this one do not know.
const (
	// windowMargin is for names, handshakes and the timers of a page in the background.
	windowMargin = 15 * time.Second

	defaultPrefix          = "sse:stream:"
	defaultMaxMessageBytes = 1 << 20
)

// withDefaults fills in what this package has to know itself. Engine, feed and history
// have the defaults of their own settings.
func (c Config) withDefaults() Config {
	if c.Feed.Patterns == nil {
		c.Feed.Patterns = []string{"*"}
	}
	c.Feed.Prefix = cmp.Or(c.Feed.Prefix, defaultPrefix)
	c.Streams.MaxMessageBytes = cmp.Or(c.Streams.MaxMessageBytes, defaultMaxMessageBytes)
	if c.Feed.Instance == "" {
		c.Feed.Instance = newInstance()
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// newInstance tells two processes apart even when they have the same id in two containers.
func newInstance() string {
	host, err := os.Hostname()
	if err != nil || strings.ContainsFunc(host, isNotPrintableASCII) {
		host = "unknown"
	}
	return fmt.Sprintf("%.60s-%d-%s", host, os.Getpid(), strings.ToLower(rand.Text()[:6]))
}

// Least values, against slips of a unit.
const (
	minTickInterval  = 10 * time.Millisecond
	minHistoryTTL    = time.Second
	minFlushInterval = time.Millisecond
	minGapWait       = 250 * time.Millisecond // all instances must have had their turn
	minHeartbeat     = time.Second
	minRetry         = time.Millisecond
)

// Validate reports every problem of c at once, each by the name of its field, such as
// "ssed: Streams.Heartbeat: 1ms is less than 1s".
func (c Config) Validate() error {
	c = c.withDefaults()
	check := invalid.Check{Package: "ssed"}
	check.If(c.Listen == nil, "Listen", "no address given")
	if c.Listen != nil {
		check.Take(c.engine().Validate(), engineField)
	} else {
		check.Take(c.engine().Validate(), except("Listen", engineField))
	}
	c.checkFeed(&check)
	c.checkHistory(&check)
	c.checkPolicies(&check)
	c.checkStreams(&check)
	return check.Err()
}

func except(name string, field func(string) string) func(string) string {
	return func(of string) string {
		if of == name {
			return ""
		}
		return field(of)
	}
}

// engineField is the field of Config that sets a field of engine.Config.
func engineField(name string) string {
	switch name {
	case "Listen", "Policies":
		return name
	case "Envelope":
		return "Feed." + name
	case "HistoryWait", "HistoryReaders":
		return "History." + strings.TrimPrefix(name, "History")
	}
	return "Streams." + name
}

// feedField is the same for rsub.Config.
func feedField(name string) string {
	switch name {
	case "Client":
		return "Redis"
	case "Feeds":
		return "Feed.Subscriptions"
	case "MaxMessageBytes":
		return "Streams." + name
	}
	return "Feed." + name
}

// historyField is the same for rstore.Config, but for what the feed has told already.
func historyField(name string) string {
	switch name {
	case "Client", "Prefix", "Instance":
		return ""
	case "Policies":
		return name
	}
	return "History." + name
}

// checkFeed also becomes strict where a name ends up in keys, in a Pub/Sub channel and in
// words of the control channel.
func (c *Config) checkFeed(check *invalid.Check) {
	field := feedField
	if c.Redis == nil {
		field = except("Client", field)
	}
	feed := &c.Feed
	if feed.Prefix != "" && (len(feed.Prefix) > 200 || strings.ContainsFunc(feed.Prefix, isNotPrintableASCII) || strings.ContainsAny(feed.Prefix, "{}")) {
		check.Add("Feed.Prefix", "%q is not 1 to 200 printable ASCII characters without spaces or braces", feed.Prefix)
		field = except("Prefix", field)
	}
	if len(feed.Instance) > 128 || strings.ContainsFunc(feed.Instance, isNotPrintableASCII) {
		check.Add("Feed.Instance", "%q is not 1 to 128 printable ASCII characters without spaces", feed.Instance)
		field = except("Instance", field)
	}
	if feed.TickInterval != 0 && feed.TickInterval < minTickInterval {
		check.Add("Feed.TickInterval", "%v is less than %v", feed.TickInterval, minTickInterval)
		field = except("TickInterval", field)
	}
	switch n := feed.Partitions; {
	case n < 0 || n > sseproto.MaxPartitions:
		check.Add("Feed.Partitions", "%d is not 1 to %d", n, sseproto.MaxPartitions)
	case n > 1 && c.Redis == nil:
		check.Add("Feed.Partitions", "%d of them take Redis: an embedded gateway has one", n)
	case n > 1 && !feed.Sharded:
		check.Add("Feed.Partitions", "%d of them take "+shardedIsSet+": with patterns each would get the messages of all", n)
	}
	check.Take(c.feed().Validate(), field)
	c.checkInbox(check)
}

// shardedIsSet is how a text asks for the sharded feed.
const shardedIsSet = "Feed.Sharded=true"

// checkInbox reads a key of Redis that is none of ssed's own.
func (c *Config) checkInbox(check *invalid.Check) {
	switch key, prefix := c.Feed.Inbox, c.Feed.Prefix; {
	case key == "":
	case len(key) > 255 || strings.ContainsFunc(key, isNotPrintableASCII):
		check.Add("Feed.Inbox", "%.50q is not 1 to 255 printable ASCII characters without spaces", key)
	case strings.HasPrefix(key, prefix) || strings.HasPrefix(key, "{"+prefix+"}"):
		check.Add("Feed.Inbox", "%q begins like the keys of the history", key)
	case c.History == nil:
		check.Add("Feed.Inbox", "it needs a history: entries are kept until the history has them")
	}
}

func (c *Config) checkHistory(check *invalid.Check) {
	h := c.History
	if h == nil {
		return
	}
	least := func(field string, value, least time.Duration) {
		check.If(value > 0 && value < least, "History."+field, "%v is less than %v", value, least)
	}
	least("TTL", h.TTL, minHistoryTTL)
	least("FlushInterval", h.FlushInterval, minFlushInterval)
	least("GapWait", h.GapWait, minGapWait)
	check.Take(c.history().Validate(), func(name string) string {
		if name == "TTL" && h.TTL > 0 { // said above
			return ""
		}
		return historyField(name)
	})
}

func (c *Config) checkStreams(check *invalid.Check) {
	s := &c.Streams
	check.If(s.Heartbeat > 0 && s.Heartbeat < minHeartbeat, "Streams.Heartbeat", "%v is less than %v", s.Heartbeat, minHeartbeat)
	check.If(s.RetryMin > 0 && s.RetryMin < minRetry, "Streams.RetryMin", "%v is less than %v", s.RetryMin, minRetry)
	matches := func(pattern string) bool { return sseproto.MatchGlob(pattern, s.BroadcastChannel) }
	switch name := s.BroadcastChannel; {
	case name == "":
	case rsub.Reserved(name):
		check.Add("Streams.BroadcastChannel", "%.70q: channels that start with __ are never delivered", name)
	case name == c.Feed.BatchChannel:
		check.Add("Streams.BroadcastChannel", "%.70q is Feed.BatchChannel, which nobody can read", name)
	case !slices.ContainsFunc(c.Feed.Patterns, matches):
		check.Add("Streams.BroadcastChannel", "%.70q matches none of Feed.Patterns", name)
	}
}

func isNotPrintableASCII(r rune) bool { return r <= ' ' || r > '~' }

// engine is the part of c that the engine has. Feed.Envelope is there as well: the
// engine takes the payloads apart.
func (c *Config) engine() engine.Config {
	s := &c.Streams
	cfg := engine.Config{
		Listen: c.Listen, SocketMode: s.SocketMode, ReusePort: s.ReusePort,
		Shards: s.Shards, RingBytes: s.RingBytes, Envelope: c.Feed.Envelope, Policies: c.delivery(),
		MaxConnections: s.MaxConnections, MaxPerAddress: s.MaxPerAddress, MaxPerSubject: s.MaxPerSubject,
		ConnectRate: s.ConnectRate, ConnectBurst: s.ConnectBurst,
		TrustedProxies: s.TrustedProxies, ProxyProtocol: s.ProxyProtocol,
		PeerTimeout: s.PeerTimeout, HandshakeTimeout: s.HandshakeTimeout,
		Authorizer: c.Auth, AuthTimeout: s.AuthTimeout, MaxAge: s.MaxAge,
		MaxChannels: s.MaxChannels, MaxHeadBytes: s.MaxHeadBytes, BroadcastChannel: s.BroadcastChannel,
		Heartbeat: s.Heartbeat, HeartbeatEvent: s.HeartbeatEvent,
		StartID: s.StartID, Unchunked: s.Unchunked, RetryMin: s.RetryMin, RetryMax: s.RetryMax, Drain: s.Drain,
		Hosts: s.Hosts, CORSOrigins: s.CORSOrigins, CORSCredentials: s.CORSCredentials,
		Logger: c.Logger,
	}
	if c.History != nil {
		cfg.HistoryWait, cfg.HistoryReaders, cfg.MaxLast = c.History.Wait, c.History.Readers, c.longestLen()
	}
	return cfg
}

// feed is the part of c that the feed has.
func (c *Config) feed() rsub.Config {
	f := &c.Feed
	cfg := rsub.Config{
		Patterns: f.Patterns, Prefix: f.Prefix, Instance: f.Instance, Feeds: f.Subscriptions,
		TickInterval: f.TickInterval, ProbeTimeout: f.ProbeTimeout,
		MaxMessageBytes: c.Streams.MaxMessageBytes, Envelope: f.Envelope, Sharded: f.Sharded, BatchChannel: f.BatchChannel, Inbox: f.Inbox,
		ClockOffset: f.ClockOffset, Logger: c.Logger,
	}
	if c.Redis != nil {
		cfg.Client = *c.Redis
	}
	return cfg
}

// HistoryWindow is how far back the history of a busy channel reaches, up to
// History.Cap messages: History.Window, or what its default comes to. 0 if there is none.
func (c *Config) HistoryWindow() time.Duration {
	switch {
	case c.History == nil || c.History.Window < 0:
		return 0
	case c.History.Window == 0:
		return c.engine().LongestReturn() + windowMargin
	}
	return c.History.Window
}

// history is the part of c that the history has.
func (c *Config) history() rstore.Config {
	h := c.History
	cfg := rstore.Config{
		Prefix: c.Feed.Prefix, Instance: c.Feed.Instance, MaxLen: h.MaxLen, TTL: h.TTL,
		Window: c.HistoryWindow(), Cap: h.Cap, Policies: c.retention(),
		BatchSize: h.BatchSize, FlushInterval: h.FlushInterval, GapWait: h.GapWait,
		Logger: c.Logger,
	}
	if c.Redis != nil {
		cfg.Client = *c.Redis
	}
	return cfg
}
