package admin

import (
	"log/slog"
	"net/http"
	"strings"
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

// maxTarget bounds a line of the log.
const maxTarget = 400

func targetOf(r *http.Request) string {
	target := r.URL.EscapedPath()
	if r.URL.RawQuery != "" {
		target += "?" + r.URL.Query().Encode()
	}
	if len(target) > maxTarget {
		target = target[:maxTarget] + "…"
	}
	return strings.ToValidUTF8(target, "")
}

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
