package admin

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// DenyReason is why a request had no right to what it asked for, for a metric.
type DenyReason uint8

// The reasons.
const (
	DeniedMissing DenyReason = iota // no token: what a browser sends before it asks for one
	DeniedToken                     // an unknown one
	DeniedRole                      // a token that is for something else
	DeniedHost                      // by a name that a page elsewhere may have pointed here
	DeniedOrigin                    // sent by a browser for a page of another origin
	DeniedExposed                   // without a token, on an address that other machines reach
	denyReasons
)

// String is the name of the reason in metrics.
func (d DenyReason) String() string {
	return [...]string{"missing", "token", "role", "host", "origin", "exposed"}[d]
}

// DenyReasons are all of them.
func DenyReasons() []DenyReason {
	list := make([]DenyReason, denyReasons)
	for i := range list {
		list[i] = DenyReason(i)
	}
	return list
}

// deny counts and answers a refusal. What a wrong guess looks like is logged, throttled:
// somebody may be trying tokens.
func (a *API) deny(w http.ResponseWriter, r *http.Request, status int, reason DenyReason, text string) {
	a.denied[reason].Add(1)
	if reason == DeniedToken || reason == DeniedRole {
		if dropped, ok := a.logDenied.Allow(); ok {
			a.cfg.Logger.Warn("admin: a request was refused", "reason", reason.String(), "client", r.RemoteAddr, "dropped", dropped)
		}
	}
	writeError(w, status, text)
}

// ownOrigin marks all answers for pages of other origins: they are no script or image to
// guess at, and do not get into the process of such a page (Fetch §3.7).
func ownOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

// reading guards what changes nothing.
func (a *API) reading(next http.Handler) http.Handler { return a.guard(RoleRead, next) }

// publishing guards what publishes.
func (a *API) publishing(next http.HandlerFunc) http.Handler {
	return a.guard(RolePublish, a.browserGuard(a.audited(next)))
}

// changing guards what closes or deletes.
func (a *API) changing(next http.HandlerFunc) http.Handler {
	return a.guard(RoleAll, a.browserGuard(a.private(a.audited(next))))
}

// authenticate finds out whose the token of a request is, of everything but probes and
// the description of the API. It comes as Bearer (RFC 6750), or as the password of Basic,
// which is what lets a browser have the page.
func (a *API) authenticate(next http.Handler) http.Handler {
	if a.keys == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/health", "/ready", "/openapi.yaml":
			next.ServeHTTP(w, r)
			return
		}
		token := tokenOf(r)
		key, known := a.keys.find(token)
		if !known {
			w.Header().Add("WWW-Authenticate", `Bearer realm="ssed"`)
			w.Header().Add("WWW-Authenticate", `Basic realm="ssed", charset="UTF-8"`)
			reason := DeniedToken
			if token == "" {
				reason = DeniedMissing
			}
			a.deny(w, r, http.StatusUnauthorized, reason, "the token is missing or wrong")
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), keyOfRequest{}, key)))
	})
}

// keyOfRequest is the key of a context for the key that came with a request.
type keyOfRequest struct{}

// lastingLook is how often a request that goes on for long is looked at again.
const lastingLook = time.Second

// lasting is for what goes on for long: its context ends when the token of the request is
// taken out of the file, or is no longer for what takes the role.
func (a *API) lasting(need Role, next http.HandlerFunc) http.HandlerFunc {
	if a.keys == nil {
		return next
	}
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, end := context.WithCancel(r.Context())
		var looking sync.WaitGroup
		looking.Go(func() {
			ticker := time.NewTicker(lastingLook)
			defer ticker.Stop()
			for {
				select {
				case <-ticker.C:
					if !a.keys.holds(keyFrom(r), need) {
						end()
					}
				case <-ctx.Done():
					return
				}
			}
		})
		defer looking.Wait()
		defer end()
		next(w, r.WithContext(ctx))
	}
}

func keyFrom(r *http.Request) key {
	k, _ := r.Context().Value(keyOfRequest{}).(key) // none without tokens
	return k
}

// guard lets through whose token allows what takes the role.
//
// Without tokens a page elsewhere could still read: its host name is pointed at this
// machine (DNS rebinding), and to the browser both are one origin. So whoever reads must
// come by a name of this machine: with a GET a browser sends nothing by which to tell it
// from a program. Whoever writes too, when it is a browser: then it sends Origin. Backends
// publish by any name.
func (a *API) guard(need Role, next http.Handler) http.Handler {
	if a.keys == nil {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			byBackend := need == RolePublish && r.Method == http.MethodPost && r.Header.Get("Origin") == ""
			if !byBackend && !a.isOwnHost(r.Host) {
				a.deny(w, r, http.StatusForbidden, DeniedHost, "without a token this must be asked for by an IP address, localhost or the name in --admin")
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if role := keyFrom(r).role; !role.allows(need) {
			a.deny(w, r, http.StatusForbidden, DeniedRole, "this token is for "+string(role)+", and this takes one for "+string(need))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func tokenOf(r *http.Request) string {
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return token
}

// browserGuard refuses requests that a web page of another origin makes a browser send:
// by Sec-Fetch-Site, and by Origin against Host. Clients that are not browsers send
// neither and are let through. With a token the page may stand behind a proxy under any
// name: a page elsewhere does not have it.
func (a *API) browserGuard(next http.Handler) http.Handler {
	origins := http.NewCrossOriginProtection()
	origins.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.deny(w, r, http.StatusForbidden, DeniedOrigin, "a browser sent this for a page of another origin")
	}))
	return origins.Handler(next)
}

// private is for what shows messages and clients, or cannot be undone: without a token
// it is there on a loopback address only.
func (a *API) private(next http.Handler) http.Handler {
	if a.keys != nil || !a.cfg.Exposed {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.deny(w, r, http.StatusForbidden, DeniedExposed, "other machines reach this listener: this needs --admin-token-file")
	})
}

// isOwnHost reports whether a Host header names this listener without DNS, or by the
// configured name.
func (a *API) isOwnHost(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]") // no port
	}
	if strings.EqualFold(host, "localhost") || a.cfg.Host != "" && strings.EqualFold(host, a.cfg.Host) {
		return true
	}
	_, err = netip.ParseAddr(host)
	return err == nil
}
