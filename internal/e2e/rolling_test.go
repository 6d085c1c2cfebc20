//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
	"ssed/sseproto"
)

// rollingClients are as many as one busy channel has here, half behind each proxy. Their
// addresses are one, so the limits of the proxies for an address are lifted.
const rollingClients = 300

// rollingTabs are browsers' own EventSources beside them.
const rollingTabs = 4

// TestRollingRestartsOfABusyChannelLoseNothing: both instances behind the shipped proxies
// are restarted one after the other, with the flags that ssed has by default. A restarted
// one has nothing in memory, and least-connections sends everybody to it: they resume
// from the history, which a busy channel must not have outrun.
func TestRollingRestartsOfABusyChannelLoseNothing(t *testing.T) {
	b := startBrowser(t)
	for _, rate := range []int{50, 500} {
		t.Run(strconv.Itoa(rate), func(t *testing.T) {
			t.Parallel() // a window of --drain is mostly waiting
			rollingRestarts(t, b, rate)
		})
	}
}

func rollingRestarts(t *testing.T, b *browser, rate int) {
	r := redistest.Start(t)
	defaults := []string{"--retry", "2s-5s", "--drain", "10s"}
	addresses := []string{freeHost(t), freeHost(t)}
	var instances []*instance
	run := func(i int) *instance { return startReady(t, r, append(defaults, "--listen", addresses[i])...) }
	for i := range addresses {
		instances = append(instances, run(i))
	}
	hosts := []string{
		startHAProxy(t, addresses[0], addresses[1], "sc0_conn_cur gt 100", "sc0_conn_cur gt 10000", "sc0_http_req_rate gt 200", "sc0_http_req_rate gt 100000"),
		startNginx(t, addresses[0], addresses[1], "rate=10r/s", "rate=10000r/s", "burst=100", "burst=10000", "limit_conn ssed_open 100", "limit_conn ssed_open 10000"),
	}

	clients := make([]*tallier, rollingClients)
	for i := range clients {
		clients[i] = &tallier{reader: newReader(hosts[i%len(hosts)], "busy")}
	}
	background(t, func(ctx context.Context) {
		var wg sync.WaitGroup
		for _, c := range clients {
			wg.Go(func() { c.run(ctx) })
		}
		wg.Wait()
	})
	var tabs []*tab
	for i := range rollingTabs {
		p := b.open(t, servePages(t))
		p.listen(streamURL(hosts[i%len(hosts)], "busy"), false)
		p.waitOpen()
		tabs = append(tabs, p)
	}
	open := func() float64 { return instances[0].metric("ssed_streams") + instances[1].metric("ssed_streams") }
	eventually(t, "all streams", func() bool { return open() == rollingClients+rollingTabs })
	numbers := startNumbers(t, r, time.Second/time.Duration(rate), "busy")
	for _, c := range clients {
		eventually(t, "a first message", func() bool { return c.next.Load() > 0 })
	}

	// One after the other, without a pause and with one in which everybody has moved.
	for _, step := range []struct {
		instance int
		moved    bool
	}{{0, false}, {1, true}, {0, false}} {
		instances[step.instance].Signal(sigterm)
		require.Zero(t, instances[step.instance].wait(t))
		instances[step.instance] = run(step.instance)
		if step.moved {
			eventually(t, "all streams", func() bool { return open() == rollingClients+rollingTabs })
		}
	}
	n := numbers.stop()
	for i, c := range clients {
		eventually(t, "client "+strconv.Itoa(i), func() bool { return c.next.Load() >= int64(n) || c.failed.Load() })
		c.mu.Lock()
		require.Empty(t, c.problems, "client %d", i)
		c.mu.Unlock()
	}
	for i, p := range tabs {
		eventually(t, "tab "+strconv.Itoa(i), func() bool { return p.received() >= n })
		for k := range n {
			p.want(strconv.Itoa(k))
		}
		require.Equal(t, n, p.received(), "nothing twice")
	}
	resumed := instances[0].metric("ssed_stream_resumed_total") + instances[1].metric("ssed_stream_resumed_total")
	tested.add("rolling restarts", fmt.Sprintf("%d clients and %d tabs of Chromium, %d messages each at %d/s; %v resumes at the last two processes", rollingClients, rollingTabs, n, rate, resumed))
}

// tallier is a reader that counts the numbers instead of keeping them.
type tallier struct {
	*reader
	next   atomic.Int64 // expected
	failed atomic.Bool

	problems []string // guarded by mu
}

func (c *tallier) run(ctx context.Context) {
	c.reader.onEvent = c.take
	c.reader.run(ctx)
}

func (c *tallier) take(_, eventType, data []byte) {
	n, err := strconv.ParseInt(string(data), 10, 64)
	if string(eventType) == sseproto.EventMessage && err == nil && n == c.next.Load() {
		c.next.Add(1)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed.Store(true)
	if len(c.problems) < 5 {
		c.problems = append(c.problems, fmt.Sprintf("%s %s instead of %d", eventType, data, c.next.Load()))
	}
}
