package admin

import (
	"fmt"
	"net/http"
	"time"

	"ssed/sseproto"
)

// Clients selects connections of all instances: those to which all that is set applies.
type Clients struct{ Subject, Token, Channel string }

// Closed tells how many connections were closed, and where.
type Closed struct {
	Connections int64         `json:"closed"`
	Asked       int           `json:"asked"`    // instances
	Answered    int           `json:"answered"` // of these
	Instances   []ClosedShare `json:"instances"`
}

// ClosedShare is the part of one instance.
type ClosedShare struct {
	Instance    string `json:"instance"`
	Connections int64  `json:"closed"`
}

// maxKeepOut is a month: a subject that is to stay out for longer should get no token.
const maxKeepOut = 30 * 24 * time.Hour

// closeConnections closes connections of all instances by who they belong to. A parameter
// that it does not know could have narrowed the request, so it is an error here.
func (a *API) closeConnections(w http.ResponseWriter, r *http.Request) {
	q := queryOf(r)
	for name := range sseproto.QueryParams(q.raw) {
		switch string(sseproto.AppendUnescaped(nil, name)) {
		case "sub", "token", "channel", "for":
		default:
			q.bad("the query", "must have nothing but sub, token, channel and for")
		}
	}
	var who Clients
	who.Subject, who.Token, who.Channel = q.bearer("sub"), q.bearer("token"), q.bearer("channel")
	keepOut := q.keepOut("for")
	switch {
	case who == Clients{}:
		q.bad("the query", "must have sub, token or channel")
	case keepOut > 0 && (who.Channel != "" || who.Subject != "" && who.Token != ""):
		q.bad("for", "is for a sub or a token alone")
	}
	if q.err != nil {
		fail(w, q.err)
		return
	}
	closed, err := a.cfg.Connections.CloseConnections(r.Context(), who, keepOut)
	if err != nil {
		fail(w, err)
		return
	}
	closed.Instances = orEmpty(closed.Instances)
	writeJSON(w, http.StatusOK, closed)
}

// bearer reads a name that is there once at most and not empty.
func (q *query) bearer(name string) string {
	value, ok := q.get(name)
	if ok && (!isChannel(value) || q.count(name) > 1) {
		q.bad(name, "must be there once, with 1 to 255 bytes without NUL")
	}
	return value
}

// maxTimeText bounds zeros: 720h0m0.000000000s has 18 bytes.
const maxTimeText = 32

// keepOut reads a time such as 10m; 0 without one.
func (q *query) keepOut(name string) time.Duration {
	text, ok := q.get(name)
	if !ok {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil || len(text) > maxTimeText || q.count(name) > 1 || d < time.Second || d > maxKeepOut {
		q.bad(name, fmt.Sprintf("must be there once, with a time such as 10m, from 1s to %v", maxKeepOut))
	}
	return d
}
