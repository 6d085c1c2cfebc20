package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"ssed/engine"
	"ssed/internal/admin"
	"ssed/internal/auth"
	"ssed/rstore"
	"ssed/rsub"
	"ssed/sseproto"
)

// server is everything that runs in one process.
type server struct {
	cfg config
	log *slog.Logger

	access *auth.Access
	engine *engine.Engine
	feed   *rsub.Feed    // nil: embedded
	store  *rstore.Store // nil: embedded, or no history

	adminListener net.Listener // nil: none
	adminServer   *http.Server

	draining atomic.Bool
}

// serve runs until ctx ends and everything is drained, or something fails.
func serve(ctx context.Context, cfg config, log *slog.Logger) error {
	s := &server{cfg: cfg, log: log}
	if err := s.open(); err != nil {
		s.close()
		return err
	}
	s.logStart()
	err := s.run(ctx)
	s.close()
	if err == nil {
		log.Info("ssed: drained")
	}
	return err
}

// open builds all parts. The engine's log is the sink of the feed and the source
// of the store, and the store is the engine's history: hence the late one.
func (s *server) open() (err error) {
	cfg := s.cfg.engine
	cfg.Ready, cfg.Logger = s.ready, s.log
	s.cfg.auth.Logger = s.log
	if s.access, err = auth.New(s.cfg.auth); err != nil {
		return err
	}
	if s.cfg.auth.Enabled() {
		cfg.Authorizer = s.access
	}
	var history lateHistory
	if s.cfg.redis != nil && s.cfg.redis.history != nil {
		cfg.History = &history
	}
	makeRoom(&cfg)
	if s.engine, err = engine.New(cfg); err != nil {
		return err
	}
	if s.cfg.redis == nil {
		s.engine.Log().OpenLocal()
	} else if err := s.openRedis(&history); err != nil {
		return err
	}
	return s.openAdmin()
}

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
		onFree = s.store.Nudge
	}
	s.feed, err = rsub.New(rsub.Config{
		Client: cfg.client, Patterns: cfg.patterns, Prefix: cfg.prefix, Instance: s.cfg.instance,
		Feeds: cfg.feeds, TickInterval: cfg.tickInterval, ProbeTimeout: cfg.probeTimeout,
		MaxMessageBytes: s.cfg.maxMessageBytes, Logger: s.log, OnFree: onFree,
		ClockOffset: cfg.clockOffset,
	}, s.engine.Log())
	return err
}

// spareProcs is how many threads may run Go code beside the event loops. A loop
// with work keeps its place through system calls that the scheduler does not see;
// without room beside them, the feed waits for a time slice of 10 ms. Measured on
// two cores with two loops: the p99 of spread traffic falls from 3.9 to 0.7 ms, that
// of a small channel beside broadcasts from 18.7 to 9.1 ms; four more change nothing.
const spareProcs = 2

// makeRoom fixes the number of event loops and, unless the environment says
// otherwise, lets the scheduler use more threads than that.
func makeRoom(cfg *engine.Config) {
	procs := runtime.GOMAXPROCS(0)
	if cfg.Shards == 0 {
		cfg.Shards = procs
	}
	if os.Getenv("GOMAXPROCS") == "" && procs < cfg.Shards+spareProcs {
		runtime.GOMAXPROCS(cfg.Shards + spareProcs)
	}
}

// lateHistory is the store, which is there before the engine runs.
type lateHistory struct{ *rstore.Store }

var (
	_ engine.History = (*lateHistory)(nil)
	_ rsub.Sink      = (*engine.Log)(nil)
	_ rstore.Source  = (*engine.Log)(nil)
)

// Bounds of an admin connection. There is none on writing: a profile takes as
// long as it was asked to.
const (
	adminHeadTimeout = 5 * time.Second
	adminReadTimeout = 30 * time.Second
	adminIdleTimeout = time.Minute
	adminHeadBytes   = 16 << 10
)

func (s *server) openAdmin() (err error) {
	if s.cfg.admin == "" {
		return nil
	}
	s.adminListener, err = net.Listen("tcp", s.cfg.admin)
	if err != nil {
		return fmt.Errorf("--admin: %w", err)
	}
	host, _, _ := net.SplitHostPort(s.cfg.admin) // checked by config
	s.adminServer = &http.Server{
		Handler: admin.Handler(admin.Config{
			Publish:         s.publish,
			MaxMessageBytes: s.cfg.maxMessageBytes,
			Ready:           s.ready,
			Metrics:         metricsHandler(s),
			Pprof:           s.cfg.adminPprof,
			Token:           s.cfg.adminToken,
			Host:            host,
			Streams:         s.streamAddr(),
		}),
		ReadHeaderTimeout: adminHeadTimeout,
		ReadTimeout:       adminReadTimeout,
		IdleTimeout:       adminIdleTimeout,
		MaxHeaderBytes:    adminHeadBytes,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	return nil
}

// streamAddr is the first public TCP address, for the page.
func (s *server) streamAddr() string {
	for _, addr := range s.engine.Addrs() {
		if addr.Network() == "tcp" {
			return addr.String()
		}
	}
	return ""
}

// ready is what /ready says on both listeners.
func (s *server) ready() (ok bool, reason string) {
	switch {
	case s.draining.Load():
		return false, "draining"
	case s.feed != nil:
		return s.feed.State()
	}
	return true, ""
}

// publishTimeout bounds POST /publish in Redis mode.
const publishTimeout = 3 * time.Second

func (s *server) publish(ctx context.Context, channel, payload string) (admin.Receipt, error) {
	if s.feed == nil {
		return admin.Receipt{ID: s.engine.Log().Publish(channel, sseproto.Message{Data: payload}).String()}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	r, err := s.feed.Publish(ctx, channel, payload)
	if err != nil {
		return admin.Receipt{}, err
	}
	receipt := admin.Receipt{Receivers: &r.Receivers}
	if r.ID != (sseproto.ID{}) {
		receipt.ID = r.ID.String()
	}
	return receipt, nil
}

// logStart tells where everything is. A Redis URL is told without user and
// password.
func (s *server) logStart() {
	for _, addr := range s.engine.Addrs() {
		s.log.Info("ssed: listening", "listener", "streams", "addr", addr.String())
	}
	if s.adminListener != nil {
		s.log.Info("ssed: listening", "listener", "admin", "addr", s.adminListener.Addr().String())
	}
	mode := []any{"version", version, "instance", s.cfg.instance, "mode", "embedded"}
	if r := s.cfg.redis; r != nil {
		mode = append(mode[:len(mode)-1], "redis", "addr", r.client.InitAddress, "patterns", r.patterns,
			"prefix", r.prefix, "history", r.history != nil)
	}
	s.log.Info("ssed: serving", mode...)
	if s.cfg.engine.CORSCredentials && s.cfg.engine.CORSOrigins[0] == "*" {
		s.log.Warn("ssed: --cors-credentials with --cors-origins=*: every web page may read streams as the user who has it open")
	}
	if e := s.cfg.engine; e.PeerTimeout > 0 && (e.Heartbeat <= 0 || e.Heartbeat > e.PeerTimeout) && s.streamAddr() != "" {
		s.log.Warn("ssed: heartbeats are off or rarer than --peer-timeout: the kernel probes every silent connection instead, a timer for each")
	}
	if s.adminListener != nil && s.cfg.adminToken == "" && !isLoopback(s.adminListener.Addr()) {
		s.log.Warn("ssed: --admin is reachable from other machines and has no --admin-token: whoever reaches it can publish")
	}
}

func isLoopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// run starts the parts and stops them in the order in which they depend on each
// other: streams drain while messages still come in, then the history is written
// to its end, then the feed stops.
func (s *server) run(ctx context.Context) error {
	engineCtx, stopEngine := context.WithCancelCause(ctx)
	storeCtx, stopStore := context.WithCancel(context.Background())
	feedCtx, stopFeed := context.WithCancel(context.Background())
	defer stopEngine(nil)
	defer stopStore()
	defer stopFeed()
	defer context.AfterFunc(ctx, func() { s.draining.Store(true) })()

	var feed, store, adm sync.WaitGroup
	var feedErr, adminErr error // read after the wait
	if s.feed != nil {
		feed.Go(func() {
			if feedErr = s.feed.Run(feedCtx); feedErr != nil {
				stopEngine(feedErr)
			}
		})
	}
	if s.store != nil {
		store.Go(func() { _ = s.store.Run(storeCtx) }) // always the cause of storeCtx
	}
	if s.adminServer != nil {
		adm.Go(func() {
			if adminErr = s.adminServer.Serve(s.adminListener); errors.Is(adminErr, http.ErrServerClosed) {
				adminErr = nil
			} else {
				stopEngine(adminErr)
			}
		})
	}
	err := s.engine.Run(engineCtx)
	stopStore()
	store.Wait()
	stopFeed()
	feed.Wait()
	s.closeAdmin()
	adm.Wait()
	return errors.Join(err, feedErr, adminErr)
}

// adminGrace is for a scrape or a probe that is being answered.
const adminGrace = 500 * time.Millisecond

func (s *server) closeAdmin() {
	if s.adminServer == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), adminGrace)
	defer cancel()
	if s.adminServer.Shutdown(ctx) != nil {
		_ = s.adminServer.Close() // what still runs is cut off
	}
}

// close gives back what open has taken.
func (s *server) close() {
	if s.access != nil {
		s.access.Close()
	}
	if s.store != nil {
		s.store.Close()
	}
	if s.adminListener != nil {
		_ = s.adminListener.Close() // closed by the server, unless it never ran
	}
}
