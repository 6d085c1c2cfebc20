package admin

import "net/http"

var errNoPosition = Refuse(http.StatusServiceUnavailable, "no position yet: this instance has not heard of Redis")

// position answers with a position for whoever hands out a snapshot: what is published after
// the answer comes behind it.
func (a *API) position(w http.ResponseWriter, _ *http.Request) {
	id, ok := a.cfg.Position()
	if !ok {
		fail(w, errNoPosition)
		return
	}
	writeJSON(w, http.StatusOK, struct {
		ID string `json:"id"`
	}{id})
}
