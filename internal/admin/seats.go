package admin

import (
	"net/http"
	"time"
)

// seats has room for one element for each of those that may be there at once.
type seats chan struct{}

func (s seats) take() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s seats) leave() { <-s }

const (
	// maxBodies is how many large bodies are held at once, from before they are read until
	// they are published. Each may have 8 MiB or more, and come in slowly.
	maxBodies = 8
	// smallBody is the length up to which a body needs no seat: all connections together
	// hold 8 MiB of them, and who sends large ones slowly does not keep small ones waiting.
	smallBody = 64 << 10
	// bodyWait is how long a request waits for a seat, its body unread: as long as Redis
	// may take for what is published.
	bodyWait = 3 * time.Second
)

var errBodies = Refuse(http.StatusServiceUnavailable, "too many large bodies are being read already")

// seatBody lets r's body be read, for as long as leave has not been called.
func (a *API) seatBody(w http.ResponseWriter, r *http.Request) (leave func(), err error) {
	if r.ContentLength >= 0 && r.ContentLength <= smallBody {
		return func() {}, nil
	}
	// Not r's context: it does not end with the connection as long as the body is unread.
	late := time.NewTimer(a.bodyWait)
	defer late.Stop()
	select {
	case a.bodySeats <- struct{}{}:
		return a.bodySeats.leave, nil
	case <-late.C:
	case <-a.closed:
	}
	a.bodiesRefused.Add(1)
	w.Header().Set("Retry-After", "5")
	w.Header().Set("Connection", "close") // else the server reads on before it answers
	return nil, errBodies
}
