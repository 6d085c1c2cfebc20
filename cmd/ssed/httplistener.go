package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"ssed/internal/admin"
)

// Bounds of a connection to the admin listener or to the one for backends. That on
// writing begins with the request; a profile adds the time that was asked for, and a live
// stream has a bound of its own for each event.
const (
	adminHeadTimeout  = 5 * time.Second
	adminReadTimeout  = 30 * time.Second
	adminWriteTimeout = time.Minute
	adminIdleTimeout  = time.Minute
	adminHeadBytes    = 16 << 10
)

// adminGrace is for a scrape or a probe that is being answered.
const adminGrace = 500 * time.Millisecond

// httpListener is a listener beside the public ones, with what answers there.
type httpListener struct {
	net.Listener
	api    *admin.API
	server *http.Server
}

// listenHTTP opens the address of a flag.
func listenHTTP(flag, address string, log *slog.Logger, api func(net.Addr) *admin.API) (*httpListener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	h := &httpListener{Listener: l, api: api(l.Addr())}
	h.server = &http.Server{
		Handler:           h.api,
		ReadHeaderTimeout: adminHeadTimeout,
		ReadTimeout:       adminReadTimeout,
		WriteTimeout:      adminWriteTimeout,
		IdleTimeout:       adminIdleTimeout,
		MaxHeaderBytes:    adminHeadBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return h, nil
}

// serve answers until stop is called.
func (h *httpListener) serve() error {
	var recording sync.WaitGroup
	recording.Go(h.api.Record)
	defer func() {
		h.api.Close()
		recording.Wait()
	}()
	err := h.server.Serve(h.api.Listener(h.Listener))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// stop lets what is being answered end, for a short time.
func (h *httpListener) stop() {
	h.api.Close()
	ctx, cancel := context.WithTimeout(context.Background(), adminGrace)
	defer cancel()
	if h.server.Shutdown(ctx) != nil {
		_ = h.server.Close() // what still runs is cut off
	}
}

// httpListeners are those that are open. The zero value has none.
type httpListeners []*httpListener

// start serves them all. What fails is given to failed.
func (all httpListeners) start(running *sync.WaitGroup, failed func(error)) {
	for _, h := range all {
		running.Go(func() {
			if err := h.serve(); err != nil {
				failed(err)
			}
		})
	}
}

func (all httpListeners) stop() {
	for _, h := range all {
		h.stop()
	}
}

// close gives back those that never served.
func (all httpListeners) close() {
	for _, h := range all {
		_ = h.Close()
	}
}
