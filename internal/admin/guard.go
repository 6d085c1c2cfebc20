package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// browserGuard refuses requests that a web page of another origin makes a browser
// send. net/http's check covers pages elsewhere: Sec-Fetch-Site, and Origin
// against Host. It can't cover a page whose own host name was pointed at this
// machine (DNS rebinding), for which both agree; so without a token, which such a
// page has not, a browser must have come by an IP address, localhost, or the name
// that --admin gives. With one it may come by the name of a proxy. Clients that are
// not browsers send neither header and are let through.
func (a *API) browserGuard(next http.Handler) http.Handler {
	origins := http.NewCrossOriginProtection()
	origins.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, http.StatusForbidden, "a browser sent this for a page of another origin")
	}))
	checked := origins.Handler(next)
	if a.cfg.Token != "" {
		return checked
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") != "" && !isOwnHost(r.Host, a.cfg.Host) {
			writeError(w, http.StatusForbidden, "a browser must come by an IP address, localhost or the name in --admin")
			return
		}
		checked.ServeHTTP(w, r)
	})
}

// private is for what shows messages and clients, or cannot be undone: it needs a
// token, or a loopback address and a name of this machine in the request, which a page
// whose host was pointed here (DNS rebinding) has not.
func (a *API) private(next http.HandlerFunc) http.HandlerFunc {
	switch {
	case a.cfg.Token != "":
		return next
	case a.cfg.Exposed:
		return func(w http.ResponseWriter, _ *http.Request) {
			writeError(w, http.StatusForbidden, "other machines reach this listener: this needs --admin-token-file")
		}
	}
	return func(w http.ResponseWriter, r *http.Request) {
		if !isOwnHost(r.Host, a.cfg.Host) {
			writeError(w, http.StatusForbidden, "without a token this must be asked for by an IP address, localhost or the name in --admin")
			return
		}
		next(w, r)
	}
}

// isOwnHost reports whether a Host header names this listener without DNS, or by
// the configured name.
func isOwnHost(hostport, configured string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]") // no port
	}
	if strings.EqualFold(host, "localhost") || configured != "" && strings.EqualFold(host, configured) {
		return true
	}
	_, err = netip.ParseAddr(host)
	return err == nil
}

// tokenGuard demands the token as Bearer (RFC 6750), or as the password of Basic,
// which is what lets a browser have the page. Probes need neither.
func tokenGuard(token string, next http.Handler) http.Handler {
	if token == "" {
		return next
	}
	want := sha256.Sum256([]byte(token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Of equal length as hashes, so that the time to compare does not tell the token's.
		got := sha256.Sum256([]byte(tokenOf(r)))
		if r.URL.Path != "/health" && r.URL.Path != "/ready" && subtle.ConstantTimeCompare(got[:], want[:]) == 0 {
			w.Header().Add("WWW-Authenticate", `Bearer realm="ssed"`)
			w.Header().Add("WWW-Authenticate", `Basic realm="ssed", charset="UTF-8"`)
			writeError(w, http.StatusUnauthorized, "the token is missing or wrong")
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
