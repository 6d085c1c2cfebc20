package admin

import (
	"net/http"
	"time"
)

// Instance is what an instance tells about itself every few seconds.
type Instance struct {
	Instance            string    `json:"instance"`
	Version             string    `json:"version"`
	Started             time.Time `json:"started"`
	Seen                time.Time `json:"seen"` // by the clock of Redis
	Ready               bool      `json:"ready"`
	Draining            bool      `json:"draining"`
	Streams             int64     `json:"streams"`
	Connections         int64     `json:"connections"`
	MessagesPerSecond   float64   `json:"messages_per_second"`
	DeliveriesPerSecond float64   `json:"deliveries_per_second"`
	Lag                 float64   `json:"lag_seconds"` // mean, from arrival to socket
	CPU                 float64   `json:"cpu"`         // cores in use
	RSS                 int64     `json:"rss_bytes"`
	Writer              bool      `json:"writer"`
	Leading             bool      `json:"leading"`
	Self                bool      `json:"self"` // the one that answers
}

func (a *API) instances(w http.ResponseWriter, r *http.Request) {
	list := []Instance(nil)
	if a.cfg.Fleet == nil {
		list = []Instance{a.cfg.Self()}
	} else {
		var err error
		if list, err = a.cfg.Fleet.Instances(r.Context()); err != nil {
			fail(w, err)
			return
		}
	}
	writeJSON(w, http.StatusOK, map[string][]Instance{"instances": orEmpty(list)})
}
