package admin

import (
	"net/http"
	"time"
)

// Gap is a gap event that was sent to clients.
type Gap struct {
	At      time.Time `json:"at"`
	Channel string    `json:"channel"` // "": all channels
	Reason  string    `json:"reason"`
	Live    bool      `json:"live"`    // to streams that were open, else to one that resumed
	Streams int       `json:"streams"` // how many were told
}

func (a *API) gaps(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string][]Gap{"gaps": orEmpty(a.cfg.Gaps())})
}

// orEmpty keeps JSON from saying null where there is a list without elements.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
