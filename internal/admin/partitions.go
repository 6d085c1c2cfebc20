package admin

import "net/http"

// Partition is one of the logs into which the channels are divided, as this instance
// knows it.
type Partition struct {
	Partition    int     `json:"partition"`
	Slot         int     `json:"slot"`          // of a Redis Cluster
	ShardChannel string  `json:"shard_channel"` // where its messages are published with --feed=sharded
	Node         string  `json:"node"`          // address of the Redis that has it; "": not known
	Up           bool    `json:"up"`            // this instance gets its messages
	Reason       string  `json:"reason"`        // why not
	Problem      string  `json:"problem"`       // what fails although it does
	Leader       string  `json:"leader"`        // the instance that sends its ticks; "": not known
	TickLag      float64 `json:"tick_lag_seconds"`
	Writer       string  `json:"writer"` // the instance that writes its history; "": nobody, or not known
	WatermarkLag float64 `json:"watermark_lag_seconds"`
	Foreign      uint64  `json:"foreign"` // messages that came here and belong to another partition
}

func (a *API) partitions(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string][]Partition{"partitions": orEmpty(a.cfg.Partitions())})
}
