package admin

import (
	"log/slog"
	"net/http"
	"net/url"

	"ssed/sseproto"
)

// audited writes a line about each request that changes something: who, what, and what
// came of it. Closing and deleting are told at info, publishing at debug, because it is
// what backends do all day. The line has the path and the query as they are escaped in a
// URL, so nothing of a request can begin a line of its own.
func (a *API) audited(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		level := slog.LevelInfo
		if r.Method == http.MethodPost {
			level = slog.LevelDebug
		}
		if !a.cfg.Audit.Enabled(r.Context(), level) {
			next.ServeHTTP(w, r)
			return
		}
		s := statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(&s, r)
		a.cfg.Audit.Log(r.Context(), level, "admin: audit", "method", r.Method, "target", targetOf(r),
			"status", s.status, "by", keyFrom(r).name, "client", r.RemoteAddr)
	})
}

// maxTarget bounds a line of the log. Nothing that is closed or deleted is cut off: three
// names of 255 bytes, each as %XX, are 2.3 KB, and such a request has nothing else in its query.
const maxTarget = 3 << 10

// targetOf has the parameters as they are read, see query: url.Values leaves out those with
// a semicolon. All of it is ASCII.
func targetOf(r *http.Request) string {
	target, separator := r.URL.EscapedPath(), "?"
	for name, value := range sseproto.QueryParams([]byte(r.URL.RawQuery)) {
		target += separator + escaped(name) + "=" + escaped(value)
		separator = "&"
	}
	if len(target) > maxTarget {
		target = target[:maxTarget] + "…"
	}
	return target
}

func escaped(part []byte) string { return url.QueryEscape(string(sseproto.AppendUnescaped(nil, part))) }

// statusWriter remembers the status.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (s *statusWriter) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }
