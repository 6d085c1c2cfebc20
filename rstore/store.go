package rstore

import (
	"errors"
	"log/slog"
	"sync/atomic"

	"ssed/internal/redisconn"
)

// Store writes and reads the history. Make it with New.
type Store struct {
	// fixed after construction
	cfg      Config
	policies policies
	keys     redisconn.Keys
	src      Source
	log      *slog.Logger
	tryLease chan struct{}
	yields   chan struct{} // the lease is to be given up

	write, read *redisconn.Client // safe for concurrent use
	count       counters          // atomic
	// messageBytes is about the size of the messages that Merge has met lately.
	messageBytes atomic.Int64
}

var errNoSource = errors.New("rstore: no source")

// New checks the configuration, reporting every problem at once. Redis need
// not be there. Close the Store after use.
func New(cfg Config, src Source) (*Store, error) {
	connections := cfg.Client.PipelineMultiplex
	cfg = cfg.withDefaults()
	err := cfg.Validate()
	if src == nil {
		err = errors.Join(errNoSource, err)
	}
	if err != nil {
		return nil, err
	}
	// Writing has one connection, which keeps the pipeline of batches in order and out of
	// the way of large reads; reading has as many as are asked for.
	reading := cfg.Client
	reading.PipelineMultiplex = connections
	keys := redisconn.KeysOf(cfg.Client, cfg.Prefix, cfg.Partition)
	s := &Store{
		cfg: cfg, policies: cfg.policies(), keys: keys, src: src,
		log:      cfg.Logger.With("instance", cfg.Instance, "prefix", cfg.Prefix),
		tryLease: make(chan struct{}, 1), yields: make(chan struct{}, 1),
		write: cfg.Shared.Nodes("write", cfg.Client).Client(keys.Slot),
		read:  cfg.Shared.Nodes("read", reading).Client(keys.Slot),
	}
	return s, nil
}

// Config is what the store runs with: defaults are filled in.
func (s *Store) Config() Config { return s.cfg }

// Close closes the connections, after Run has returned.
func (s *Store) Close() {
	s.write.Close()
	s.read.Close()
}

// TryLease makes a Store that does not write try to take the lease now: another
// instance said that it is free. Safe for concurrent use.
func (s *Store) TryLease() {
	select {
	case s.tryLease <- struct{}{}:
	default:
	}
}

// Writes reports whether this instance holds the lease, as far as it knows.
func (s *Store) Writes() bool { return s.count.writer.Load() }

// Writer is the instance that holds the lease, as this one saw it last; "" when it is free
// or not known.
func (s *Store) Writer() string {
	if name := s.count.holder.Load(); name != nil {
		return *name
	}
	return ""
}

// Yield gives the lease up if this instance has it: another one takes it, or this one
// again if nobody does. It does not wait for that. Safe for concurrent use.
func (s *Store) Yield() {
	select {
	case s.yields <- struct{}{}:
	default: // asked for already
	}
}
