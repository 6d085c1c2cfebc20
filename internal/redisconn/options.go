package redisconn

import (
	"errors"
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
	// ErrSeveralServers is returned by Check for several addresses that are no Sentinels:
	// which of them takes the writes?
	ErrSeveralServers = errors.New("several addresses need master_set, the name under which Sentinel knows the primary: " +
		"Redis Cluster and a list of servers are not supported")
	// ErrRESP2 is returned by Check for protocol 2.
	ErrRESP2 = errors.New("protocol 2 is not supported: subscriptions and commands share a connection, which takes RESP3")
)

// Check returns everything that makes the options useless.
func Check(o rueidis.ClientOption) (problems []error) {
	if len(o.InitAddress) == 0 {
		problems = append(problems, ErrNoAddress)
	}
	if len(o.InitAddress) > 1 && o.Sentinel.MasterSet == "" {
		problems = append(problems, ErrSeveralServers)
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
	setDefault(&o.Dialer.KeepAlive, keepAlive)
	setDefault(&o.Dialer.Timeout, connTimeout)
	setDefault(&o.ConnWriteTimeout, connTimeout)
	if o.Sentinel.MasterSet != "" {
		setDefault(&o.Sentinel.TopologyRefreshInterval, topologyInterval)
	}
	return o
}

func setDefault(d *time.Duration, to time.Duration) {
	if *d == 0 {
		*d = to
	}
}
