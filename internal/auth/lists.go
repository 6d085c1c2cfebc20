package auth

import (
	"context"
	"net/http"

	"ssed/engine"
	"ssed/sseproto"
)

// lists refuses requests for channels that nobody may have, before next is asked.
type lists struct {
	allow, deny []string
	next        engine.Authorizer
	counters    *counters
}

// Authorize implements engine.Authorizer. One channel refuses the whole request: a
// stream with a part of what was asked looks like one on which nothing happens.
func (l *lists) Authorize(ctx context.Context, r *engine.AuthRequest) (engine.Grant, error) {
	for _, channel := range r.Channels {
		allowed := len(l.allow) == 0 || matchAny(l.allow, channel)
		if !allowed || matchAny(l.deny, channel) {
			return engine.Grant{}, l.counters.refuse(RefusedList, http.StatusForbidden, "forbidden: no such channels here", "")
		}
	}
	return l.next.Authorize(ctx, r)
}

func matchAny(globs []string, channel string) bool {
	for _, glob := range globs {
		if sseproto.MatchGlob(glob, channel) {
			return true
		}
	}
	return false
}
