package admin

import (
	"net/http"
	"time"
)

// Stats is one instance at one moment. Counters begin at its start.
type Stats struct {
	Instance string    `json:"instance"`
	Version  string    `json:"version"`
	Mode     string    `json:"mode"` // ModeRedis or ModeEmbedded
	Started  time.Time `json:"started"`
	Uptime   float64   `json:"uptime_seconds"`
	Now      time.Time `json:"now"`
	Ready    bool      `json:"ready"`
	Reason   string    `json:"reason"` // why not ready, or what fails although it is
	Draining bool      `json:"draining"`

	Streams        int64 `json:"streams"`
	Connections    int64 `json:"connections"`
	MaxConnections int   `json:"max_connections"`
	Channels       int64 `json:"channels"`
	Slow           int64 `json:"slow"` // streams whose socket is full

	Totals  Totals            `json:"totals"`
	Closed  map[string]uint64 `json:"closed"`  // streams that ended, by reason
	Refused map[string]uint64 `json:"refused"` // requests and connections, by reason

	Ring    Ring        `json:"ring"`
	Lag     Histogram   `json:"lag"` // from the message's arrival to the write to a socket
	Shards  []Shard     `json:"shards"`
	Redis   *RedisStats `json:"redis"` // null: embedded
	Process Process     `json:"process"`
}

// Modes of Stats.
const (
	ModeRedis    = "redis"
	ModeEmbedded = "embedded"
)

// Totals are counters.
type Totals struct {
	Messages        uint64 `json:"messages"`
	Deliveries      uint64 `json:"deliveries"`
	SentBytes       uint64 `json:"sent_bytes"`
	Accepted        uint64 `json:"accepted"`
	Attached        uint64 `json:"attached"`
	Heartbeats      uint64 `json:"heartbeats"`
	Gaps            uint64 `json:"gaps"`
	ResumedMemory   uint64 `json:"resumed_memory"`
	ResumedHistory  uint64 `json:"resumed_history"`
	Resyncs         uint64 `json:"resyncs"`
	HistoryMessages uint64 `json:"history_messages"`
	HistoryBatches  uint64 `json:"history_batches"`
}

// Ring is the memory for recent messages.
type Ring struct {
	Bytes      int64   `json:"bytes"`
	LimitBytes int64   `json:"limit_bytes"`
	Messages   uint64  `json:"messages"`
	Oldest     float64 `json:"oldest_seconds"` // age of the oldest message
}

// Histogram counts durations: Counts[i] of them were at most Bounds[i] and more
// than the bound before, the last count those above all bounds.
type Histogram struct {
	Bounds []float64 `json:"bounds_seconds"`
	Counts []uint64  `json:"counts"`
	Sum    float64   `json:"sum_seconds"`
}

// Shard is one event loop.
type Shard struct {
	Busy float64 `json:"busy_seconds"` // since the start
}

// RedisStats is the link to Redis and the history.
type RedisStats struct {
	Up           bool    `json:"up"`
	Links        int     `json:"links"`
	Leading      bool    `json:"leading"`
	Writer       bool    `json:"writer"`
	WatermarkLag float64 `json:"watermark_lag_seconds"`
	Resyncs      uint64  `json:"resyncs"`
	ClockSkew    float64 `json:"clock_skew_seconds"` // clock of this machine less that of Redis
}

// Process is what the system knows.
type Process struct {
	CPU        float64 `json:"cpu_seconds"`
	RSS        int64   `json:"rss_bytes"`
	Heap       uint64  `json:"heap_bytes"`
	Goroutines int     `json:"goroutines"`
	OpenFiles  int     `json:"open_files"`
	FileLimit  int     `json:"file_limit"`
}

func (a *API) stats(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, a.cfg.Stats())
}

// Count is how many durations there were.
func (h *Histogram) Count() (n uint64) {
	for _, c := range h.Counts {
		n += c
	}
	return n
}
