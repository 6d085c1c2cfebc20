package engine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"ssed/sseproto"
)

// ErrStopped is the answer to questions that come after the end of Run.
var ErrStopped = errors.New("engine: stopped")

// ErrBadCursor means that the place in a list is none that Connections gave.
var ErrBadCursor = errors.New("engine: not a place in the list of connections")

// maxListed bounds the connections and channels of one list.
const maxListed = 1000

// Connection is an open event stream, as it was when it was asked for.
type Connection struct {
	// ID names the connection. It is not used again while the process runs.
	ID string
	// Client is its address and port; behind a trusted proxy the address for which it
	// speaks, an IPv6 one by its /64, if addresses are limited, else that of the proxy.
	// "" on a unix socket.
	Client string
	// Subject that its grant names; "" without one.
	Subject string
	// Channels that it receives.
	Channels []string
	// Position up to which it was given all that is meant for it; zero while it waits
	// for the history, and when the position is too old to be known.
	Position sseproto.ID
	// Place is Position as an event ID. In a log of several partitions it names a place in each,
	// and Position is zero.
	Place string
	// Blocked: its socket is full.
	Blocked bool
	// Opened is when its request was admitted, to the second.
	Opened time.Time
}

// Connections lists up to limit open streams that match, 1 to 1000. After is "" or the next of the page before; next is "" at the end.
// Connections that come or go between two pages may be on neither, all others are on
// exactly one. It does not hold up the event loops, which answer in parts.
func (e *Engine) Connections(ctx context.Context, m Match, after string, limit int) (list []Connection, next string, err error) {
	place, err := parsePlace(after)
	if err != nil {
		return nil, "", err
	}
	limit = min(max(limit, 1), maxListed)
	for place.shard < len(e.shards) {
		if len(list) == limit {
			return list, place.String(), nil
		}
		s := e.shards[place.shard]
		q := &listAsk{ctx: ctx, match: m, after: place.slot, limit: min(limit-len(list), askFound), reply: make(chan listed, 1)}
		part, err := put(ctx, e, s, q, q.reply)
		if err != nil {
			return nil, "", err
		}
		err = e.log.inspect(ctx, func(t *tally) error {
			for _, f := range part.found {
				list = append(list, e.connection(t.v.r, s, f))
			}
			return nil
		})
		if err != nil {
			return nil, "", err
		}
		if place.slot = part.last; part.last == 0 {
			place.shard++
		}
	}
	return list, "", nil
}

func (e *Engine) connection(r *reader, s *shard, f foundSlot) Connection {
	c := Connection{ID: connectionID(s.number, f.ref), Client: f.client, Subject: f.subject, Channels: f.channels, Blocked: f.blocked}
	switch {
	case !f.started:
	case e.log.isDivided():
		places, _ := r.placeAt(f.pos)
		c.Place = string(appendVectorOf(nil, places))
	default:
		if id, known := e.log.idAt(f.pos); known {
			c.Position, c.Place = id, id.String()
		}
	}
	if f.opened != 0 {
		c.Opened = e.started.Add(time.Duration(f.opened-1) * time.Second)
	}
	return c
}

// CloseConnection closes the stream of that ID. Its client is told when to come back,
// as at the end of the process, and goes on where it was. Not found: there is none,
// or it ended before.
func (e *Engine) CloseConnection(ctx context.Context, id string) (found bool, err error) {
	shard, to, ok := parseConnectionID(id)
	if !ok || shard >= len(e.shards) {
		return false, nil
	}
	q := &closeAsk{ctx: ctx, to: to, reply: make(chan bool, 1)}
	return put(ctx, e, e.shards[shard], q, q.reply)
}

// connectionID is shard, slot and generation, in hexadecimal.
func connectionID(shard int, r ref) string {
	return fmt.Sprintf("%x-%x-%x", shard, r.slot, r.gen)
}

func parseConnectionID(id string) (shard int, r ref, ok bool) {
	parts := strings.Split(id, "-")
	if len(parts) != 3 {
		return 0, ref{}, false
	}
	var n [3]uint64
	for i, part := range parts {
		var err error
		if n[i], err = strconv.ParseUint(part, 16, 32); err != nil || strconv.FormatUint(n[i], 16) != part {
			return 0, ref{}, false
		}
	}
	return int(n[0]), ref{slot: uint32(n[1]), gen: uint32(n[2])}, true
}

// place is where a list of connections goes on: behind a slot of a shard.
type place struct {
	shard int
	slot  uint32
}

func (p place) String() string { return fmt.Sprintf("%x-%x", p.shard, p.slot) }

func parsePlace(text string) (p place, err error) {
	if text == "" {
		return place{}, nil
	}
	shard, slot, _ := strings.Cut(text, "-")
	s, err := strconv.ParseUint(shard, 16, 16)
	if err != nil {
		return place{}, ErrBadCursor
	}
	n, err := strconv.ParseUint(slot, 16, 31)
	if err != nil {
		return place{}, ErrBadCursor
	}
	return place{shard: int(s), slot: uint32(n)}, nil
}
