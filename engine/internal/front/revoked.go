package front

import (
	"errors"
	"sync"
	"time"
)

// maxRevoked bounds the subjects and tokens that are kept out at a time: some 2 MB.
const maxRevoked = 10_000

// ErrTooManyRevoked means that no more can be kept out at a time.
var ErrTooManyRevoked = errors.New("front: too many subjects and tokens are kept out")

// Bearer names clients by what their grants say: a subject, or the ID of a token. One of
// the two is "".
type Bearer struct{ Subject, Token string }

// revocations are bearers that get no stream for a while, whatever the Authorizer says.
//
// Admit and add exclude each other: what was admitted before add returns is attached by
// then, so who closes the streams of a bearer afterwards misses none.
type revocations struct {
	mu    sync.RWMutex
	until map[Bearer]time.Time // guarded by mu
}

// add keeps a bearer out until then, or longer if it is already.
func (r *revocations) add(b Bearer, until time.Time) error {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.until == nil {
		r.until = make(map[Bearer]time.Time)
	}
	old, known := r.until[b]
	if !known && len(r.until) >= maxRevoked {
		if r.forgetLocked(now); len(r.until) >= maxRevoked {
			return ErrTooManyRevoked
		}
	}
	if until.After(old) {
		r.until[b] = until
	}
	return nil
}

// admit calls attach unless the bearer of a grant is kept out.
func (r *revocations) admit(subject, token string, attach func()) (ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.keepsOutLocked(subject, token) {
		return false
	}
	attach()
	return true
}

// keepsOut reports whether a bearer gets no stream now.
func (r *revocations) keepsOut(subject, token string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.keepsOutLocked(subject, token)
}

func (r *revocations) keepsOutLocked(subject, token string) bool {
	if len(r.until) == 0 {
		return false
	}
	now := time.Now()
	return subject != "" && r.until[Bearer{Subject: subject}].After(now) ||
		token != "" && r.until[Bearer{Token: token}].After(now)
}

// len is the number of bearers that are kept out.
func (r *revocations) len() (n int) {
	now := time.Now()
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, until := range r.until {
		if until.After(now) {
			n++
		}
	}
	return n
}

func (r *revocations) forgetLocked(now time.Time) {
	for b, until := range r.until {
		if !until.After(now) {
			delete(r.until, b)
		}
	}
}
