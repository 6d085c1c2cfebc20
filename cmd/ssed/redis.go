package main

import (
	"ssed/engine"
	"ssed/rstore"
	"ssed/rsub"
)

// openRedis makes the history and the feed around the engine's log, and the fleet.
func (s *server) openRedis(history *lateHistory) (err error) {
	cfg := s.cfg.redis
	onFree := func() {}
	if h := cfg.history; h != nil {
		s.store, err = rstore.New(rstore.Config{
			Client: cfg.client, Prefix: cfg.prefix, Instance: s.cfg.instance,
			MaxLen: h.maxLen, TTL: h.ttl, BatchSize: h.batchSize, FlushInterval: h.flushInterval,
			GapWait: h.gapWait, Logger: s.log,
		}, s.engine.Log())
		if err != nil {
			return err
		}
		history.Store = s.store
		onFree = s.store.TryLease
	}
	s.openFleet()
	s.feed, err = rsub.New(rsub.Config{
		Client: cfg.client, Patterns: cfg.patterns, Prefix: cfg.prefix, Instance: s.cfg.instance,
		Feeds: cfg.feeds, TickInterval: cfg.tickInterval, ProbeTimeout: cfg.probeTimeout,
		MaxMessageBytes: s.cfg.maxMessageBytes, Logger: s.log, OnFree: onFree,
		OnNotice: s.fleet.Notice, ClockOffset: cfg.clockOffset,
		Inbox: cfg.inbox, Envelope: s.cfg.engine.Envelope,
	}, s.engine.Log())
	return err
}

// lateHistory is the store, which is there before the engine runs.
type lateHistory struct{ *rstore.Store }

var (
	_ engine.History = (*lateHistory)(nil)
	_ rsub.Sink      = (*engine.Log)(nil)
	_ rstore.Source  = (*engine.Log)(nil)
)
