package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"ssed/sseproto"
)

// History keeps what the ring no longer holds. Implementations are safe for
// concurrent use.
type History interface {
	// Range reports to r, channel by channel, the stored events with
	// after < id ≤ upTo in ascending order, and before them what is known to be
	// lost in that range. After an error r may have been called for a part.
	Range(ctx context.Context, channels []string, after, upTo sseproto.ID, r sseproto.Replay) error
	// Dispute records that IDs in (after, upTo] were given out that cannot be relied
	// on: who resumes from one of them is told. It tries until ctx ends.
	Dispute(ctx context.Context, after, upTo sseproto.ID) error
}

// Config sets up an Engine. The zero value of a field means its default.
type Config struct {
	// Listen holds the public addresses: "host:port" or "unix:/path". Default ":8080".
	Listen []string
	// ReusePort sets SO_REUSEPORT on TCP listeners, so that several processes share a port.
	ReusePort bool
	// Shards is the number of event loops. Default GOMAXPROCS.
	Shards int
	// RingBytes bounds the memory of the log: encoded frames and their index. Default 64 MiB, at least 256 KiB.
	RingBytes int64
	// SegmentBytes is the unit in which the ring grows and is reused. Default RingBytes/64, between 16 KiB and 1 MiB.
	SegmentBytes int
	// MaxConnections bounds open client connections, handshakes included. Default: the file limit less 256.
	MaxConnections int
	// MaxChannels bounds the channels of one connection. Default 32.
	MaxChannels int
	// HandshakeTimeout bounds the time from accept to a complete request head. Default 5 s.
	HandshakeTimeout time.Duration
	// Heartbeat is the longest silence on a stream. Default 15 s; negative: none.
	Heartbeat time.Duration
	// RetryMin and RetryMax bound the reconnect delay given to clients, drawn for each. Defaults 2 s and 5 s.
	RetryMin, RetryMax time.Duration
	// Drain is the window over which Run closes its streams at the end. Default 10 s.
	Drain time.Duration
	// CORSOrigins are the origins that may read: "*" or a list of exact origins. Default "*".
	CORSOrigins []string
	// CORSCredentials allows cookies cross-origin: the origin is echoed, even with "*".
	CORSCredentials bool
	// History reads older messages; nil: the ring alone serves replay.
	History History
	// HistoryWait bounds how long a resume waits for the history to be written up to the ring. Default 3 s.
	HistoryWait time.Duration
	// HistoryReaders bounds concurrent reads of History. Default 16.
	HistoryReaders int
	// Ready tells whether the feed is in order, and if not, why. Nil: always.
	Ready func() (ok bool, reason string)
	// Logger gets events of the engine's life, nothing per connection. Default slog.Default().
	Logger *slog.Logger
}

const (
	minRingBytes    = 256 << 10
	minSegmentBytes = 16 << 10
	maxSegmentBytes = 1 << 20
	reservedFiles   = 256 // listeners, epolls, Redis links, logs; kept out of the default MaxConnections
)

// withDefaults returns cfg with zero fields filled in.
func (cfg Config) withDefaults() Config {
	setDefault(&cfg.Shards, runtime.GOMAXPROCS(0))
	setDefault(&cfg.RingBytes, 64<<20)
	setDefault(&cfg.SegmentBytes, int(min(max(cfg.RingBytes/64, minSegmentBytes), maxSegmentBytes)))
	setDefault(&cfg.MaxConnections, max(fileLimit()-reservedFiles, 16))
	setDefault(&cfg.MaxChannels, 32)
	setDefault(&cfg.HandshakeTimeout, 5*time.Second)
	setDefault(&cfg.Heartbeat, 15*time.Second)
	setDefault(&cfg.RetryMin, 2*time.Second)
	setDefault(&cfg.RetryMax, max(5*time.Second, cfg.RetryMin))
	setDefault(&cfg.Drain, 10*time.Second)
	setDefault(&cfg.HistoryWait, 3*time.Second)
	setDefault(&cfg.HistoryReaders, 16)
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
	return cfg
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports every problem of cfg at once, each by the name of its flag.
func (cfg Config) Validate() error {
	cfg = cfg.withDefaults()
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if cfg.Shards < 1 || cfg.Shards > 1024 {
		bad("--shards: %d is not between 1 and 1024", cfg.Shards)
	}
	if cfg.RingBytes < minRingBytes {
		bad("--ring-bytes: %d is less than %d", cfg.RingBytes, minRingBytes)
	}
	if cfg.MaxConnections < 1 {
		bad("--max-connections: %d is less than 1", cfg.MaxConnections)
	} else if limit := fileLimit(); cfg.MaxConnections > limit {
		bad("--max-connections: %d is more than the limit of open files, %d", cfg.MaxConnections, limit)
	}
	if cfg.MaxChannels < 1 || cfg.MaxChannels > 1024 {
		bad("--max-channels-per-connection: %d is not between 1 and 1024", cfg.MaxChannels)
	}
	if cfg.HandshakeTimeout < 0 {
		bad("--handshake-timeout: %v is negative", cfg.HandshakeTimeout)
	}
	if cfg.RetryMin < 0 || cfg.RetryMax < cfg.RetryMin {
		bad("--retry: %v-%v is not a range", cfg.RetryMin, cfg.RetryMax)
	}
	if cfg.Drain < 0 {
		bad("--drain: %v is negative", cfg.Drain)
	}
	return errors.Join(errs...)
}
