package engine

import (
	"cmp"
	"context"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"ssed/engine/internal/front"
	"ssed/engine/internal/sock"
	"ssed/internal/invalid"
	"ssed/sseproto"
)

// History keeps what the ring no longer holds. Implementations are safe for
// concurrent use.
type History interface {
	// Range reports to r, channel by channel, the stored events with
	// after < id ≤ upTo in ascending order, and before them what is known to be
	// lost in that range. After an error r may have been called for a part.
	Range(ctx context.Context, channels []string, after, upTo sseproto.ID, r sseproto.Replay) error
	// Merge reports to r the stored events of some channels with after < id ≤ through, all
	// together in ascending order, and what is known to be lost in that range: at most one
	// loss per channel. It ends at upTo, or when the events have about limit bytes, with
	// at least one event. From is nil or has an ID for each channel: events before it are
	// left out, and what is lost before it is not told.
	Merge(ctx context.Context, channels []string, from []sseproto.ID, after, upTo sseproto.ID, limit int64, r sseproto.Replay) (through sseproto.ID, err error)
	// Starts finds where a stream starts on each of some channels: the ID of the first
	// event that it gets, or one before it with nothing in between; zero where nothing is
	// stored that it might get. At is not FromNow. For FromLast counts has how many events
	// are wanted of each channel, those up to upTo. Written is how far the history was written
	// before it looked.
	Starts(ctx context.Context, channels []string, at sseproto.StartPoint, counts []int, upTo sseproto.ID) (from []sseproto.ID, written sseproto.ID, err error)
	// Written tells how far the history is written. Commit tells it too, some time
	// later; Written is asked while somebody waits.
	Written(ctx context.Context) (sseproto.ID, error)
	// Invalidate records that IDs in (after, upTo] were given out that cannot be relied
	// on: who resumes from one of them is told. It tries until ctx ends.
	Invalidate(ctx context.Context, after, upTo sseproto.ID) error
}

// Config sets up an Engine. The zero value of a field means its default. The settings of
// streams have the names of ssed.StreamConfig, whose comments hold here: they are said once,
// where those look who set them. The fields stand twice, because an alias in package ssed
// would hide them from its documentation; a test there sees to it that none is left out.
type Config struct {
	// Listen is that of ssed.Config. Default ":8080".
	Listen []string

	// As in ssed.StreamConfig.

	SocketMode         fs.FileMode
	ReusePort          bool
	Shards             int
	RingBytes          int64 // for encoded frames and their index
	MaxConnections     int
	MaxPerAddress      int
	MaxPerSubject      int
	ConnectRate        int
	ConnectBurst       int
	TrustedProxies     []netip.Prefix
	ProxyProtocol      bool
	PeerTimeout        time.Duration
	HandshakeTimeout   time.Duration
	AuthTimeout        time.Duration
	MaxAge             time.Duration
	MaxChannels        int
	MaxHeadBytes       int
	BroadcastChannel   string        // 20 bytes per connection
	Heartbeat          time.Duration // less than 1 s too
	HeartbeatEvent     string
	StartID            StartID
	Unchunked          bool
	RetryMin, RetryMax time.Duration
	Drain              time.Duration
	Hosts              []string
	CORSOrigins        []string
	CORSCredentials    bool

	// Authorizer is that of ssed.Config: who may open a stream. Nil: everyone.
	Authorizer Authorizer
	// SegmentBytes is the unit in which the ring grows and is reused. Default RingBytes/64, between 16 KiB and 1 MiB.
	SegmentBytes int
	// Policies say how single channels are delivered. The first that matches a channel
	// counts; what none matches is SlowAll.
	Policies []Policy
	// Envelope makes Log.Append read all payloads that are envelopes (sseproto.ParseEnvelope)
	// as typed events. All instances of a feed have it alike, or they send different frames.
	Envelope bool
	// MaxLast bounds the parameter last: how many of its newest messages a stream may ask
	// for of each channel. Default 100.
	MaxLast int
	// Partitions is the number of partitions of the log, each with a feed of its own: see
	// Log.Partition. Zero: one. With several, event IDs are vectors (sseproto.AppendVector).
	Partitions int
	// History reads older messages; nil: the ring alone serves replay.
	History History
	// Histories are those of several partitions, in the place of History: one for each, which
	// is asked about channels of that partition alone. Nil: none.
	Histories []History
	// HistoryWait bounds how long a resume waits for the history to be written up to the ring. Default 3 s.
	HistoryWait time.Duration
	// HistoryReaders bounds concurrent reads of History. Default 16.
	HistoryReaders int
	// Ready tells whether the feed is in order, and if not, why: what probes are told. Nil: always.
	Ready func() (ok bool, reason string)
	// Takes tells whether streams are taken, and if not, why. With several partitions it may
	// be so before all of them have begun. A stream of one that has not waits for
	// HistoryWait, and is turned away then. Nil: as Ready.
	Takes func() (ok bool, reason string)
	// Logger gets events of the engine's life, nothing per connection. Default slog.Default().
	Logger *slog.Logger
}

const (
	minRingBytes    = 256 << 10
	minSegmentBytes = 16 << 10
	maxFrameOffset  = 1 << 31 // entries place frames with 32 bits
	maxSegmentBytes = 1 << 20
	// burstFactor is how many seconds' worth of connections may come at once: a page of
	// six streams that is opened again and again by a few users behind one address.
	burstFactor = 10
)

// ReservedFiles are for listeners, epolls, Redis links and logs: the default of
// MaxConnections leaves them.
const ReservedFiles = 256

// withDefaults returns cfg with zero fields filled in.
func (cfg Config) withDefaults() Config {
	cfg.Shards = cmp.Or(cfg.Shards, runtime.GOMAXPROCS(0))
	cfg.RingBytes = cmp.Or(cfg.RingBytes, 64<<20)
	cfg.SegmentBytes = cmp.Or(cfg.SegmentBytes, int(min(max(cfg.RingBytes/64, minSegmentBytes), maxSegmentBytes)))
	cfg.MaxConnections = cmp.Or(cfg.MaxConnections, max(sock.FileLimit()-ReservedFiles, 16))
	cfg.ConnectBurst = cmp.Or(cfg.ConnectBurst, burstFactor*cfg.ConnectRate)
	cfg.PeerTimeout = cmp.Or(cfg.PeerTimeout, time.Minute)
	cfg.AuthTimeout = cmp.Or(cfg.AuthTimeout, 2*time.Second)
	cfg.MaxChannels = cmp.Or(cfg.MaxChannels, 32)
	cfg.MaxHeadBytes = cmp.Or(cfg.MaxHeadBytes, sseproto.DefaultMaxHeadBytes)
	cfg.MaxLast = cmp.Or(cfg.MaxLast, 100)
	cfg.HandshakeTimeout = cmp.Or(cfg.HandshakeTimeout, 5*time.Second)
	cfg.Heartbeat = cmp.Or(cfg.Heartbeat, 15*time.Second)
	cfg.RetryMin = cmp.Or(cfg.RetryMin, 2*time.Second)
	cfg.RetryMax = cmp.Or(cfg.RetryMax, max(5*time.Second, cfg.RetryMin))
	cfg.Drain = cmp.Or(cfg.Drain, 10*time.Second)
	cfg.HistoryWait = cmp.Or(cfg.HistoryWait, 3*time.Second)
	cfg.Partitions = cmp.Or(cfg.Partitions, 1)
	cfg.HistoryReaders = cmp.Or(cfg.HistoryReaders, 16)
	if cfg.Listen == nil {
		cfg.Listen = []string{":8080"}
	}
	if cfg.CORSOrigins == nil {
		cfg.CORSOrigins = []string{"*"}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Ready == nil {
		cfg.Ready = func() (bool, string) { return true, "" }
	}
	if cfg.Takes == nil {
		cfg.Takes = cfg.Ready
	}
	return cfg
}

// LongestReturn is how long a client whose stream this engine ends may take to come
// back, but for its own delays: it is told to wait up to RetryMax, and a draining engine
// spreads the returns over Drain.
func (cfg Config) LongestReturn() time.Duration {
	cfg = cfg.withDefaults()
	return cfg.RetryMax + cfg.Drain
}

// Validate reports every problem of cfg at once, each by the name of its field.
func (cfg Config) Validate() error {
	cfg = cfg.withDefaults()
	check := invalid.Check{Package: "engine"}
	bad := check.Add
	if cfg.Shards < 1 || cfg.Shards > 1024 {
		bad("Shards", "%d is not between 1 and 1024", cfg.Shards)
	}
	if cfg.RingBytes < minRingBytes {
		bad("RingBytes", "%d is less than %d", cfg.RingBytes, minRingBytes)
	}
	if most := min(cfg.RingBytes/4, maxFrameOffset); cfg.SegmentBytes < minSegmentBytes || int64(cfg.SegmentBytes) > max(most, minSegmentBytes) {
		bad("SegmentBytes", "%d is not between %d and a quarter of RingBytes, %d", cfg.SegmentBytes, minSegmentBytes, most)
	}
	if cfg.MaxConnections < 1 {
		bad("MaxConnections", "%d is less than 1", cfg.MaxConnections)
	} else if limit := sock.FileLimit(); cfg.MaxConnections > limit {
		bad("MaxConnections", "%d is more than the limit of open files, %d", cfg.MaxConnections, limit)
	}
	validateListen(cfg.Listen, bad)
	front.CheckHosts(cfg.Hosts, bad)
	front.CheckOrigins(cfg.CORSOrigins, bad)
	cfg.validateClients(bad)
	cfg.validateStreams(bad)
	cfg.validatePartitions(bad)
	if cfg.MaxChannels < 1 || cfg.MaxChannels > 1024 {
		bad("MaxChannels", "%d is not between 1 and 1024", cfg.MaxChannels)
	}
	if cfg.MaxHeadBytes < sseproto.DefaultMaxHeadBytes || cfg.MaxHeadBytes > maxHeadBytes {
		bad("MaxHeadBytes", "%d is not between %d and %d", cfg.MaxHeadBytes, sseproto.DefaultMaxHeadBytes, maxHeadBytes)
	}
	if cfg.MaxLast < 1 {
		bad("MaxLast", "%d is not positive", cfg.MaxLast)
	}
	for _, p := range cfg.Policies {
		if p.Slow > SlowClose {
			bad("Policies", "%.70q: %d is none of SlowAll, SlowLatest and SlowClose", p.Match, p.Slow)
		}
	}
	if cfg.StartID > StartIDOff {
		bad("StartID", "%d is none of StartIDAuto, StartIDOn and StartIDOff", cfg.StartID)
	}
	if cfg.HandshakeTimeout < 0 {
		bad("HandshakeTimeout", "%v is negative", cfg.HandshakeTimeout)
	}
	if cfg.RetryMin < 0 || cfg.RetryMax < cfg.RetryMin {
		bad("RetryMin", "%v-%v is not a range", cfg.RetryMin, cfg.RetryMax)
	}
	if cfg.HistoryWait < 0 {
		bad("HistoryWait", "%v is negative", cfg.HistoryWait)
	}
	if cfg.HistoryReaders < 1 || cfg.HistoryReaders > maxHistoryReaders {
		bad("HistoryReaders", "%d is not between 1 and %d", cfg.HistoryReaders, maxHistoryReaders)
	}
	if cfg.Drain < 0 {
		bad("Drain", "%v is negative", cfg.Drain)
	}
	return check.Err()
}

func (cfg *Config) validatePartitions(bad func(field, format string, args ...any)) {
	switch {
	case cfg.Partitions < 1 || cfg.Partitions > sseproto.MaxPartitions:
		bad("Partitions", "%d is not between 1 and %d", cfg.Partitions, sseproto.MaxPartitions)
	case cfg.Partitions > 1 && cfg.History != nil:
		bad("History", "it is one of one partition; several have Histories")
	case len(cfg.Histories) != 0 && len(cfg.Histories) != cfg.Partitions:
		bad("Histories", "%d are not one for each of %d partitions", len(cfg.Histories), cfg.Partitions)
	}
}

// historyOf is the history of a partition; nil: there is none.
func (cfg *Config) historyOf(part uint8) History {
	if len(cfg.Histories) == 0 {
		return cfg.History
	}
	return cfg.Histories[part]
}

// maxHeadBytes is the most of MaxHeadBytes. Proxies refuse much less unless they are told
// otherwise: nginx a line over 8 KiB, HAProxy a head over 16 KiB.
const maxHeadBytes = 64 << 10

// maxHistoryReaders bounds the concurrent reads of the history: each holds a page of at
// least 1 MiB.
const maxHistoryReaders = 10_000

// maxRate bounds the limits of an address; more is no limit.
const maxRate = 1_000_000

// validateClients checks what concerns single clients.
func (cfg *Config) validateClients(bad func(field, format string, args ...any)) {
	if cfg.MaxPerSubject < 0 || cfg.MaxPerSubject > maxRate {
		bad("MaxPerSubject", "%d is not between 0 and %d", cfg.MaxPerSubject, maxRate)
	}
	if cfg.MaxPerAddress < 0 || cfg.MaxPerAddress > maxRate {
		bad("MaxPerAddress", "%d is not between 0 and %d", cfg.MaxPerAddress, maxRate)
	}
	if cfg.ConnectRate < 0 || cfg.ConnectRate > maxRate {
		bad("ConnectRate", "%d is not between 0 and %d", cfg.ConnectRate, maxRate)
	} else if cfg.ConnectBurst < 0 || cfg.ConnectBurst > burstFactor*maxRate {
		bad("ConnectBurst", "%d is not between 1 and %d", cfg.ConnectBurst, burstFactor*maxRate)
	}
	for _, prefix := range cfg.TrustedProxies {
		if !prefix.IsValid() || prefix.Addr().Is4In6() {
			bad("TrustedProxies", "%v is not a network such as 10.0.0.0/8 or fd00::/8", prefix)
		}
	}
	if cfg.ProxyProtocol && len(cfg.TrustedProxies) == 0 {
		bad("ProxyProtocol", "there are no trusted proxies, so nobody may send the header")
	}
	if cfg.SocketMode&^fs.ModePerm != 0 {
		bad("SocketMode", "%#o is not between 0 and 0777", uint32(cfg.SocketMode))
	}
	if cfg.PeerTimeout > 0 && (cfg.PeerTimeout < time.Second || cfg.PeerTimeout > 24*time.Hour) {
		bad("PeerTimeout", "%v is not between 1s and 24h", cfg.PeerTimeout)
	}
	if cfg.AuthTimeout < 0 {
		bad("AuthTimeout", "%v is negative", cfg.AuthTimeout)
	}
}

// maxEventTypeBytes bounds HeartbeatEvent: every heartbeat carries it.
const maxEventTypeBytes = 64

// validateStreams checks what concerns all streams.
func (cfg *Config) validateStreams(bad func(field, format string, args ...any)) {
	if cfg.MaxAge != 0 && cfg.MaxAge < time.Second {
		bad("MaxAge", "%v is less than 1s", cfg.MaxAge)
	}
	if name := cfg.BroadcastChannel; len(name) > sseproto.MaxChannelBytes || strings.ContainsRune(name, 0) {
		bad("BroadcastChannel", "%.70q is not at most %d bytes without NUL", name, sseproto.MaxChannelBytes)
	}
	switch name := cfg.HeartbeatEvent; {
	case len(name) > maxEventTypeBytes || !utf8.ValidString(name) || strings.ContainsAny(name, "\x00\r\n"):
		bad("HeartbeatEvent", "%.70q is not one line of at most %d bytes of UTF-8", name, maxEventTypeBytes)
	case name == "message" || name == "gap" || name == "error" || name == "open":
		bad("HeartbeatEvent", "%q means something else to clients", name)
	}
}

// validateListen checks the forms of addresses.
func validateListen(addresses []string, bad func(field, format string, args ...any)) {
	if len(addresses) == 0 {
		bad("Listen", "no address given")
	}
	for _, address := range addresses {
		if path, isUnix := strings.CutPrefix(address, "unix:"); isUnix {
			// The limit of sun_path, with its NUL (unix(7)).
			if path == "" || len(path) > 107 {
				bad("Listen", "%q: the path has not 1 to 107 bytes", address)
			}
			continue
		}
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			bad("Listen", "%q is not an address such as 127.0.0.1:8080, [::1]:8080, :8080 or unix:/run/ssed.sock", address)
		} else if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			bad("Listen", "%q: the port is not a number from 0 to 65535", address)
		}
	}
}
