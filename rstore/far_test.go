package rstore

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// farConn is a connection whose requests take a while to arrive.
type farConn struct {
	net.Conn
	way time.Duration
}

func (c farConn) Write(b []byte) (int, error) {
	time.Sleep(c.way) // the distance itself; nothing waits for it in the test
	return c.Conn.Write(b)
}

// Over a long way a tick's messages go in one round trip. In steps of one each, as a
// near Redis gets them, sixteen ticks' time would pass for every tick.
func TestFarRedisGetsATickInOneRoundTrip(t *testing.T) {
	t.Parallel()
	w, log := newWorldAndLog(t)
	cfg := w.config("a")
	cfg.FlushInterval = 10 * time.Millisecond
	cfg.LeaseTTL = time.Minute
	cfg.Client.DialCtxFn = func(ctx context.Context, addr string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
		conn, err := d.DialContext(ctx, "tcp", addr)
		return farConn{conn, 2 * cfg.FlushInterval}, err
	}
	wr := &writer{Store: w.store(cfg, log)}
	w.settle(wr)
	var all []message
	for tick := 1; tick <= 10; tick++ {
		m := w.burst(tick, 2*smallBatch*steps, 50)
		all = append(all, m...)
		log.commit(w.id(tick+1, 0), m...)
		before := sum(wr.Stats().WriteTimes)
		w.settle(wr)
		require.Equal(t, w.id(tick+1, 0), wr.watermark)
		trips := sum(wr.Stats().WriteTimes) - before
		if tick == 1 {
			require.LessOrEqual(t, trips, uint64(2), "the first shows how far Redis is")
		} else {
			require.EqualValues(t, 1, trips, "tick %d", tick)
		}
	}
	require.EqualValues(t, 10*steps, wr.Stats().Batches, "Redis still does them one by one")
	w.requireHistory(all)
}

// A writer that is behind takes more at once where each round trip is long.
func TestFarRedisGetsLongerPipelines(t *testing.T) {
	w := newWorld(t)
	wr := &writer{Store: w.store(w.config("a"), newTestLog(w.id(0, 0)))}
	wr.took = wr.cfg.FlushInterval / 2
	require.Equal(t, pipelineDepth, wr.depth())
	wr.took = 2 * wr.cfg.FlushInterval
	require.Equal(t, farDepth, wr.depth())
}
