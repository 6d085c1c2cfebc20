package rsub

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"ssed/internal/redisconn"
	"ssed/sseproto"
)

// ErrNoLinks is returned by Run in a Redis Cluster without Config.Sharded when CLUSTER LINKS
// is refused: then nobody can tell what the cluster loses on the way from node to node.
var ErrNoLinks = errors.New("rsub: messages that are published on other nodes of the Redis Cluster may be lost, which only CLUSTER LINKS can tell: " +
	"give the user +cluster|links, or use the sharded feed")

// ShardChannel is where backends SPUBLISH with Config.Sharded: the name of a channel, a
// line feed and the payload.
func (f *Feed) ShardChannel() string { return f.keys.Messages }

// channels is how many confirmations a connection gets when it is subscribed to everything.
func (f *Feed) channels() int {
	n := 1 + len(f.patterns)
	if f.cfg.Sharded {
		n = 2
	}
	if f.subscribesToBatches() {
		n++
	}
	return n
}

// owns reports whether the channel belongs to the partition of the feed.
func (f *Feed) owns(channel string) bool {
	p := f.cfg.Partition
	return p.IsWhole() || sseproto.PartitionOf(channel, p.Of) == p.Number
}

// isForeign tells of a numbered message that belongs to another partition, and counts it.
// All instances leave it out alike: here its channel would have no order with the rest of it.
func (s *subscription) isForeign(channel string) bool {
	f := s.feed
	if f.owns(channel) {
		return false
	}
	f.counters.foreign.Add(1)
	f.found.foreign.note(channel)
	return true
}

// delivers reports whether messages of the channel are given to the sink.
func (f *Feed) delivers(channel string) bool {
	return !Reserved(channel) && !f.isBatchChannel(channel) && f.patterns.match(channel)
}

// onSharded takes a message of the shard channel. Number first, filter after: all instances
// number alike, whatever is wrong with it.
func (s *subscription) onSharded(text string) {
	c := &s.feed.counters
	channel, payload, isFramed := strings.Cut(text, "\n")
	if isFramed && s.feed.isBatchChannel(channel) {
		s.onBatch(payload)
		return
	}
	id, ok := s.number(channel, payload)
	switch {
	case !ok:
	case !isFramed:
		c.unframed.Add(1)
		s.feed.found.unframed.note(len(text))
	case s.isForeign(channel):
	case s.feed.delivers(channel):
		s.deliver(id, channel, payload)
	default:
		c.unmatched.Add(1)
	}
}

// shardChannel is what scripts publish messages on, "" to publish each on its own channel.
func (f *Feed) shardChannel() string {
	if f.cfg.Sharded {
		return f.keys.Messages
	}
	return ""
}

// lateAfter is how long a call of the tick script may be under way in a cluster: longer than
// the client waits for it, and shorter than a node may be silent until it is replaced.
const lateAfter = 1200 * time.Millisecond

// clusterWords are, in a cluster, "1" where messages come from other nodes, else "0", and
// when by the clock of Redis a call of now is too late.
func (f *Feed) clusterWords(now time.Time) string {
	if !redisconn.IsCluster(f.cfg.Client) {
		return ""
	}
	due := int64(0)
	if f.epoch.Load() != nil { // else nobody knows what its clock says
		due = now.Add(lateAfter).UnixMilli() - f.clockSkew.Load()
	}
	if f.cfg.Sharded {
		return fmt.Sprintf("0 %d", due)
	}
	return fmt.Sprintf("1 %d", due)
}
