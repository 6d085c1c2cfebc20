package admin

import (
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// recentPeriod is the time between two snapshots that are kept. The page joins points
	// that are less than 3.5 s apart.
	recentPeriod = 3 * time.Second
	// maxRecent snapshots are ten minutes, in about 200 KB.
	maxRecent = 200
)

// recentStats keeps the snapshots of the last ten minutes, for plots that begin with them.
type recentStats struct {
	mu   sync.Mutex
	ring []Stats // guarded by mu; oldest first
}

func (r *recentStats) add(s Stats) {
	s.Refused = nil // no plot shows them
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.ring); n > 0 && slices.Equal(r.ring[n-1].Lag.Bounds, s.Lag.Bounds) {
		s.Lag.Bounds = r.ring[n-1].Lag.Bounds // one copy for all
	}
	if len(r.ring) == maxRecent {
		r.ring = append(r.ring[:0], r.ring[1:]...)
	}
	r.ring = append(r.ring, s)
}

func (r *recentStats) list() []Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ring)
}

// Record keeps a snapshot every three seconds, until Close. The listener for backends has
// none to keep.
func (a *API) Record() {
	if a.cfg.Sample == nil {
		return
	}
	ticker := time.NewTicker(recentPeriod)
	defer ticker.Stop()
	for {
		a.recent.add(a.cfg.Sample())
		select {
		case <-ticker.C:
		case <-a.closed:
			return
		}
	}
}

func (a *API) recentList(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string][]Stats{"stats": orEmpty(a.recent.list())})
}
