//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"ssed/internal/redisconn"
	"ssed/internal/redistest"
)

// message is one PUBLISH or XADD. Times are since the start of the run.
type message struct {
	channel   int
	sent      time.Duration
	answered  time.Duration
	receivers int64
	acked     bool // answered by Redis; without it nobody knows whether it happened
	// astray: answered by a server that was not the primary any more.
	astray bool
	// cutOff is a server that answered while it was apart for long, and counted as the primary.
	cutOff string
	// kept: added to the inbox; when that was answered, it must be in the history,
	// and behind what its publisher had added before.
	kept bool
}

// key names a message: the payload begins with it.
type key struct{ publisher, n int }

func (k key) payload(filler int) string {
	return strconv.Itoa(k.publisher) + "." + strconv.Itoa(k.n) + " " + strings.Repeat("x", filler)
}

var (
	errPayload = errors.New("chaos: a payload that was never published")
	errSilent  = errors.New("chaos: no answer by a divided network")
)

func parsePayload(data []byte) (k key, err error) {
	head, _, _ := strings.Cut(string(data), " ")
	p, n, _ := strings.Cut(head, ".")
	if k.publisher, err = strconv.Atoi(p); err == nil {
		k.n, err = strconv.Atoi(n)
	}
	if err != nil {
		return k, fmt.Errorf("%w: %.40q", errPayload, data)
	}
	return k, nil
}

// publisher sends messages one after the other. Its record belongs to the
// goroutine that publishes, and to the judge when that has ended.
type publisher struct {
	index int
	keeps bool // adds to the inbox
	// replicated: there is a replica, and what counts is what it has.
	replicated bool
	// sharded: on the shard channel.
	sharded bool
	// anywhere: on a node of a cluster that need not have subscribers. Its answer counts
	// those of that node alone.
	anywhere bool
	lanes    []lane // by partition
	rng      *rand.Rand
	clock    clock
	messages []message
}

// lane is a publisher's way into a partition.
type lane struct {
	host    host     // of the publisher
	network *network // nil: whole
	keys    redisconn.Keys
	primary *primary
	timeout time.Duration
	conn    *redistest.Conn // nil: none
	to      string          // where conn goes
}

// primary is the server that takes writes, as a good client of Redis knows it.
type primary struct {
	addr     atomic.Pointer[string]
	replaced []replacement // owned by who looks it up
}

// replacement is when a server was found to be the primary no more.
type replacement struct {
	addr string
	at   time.Duration
}

func (p *primary) get() string { return *p.addr.Load() }

// set notes who it is now.
func (p *primary) set(addr string, at time.Duration) {
	if before := p.addr.Load(); before != nil && *before != addr {
		p.replaced = append(p.replaced, replacement{*before, at})
	}
	p.addr.Store(&addr)
}

// noticedWithin is how late a replacement may be found out: on a busy machine nodes are slow to
// answer.
const noticedWithin = 3 * time.Second

// wasReplaced tells whether a server that answered at a time may have been replaced by then.
func (p *primary) wasReplaced(addr string, at time.Duration) bool {
	return slices.ContainsFunc(p.replaced, func(r replacement) bool {
		return r.addr == addr && r.at >= at && r.at-at < noticedWithin
	})
}

// clock is the time since the start of a run.
type clock struct{ start time.Time }

func (c clock) now() time.Duration { return time.Since(c.start) }

// publishTimeout is short: a PUBLISH that hangs holds up its publisher. To a node of a
// cluster, of which one may be frozen, it is shorter, for what is measured is when
// messages come again.
const (
	publishTimeout     = time.Second
	publishTimeoutNode = 250 * time.Millisecond
)

// maxFiller makes payloads of different lengths.
const maxFiller = 120

// publish sends one message, once, and keeps what came of it.
func (p *publisher) publish(channel int) *message {
	k := key{p.index, len(p.messages)}
	m := message{channel: channel, sent: p.clock.now(), kept: p.keeps}
	payload := k.payload(p.rng.IntN(maxFiller))
	l := &p.lanes[partitionOf(channel, len(p.lanes))]
	if p.keeps {
		m.acked, m.receivers = p.keep(l, channel, payload), 1
	} else {
		args := []string{"PUBLISH", channelName(channel), payload}
		if p.sharded {
			args = []string{"SPUBLISH", l.keys.Messages, channelName(channel) + "\n" + payload}
		}
		reply, err := l.ask(args...)
		m.receivers, m.acked = reply.(int64)
		m.acked = m.acked && err == nil
		if p.anywhere {
			m.receivers = 1
		}
	}
	m.answered = p.clock.now()
	m.astray = m.acked && (l.to != l.primary.get() || p.anywhere && !l.network.isWithMost(l.to))
	if m.acked && !m.astray && l.network.isApartForLong(l.to, m.answered) {
		m.cutOff = l.to
	}
	p.messages = append(p.messages, m)
	return &p.messages[k.n]
}

// keep adds to the inbox and reports whether that is sure to stay there: where there
// is a replica, it has it too.
func (p *publisher) keep(l *lane, channel int, payload string) bool {
	if _, err := l.ask("XADD", inboxOf(l.keys), "*", "channel", channelName(channel), "data", payload); err != nil {
		return false
	}
	if !p.replicated {
		return true
	}
	// On this connection: WAIT is about what it has written.
	replicas, err := l.conn.Do("WAIT", "1", waitMs)
	if err != nil {
		l.close()
	}
	return err == nil && replicas == int64(1)
}

// waitMs is how long WAIT may take, in ms; less than publishTimeout.
const waitMs = "500"

// ask sends a command on a connection that is kept, to the primary of now. Where the network
// is divided it stays with the one that it knows: nobody tells it of another.
func (l *lane) ask(args ...string) (reply any, err error) {
	to := l.primary.get()
	if !l.network.reaches(l.host, to) {
		to = l.to
	}
	if l.to != to {
		l.close()
	}
	if !l.network.reaches(l.host, to) {
		time.Sleep(l.timeout) // it is sent, and nothing comes
		return nil, errSilent
	}
	if l.conn == nil {
		l.to = to
		if l.conn, err = redistest.Dial(l.to, l.timeout); err != nil {
			l.conn = nil
			return nil, err
		}
	}
	if reply, err = l.conn.Do(args...); err != nil {
		l.close()
	}
	return reply, err
}

func (l *lane) close() {
	if l.conn != nil {
		_ = l.conn.Close() // whatever it says, it is gone
		l.conn = nil
	}
}

func (p *publisher) close() {
	for i := range p.lanes {
		p.lanes[i].close()
	}
}

// run publishes at a steady rate until ctx ends. What Redis did not take in time
// is not caught up with.
func (p *publisher) run(ctx context.Context, every time.Duration, pick func(*rand.Rand) int) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			p.publish(pick(p.rng))
		}
	}
}

func channelName(i int) string { return fmt.Sprintf("chaos:%03d", i) }

// parseChannel is the inverse of channelName; false for other channels.
func parseChannel(name string) (int, bool) {
	text, ok := strings.CutPrefix(name, "chaos:")
	i, err := strconv.Atoi(text)
	return i, ok && err == nil
}
