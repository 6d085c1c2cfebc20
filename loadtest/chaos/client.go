//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"ssed/sseproto"
)

// recordKind says what a client noted.
type recordKind uint8

const (
	recordOpened recordKind = iota // the head of a stream came
	recordEvent                    // a message
	recordGap                      // an event: gap
	recordClosed                   // the stream ended
)

// allChannels is the channel of a gap event that names none.
const allChannels = -1

// record is one thing that happened to a client.
type record struct {
	kind      recordKind
	instance  int
	partition int // recordEvent: that of the ID
	at        time.Duration
	id        sseproto.ID // of a message
	// places are what a client would come back with, by partition: the zero ID where it
	// has none.
	places  []sseproto.ID
	key     key    // recordEvent
	channel int    // recordGap
	reason  string // recordGap
}

// client is one browser: it reads its channels from one instance, leaves at a
// random moment and goes on at another. Its record belongs to its goroutine, and
// to the judge when that has ended.
type client struct {
	index    int
	channels []int
	settled  bool          // stays for long, so that open streams go through the faults
	home     int           // the instance that it stays on for good; anywhere for others
	away     time.Duration // between two streams, in the mean
	// partitions of all channels
	partitions int
	rng        *rand.Rand
	clock      clock
	fleet      *fleet
	final      *finale

	decoder sseproto.Decoder
	records []record
	ended   map[int]int // channel → latest round of last messages that has come
	bad     error       // something that must not come at all
}

// finale tells clients that no faults and no further messages follow. The last
// publisher then has sent a round of messages, one to each channel, that Redis took.
type finale struct {
	begun     context.Context
	publisher int
	channels  int
	round     atomic.Int64
}

// lastOf returns the channel and round of a message that ends its channel.
func (f *finale) lastOf(k key) (channel, round int, ok bool) {
	return k.n % f.channels, k.n / f.channels, k.publisher == f.publisher
}

// Times of a client. Hoppers catch every moment of a fault, settled ones see it
// through on an open stream.
const (
	hopMean     = 1500 * time.Millisecond
	settledMean = 25 * time.Second
	pauseMean   = 60 * time.Millisecond
	dialTimeout = time.Second
	headTimeout = 3 * time.Second
	// maxEvent is far above any payload here.
	maxEvent = 1 << 20
)

// run follows the channels until the last message of each has come or ctx ends.
func (c *client) run(ctx context.Context) {
	c.ended = make(map[int]int)
	c.decoder = sseproto.Decoder{OnEvent: c.onEvent, MaxBytes: maxEvent}
	for ctx.Err() == nil && !c.done() && c.bad == nil {
		c.visit(ctx)
		c.pause(ctx)
	}
}

// done reports whether nothing more is owed to the client.
func (c *client) done() bool {
	if c.final.begun.Err() == nil {
		return false
	}
	if len(c.decoder.LastEventID()) == 0 {
		return true
	}
	for _, ch := range c.channels {
		if round, ok := c.ended[ch]; !ok || round < int(c.final.round.Load()) {
			return false
		}
	}
	return true
}

func (c *client) pause(ctx context.Context) {
	away, begun := c.away, c.final.begun.Done()
	if c.final.begun.Err() != nil {
		away, begun = pauseMean, nil
	}
	t := time.NewTimer(time.Duration(c.rng.ExpFloat64() * float64(away)))
	defer t.Stop()
	select {
	case <-t.C:
	case <-begun:
	case <-ctx.Done():
	}
}

// visit is one stream on one instance.
func (c *client) visit(ctx context.Context) {
	instance, addr := c.fleet.pick(c.rng, c.home)
	if addr == "" {
		return
	}
	conn, err := net.DialTimeout("tcp", addr, dialTimeout)
	if err != nil {
		return // a dead instance
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, c.dwell())
	defer cancel()
	if c.final.begun.Err() == nil { // the finale finds everybody reconnecting
		defer context.AfterFunc(c.final.begun, cancel)()
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	c.read(conn, instance)
}

func (c *client) dwell() time.Duration {
	if c.home != anywhere {
		return longestRun
	}
	mean := hopMean
	if c.settled || c.final.begun.Err() != nil {
		mean = settledMean
	}
	return time.Duration((0.05 + c.rng.ExpFloat64()) * float64(mean))
}

// read sends the request and takes the stream until it ends.
func (c *client) read(conn net.Conn, instance int) {
	_ = conn.SetReadDeadline(time.Now().Add(headTimeout))
	if _, err := conn.Write(c.request()); err != nil {
		return
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 16<<10), nil)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		return // not ready
	}
	_ = conn.SetReadDeadline(time.Time{})
	c.note(record{kind: recordOpened, instance: instance})
	c.decoder.Reconnected()
	c.take(resp.Body, instance)
	c.note(record{kind: recordClosed, instance: instance})
}

func (c *client) take(body io.Reader, instance int) {
	c.fleet.streams[instance].Add(1)
	defer c.fleet.streams[instance].Add(-1)
	buf := make([]byte, 16<<10)
	for {
		n, err := body.Read(buf)
		from := len(c.records)
		if _, decodeErr := c.decoder.Write(buf[:n]); decodeErr != nil {
			c.bad = decodeErr
		}
		for i := from; i < len(c.records); i++ {
			c.records[i].instance = instance
			if c.records[i].kind == recordEvent {
				c.fleet.delivered(instance, c.records[i].partition, c.records[i].id, c.records[i].at)
			}
		}
		if err != nil || c.bad != nil || c.done() {
			return
		}
	}
}

func (c *client) request() []byte {
	query := url.Values{}
	for _, ch := range c.channels {
		query.Add("channel_id", channelName(ch))
	}
	head := fmt.Appendf(nil, "GET /sse/connect?%s HTTP/1.1\r\nHost: chaos\r\nAccept: text/event-stream\r\n", query.Encode())
	if id := c.decoder.LastEventID(); len(id) > 0 {
		head = fmt.Appendf(head, "Last-Event-ID: %s\r\n", id)
	}
	return append(head, "\r\n"...)
}

func (c *client) note(r record) {
	r.at = c.clock.now()
	c.records = append(c.records, r)
}

var errEvent = errors.New("chaos: an event that ssed does not send")

func (c *client) onEvent(idText, eventType, data []byte) {
	places := make([]sseproto.ID, c.partitions)
	own, err := sseproto.ParseVector(string(idText), places)
	if len(idText) == 0 && string(eventType) == sseproto.EventGap {
		err = nil // told to all who are there: it has no ID, and this client neither
	}
	if err != nil {
		c.bad = fmt.Errorf("%w: id %q", errEvent, idText)
		return
	}
	switch string(eventType) {
	case sseproto.EventMessage:
		c.onMessage(own, places, data)
	case sseproto.EventGap:
		c.onGap(places, data)
	default:
		c.bad = fmt.Errorf("%w: type %q", errEvent, eventType)
	}
}

func (c *client) onMessage(partition int, places []sseproto.ID, data []byte) {
	k, err := parsePayload(data)
	if err != nil {
		c.bad = err
		return
	}
	c.note(record{kind: recordEvent, partition: partition, id: places[partition], places: places, key: k})
	if ch, round, ok := c.final.lastOf(k); ok {
		c.ended[ch] = max(c.ended[ch], round)
	}
}

// onGap notes a gap event with its places, up to which the client has everything. One that is
// told to all who are there has none: a span may have been cut back to the last tick, and
// what came since then does not count. They are told by the absence of an ID that was
// requested.
func (c *client) onGap(places []sseproto.ID, data []byte) {
	var told struct {
		Reason, Channel, Requested string
		Channels                   []string
	}
	if err := json.Unmarshal(data, &told); err != nil {
		c.bad = fmt.Errorf("%w: gap %q: %w", errEvent, data, err)
		return
	}
	for q := range places {
		if told.Requested == "" && told.Reason != sseproto.ReasonOversize {
			places[q].Seq = 0
		}
	}
	if told.Channel != "" {
		told.Channels = []string{told.Channel}
	}
	for _, name := range told.Channels {
		ch, ok := parseChannel(name)
		if !ok {
			c.bad = fmt.Errorf("%w: gap of channel %q", errEvent, name)
			return
		}
		c.note(record{kind: recordGap, places: places, channel: ch, reason: told.Reason})
	}
	if len(told.Channels) == 0 {
		c.note(record{kind: recordGap, places: places, channel: allChannels, reason: told.Reason})
	}
}

func isKnown(id sseproto.ID) bool { return !id.IsZero() }

// isPlaced tells whether a client knew where it was.
func (r *record) isPlaced() bool { return slices.ContainsFunc(r.places, isKnown) }

// pickChannels returns up to most different channels, ascending by chance only.
func pickChannels(rng *rand.Rand, channels, most int) []int {
	return rng.Perm(channels)[:1+rng.IntN(most)]
}
