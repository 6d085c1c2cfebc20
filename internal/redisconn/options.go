package redisconn

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

const (
	// keepAlive and connTimeout together are how long a stalled Redis goes unnoticed
	// (measured: 1 s with 400 ms and 1 s). The library's own defaults sum up to 10 s.
	keepAlive   = 400 * time.Millisecond
	connTimeout = time.Second
	// topologyInterval is how often the Sentinels are asked whether the primary is
	// still the same. A client that missed their message would stay with the old one
	// for good: reads do not fail there.
	topologyInterval = 5 * time.Second
)

// SmallBufferBytes is for a connection that carries short commands and answers: the
// library's default is half a megabyte for each direction.
const SmallBufferBytes = 32 << 10

var (
	// ErrNoAddress is returned by Check for options that name no server.
	ErrNoAddress = errors.New("no Redis address")
	// ErrDatabase is returned by Check for a Redis Cluster and a database other than 0.
	ErrDatabase = errors.New("a Redis Cluster has no numbered databases (several addresses without master_set are nodes of a cluster): " +
		"leave out the number, and use a prefix of your own")
	// ErrRESP2 is returned by Check for protocol 2.
	ErrRESP2 = errors.New("protocol 2 is not supported: subscriptions and commands share a connection, which takes RESP3")
)

// IsCluster tells whether the options lead to a Redis Cluster: several addresses, of which
// none is a Sentinel. A cluster behind one name has it twice.
func IsCluster(o rueidis.ClientOption) bool {
	return len(o.InitAddress) > 1 && o.Sentinel.MasterSet == ""
}

// Check returns everything that makes the options useless.
func Check(o rueidis.ClientOption) (problems []error) {
	if len(o.InitAddress) == 0 {
		problems = append(problems, ErrNoAddress)
	}
	if IsCluster(o) && o.SelectDB != 0 {
		problems = append(problems, ErrDatabase)
	}
	if o.AlwaysRESP2 {
		problems = append(problems, ErrRESP2)
	}
	return problems
}

// Options returns o with what every client of ssed has, and the defaults of what o
// leaves open. All commands share one connection, in order, and none is sent again
// after its connection was cut: who calls knows better what may run twice.
func Options(o rueidis.ClientOption) rueidis.ClientOption {
	o.DisableCache = true
	o.DisableRetry = true
	o.PipelineMultiplex = -1
	o.ForceSingleClient = o.Sentinel.MasterSet == ""
	o.Dialer.KeepAlive = cmp.Or(o.Dialer.KeepAlive, keepAlive)
	o.Dialer.Timeout = cmp.Or(o.Dialer.Timeout, connTimeout)
	o.ConnWriteTimeout = cmp.Or(o.ConnWriteTimeout, connTimeout)
	if o.Sentinel.MasterSet != "" {
		o.Sentinel.TopologyRefreshInterval = cmp.Or(o.Sentinel.TopologyRefreshInterval, topologyInterval)
		// Or one that is out of reach would take 5 s, the library's default, before the next
		// one is asked: with the network divided that was longer than the failover.
		o.Sentinel.Dialer.Timeout = cmp.Or(o.Sentinel.Dialer.Timeout, o.Dialer.Timeout)
		o.Sentinel.Dialer.KeepAlive = cmp.Or(o.Sentinel.Dialer.KeepAlive, o.Dialer.KeepAlive)
	}
	return o
}

// Subscribing returns the options for a client whose connections are for subscriptions
// and are watched by who uses them: bytes counts what comes in. The library's own watch is
// off: it cuts a connection whose answer to a PING waits behind messages for longer than
// ConnWriteTimeout, however steadily they come. The kernel still finds a dead peer.
func Subscribing(o rueidis.ClientOption, bytes *atomic.Int64) rueidis.ClientOption {
	o.Dialer.KeepAlive = -1
	o.Dialer.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: connTimeout, Interval: connTimeout, Count: deadProbes}
	dial := o.DialCtxFn
	if dial == nil {
		dial = dialTCP
	}
	o.DialCtxFn = func(ctx context.Context, addr string, d *net.Dialer, config *tls.Config) (net.Conn, error) {
		c, err := dial(ctx, addr, d, config)
		if err != nil {
			return nil, err
		}
		return &metered{c, bytes}, nil
	}
	return o
}

// deadProbes is how many probes of the kernel a peer may leave without an answer.
const deadProbes = 5

// dialTCP is what the library does when it is given no dial function.
func dialTCP(ctx context.Context, addr string, d *net.Dialer, config *tls.Config) (net.Conn, error) {
	if config == nil {
		return d.DialContext(ctx, "tcp", addr)
	}
	return (&tls.Dialer{NetDialer: d, Config: config}).DialContext(ctx, "tcp", addr)
}

// metered counts what it reads.
type metered struct {
	net.Conn
	bytes *atomic.Int64
}

func (m *metered) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	m.bytes.Add(int64(n))
	return n, err
}
