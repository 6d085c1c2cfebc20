package admin

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"ssed/sseproto"
)

// Config says what the handler stands on. Functions are called from many
// goroutines at a time.
type Config struct {
	// Stats takes a snapshot of this instance.
	Stats func() Stats
	// Sample is Stats but for Process.OpenFiles, which may take long to count. Record asks for
	// one every three seconds.
	Sample func() Stats
	// Gaps lists the last gaps, newest first.
	Gaps func() []Gap
	// Connections are the open streams of this instance.
	Connections Connections
	// Channels are the channels of this instance.
	Channels Channels
	// Fleet is all instances. Nil: this one is alone.
	Fleet Fleet
	// Partitions are the logs of the fleet, in their order. None without Redis.
	Partitions func() []Partition
	// Self describes this instance, where there is no Fleet.
	Self func() Instance
	// History is what is stored. Nil: nothing is.
	History History

	// Publish sends messages in order and tells of each what became of it: as many
	// results as messages. It bounds its own time.
	Publish func(ctx context.Context, messages []Message) []PublishResult
	// Position is one behind which everything comes that is published from now on. Not ok:
	// there is none yet.
	Position func() (id string, ok bool)
	// MaxMessageBytes bounds the data of a message.
	MaxMessageBytes int

	// Ready tells whether this instance serves streams, and if not, why.
	Ready func() (ok bool, reason string)
	// Metrics answers GET /metrics.
	Metrics http.Handler
	// Tokens are taken, and one is demanded of all requests but those to /health and
	// /ready. Empty: none is.
	Tokens []Token
	// TokenFile is where they come from: it is read again when it changes. Empty: they
	// stay as they are.
	TokenFile string
	// Logger gets what an operator should know, throttled. Default slog.Default().
	Logger *slog.Logger
	// Audit gets a line for each request that changes something. Default Logger.
	Audit *slog.Logger
	// Exposed: other machines reach the listener.
	Exposed bool
	// Pprof adds /debug/pprof.
	Pprof bool
	// Host is the host part of the listener's address. The page works under it,
	// under localhost and under every IP address.
	Host string
	// Streams is the public address "host:port" for the page; the host may be empty
	// or unspecified. Empty: there is no TCP listener.
	Streams string
	// HeartbeatEvent is the type of the events that are heartbeats, which the page
	// leaves out. Empty: there are none.
	HeartbeatEvent string
	// MaxLast is how many of its newest messages a stream may ask for.
	MaxLast int
}

// Connections lists and closes streams.
type Connections interface {
	// Connections returns up to limit streams that match (none set: all), from behind
	// the one at which the last page ended. Next is where this one ends, "" at the end.
	Connections(ctx context.Context, who Clients, after string, limit int) (list []Connection, next string, err error)
	// CloseConnection closes a stream, unless it has gone.
	CloseConnection(ctx context.Context, id string) (found bool, err error)
	// CloseConnections closes streams of all instances. With keepOut, the subject or the
	// token gets no stream for so long.
	CloseConnections(ctx context.Context, who Clients, keepOut time.Duration) (Closed, error)
}

// Channels tells about channels.
type Channels interface {
	// TopChannels returns the first channels in the order.
	TopChannels(ctx context.Context, order ChannelOrder, limit int) ([]Channel, error)
	// Channel tells about one, which may be empty.
	Channel(ctx context.Context, name string) (Channel, error)
}

// Fleet knows the other instances.
type Fleet interface {
	// Instances returns all instances that are there, this one among them.
	Instances(ctx context.Context) ([]Instance, error)
	// Subscribers asks all instances how many streams a channel has.
	Subscribers(ctx context.Context, channel string) (Spread, error)
}

// History reads and deletes what is stored of a channel.
type History interface {
	// Page returns up to limit messages after a position, and whether there are more.
	Page(ctx context.Context, channel string, after sseproto.ID, limit int) (HistoryPage, error)
	// PageBack does so from the newest on: those before a position, all when it is zero.
	PageBack(ctx context.Context, channel string, before sseproto.ID, limit int) (HistoryPage, error)
	// Delete removes all that is stored. Clients that come back to it are told.
	Delete(ctx context.Context, channel string) error
}
