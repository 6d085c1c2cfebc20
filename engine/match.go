package engine

import (
	"context"
	"time"

	"ssed/engine/internal/front"
)

// Match selects streams: those to which all that is set applies. The zero value selects
// all.
type Match struct {
	Channel string // that the stream receives
	Subject string // of its grant
	Token   string // ID of the token of its grant
}

// selection is a Match as a shard can compare it, for as long as its loop does nothing
// else.
type selection struct {
	ch      uint32 // noChannel: any
	subject uint32 // 0: any
	token   uint64 // 0: any
}

// resolve returns none when no stream of the shard can match.
func (s *shard) resolve(m *Match) (sel selection, some bool) {
	sel = selection{ch: noChannel, token: s.engine.front.TokenHash(m.Token)}
	if m.Channel != "" {
		if sel.ch = s.membersOf(m.Channel); sel.ch == noChannel {
			return sel, false
		}
	}
	if m.Subject != "" {
		if sel.subject = s.engine.front.FindSubject(m.Subject); sel.subject == 0 {
			return sel, false
		}
	}
	return sel, true
}

// selects reports whether a slot in use matches, and how many of its subscriptions were
// looked at.
func (s *shard) selects(sel selection, i uint32, c *slot) (ok bool, looks int) {
	if sel.subject != 0 && s.credentials.get(i).subject != sel.subject || sel.token != 0 && s.credentials.token(i) != sel.token {
		return false, 0
	}
	return s.subscribes(c, sel.ch)
}

// matchAsk asks to close the streams that match, in the order of their slots.
type matchAsk struct {
	ctx   context.Context
	match Match
	after uint32 // slot behind which to begin
	reply chan closedSome
}

// closedSome is what one answer has closed.
type closedSome struct {
	streams int64
	last    uint32 // it goes on behind this slot; 0: it is at its end
}

func (a *matchAsk) answer(s *shard) {
	if a.ctx.Err() != nil {
		return
	}
	sel, some := s.resolve(&a.match)
	if !some {
		a.reply <- closedSome{}
		return
	}
	var done closedSome
	done.last = s.eachSelected(sel, a.after, askLooks, func(i uint32, c *slot) {
		s.disconnect(i, c, CloseAdmin)
		done.streams++
	})
	a.reply <- done
}

// CloseStreams closes the streams that match and returns how many there were; also with
// an error, which is that of ctx or ErrStopped. Their clients are told when to come back,
// and may: Revoke keeps a subject or token out. It does not hold up the event loops.
func (e *Engine) CloseStreams(ctx context.Context, m Match) (streams int64, err error) {
	for _, s := range e.shards {
		for after := uint32(0); ; {
			q := &matchAsk{ctx: ctx, match: m, after: after, reply: make(chan closedSome, 1)}
			done, err := put(ctx, e, s, q, q.reply)
			streams += done.streams
			if err != nil {
				return streams, err
			}
			if after = done.last; after == 0 {
				break
			}
		}
	}
	return streams, nil
}

// Bearer names clients by what their grants say: a subject, or the ID of a token. One of
// the two is "".
type Bearer = front.Bearer

// ErrTooManyRevoked is the error of Revoke when 10,000 subjects and tokens are kept out.
var ErrTooManyRevoked = front.ErrTooManyRevoked

// Revoke keeps the subject or the token out until then, whatever the Authorizer says.
// CloseStreams called afterwards finds all streams that it has.
func (e *Engine) Revoke(b Bearer, until time.Time) error { return e.front.Revoke(b, until) }
