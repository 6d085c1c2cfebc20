package main

import (
	"context"
	"errors"
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
	"ssed/internal/fleet"
	"ssed/rstore"
	"ssed/rsub"
)

// server is everything that runs in one process.
type server struct {
	cfg config
	log *slog.Logger

	access *auth.Access
	engine *engine.Engine
	feed   *rsub.Feed    // nil: embedded
	store  *rstore.Store // nil: embedded, or no history
	fleet  *fleet.Fleet  // nil: embedded

	started time.Time
	process process
	meter   meter

	adminListener net.Listener // nil: none
	adminServer   *http.Server
	adminAPI      *admin.API

	draining atomic.Bool
}

// serve runs until ctx ends and everything is drained, or something fails.
func serve(ctx context.Context, cfg config, log *slog.Logger) error {
	s := &server{cfg: cfg, log: log, started: time.Now()}
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
	if s.adminListener != nil && len(s.cfg.adminTokens) == 0 && !isLoopback(s.adminListener.Addr()) {
		s.log.Warn("ssed: --admin is reachable from other machines and has no --admin-token: whoever reaches it can publish; connections and history are not shown")
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
	if s.fleet != nil {
		feed.Go(func() { s.fleet.Run(feedCtx) })
	}
	if s.store != nil {
		store.Go(func() { _ = s.store.Run(storeCtx) }) // always the cause of storeCtx
	}
	if s.adminServer != nil {
		adm.Go(func() {
			if adminErr = s.adminServer.Serve(s.adminAPI.Listener(s.adminListener)); errors.Is(adminErr, http.ErrServerClosed) {
				adminErr = nil
			} else {
				stopEngine(adminErr)
			}
		})
	}
	err := s.engine.Run(engineCtx)
	s.settle()
	stopStore()
	store.Wait()
	stopFeed()
	feed.Wait()
	s.closeAdmin()
	adm.Wait()
	return errors.Join(err, feedErr, adminErr)
}

// settleTimeout bounds the wait for the last tick, which takes a round trip.
const settleTimeout = 500 * time.Millisecond

// settle commits what has come in since the last tick, so that the history gets it.
func (s *server) settle() {
	if s.store == nil {
		return
	}
	if synced, _ := s.feed.State(); !synced {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	if err := s.feed.Settle(ctx); err != nil {
		s.log.Warn("ssed: the last messages are not committed", "error", err)
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
