package ssed

import (
	"time"

	"ssed/engine"
	"ssed/internal/fleet"
	"ssed/rstore"
	"ssed/rsub"
)

// Stats is a snapshot of a Gateway. Counters count from New on.
type Stats struct {
	Instance string    // Config.Feed.Instance
	Started  time.Time // when New was called
	Draining bool      // the context of Run has ended

	Connections int64 // open client connections, requests included
	Streams     int64 // open event streams
	Slow        int64 // streams whose socket is full now
	Channels    int64 // channels with a stream or a message in memory

	Messages   uint64            // taken into memory
	Deliveries uint64            // messages written to a client, whole
	SentBytes  uint64            // written to streams
	Gaps       uint64            // gap events
	Closed     map[string]uint64 // streams that ended, by reason
	Refused    map[string]uint64 // connections and requests not served, by reason

	Leading bool   // with Redis: this instance sends the ticks of the common clock, or of that of a partition
	Writer  bool   // with a history: this instance writes it, or that of a partition
	Written uint64 // messages that this instance wrote to the history
}

// Stats takes a snapshot.
func (g *Gateway) Stats() Stats {
	s := g.engine.Stats()
	out := Stats{
		Instance: g.cfg.Feed.Instance, Started: g.started, Draining: g.draining.Load(),
		Connections: s.Connections, Streams: s.Streams, Slow: s.Slow, Channels: s.Channels,
		Messages: s.Log.Appended, Deliveries: s.Delivered, SentBytes: s.SentBytes, Gaps: s.Gaps.Total() + s.Log.Gaps.Total(),
		Closed: make(map[string]uint64), Refused: make(map[string]uint64),
	}
	for _, reason := range engine.CloseReasons() {
		out.Closed[reason.String()] = s.Closed[reason]
	}
	for _, reason := range engine.RefuseReasons() {
		out.Refused[reason.String()] = s.Front.Refused[reason]
	}
	for _, feed := range g.feeds {
		out.Leading = out.Leading || feed.Leads()
	}
	for _, store := range g.stores {
		s := store.Stats()
		out.Writer, out.Written = out.Writer || s.Writer, out.Written+s.Appended
	}
	return out
}

// Parts are what a Gateway is made of. The program ssed builds its admin listener and its
// metrics on them. Nothing about them is promised: they change without notice.
type Parts struct {
	Config Config // with the defaults of this package filled in
	Engine *engine.Engine
	Feeds  []*rsub.Feed    // by partition; nil: embedded
	Stores []*rstore.Store // by partition; nil: no history
	Fleet  *fleet.Fleet    // nil: embedded
}

// FeedStats are those of all Feeds together; of none they are zero.
func (p *Parts) FeedStats() rsub.Stats {
	return together(p.Feeds, (*rsub.Feed).Stats, rsub.Stats.Plus)
}

// StoreStats are those of all Stores together; of none they are zero.
func (p *Parts) StoreStats() rstore.Stats {
	return together(p.Stores, (*rstore.Store).Stats, rstore.Stats.Plus)
}

func together[T, S any](parts []T, stats func(T) S, plus func(S, S) S) (all S) {
	for i, part := range parts {
		if s := stats(part); i == 0 {
			all = s
		} else {
			all = plus(all, s)
		}
	}
	return all
}

// Parts returns the parts, which are not promised.
func (g *Gateway) Parts() Parts {
	return Parts{Config: g.cfg, Engine: g.engine, Feeds: g.feeds, Stores: g.stores, Fleet: g.fleet}
}

// ReportWith sets what the admin API of other instances shows of this one, as JSON. Call
// it before Run. It is for the program ssed and not promised.
func (g *Gateway) ReportWith(report func() []byte) { g.report.Store(&report) }
