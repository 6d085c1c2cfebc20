package front

import (
	"io/fs"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"ssed/sseproto"
)

// Stream is a client on its way from the front to a loop: its request is read and
// admitted, the descriptor has left netpoll.
type Stream struct {
	FD          int       // owned by the Stream, then by who takes it
	Head        []byte    // response head, written first; shared, never modified
	Channels    []string  // owned; at least one, no duplicates
	LastEventID string    // as sent, at most 256 bytes of it and Config.MoreIDBytes; owned
	Expires     time.Time // close at this time, by the monotonic clock; zero: never
	Resumes     bool      // the client sent a Last-Event-ID, which may be empty
	TakesID     bool      // the client shows nothing for an id without data, or wants it
	Chunked     bool      // Head says that the body is in chunks
	Told        bool      // the client wants to know the channel of each message
	Peer        uint32    // handle for Release when the descriptor is closed; 0: none
	Subject     uint32    // handle for Release, as Peer; 0: the grant named none
	Ends        time.Time // when the grant is over, by the wall clock; zero: never
	Token       uint64    // TokenHash of the token that was shown; 0: it has no ID
	Client      uint64    // ClientKey of who asks, also behind trusted proxies
	Since       Standing  // when the request was read: "now" of a client without Last-Event-ID
	// Start is where a client without Last-Event-ID wants to start, never a StartPoint of
	// the kind FromAge; nil: now.
	Start *sseproto.StartPoint
	// Refusal is for a host that cannot serve the stream after all: see Host.Begun. Nil: it can.
	Refusal *Refusal
}

// Standing is where the log of the host stood at some moment. The front carries it and
// does not look at it.
type Standing struct {
	Position        uint64      // of the newest message
	Discontinuities uint64      // how often something had been missed until then
	Tick            sseproto.ID // the last tick: every message that came later has an ID beyond it
	// Ticks are the last ones of all partitions; nil where there is one. Shared, never modified.
	Ticks *[]sseproto.ID
}

// Host is what the front asks of the engine. All of it may be called from any goroutine,
// and none of it blocks.
type Host struct {
	// Ready tells what probes are told: whether all streams can be served now, and if not, why.
	Ready func() (ok bool, reason string)
	// Takes tells whether some streams can be served now. Nil: as Ready.
	Takes func() (ok bool, reason string)
	// Begun tells whether the log of the host has begun, all of it. A stream that comes before
	// brings a Refusal: the host may wait for its part of the log, and turn it away by
	// Front.TurnAway if that takes too long. Nil: always.
	Begun func() bool
	// Standing tells where the log stands. It is asked before the request is judged.
	Standing func() Standing
	// Clock tells the present in wire milliseconds, on the clock that IDs are from: it is
	// not ahead of it.
	Clock func() uint64
	// Attach takes over a stream. Its descriptor and its place in Connections are the
	// host's from here on; it gives back Peer and Subject by Release.
	Attach func(*Stream)
	// Connections counts open client connections, handshakes included. The front adds
	// each that it accepts and takes off those that end before Attach.
	Connections *atomic.Int64
}

// Config sets up a Front. The fields are those of engine.Config of the same names; the
// defaults are filled in and they are valid.
type Config struct {
	Listen                    []string
	SocketMode                fs.FileMode
	ReusePort                 bool
	MaxConnections            int
	MaxPerAddress             int
	MaxPerSubject             int
	ConnectRate, ConnectBurst int
	TrustedProxies            []netip.Prefix
	ProxyProtocol             bool
	PeerTimeout, Heartbeat    time.Duration
	HandshakeTimeout, MaxAge  time.Duration
	Authorizer                Authorizer
	AuthTimeout               time.Duration
	MaxChannels               int
	MaxHeadBytes              int
	MaxLast                   int
	RetryMin, RetryMax        time.Duration
	MoreIDBytes               int // by which a Last-Event-ID may be longer: in a log of several partitions
	Hosts                     []string
	StartID                   StartID
	Unchunked                 bool
	CORSOrigins               []string
	CORSCredentials           bool
	Logger                    *slog.Logger

	// limitsLoopback counts connections from this machine too: for tests, which have no
	// other addresses.
	limitsLoopback bool
}
