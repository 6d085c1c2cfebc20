package main

import "ssed/internal/admin"

// partitions is what GET /api/partitions tells.
func (s *server) partitions() []admin.Partition {
	var list []admin.Partition
	for _, p := range s.gateway.Partitions() {
		list = append(list, admin.Partition{
			Partition: p.Number, Slot: p.Slot, ShardChannel: s.Feeds[p.Number].ShardChannel(), Node: p.Node,
			Up: p.Up, Reason: p.Reason, Problem: p.Problem,
			Leader: p.Leader, TickLag: p.Lag.Seconds(), Writer: p.Writer, WatermarkLag: p.WriteLag.Seconds(), Foreign: p.Foreign,
		})
	}
	return list
}
