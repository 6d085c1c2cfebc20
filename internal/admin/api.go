package admin

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"sync"
	"sync/atomic"
	"time"

	"ssed/internal/throttle"
)

// API is the handler of the admin listener, or of the one for backends (NewPublisher).
type API struct {
	// Fixed after construction.
	cfg       Config
	keys      *keyring // nil: no tokens
	handler   http.Handler
	liveSeats seats
	bodySeats seats
	connSeats seats
	recent    recentStats
	liveWait  time.Duration // for a live stream that takes nothing
	bodyWait  time.Duration // for a seat

	// Atomic: what found no seat.
	liveRefused        atomic.Uint64
	bodiesRefused      atomic.Uint64
	connectionsRefused atomic.Uint64
	denied             [denyReasons]atomic.Uint64

	logDenied throttle.Line

	close  sync.Once
	closed chan struct{} // ends what waits
}

// New makes the handler.
func New(cfg Config) *API {
	a := newAPI(cfg)
	if len(cfg.Tokens) > 0 {
		a.keys = newKeyring(cfg.Tokens, cfg.TokenFile, a.cfg.Logger)
	}
	mux := http.NewServeMux()
	a.routes(mux)
	a.handler = ownOrigin(a.authenticate(jsonErrors(mux)))
	return a
}

// newAPI has no handler yet.
func newAPI(cfg Config) *API {
	a := &API{
		cfg: cfg, closed: make(chan struct{}),
		liveSeats: make(seats, maxLive), bodySeats: make(seats, maxBodies), connSeats: make(seats, maxConnections),
		liveWait: liveWriteTimeout, bodyWait: bodyWait,
	}
	if a.cfg.Logger == nil {
		a.cfg.Logger = slog.Default()
	}
	if a.cfg.Audit == nil {
		a.cfg.Audit = a.cfg.Logger
	}
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

	// Denied is how many requests had no right to what they asked for, by reason.
	Denied [denyReasons]uint64
}

// Counts takes a snapshot.
func (a *API) Counts() Counts {
	c := Counts{
		Live: len(a.liveSeats), Bodies: len(a.bodySeats), Connections: len(a.connSeats),
		LiveRefused: a.liveRefused.Load(), BodiesRefused: a.bodiesRefused.Load(), ConnectionsRefused: a.connectionsRefused.Load(),
	}
	for reason := range c.Denied {
		c.Denied[reason] = a.denied[reason].Load()
	}
	return c
}

// routes has a guard for each kind of request. Only probes and the description of the API
// have none.
func (a *API) routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /health", a.health)
	mux.HandleFunc("GET /ready", a.ready)
	mux.HandleFunc("GET /openapi.yaml", a.openapi)

	read := func(pattern string, h http.HandlerFunc) { mux.Handle(pattern, a.reading(h)) }
	mux.Handle("GET /{$}", a.reading(newPage(settings{HeartbeatEvent: a.cfg.HeartbeatEvent, MaxLast: a.cfg.MaxLast}, a.cfg.Streams)))
	mux.Handle("GET /metrics", a.reading(a.cfg.Metrics))
	read("GET /api/stats", a.stats)
	read("GET /api/stats/recent", a.recentList)
	read("GET /api/live", a.lasting(RoleRead, a.liveStream))
	read("GET /api/gaps", a.gaps)
	read("GET /api/instances", a.instances)
	read("GET /api/partitions", a.partitions)
	read("GET /api/channels", a.channels)
	read("GET /api/channels/{channel}", a.channel)
	mux.Handle("GET /api/connections", a.reading(a.private(http.HandlerFunc(a.connections))))
	mux.Handle("GET /api/history/{channel}", a.reading(a.private(http.HandlerFunc(a.history))))

	mux.Handle("DELETE /api/connections", a.changing(a.closeConnections))
	mux.Handle("DELETE /api/connections/{id}", a.changing(a.closeConnection))
	mux.Handle("DELETE /api/history/{channel}", a.changing(a.deleteHistory))

	mux.Handle("POST /publish", a.publishing(a.publish))
	mux.Handle("POST /api/send", a.publishing(a.send))
	mux.Handle("POST /api/batch", a.publishing(a.batch))
	mux.Handle("GET /api/position", a.guard(RolePublish, http.HandlerFunc(a.position)))

	if a.cfg.Pprof {
		// The command line and the memory may hold passwords and messages.
		profile := func(pattern string, h http.HandlerFunc) {
			mux.Handle(pattern, a.guard(RoleAll, a.private(a.lasting(RoleAll, h))))
		}
		profile("GET /debug/pprof/", pprof.Index)
		profile("GET /debug/pprof/cmdline", pprof.Cmdline)
		profile("GET /debug/pprof/profile", pprof.Profile)
		profile("GET /debug/pprof/symbol", pprof.Symbol)
		profile("GET /debug/pprof/trace", pprof.Trace)
	}
}

func (a *API) health(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

func (a *API) ready(w http.ResponseWriter, r *http.Request) {
	ok, reason := a.cfg.Ready()
	if reason != "" && a.keys == nil && !a.isOwnHost(r.Host) { // an address of Redis is not for every page
		reason = "not told by this name"
	}
	switch {
	case !ok:
		writeJSON(w, http.StatusServiceUnavailable, map[string]string{"status": "not ready", "reason": reason})
	case reason != "":
		writeJSON(w, http.StatusOK, map[string]string{"status": "ready", "reason": reason})
	default:
		writeJSON(w, http.StatusOK, map[string]string{"status": "ready"})
	}
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
}

// newEncoder leaves <, > and & as they are: answers are never taken for HTML.
func newEncoder(w http.ResponseWriter) *json.Encoder {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e
}
