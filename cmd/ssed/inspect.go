package main

import (
	"context"
	"errors"
	"net/http"
	"time"

	"ssed"
	"ssed/engine"
	"ssed/internal/admin"
)

// inspector is the engine for the admin listener.
type inspector struct {
	engine  *engine.Engine
	gateway *ssed.Gateway
}

var errCursor = admin.Refuse(http.StatusBadRequest, "after must be the next of another page")

// Connections implements admin.Connections.
func (i inspector) Connections(ctx context.Context, who admin.Clients, after string, limit int) ([]admin.Connection, string, error) {
	found, next, err := i.engine.Connections(ctx, matchOf(who), after, limit)
	if errors.Is(err, engine.ErrBadCursor) {
		err = errCursor
	}
	list := make([]admin.Connection, len(found))
	for n, c := range found {
		list[n] = admin.Connection{
			ID: c.ID, Client: c.Client, Subject: c.Subject, Channels: c.Channels,
			Position: idText(c.Position), Blocked: c.Blocked, Opened: known(c.Opened),
		}
	}
	return list, next, err
}

// CloseConnection implements admin.Connections.
func (i inspector) CloseConnection(ctx context.Context, id string) (found bool, err error) {
	return i.engine.CloseConnection(ctx, id)
}

// CloseConnections implements admin.Connections.
func (i inspector) CloseConnections(ctx context.Context, who admin.Clients, keepOut time.Duration) (admin.Closed, error) {
	// An operator who hangs up has still meant it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), disconnectTimeout)
	defer cancel()
	d, err := i.gateway.Disconnect(ctx, matchOf(who), keepOut)
	closed := admin.Closed{Connections: d.Streams, Asked: d.Asked, Answered: len(d.Instances)}
	for _, at := range d.Instances {
		closed.Instances = append(closed.Instances, admin.ClosedShare{Instance: at.Instance, Connections: at.Streams})
	}
	return closed, err
}

// disconnectTimeout is beyond what instances are waited for.
const disconnectTimeout = 10 * time.Second

func matchOf(who admin.Clients) ssed.Match {
	return ssed.Match{Subject: who.Subject, Token: who.Token, Channel: who.Channel}
}

// TopChannels implements admin.Channels.
func (i inspector) TopChannels(ctx context.Context, order admin.ChannelOrder, limit int) ([]admin.Channel, error) {
	by := engine.BySubscribers
	if order == admin.ByRate {
		by = engine.ByRate
	}
	found, err := i.engine.TopChannels(ctx, by, limit)
	list := make([]admin.Channel, len(found))
	for n, c := range found {
		list[n] = i.channelOf(c)
	}
	return list, err
}

// Channel implements admin.Channels.
func (i inspector) Channel(ctx context.Context, name string) (admin.Channel, error) {
	c, err := i.engine.Channel(ctx, name)
	return i.channelOf(c), err
}

func (i inspector) gaps() []admin.Gap {
	recent := i.engine.RecentGaps()
	list := make([]admin.Gap, len(recent))
	for n, g := range recent {
		list[n] = admin.Gap{At: g.At, Channel: g.Channel, Reason: g.Reason, Live: g.Live, Streams: g.Streams}
	}
	return list
}

func (i inspector) channelOf(c engine.ChannelInfo) admin.Channel {
	channel := admin.Channel{
		Channel: c.Channel, Subscribers: c.Subscribers, Messages: c.Messages,
		Rate: c.Rate, Newest: eventText(c.Channel, c.Newest, max(len(i.gateway.Parts().Feeds), 1)),
	}
	if p, ok := i.gateway.Policy(c.Channel); ok {
		channel.Policy = p.String()
	}
	return channel
}

// known is nil for the zero time.
func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
