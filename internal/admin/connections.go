package admin

import (
	"net/http"
	"time"
)

// Connection is one open stream.
type Connection struct {
	ID       string     `json:"id"`
	Client   string     `json:"client"` // its address; "" on a unix socket
	Subject  string     `json:"subject,omitempty"`
	Channels []string   `json:"channels"`
	Position string     `json:"position"`         // ID up to which it was served
	Blocked  bool       `json:"blocked"`          // its socket is full
	Opened   *time.Time `json:"opened,omitempty"` // nil: not known
}

// maxConnectionID bounds nonsense; IDs are short.
const maxConnectionID = 64

func (a *API) connections(w http.ResponseWriter, r *http.Request) {
	q := queryOf(r)
	limit, who := q.limit(defaultConnections), Clients{Channel: q.channel(), Subject: q.bearer("sub"), Token: q.bearer("token")}
	after, _ := q.get("after")
	if len(after) > maxConnectionID {
		q.bad("after", "must be the next of another page")
	}
	if q.err != nil {
		fail(w, q.err)
		return
	}
	list, next, err := a.cfg.Connections.Connections(r.Context(), who, after, limit)
	if err != nil {
		fail(w, err)
		return
	}
	writeJSON(w, http.StatusOK, struct {
		Connections []Connection `json:"connections"`
		Next        string       `json:"next"`
	}{orEmpty(list), next})
}

func (a *API) closeConnection(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	found, err := false, error(nil)
	if len(id) <= maxConnectionID {
		found, err = a.cfg.Connections.CloseConnection(r.Context(), id)
	}
	switch {
	case err != nil:
		fail(w, err)
	case !found:
		writeError(w, http.StatusNotFound, "there is no such connection on this instance")
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}
