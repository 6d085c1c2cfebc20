package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"ssed"
	"ssed/internal/auth"
	"ssed/rsub"
)

// server is the gateway with what the program adds: access by tokens and lists, and the
// admin listener.
type server struct {
	cfg config
	log *slog.Logger

	access  *auth.Access
	gateway *ssed.Gateway
	ssed.Parts

	started time.Time
	process process
	meter   meter

	listeners httpListeners // all that are open of these:
	admin     *httpListener // nil: none
	publisher *httpListener // nil: none
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
	if errors.Is(err, rsub.ErrNoLinks) {
		err = fmt.Errorf("%w; the sharded feed is --feed=sharded", err)
	}
	if err == nil {
		log.Info("ssed: drained")
	}
	return err
}

func (s *server) open() (err error) {
	s.cfg.auth.Logger = s.log
	if s.access, err = auth.New(s.cfg.auth); err != nil {
		return byFlag(err)
	}
	cfg := s.cfg.gateway
	cfg.Logger = s.log
	if s.cfg.auth.Enabled() {
		cfg.Auth = s.access
	}
	makeRoom(&cfg.Streams)
	if s.gateway, err = ssed.New(cfg); err != nil {
		return byFlag(err)
	}
	s.Parts = s.gateway.Parts()
	s.gateway.ReportWith(s.report)
	return errors.Join(s.openPublisher(), s.openAdmin())
}

// spareProcs is how many threads may run Go code beside the event loops. A loop
// with work keeps its place through system calls that the scheduler does not see;
// without room beside them, the feed waits for a time slice of 10 ms. Measured on
// two cores with two loops: the p99 of spread traffic falls from 3.9 to 0.7 ms, that
// of a small channel beside broadcasts from 18.7 to 9.1 ms; four more change nothing.
const spareProcs = 2

// makeRoom fixes the number of event loops and, unless the environment says
// otherwise, lets the scheduler use more threads than that.
func makeRoom(cfg *ssed.StreamConfig) {
	procs := runtime.GOMAXPROCS(0)
	if cfg.Shards == 0 {
		cfg.Shards = procs
	}
	if os.Getenv("GOMAXPROCS") == "" && procs < cfg.Shards+spareProcs {
		runtime.GOMAXPROCS(cfg.Shards + spareProcs)
	}
}

// logStart tells where everything is. A Redis URL is told without user and
// password.
func (s *server) logStart() {
	for _, addr := range s.gateway.Addrs() {
		s.log.Info("ssed: listening", "listener", "streams", "addr", addr.String())
	}
	if s.publisher != nil {
		s.log.Info("ssed: listening", "listener", "publish", "addr", s.publisher.Addr().String())
	}
	if s.admin != nil {
		s.log.Info("ssed: listening", "listener", "admin", "addr", s.admin.Addr().String())
	}
	mode := []any{"version", version, "instance", s.Config.Feed.Instance, "mode", "embedded"}
	if r := s.Config.Redis; r != nil {
		mode = append(mode[:len(mode)-1], "redis", "addr", r.InitAddress, "patterns", s.Config.Feed.Patterns,
			"prefix", s.Config.Feed.Prefix, "history", s.Stores != nil, "inbox", cmp.Or(s.Config.Feed.Inbox, "off"))
	}
	s.log.Info("ssed: started", mode...)
	if r := s.Config.Redis; r != nil && r.TLSConfig != nil && r.TLSConfig.InsecureSkipVerify {
		s.log.Warn("ssed: --redis-url has skip_verify=true: anybody on the way to Redis can read and change everything. Use --redis-ca for a certificate of your own")
	}
	streams := &s.Config.Streams
	if streams.CORSCredentials && streams.CORSOrigins[0] == "*" {
		s.log.Warn("ssed: --cors-credentials with --cors-origins=*: every web page can read streams as its visitor. Name your origins")
	}
	if e := streams; e.PeerTimeout > 0 && (e.Heartbeat <= 0 || e.Heartbeat > e.PeerTimeout) && s.streamAddr() != "" {
		s.log.Warn("ssed: --heartbeat is off or longer than --peer-timeout: the kernel probes every silent connection instead, with a timer for each")
	}
	if s.admin != nil && len(s.cfg.adminTokens) == 0 && !isLoopback(s.admin.Addr()) {
		s.log.Warn("ssed: --admin is reachable from other machines and has no token: anybody there can publish. Set --admin-token-file")
	}
}

func isLoopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// run serves until ctx ends. The admin listener is there until the gateway has drained,
// so that /ready and the dashboard tell of it.
func (s *server) run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var running sync.WaitGroup
	failed := make(chan error, len(s.listeners))
	s.listeners.start(&running, func(err error) {
		failed <- err
		stop(err)
	})
	errs := []error{s.gateway.Run(ctx)}
	s.listeners.stop()
	running.Wait()
	close(failed)
	for err := range failed {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// close gives back what open has taken.
func (s *server) close() {
	if s.access != nil {
		s.access.Close()
	}
	if s.gateway != nil {
		s.gateway.Close() // does nothing, unless it never ran
	}
	s.listeners.close() // their servers have, unless they never ran
}
