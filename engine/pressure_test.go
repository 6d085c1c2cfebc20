package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// counting publishes messages that name their channel and their number in it.
type counting struct {
	f     *feed
	sent  map[string]int
	extra string
}

func (p *counting) publish(channel string) {
	p.sent[channel]++
	p.f.publish(channel, fmt.Sprint(channel, " ", p.sent[channel], " ", p.extra))
}

// verify checks that a client gets only what is meant for it, without a hole in
// any channel.
type verify struct {
	*testClient
	channels []string
	next     map[string]int
	last     sseproto.ID
}

func verified(c *testClient, channels ...string) *verify {
	return &verify{testClient: c, channels: channels, next: make(map[string]int)}
}

// check looks at the events that came.
func (c *verify) check() error {
	for _, ev := range c.got {
		id, err := sseproto.ParseID(ev.id)
		if err != nil {
			return err
		}
		if ev.kind == "gap" {
			clear(c.next)
			continue
		}
		if !c.last.Less(id) {
			return fmt.Errorf("%s after %s", id, c.last)
		}
		c.last = id
		part := strings.SplitN(ev.data, " ", 3)
		if len(part) != 3 || !slices.Contains(c.channels, part[0]) {
			return fmt.Errorf("subscriber of %v got %.40q", c.channels, ev.data)
		}
		n, err := strconv.Atoi(part[1])
		if want := c.next[part[0]]; err != nil || want != 0 && n != want {
			return fmt.Errorf("subscriber of %v got %.40q instead of %d", c.channels, ev.data, want)
		}
		c.next[part[0]] = n + 1
	}
	c.got = c.got[:0]
	return nil
}

// drink reads what is there, and reports the end of the stream.
func (c *verify) drink(wait time.Duration) (ended bool, err error) {
	for {
		if err := c.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return true, nil
		}
		n, err := c.conn.Read(c.buf)
		_, _ = c.dec.Write(c.buf[:n])
		if wrong := c.check(); wrong != nil {
			return true, wrong
		}
		if err != nil {
			return !errors.Is(err, os.ErrDeadlineExceeded), nil
		}
	}
}

// visitor joins, reads a little and leaves, over and over: descriptors, slots,
// subscriptions and directory indexes go from hand to hand.
func visitor(t *testing.T, e *Engine, rng *rand.Rand, visits int) error {
	for range visits {
		var channels []string
		for len(channels) < 1+rng.IntN(3) {
			if name := fmt.Sprint("c", rng.IntN(3000)); !slices.Contains(channels, name) {
				channels = append(channels, name)
			}
		}
		if rng.IntN(3) > 0 {
			channels = append(channels, fmt.Sprint("hot", rng.IntN(3)))
		}
		resume := resumePoint{}
		if id, ok := e.log.idAt(e.log.Position() - rng.Uint64N(200)); ok && rng.IntN(2) == 0 {
			resume = after(id)
		}
		c := verified(join(t, e, resume, channels...), channels...)
		for range rng.IntN(4) {
			if ended, err := c.drink(time.Millisecond); err != nil {
				return err
			} else if ended {
				break
			}
		}
		_ = c.conn.Close()
	}
	return nil
}

func TestNothingReachesWhoDidNotAskForIt(t *testing.T) {
	e := startEngine(t, func(cfg *Config) { cfg.RingBytes = minRingBytes })
	p := &counting{f: startFeed(e, 1000), sent: make(map[string]int), extra: strings.Repeat("x", 100)}
	p.publish("c0")
	visits := 150
	if testing.Short() {
		visits = 30
	}
	var visitors sync.WaitGroup
	wrong := make(chan error, 8)
	for i := range 8 {
		visitors.Go(func() { wrong <- visitor(t, e, rand.New(rand.NewPCG(uint64(i), 1)), visits) })
	}
	over := make(chan struct{})
	go func() { visitors.Wait(); close(over) }()
	rng := rand.New(rand.NewPCG(99, 1))
	for running := true; running; {
		for range 50 {
			if p.publish(fmt.Sprint("c", rng.IntN(3000))); rng.IntN(3) == 0 {
				p.publish(fmt.Sprint("hot", rng.IntN(3)))
			}
		}
		select {
		case <-over:
			running = false
		case <-time.After(200 * time.Microsecond): // a pace that visitors can read along with
		}
	}
	for range 8 {
		require.NoError(t, <-wrong)
	}
	require.Eventually(t, func() bool { return e.conns.Load() == 0 }, waitLong, pollEvery)
	require.Greater(t, e.Stats().Delivered, uint64(visits))
	require.Less(t, int(e.log.dir.indexes.end()), 4*3003, "directory indexes are not used again")
}

func TestBroadcastWhileMembersComeAndGo(t *testing.T) {
	e := startEngine(t, nil)
	p := &counting{f: startFeed(e, 1000), sent: make(map[string]int), extra: "x"}
	rng := rand.New(rand.NewPCG(3, 3))
	var members []*verify
	add := func() {
		members = append(members, verified(join(t, e, resumePoint{}, "large", "small"), "large", "small"))
		if rng.IntN(2) == 0 {
			c := members[len(members)-1]
			_ = c.conn.Close()
			c.testClient, c.channels = join(t, e, resumePoint{}, "large"), []string{"large"}
		}
	}
	for range 300 {
		add()
	}
	for round := range 60 {
		for range 1 + rng.IntN(20) {
			p.publish("large")
		}
		p.publish("small")
		for range 10 {
			k := rng.IntN(len(members))
			_ = members[k].conn.Close()
			members[k] = members[len(members)-1]
			members = members[:len(members)-1]
		}
		if round < 50 {
			for range 10 {
				add()
			}
		}
	}
	last := p.sent["large"]
	for _, c := range members {
		for c.next["large"] <= last {
			require.NoError(t, c.read())
			require.NoError(t, c.check())
		}
	}
}

func TestHistoryWriterSeesTheNamesOfItsMoment(t *testing.T) {
	e := startEngine(t, withHistory(newMemoryHistory(), minRingBytes))
	f := startFeed(e, 1000)
	for i := range 100 {
		f.publish(fmt.Sprint("c", i), fmt.Sprint("c", i))
	}
	f.tick(sseproto.ID{})
	turned := false
	e.log.ReadCommitted(sseproto.ID{Ms: 1000}, 100, 1<<20, func(id sseproto.ID, channel string, m sseproto.Message, _ sseproto.ID) {
		require.Equal(t, m.Data, channel)
		if turned {
			return
		}
		turned = true // the ring forgets all of it and many new channels come
		for i := range 2000 {
			f.publish(fmt.Sprint("d", i), strings.Repeat("x", 200))
		}
	})
	require.True(t, turned)
}
