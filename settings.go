package ssed

import (
	"cmp"
	"strconv"
	"time"

	"ssed/internal/fleet"
	"ssed/rsub"
	"ssed/sseproto"
)

// settings are what instances compare, beside the patterns and the envelope that the feed
// compares. A different history is told to clients, if it comes to that; a message that
// is over the limit of some instances would be missing for their clients alone.
func (g *Gateway) settings() []fleet.Setting {
	list := []fleet.Setting{
		{Name: "max message bytes", Value: strconv.Itoa(g.cfg.Streams.MaxMessageBytes), Harmful: true},
		{Name: "inbox", Value: g.cfg.Feed.Inbox, Harmful: true},
		// Feeds of another number of partitions have other clocks, so this is where it shows.
		{Name: fleet.Partitions, Value: strconv.Itoa(g.cfg.partitions()), Harmful: true},
	}
	list = append(list,
		fleet.Setting{Name: "broadcast channel", Value: g.cfg.Streams.BroadcastChannel},
		fleet.Setting{Name: "policies", Value: g.cfg.policyText()},
		// Who leads ticks for all: with rare ticks the others are late with what is to be
		// committed, and may take themselves for not ready.
		fleet.Setting{Name: "tick interval", Value: cmp.Or(g.cfg.Feed.TickInterval, rsub.DefaultTickInterval).String()})
	if g.cfg.Feed.Envelope {
		// The feed compares whether there are envelopes. Which members they may have changes
		// with versions: those payloads then are typed events of some instances, and text of
		// others, under one ID. That must not keep a fleet from being upgraded step by step.
		list = append(list, fleet.Setting{Name: "envelope members", Value: sseproto.EnvelopeMembers})
	}
	if g.stores == nil {
		return append(list, fleet.Setting{Name: "history"})
	}
	h := g.stores[0].Config()
	return append(list,
		fleet.Setting{Name: "history", Value: "on"},
		fleet.Setting{Name: "history length", Value: strconv.Itoa(h.MaxLen)},
		fleet.Setting{Name: "history window", Value: h.Window.String()},
		fleet.Setting{Name: "history cap", Value: strconv.Itoa(h.Cap)},
		fleet.Setting{Name: "history TTL", Value: h.TTL.String()})
}

// keep is how long keys of the prefix may outlive the gateway.
func (g *Gateway) keep() time.Duration {
	if g.stores == nil {
		return time.Hour // somebody else's history
	}
	return 2 * g.stores[0].LongestTTL()
}
