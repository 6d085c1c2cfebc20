package ssed

import (
	"fmt"
	"strings"
	"time"

	"ssed/internal/redisconn"
	"ssed/sseproto"
)

// partitions is how many there are, 1 at least.
func (c *Config) partitions() int { return max(c.Feed.Partitions, 1) }

// partition is one of them; the zero value when there is one.
func (c *Config) partition(q int) redisconn.Partition {
	if c.partitions() == 1 {
		return redisconn.Partition{}
	}
	return redisconn.Partition{Number: q, Of: c.partitions()}
}

// partitionOf is that of a channel.
func (g *Gateway) partitionOf(channel string) int {
	if partitions := g.cfg.partitions(); partitions > 1 {
		return sseproto.PartitionOf(channel, partitions)
	}
	return 0
}

// PartitionState is how one partition stands, as this gateway sees it.
type PartitionState struct {
	Number int    // 0 and up
	Tag    string // hash tag in the names of its keys and of its shard channel
	Slot   int    // of the tag, in a Redis Cluster
	Node   string // address of the Redis server that it is on; "" while there is no connection

	Up      bool   // its messages are numbered, and ticks come
	Reason  string // why not; "" when it is up
	Problem string // what else fails: that its history is not written, or its inbox not moved; "" for nothing

	Leader  string        // the instance that sends its ticks; "" while it is not known
	Leading bool          // that is this one
	Last    ID            // its newest tick; zero: none
	Lag     time.Duration // how long that one was under way from Redis

	Writer   string        // the instance that writes its history; "" for nobody, or while it is not known
	Writing  bool          // that is this one
	Written  ID            // up to where its history is written
	WriteLag time.Duration // by how much that is behind the clock of Redis; 0 while it is not known

	Foreign uint64 // messages that came on its shard channel and belong to another partition
}

// Partitions tells how each partition stands; there is one unless FeedConfig.Partitions
// says more, and none when embedded. It asks nobody.
func (g *Gateway) Partitions() []PartitionState {
	list := make([]PartitionState, len(g.feeds))
	for q := range list {
		list[q] = g.partitionState(q)
	}
	return list
}

func (g *Gateway) partitionState(q int) PartitionState {
	feed, view, stats := g.feeds[q], g.feeds[q].View(), g.feeds[q].Stats()
	p := g.cfg.partition(q)
	s := PartitionState{
		Number: q, Tag: p.Tag(), Node: view.Node, Problem: strings.Join(g.troublesOf(q), "; "),
		Leader: view.Leader, Leading: feed.Leads(), Last: view.Last, Lag: view.Lag, Foreign: stats.Foreign,
	}
	s.Slot = redisconn.SlotOf(s.Tag)
	s.Up, s.Reason = feed.State()
	if g.stores == nil {
		return s
	}
	store := g.stores[q]
	s.Writer, s.Writing, s.Written = store.Writer(), store.Writes(), store.Watermark()
	if told := g.told(q); s.Written.Less(told) {
		s.Written = told
	}
	if !s.Written.IsZero() {
		s.WriteLag = max(0, time.Since(time.UnixMilli(int64(s.Written.Ms)))-stats.ClockSkew)
	}
	return s
}

// told is up to where the history of a partition is written as the ticks tell it.
func (g *Gateway) told(q int) ID {
	if len(g.feeds) > 1 { // the store asks often enough
		return ID{}
	}
	return g.engine.Log().Stats().Watermark
}

// feedState tells whether messages come, and what is missing. With several partitions it
// takes that each has begun once and that any goes on: a partition that is down stops the
// streams of its channels alone.
func (g *Gateway) feedState() (ok bool, down []string) {
	began := true
	for q, feed := range g.feeds {
		if up, reason := feed.State(); !up {
			down = append(down, g.ofPartition(q, reason))
		}
		began = began && feed.Began()
	}
	if g.fleet != nil && !g.fleet.IsCleared() { // although the ticks of others may come already
		if len(down) == 0 {
			down = append(down, "waiting to hear of the other instances")
		}
		return false, down
	}
	return len(down) == 0 || began && len(down) < len(g.feeds), down
}

// Up reports whether messages are received and numbered, of all partitions.
func (g *Gateway) Up() bool {
	_, down := g.feedState()
	return len(down) == 0 && g.feeds != nil
}

// troubles are what does not work of a partition beside the streams that are open.
func (g *Gateway) troubles(q int) (list []string) {
	for _, text := range g.troublesOf(q) {
		list = append(list, g.ofPartition(q, text))
	}
	return list
}

func (g *Gateway) troublesOf(q int) (list []string) {
	if g.stores != nil {
		if text := g.stores[q].Trouble(); text != "" {
			list = append(list, "the history is not written: "+text)
		}
	}
	if text := g.feeds[q].InboxTrouble(); text != "" {
		list = append(list, "the inbox stands still: "+text)
	}
	return list
}

func (g *Gateway) ofPartition(q int, text string) string {
	if len(g.feeds) == 1 {
		return text
	}
	return fmt.Sprintf("partition %d: %s", q, text)
}

// maxReasons is how many are told at once.
const maxReasons = 4

func joinReasons(list []string) string {
	if n := len(list); n > maxReasons {
		list = append(list[:maxReasons:maxReasons], fmt.Sprintf("and %d more", n-maxReasons))
	}
	return strings.Join(list, "; ")
}
