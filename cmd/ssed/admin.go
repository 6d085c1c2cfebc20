package main

import (
	"log/slog"
	"net"

	"ssed/internal/admin"
	"ssed/internal/throttle"
)

func (s *server) openAdmin() (err error) {
	if s.cfg.admin == "" {
		return nil
	}
	host, _, _ := net.SplitHostPort(s.cfg.admin) // checked by config
	s.admin, err = listenHTTP("--admin", s.cfg.admin, s.log, func(addr net.Addr) *admin.API {
		return admin.New(s.adminConfig(host, addr))
	})
	if err == nil {
		s.listeners = append(s.listeners, s.admin)
	}
	return err
}

func (s *server) adminConfig(host string, addr net.Addr) admin.Config {
	view := inspector{s.Engine, s.gateway}
	cfg := admin.Config{
		Stats:           s.snapshot,
		Sample:          s.sample,
		Gaps:            view.gaps,
		Connections:     view,
		Channels:        view,
		Self:            s.self,
		Partitions:      s.partitions,
		Publish:         s.publish,
		Position:        s.position,
		MaxMessageBytes: s.Config.Streams.MaxMessageBytes,
		Ready:           s.gateway.Ready,
		Metrics:         metricsHandler(s),
		Pprof:           s.cfg.adminPprof,
		Tokens:          s.cfg.adminTokens,
		TokenFile:       s.cfg.adminTokenFile,
		Logger:          s.log,
		Audit:           slog.New(throttle.Unbounded(s.log.Handler())),
		Host:            host,
		Exposed:         !isLoopback(addr),
		Streams:         s.streamAddr(),
		HeartbeatEvent:  s.Config.Streams.HeartbeatEvent,
		MaxLast:         s.Engine.Config().MaxLast,
	}
	if s.Fleet != nil {
		cfg.Fleet = fleetView{s}
	}
	if s.Stores != nil {
		cfg.History = storedHistory(s.Stores)
	}
	return cfg
}

// streamAddr is the first public TCP address, for the page.
func (s *server) streamAddr() string {
	for _, addr := range s.gateway.Addrs() {
		if addr.Network() == "tcp" {
			return addr.String()
		}
	}
	return ""
}
