package main

import (
	"time"

	"ssed/engine"
	"ssed/internal/admin"
)

// snapshot is what GET /api/stats tells.
func (s *server) snapshot() admin.Stats {
	out := s.sample()
	out.Process.OpenFiles = s.process.openFiles()
	return out
}

// sample is a snapshot without the number of open files.
func (s *server) sample() admin.Stats {
	now := time.Now()
	ready, reason := s.gateway.Ready()
	own := s.gateway.Stats()
	stats := s.Engine.Stats()
	cfg := s.Engine.Config()
	out := admin.Stats{
		Instance: s.Config.Feed.Instance, Version: version, Mode: admin.ModeEmbedded,
		Started: s.started, Uptime: now.Sub(s.started).Seconds(), Now: now,
		Ready: ready, Reason: reason, Draining: own.Draining,
		Streams: stats.Streams, Connections: stats.Connections, MaxConnections: cfg.MaxConnections,
		Channels: stats.Channels, Slow: stats.Slow,
		Totals: totals(&stats),
		Closed: own.Closed, Refused: own.Refused,
		Ring: admin.Ring{
			Bytes: stats.Log.RingBytes, LimitBytes: stats.Log.LimitBytes,
			Messages: stats.Log.Head - stats.Log.Tail, Oldest: stats.Log.Oldest.Seconds(),
		},
		Lag: admin.Histogram{
			Bounds: seconds(stats.DeliveryLag.Bounds), Counts: stats.DeliveryLag.Counts, Sum: stats.DeliveryLag.SumSeconds,
		},
		Shards:  shardTimes(stats.ShardBusy),
		Process: s.process.read(),
	}
	if s.Feeds != nil {
		out.Mode = admin.ModeRedis
		out.Redis = s.redisStats(&out.Totals)
	}
	return out
}

func shardTimes(busy []time.Duration) []admin.Shard {
	all := make([]admin.Shard, len(busy))
	for i, b := range busy {
		all[i].Busy = b.Seconds()
	}
	return all
}

func totals(s *engine.Stats) admin.Totals {
	return admin.Totals{
		Messages: s.Log.Appended, Deliveries: s.Delivered, SentBytes: s.SentBytes,
		Accepted: s.Front.Accepted, Attached: s.Attached, Heartbeats: s.Heartbeats,
		Gaps:          s.Gaps.Total() + s.Log.Gaps.Total(),
		ResumedMemory: s.ResumedRing, ResumedHistory: s.ResumedHistory,
	}
}

// redisStats also fills the totals that come from there.
func (s *server) redisStats(t *admin.Totals) *admin.RedisStats {
	feed := s.FeedStats()
	for _, n := range feed.Resyncs {
		t.Resyncs += n
	}
	out := &admin.RedisStats{
		Up: s.gateway.Up(), Links: feed.SubscriptionsSynced, Leading: feed.Leading, Resyncs: t.Resyncs,
		ClockSkew: feed.ClockSkew.Seconds(),
	}
	if s.Stores == nil {
		return out
	}
	store := s.StoreStats()
	t.HistoryMessages, t.HistoryBatches = store.Appended, store.Batches
	out.Writer = store.Writer
	for _, p := range s.gateway.Partitions() {
		out.WatermarkLag = max(out.WatermarkLag, p.WriteLag.Seconds())
	}
	return out
}
