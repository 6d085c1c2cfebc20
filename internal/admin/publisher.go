package admin

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"ssed/sseproto"
)

// PublisherConfig sets up the handler of the listener for backends. The fields are
// those of Config, but for Authorize.
type PublisherConfig struct {
	// Authorize judges the Authorization fields of a request and returns who may publish
	// what. An error that is a *Denial becomes the answer.
	Authorize func(ctx context.Context, authorization []string) (Scope, error)

	Publish         func(ctx context.Context, messages []Message) []PublishResult
	Position        func() (id string, ok bool)
	MaxMessageBytes int
	Ready           func() (ok bool, reason string)
	Logger          *slog.Logger
	Audit           *slog.Logger
}

// Scope is on which channels somebody may publish.
type Scope struct {
	Name string // for the audit lines
	May  func(channel string) bool
}

// Denial is a decision against a request: the status and fields of the answer.
type Denial struct {
	Status int
	Fields []sseproto.Field
}

// Error implements error.
func (d *Denial) Error() string { return "admin: denied: " + http.StatusText(d.Status) }

// NewPublisher makes the handler of the listener for backends: POST /publish, /api/send
// and /api/batch and GET /api/position as on the admin listener, /health, /ready,
// /openapi.yaml, and nothing else.
func NewPublisher(cfg PublisherConfig) *API {
	a := newAPI(Config{
		Publish: cfg.Publish, Position: cfg.Position, MaxMessageBytes: cfg.MaxMessageBytes,
		Ready: cfg.Ready, Logger: cfg.Logger, Audit: cfg.Audit,
	})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", a.health)
	mux.HandleFunc("GET /ready", a.ready)
	mux.HandleFunc("GET /openapi.yaml", a.openapi)
	scoped := func(pattern string, h http.HandlerFunc) {
		mux.Handle(pattern, a.scoped(cfg.Authorize, a.audited(h)))
	}
	mux.Handle("GET /api/position", a.scoped(cfg.Authorize, http.HandlerFunc(a.position)))
	scoped("POST /publish", a.publish)
	scoped("POST /api/send", a.send)
	scoped("POST /api/batch", a.batch)
	a.handler = ownOrigin(jsonErrors(mux))
	return a
}

// scopeOfRequest is the key of a context for what the token of a request allows.
type scopeOfRequest struct{}

// scoped lets through who may publish on some channels, before a body is read.
func (a *API) scoped(authorize func(context.Context, []string) (Scope, error), next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scope, err := authorize(r.Context(), r.Header.Values("Authorization"))
		if err != nil {
			a.denyScope(w, r, err)
			return
		}
		ctx := context.WithValue(r.Context(), scopeOfRequest{}, scope)
		ctx = context.WithValue(ctx, keyOfRequest{}, key{name: scope.Name}) // for the audit line
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// denyScope answers what was decided against, or not decided.
func (a *API) denyScope(w http.ResponseWriter, r *http.Request, err error) {
	denial, ok := errors.AsType[*Denial](err)
	if !ok {
		fail(w, err)
		return
	}
	for _, field := range denial.Fields {
		w.Header().Add(field.Name, field.Value)
	}
	reason := DeniedToken
	switch {
	case denial.Status >= http.StatusInternalServerError: // no decision
		writeError(w, denial.Status, http.StatusText(denial.Status))
		return
	case len(r.Header.Values("Authorization")) == 0:
		reason = DeniedMissing
	case denial.Status == http.StatusForbidden:
		reason = DeniedRole
	}
	a.deny(w, r, denial.Status, reason, http.StatusText(denial.Status))
}

// errScope is about one message: others of its batch may be covered.
var errScope = Refuse(http.StatusForbidden, "the token does not cover this channel")

// covers reports whether whoever sent the request may publish on a channel. On the admin
// listener, where there is no scope, a role has decided.
func (a *API) covers(r *http.Request, channel string) error {
	scope, ok := r.Context().Value(scopeOfRequest{}).(Scope)
	if ok && !scope.May(channel) {
		a.denied[DeniedRole].Add(1)
		return errScope
	}
	return nil
}
