package admin

import (
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"sync"
	"sync/atomic"
	"time"
)

// API is the handler of the admin listener.
type API struct {
	// Fixed after construction.
	cfg       Config
	handler   http.Handler
	liveSeats seats
	bodySeats seats
	connSeats seats
	liveWait  time.Duration // for a live stream that takes nothing
	bodyWait  time.Duration // for a seat

	// Atomic: what found no seat.
	liveRefused        atomic.Uint64
	bodiesRefused      atomic.Uint64
	connectionsRefused atomic.Uint64

	close  sync.Once
	closed chan struct{} // ends what waits
}

// New makes the handler.
func New(cfg Config) *API {
	a := &API{
		cfg: cfg, closed: make(chan struct{}),
		liveSeats: make(seats, maxLive), bodySeats: make(seats, maxBodies), connSeats: make(seats, maxConnections),
		liveWait: liveWriteTimeout, bodyWait: bodyWait,
	}
	mux := http.NewServeMux()
	a.routes(mux)
	a.handler = tokenGuard(cfg.Token, jsonErrors(mux))
	return a
}

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.handler.ServeHTTP(w, r) }

// Close ends the live streams, those that begin later at once, and the wait for a seat:
// the shutdown of a server waits for its answers.
func (a *API) Close() { a.close.Do(func() { close(a.closed) }) }

// Counts are numbers of the API itself.
type Counts struct {
	Live        int // live streams that are open
	Bodies      int // large bodies that are held
	Connections int // of the listener

	// What found no place.
	LiveRefused        uint64
	BodiesRefused      uint64
	ConnectionsRefused uint64
}

// Counts takes a snapshot.
func (a *API) Counts() Counts {
	return Counts{
		Live: len(a.liveSeats), Bodies: len(a.bodySeats), Connections: len(a.connSeats),
		LiveRefused: a.liveRefused.Load(), BodiesRefused: a.bodiesRefused.Load(), ConnectionsRefused: a.connectionsRefused.Load(),
	}
}

func (a *API) routes(mux *http.ServeMux) {
	changing := func(pattern string, h http.HandlerFunc) {
		mux.Handle(pattern, a.browserGuard(h))
	}
	mux.Handle("GET /{$}", newPage(a.cfg.Streams, a.cfg.HeartbeatEvent))
	mux.Handle("GET /metrics", a.cfg.Metrics)
	mux.HandleFunc("GET /health", a.health)
	mux.HandleFunc("GET /ready", a.ready)

	mux.HandleFunc("GET /api/stats", a.stats)
	mux.HandleFunc("GET /api/live", a.liveStream)
	mux.HandleFunc("GET /api/gaps", a.gaps)
	mux.HandleFunc("GET /api/instances", a.instances)
	mux.HandleFunc("GET /api/connections", a.private(a.connections))
	changing("DELETE /api/connections/{id}", a.private(a.closeConnection))
	mux.HandleFunc("GET /api/channels", a.channels)
	mux.HandleFunc("GET /api/channels/{channel}", a.channel)
	mux.HandleFunc("GET /api/history/{channel}", a.private(a.history))
	changing("DELETE /api/history/{channel}", a.private(a.deleteHistory))

	changing("POST /publish", a.publish)
	changing("POST /api/send", a.send)
	changing("POST /api/batch", a.batch)

	if a.cfg.Pprof {
		// Private: the command line and the memory may hold passwords and messages.
		mux.HandleFunc("GET /debug/pprof/", a.private(pprof.Index))
		mux.HandleFunc("GET /debug/pprof/cmdline", a.private(pprof.Cmdline))
		mux.HandleFunc("GET /debug/pprof/profile", a.private(pprof.Profile))
		mux.HandleFunc("GET /debug/pprof/symbol", a.private(pprof.Symbol))
		mux.HandleFunc("GET /debug/pprof/trace", a.private(pprof.Trace))
	}
}

func (a *API) health(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

func (a *API) ready(w http.ResponseWriter, _ *http.Request) {
	if ok, reason := a.cfg.Ready(); !ok {
		writeJSON(w, http.StatusServiceUnavailable, map[string]string{"status": "not ready", "reason": reason})
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ready"})
}

// jsonErrors makes JSON of the answers that the mux gives by itself: 404 and 405.
func jsonErrors(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(&plainError{ResponseWriter: w}, r)
	})
}

// plainError replaces the text of an error by JSON.
type plainError struct {
	http.ResponseWriter
	replaced bool
}

func (p *plainError) WriteHeader(status int) {
	if status < http.StatusBadRequest {
		p.ResponseWriter.WriteHeader(status)
		return
	}
	p.replaced = true
	writeError(p.ResponseWriter, status, http.StatusText(status))
}

func (p *plainError) Write(b []byte) (int, error) {
	if p.replaced {
		return len(b), nil
	}
	return p.ResponseWriter.Write(b)
}

func writeError(w http.ResponseWriter, status int, reason string) {
	writeJSON(w, status, map[string]string{"error": reason})
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	setJSONHeaders(w.Header(), "application/json")
	w.WriteHeader(status)
	_ = newEncoder(w).Encode(value) // fails only when the client has gone
}

func setJSONHeaders(h http.Header, contentType string) {
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
}

// newEncoder leaves <, > and & as they are: answers are never taken for HTML.
func newEncoder(w http.ResponseWriter) *json.Encoder {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e
}
