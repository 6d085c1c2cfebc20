package main

import (
	"context"
	"errors"
	"log/slog"
	"net"

	"ssed/engine"
	"ssed/internal/admin"
	"ssed/internal/throttle"
)

// openPublisher opens the listener on which backends publish with tokens of their own.
func (s *server) openPublisher() (err error) {
	if s.cfg.publish == "" {
		return nil
	}
	log := s.log.With("listener", "publish")
	s.publisher, err = listenHTTP("--publish-listen", s.cfg.publish, s.log, func(net.Addr) *admin.API {
		return admin.NewPublisher(admin.PublisherConfig{
			Authorize:       s.publisherScope,
			Publish:         s.publish,
			Position:        s.position,
			MaxMessageBytes: s.Config.Streams.MaxMessageBytes,
			Ready:           s.gateway.Ready,
			Logger:          log,
			Audit:           slog.New(throttle.Unbounded(log.Handler())),
		})
	})
	if err == nil {
		s.listeners = append(s.listeners, s.publisher)
	}
	return err
}

// publisherScope is what a token lets its holder publish on.
func (s *server) publisherScope(ctx context.Context, authorization []string) (admin.Scope, error) {
	who, err := s.access.Publishers().Authorize(ctx, authorization)
	if denial, ok := errors.AsType[*engine.Denial](err); ok {
		return admin.Scope{}, &admin.Denial{Status: denial.Status, Fields: denial.Fields}
	}
	if err != nil {
		return admin.Scope{}, err
	}
	return admin.Scope{Name: who.Subject, May: who.May}, nil
}
