package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/pprof"
	"strings"

	"ssed/sseproto"
)

// Config says what the handler stands on.
type Config struct {
	// Publish sends a message; it bounds its own time. The strings are its to keep.
	Publish func(ctx context.Context, channel, payload string) (Receipt, error)
	// MaxMessageBytes bounds the body of POST /publish.
	MaxMessageBytes int
	// Ready tells whether this instance serves streams, and if not, why.
	Ready func() (ok bool, reason string)
	// Metrics answers GET /metrics.
	Metrics http.Handler
	// Token is demanded of all requests but those to /health and /ready. Empty: none.
	Token string
	// Pprof adds /debug/pprof.
	Pprof bool
	// Host is the host part of the listener's address. The page works under it,
	// under localhost and under every IP address.
	Host string
	// Streams is the public address "host:port" for the page; the host may be empty
	// or unspecified. Empty: there is no TCP listener.
	Streams string
}

// Receipt tells what became of a published message.
type Receipt struct {
	// ID is the message's position; with Redis empty when it was not known in time.
	ID string `json:"id,omitempty"`
	// Receivers is the answer of PUBLISH: how many Redis clients got it, in Redis mode.
	Receivers *int64 `json:"receivers,omitempty"`
}

// Handler returns the handler of the admin listener.
func Handler(cfg Config) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", newPage(cfg.Streams))
	mux.Handle("POST /publish", browserGuard(cfg.Host, publishHandler(cfg)))
	mux.Handle("GET /metrics", cfg.Metrics)
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if ok, reason := cfg.Ready(); !ok {
			writeJSON(w, http.StatusServiceUnavailable, map[string]string{"status": "not ready", "reason": reason})
			return
		}
		writeJSON(w, http.StatusOK, map[string]string{"status": "ready"})
	})
	if cfg.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return tokenGuard(cfg.Token, mux)
}

func publishHandler(cfg Config) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		channel, err := channelOf(r.URL.RawQuery)
		if err != nil {
			writeError(w, http.StatusBadRequest, textOf(err))
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(cfg.MaxMessageBytes)))
		if err != nil {
			writeBodyError(w, err)
			return
		}
		receipt, err := cfg.Publish(r.Context(), channel, string(body))
		if err != nil {
			// The command may have been carried out although its answer was lost.
			writeError(w, http.StatusServiceUnavailable, "not confirmed by Redis: "+err.Error())
			return
		}
		writeJSON(w, http.StatusOK, receipt)
	})
}

func writeBodyError(w http.ResponseWriter, err error) {
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		writeError(w, http.StatusRequestEntityTooLarge, "the message is larger than --max-message-bytes")
		return
	}
	writeError(w, http.StatusBadRequest, "the body could not be read")
}

// errControl is about ssed's own control channel: a forged message there could
// stop the feed. "__" is also where Redis puts its own announcements.
var errControl = errors.New("channels that start with __ are never delivered")

// channelOf reads channel_id by the rules of the stream.
func channelOf(query string) (string, error) {
	ids, err := sseproto.ChannelIDs(nil, []byte(query), 1)
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(ids[0], "__") {
		return "", errControl
	}
	return ids[0], nil
}

// textOf is what the client is told; no error here holds bytes of its request.
func textOf(err error) string {
	if refused, ok := errors.AsType[*sseproto.ProtocolError](err); ok {
		return refused.Text()
	}
	return err.Error()
}

func writeError(w http.ResponseWriter, status int, reason string) {
	writeJSON(w, status, map[string]string{"error": reason})
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // fails only when the client has gone
}
