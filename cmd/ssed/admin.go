package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"ssed/internal/admin"
	"ssed/internal/throttle"
)

// Bounds of an admin connection. That on writing begins with the request; a profile adds
// the time that was asked for, and a live stream has a bound of its own for each event.
const (
	adminHeadTimeout  = 5 * time.Second
	adminReadTimeout  = 30 * time.Second
	adminWriteTimeout = time.Minute
	adminIdleTimeout  = time.Minute
	adminHeadBytes    = 16 << 10
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
	s.adminAPI = admin.New(s.adminConfig(host))
	s.adminServer = &http.Server{
		Handler:           s.adminAPI,
		ReadHeaderTimeout: adminHeadTimeout,
		ReadTimeout:       adminReadTimeout,
		WriteTimeout:      adminWriteTimeout,
		IdleTimeout:       adminIdleTimeout,
		MaxHeaderBytes:    adminHeadBytes,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	return nil
}

func (s *server) adminConfig(host string) admin.Config {
	view := inspector{s.Engine}
	cfg := admin.Config{
		Stats:           s.snapshot,
		Gaps:            view.gaps,
		Connections:     view,
		Channels:        view,
		Self:            s.self,
		Publish:         s.publish,
		MaxMessageBytes: s.Config.Streams.MaxMessageBytes,
		Ready:           s.gateway.Ready,
		Metrics:         metricsHandler(s),
		Pprof:           s.cfg.adminPprof,
		Tokens:          s.cfg.adminTokens,
		TokenFile:       s.cfg.adminTokenFile,
		Logger:          s.log,
		Audit:           slog.New(throttle.Unbounded(s.log.Handler())),
		Host:            host,
		Exposed:         !isLoopback(s.adminListener.Addr()),
		Streams:         s.streamAddr(),
		HeartbeatEvent:  s.Config.Streams.HeartbeatEvent,
	}
	if s.Feed != nil && !s.Config.Feed.Envelope {
		cfg.Untyped = untyped
	}
	if s.Fleet != nil {
		cfg.Fleet = fleetView{s}
	}
	if s.Store != nil {
		cfg.History = storedHistory{s.Store}
	}
	return cfg
}

// untyped is what publishers of typed messages are told.
const untyped = "event, id and retry need --envelope json on the instances"

// streamAddr is the first public TCP address, for the page.
func (s *server) streamAddr() string {
	for _, addr := range s.gateway.Addrs() {
		if addr.Network() == "tcp" {
			return addr.String()
		}
	}
	return ""
}

// adminGrace is for a scrape or a probe that is being answered.
const adminGrace = 500 * time.Millisecond

func (s *server) closeAdmin() {
	if s.adminServer == nil {
		return
	}
	s.adminAPI.Close()
	ctx, cancel := context.WithTimeout(context.Background(), adminGrace)
	defer cancel()
	if s.adminServer.Shutdown(ctx) != nil {
		_ = s.adminServer.Close() // what still runs is cut off
	}
}
