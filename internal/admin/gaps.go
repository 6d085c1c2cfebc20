package admin

import (
	"net/http"
	"time"
)

// Gap records gap events that were sent to clients. While further ones of its kind come,
// Streams grows; At, Reason and Live stay.
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
