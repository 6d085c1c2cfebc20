package ssed

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"ssed/rsub"
	"ssed/sseproto"
)

// Message is what a publisher gives: its data, and optionally a type, an ID of the
// publisher's own and a reconnection time.
type Message = sseproto.Message

// ID is the position of a message. IDs ascend over all channels, and every instance gives
// a message the same one. A browser sends the last one that it got as Last-Event-ID.
type ID = sseproto.ID

// Why Publish refuses a message. It was not sent then.
var (
	// ErrChannel: the name is empty, longer than 255 bytes, or has a NUL.
	ErrChannel = errors.New("ssed: the channel is not 1 to 255 bytes without NUL")
	// ErrReserved: channels that start with __, and FeedConfig.BatchChannel, are never delivered.
	ErrReserved = errors.New("ssed: channels that start with __, and the one of batches, are never delivered")
	// ErrTooLarge: the payload, an envelope around the data included, has more than
	// StreamConfig.MaxMessageBytes.
	ErrTooLarge = errors.New("ssed: the message is larger than MaxMessageBytes")
)

// ErrNobody is returned by Publish when no instance was subscribed, not even this one. The
// message is lost.
var ErrNobody = errors.New("ssed: no instance was subscribed to Redis: the message is lost")

// OutMessage is a message for a channel.
type OutMessage struct {
	Channel string
	Message
}

// PublishResult tells what became of an OutMessage.
type PublishResult struct {
	// ID is its position; zero when it is not known in time, which happens only with Redis.
	ID ID
	// Receivers is how many subscriptions Redis had; always 0 when embedded.
	Receivers int64
	// Err is nil when the message was published.
	Err error
}

// Publish gives a message to all clients of the channel, on all instances, and returns its
// position. With Redis it takes a round trip or two. The position is zero when the message
// was published and this instance did not read it back within a second.
//
// After ErrChannel, ErrReserved, ErrTooLarge and errors of Message.Check it was
// not sent. After an error of Redis it may have been sent or not. Call it while Run does.
func (g *Gateway) Publish(ctx context.Context, channel string, m Message) (ID, error) {
	result := g.PublishBatch(ctx, []OutMessage{{Channel: channel, Message: m}})[0]
	if result.Err == nil && g.feeds != nil && result.Receivers == 0 {
		result.Err = ErrNobody
	}
	return result.ID, result.Err
}

// ErrNoPosition is returned by Position while this instance has not heard of Redis.
var ErrNoPosition = errors.New("ssed: no position yet: this instance has not heard of Redis")

// Position returns a position to hand out with a snapshot: call it, then read the snapshot.
// A client that comes with it as Last-Event-ID misses nothing. Every message that is published
// after the return, by Publish or at Redis, comes behind it. Some that were published shortly
// before may come behind it, too. Position makes no call to Redis.
func (g *Gateway) Position() (ID, error) {
	if g.cfg.partitions() > 1 {
		return ID{}, ErrSeveralPlaces
	}
	id, ok := g.engine.Log().Now()
	if !ok {
		return id, ErrNoPosition
	}
	return id, nil
}

// ErrSeveralPlaces is returned by Position with several partitions: see Place.
var ErrSeveralPlaces = errors.New("ssed: with several partitions a position has no ID: use Place")

// Place is Position as the text that a client sends as Last-Event-ID. With several
// partitions it names a position in each of them.
func (g *Gateway) Place() (string, error) {
	text, ok := g.engine.Log().Place()
	if !ok {
		return "", ErrNoPosition
	}
	return text, nil
}

// EventID is the text of the position of a message of a channel, such as Publish returns,
// that a client may send as Last-Event-ID. With several partitions it names the one of the
// channel as well, and nothing of the others: what clients get of them begins some seconds
// before.
func (g *Gateway) EventID(channel string, id ID) string {
	return sseproto.EventIDOf(channel, id, g.cfg.partitions())
}

// PublishBatch publishes messages with as few round trips as that takes, those of a channel
// and of a partition in order, and returns one result for each. Those that are refused do not stop the others.
func (g *Gateway) PublishBatch(ctx context.Context, messages []OutMessage) []PublishResult {
	results := make([]PublishResult, len(messages))
	parts := make([]part, max(len(g.feeds), 1))
	for i, m := range messages {
		payload, err := g.payload(m)
		switch {
		case err != nil:
			results[i].Err = err
		case g.feeds == nil:
			results[i].ID = g.engine.Log().Publish(m.Channel, m.Message)
		default:
			p := &parts[g.partitionOf(m.Channel)]
			p.messages, p.places = append(p.messages, rsub.OutMessage{Channel: m.Channel, Payload: payload}), append(p.places, i)
		}
	}
	var sending sync.WaitGroup // the last one in this goroutine: with one partition there is no other
	var last func()
	for q, p := range parts {
		if len(p.messages) == 0 {
			continue
		}
		if last != nil {
			sending.Go(last)
		}
		last = func() { g.send(ctx, q, p, results) }
	}
	if last != nil {
		last()
	}
	sending.Wait()
	return results
}

// part is what belongs to one partition of the messages of a call, and their places in it.
type part struct {
	messages []rsub.OutMessage
	places   []int
}

// send publishes messages of one partition and writes their results.
func (g *Gateway) send(ctx context.Context, q int, p part, results []PublishResult) {
	sent, err := g.feeds[q].PublishBatch(ctx, p.messages)
	for k, i := range p.places {
		if k < len(sent) {
			results[i] = PublishResult{ID: sent[k].ID, Receivers: sent[k].Receivers}
		} else { // it may have been sent although the answer was lost
			results[i].Err = fmt.Errorf("not confirmed by Redis: %w", err)
		}
	}
}

// payload is what goes to Redis, or why the message is refused. With envelopes plain data
// that looks like one has one too; without them, what has a type has a mark by which all
// instances know it.
func (g *Gateway) payload(m OutMessage) (payload string, err error) {
	payload = m.Data
	switch {
	case !sseproto.IsChannel(m.Channel):
		return "", ErrChannel
	case rsub.Reserved(m.Channel), g.feeds != nil && m.Channel == g.cfg.Feed.BatchChannel:
		return "", ErrReserved
	case g.feeds != nil && g.cfg.Feed.Envelope:
		payload = string(sseproto.AppendPayload(nil, m.Message))
	case g.feeds != nil:
		payload = string(sseproto.AppendMarked(nil, m.Message))
	}
	if len(payload) > g.cfg.Streams.MaxMessageBytes {
		return "", ErrTooLarge
	}
	return payload, m.Check()
}
