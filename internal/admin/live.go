package admin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

const (
	// maxLive is how many may watch at once: a few operators with a few tabs each.
	// Every one costs a snapshot per second.
	maxLive = 32
	// livePeriod is the time between two events.
	livePeriod = time.Second
	// liveWriteTimeout is how long a client may take nothing: then it has gone.
	liveWriteTimeout = 10 * time.Second
)

// liveStream sends the numbers each second, and gaps as they happen, until the
// client leaves or stops reading, or Close.
func (a *API) liveStream(w http.ResponseWriter, r *http.Request) {
	if !a.liveSeats.take() {
		a.liveRefused.Add(1)
		w.Header().Set("Retry-After", "5")
		writeError(w, http.StatusServiceUnavailable, fmt.Sprintf("%d live streams are open already", maxLive))
		return
	}
	defer a.liveSeats.leave()
	setJSONHeaders(w.Header(), "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	if r.Method == http.MethodHead {
		return
	}
	l := liveWriter{control: http.NewResponseController(w), w: w, wait: a.liveWait}
	told := make(toldGaps)
	told.note(a.cfg.Gaps())
	ticker := time.NewTicker(livePeriod)
	defer ticker.Stop()
	for l.send("stats", a.cfg.Stats()) {
		select {
		case <-ticker.C:
		case <-r.Context().Done():
			return
		case <-a.closed:
			return
		}
		gaps := a.cfg.Gaps()
		for i := len(gaps) - 1; i >= 0; i-- {
			if told.isNews(gaps[i]) && !l.send("gap", gaps[i]) {
				return
			}
		}
		told.note(gaps)
	}
}

// toldGaps is how many streams the records told of that a client knows. A record
// that grows is told again: it is the same by its time, reason and kind.
type toldGaps map[gapKey]int

type gapKey struct {
	at     int64
	reason string
	live   bool
}

func (g Gap) key() gapKey { return gapKey{g.At.UnixNano(), g.Reason, g.Live} }

func (t toldGaps) isNews(g Gap) bool { return t[g.key()] != g.Streams }

// note takes the place of what was known by what there is.
func (t toldGaps) note(gaps []Gap) {
	clear(t)
	for _, g := range gaps {
		t[g.key()] = g.Streams
	}
}

// liveWriter writes events to one client.
type liveWriter struct {
	control *http.ResponseController
	w       http.ResponseWriter
	wait    time.Duration
	buf     bytes.Buffer
}

// send reports whether the client took it.
func (l *liveWriter) send(event string, value any) bool {
	l.buf.Reset()
	fmt.Fprintf(&l.buf, "event: %s\ndata: ", event)
	if json.NewEncoder(&l.buf).Encode(value) != nil { // with a line end
		return false
	}
	l.buf.WriteByte('\n')
	if l.control.SetWriteDeadline(time.Now().Add(l.wait)) != nil {
		return false
	}
	if _, err := l.w.Write(l.buf.Bytes()); err != nil {
		return false
	}
	return l.control.Flush() == nil
}
