package engine

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// drainAll reads everything that the clients get, without allocating.
func drainAll(t *testing.T, clients []*testClient) (stop func()) {
	var done sync.WaitGroup
	for _, c := range clients {
		require.NoError(t, c.conn.SetReadDeadline(time.Time{}))
		done.Go(func() { _, _ = io.CopyBuffer(discard{}, onlyReader{c.conn}, c.buf[:4096]) })
	}
	return func() {
		for _, c := range clients {
			_ = c.conn.Close()
		}
		done.Wait()
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// onlyReader hides other methods, so that io.CopyBuffer uses its buffer.
type onlyReader struct{ net.Conn }

func (r onlyReader) WriteTo() {}

// mallocs counts the allocations of the whole process during f, the least of
// several rounds: the runtime and the test itself allocate now and then.
func mallocs(f func()) uint64 {
	least := ^uint64(0)
	for range 5 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		least = min(least, after.Mallocs-before.Mallocs)
	}
	return least
}

// deliveredBy is Stats().Delivered, which allocates for other parts.
func deliveredBy(e *Engine) (n uint64) {
	for _, s := range e.shards {
		n += s.count.delivered.Load()
	}
	return n
}

func TestDeliveringAMessageAllocatesNothing(t *testing.T) {
	e := startEngine(t, nil)
	f := startFeed(e, 1000)
	var clients []*testClient
	for i := range 50 {
		channels := []string{"shared"}
		if i%2 == 0 {
			channels = append(channels, fmt.Sprint("own", i))
		}
		c := joinFormed(t, e, form(i/2%forms), resumePoint{}, channels...)
		c.read()
		clients = append(clients, c)
	}
	stop := drainAll(t, clients)
	defer stop()
	const messages = 2000
	publish := func() {
		want := deliveredBy(e) + messages*uint64(len(clients))
		for range messages {
			f.publish("shared", "a message of a length that is usual, one line of JSON or so")
		}
		for deliveredBy(e) < want {
			runtime.Gosched()
		}
	}
	publish() // the ring, the scratch buffers and the stacks grow to their size
	n := mallocs(publish)
	// What is left is the ring's: a segment's index for some 5,000 messages.
	require.Less(t, float64(n)/float64(messages*len(clients)), 0.01, "%d allocations", n)
}

// A slot that is behind gets 4,096 messages in a turn. Their framing is made in memory that
// the loop keeps, whichever slot is next; a sweep gives it back.
func TestTurnsOfSlotsThatAreBehindShareTheirMemory(t *testing.T) {
	const missed, slots = 4096, 200
	s := newNullShard(t)
	s.form = formChunked
	s.fill(slots, func(int) string { return "a" })
	for range missed {
		s.feed.publish("a", benchPayload)
	}
	s.pass()
	catchUp := func() (bytes uint64) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		v := s.reader.open()
		for i := uint32(1); i <= slots; i++ {
			c := s.slots.at(i)
			c.pos = 0
			s.catchUp(&v, i, c)
		}
		v.close()
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	catchUp() // the memory is made
	require.Greater(t, cap(s.own.scratch), turnBytes)
	require.Less(t, catchUp(), uint64(slots*missed), "a byte for each message")
	s.forget(false)
	require.Greater(t, cap(s.own.scratch), keepScratch)
	s.forget(true)
	require.LessOrEqual(t, cap(s.own.scratch), keepScratch)
}

func TestIdleConnectionsAllocateNothing(t *testing.T) {
	e := startEngine(t, func(cfg *Config) { cfg.Shards, cfg.Heartbeat = 1, 100*time.Millisecond })
	startFeed(e, 1000)
	var clients []*testClient
	for range 100 {
		clients = append(clients, joined(t, e, resumePoint{}, "quiet"))
	}
	stop := drainAll(t, clients)
	defer stop()
	look := time.NewTicker(pollEvery) // whose ticks allocate nothing
	defer look.Stop()
	beats := func() {
		want := e.shards[0].count.heartbeats.Load() + 100
		for e.shards[0].count.heartbeats.Load() < want {
			<-look.C
		}
	}
	beats()
	n := mallocs(beats)
	require.Less(t, float64(n)/100, 0.05, "%d allocations for 100 heartbeats", n)
}
