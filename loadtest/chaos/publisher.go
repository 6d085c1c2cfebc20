package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// message is one PUBLISH. Times are since the start of the run.
type message struct {
	channel   int
	sent      time.Duration
	answered  time.Duration
	receivers int64
	acked     bool // answered by Redis; without it nobody knows whether it happened
}

// key names a message: the payload begins with it.
type key struct{ publisher, n int }

func (k key) payload(filler int) string {
	return strconv.Itoa(k.publisher) + "." + strconv.Itoa(k.n) + " " + strings.Repeat("x", filler)
}

var errPayload = errors.New("chaos: a payload that was never published")

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
	index    int
	client   rueidis.Client
	rng      *rand.Rand
	clock    clock
	messages []message
}

// clock is the time since the start of a run.
type clock struct{ start time.Time }

func (c clock) now() time.Duration { return time.Since(c.start) }

// publishTimeout is short: a PUBLISH that hangs holds up its publisher.
const publishTimeout = 2 * time.Second

// maxFiller makes payloads of different lengths.
const maxFiller = 120

// publish sends one message and keeps what came of it.
func (p *publisher) publish(ctx context.Context, channel int) *message {
	k := key{p.index, len(p.messages)}
	m := message{channel: channel, sent: p.clock.now()}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	cmd := p.client.B().Publish().Channel(channelName(channel)).Message(k.payload(p.rng.IntN(maxFiller))).Build()
	var err error
	m.receivers, err = p.client.Do(ctx, cmd).AsInt64()
	m.acked, m.answered = err == nil, p.clock.now()
	p.messages = append(p.messages, m)
	return &p.messages[k.n]
}

// run publishes at a steady rate until ctx ends. What Redis did not take in time
// is not caught up with.
func (p *publisher) run(ctx context.Context, every time.Duration, channels int) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			// Not ctx: a PUBLISH that is on its way gets its answer.
			p.publish(context.WithoutCancel(ctx), p.rng.IntN(channels))
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

// newPublisher connects. The library must not repeat a PUBLISH by itself, and one
// that hangs is given up after a second.
func newPublisher(index int, option rueidis.ClientOption, rng *rand.Rand, c clock) (*publisher, error) {
	client, err := rueidis.NewClient(option)
	if err != nil {
		return nil, fmt.Errorf("chaos: publisher: %w", err)
	}
	return &publisher{index: index, client: client, rng: rng, clock: c}, nil
}
