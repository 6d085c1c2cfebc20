package ssed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"ssed/engine"
	"ssed/internal/fleet"
)

// Match selects the streams that have all the fields that are set. Subject and Token are
// those of a Grant.
type Match = engine.Match

// Disconnected tells how many streams were closed, and where.
type Disconnected struct {
	Streams   int64
	Instances []DisconnectedAt // those that answered, by name
	// Asked is how many instances there are. One that did not answer may have closed its
	// streams all the same, or may do so later.
	Asked int
}

// DisconnectedAt is the part of one instance.
type DisconnectedAt struct {
	Instance string
	Streams  int64
}

// MaxKeepOut bounds for how long Disconnect keeps somebody out.
const MaxKeepOut = 30 * 24 * time.Hour

var (
	// ErrMatchesAll: Disconnect was given nothing to match by.
	ErrMatchesAll = errors.New("ssed: neither Subject, Token nor Channel is set")
	// ErrKeepOut: only one subject, or one token, can be kept out, for MaxKeepOut at most.
	ErrKeepOut = errors.New("ssed: who is kept out must be one Subject or one Token alone, for at most " + MaxKeepOut.String())
	// ErrTooManyKeptOut: 10,000 subjects and tokens are kept out already.
	ErrTooManyKeptOut = engine.ErrTooManyRevoked
)

// Disconnect closes the streams that match, on all instances with the same prefix. Their
// clients are told when to come back, and go on where they were. With keepOut the subject
// or the token of m gets no stream for that time, on instances that start later too. Its
// clients get 403.
//
// It takes five seconds at most when an instance does not answer, else a few round trips
// to Redis. With an error it has closed those of this instance at least, unless the error
// is one of this package.
func (g *Gateway) Disconnect(ctx context.Context, m Match, keepOut time.Duration) (Disconnected, error) {
	switch {
	case m == Match{}:
		return Disconnected{}, ErrMatchesAll
	case keepOut != 0 && (m.Channel != "" || (m.Subject == "") == (m.Token == "") || keepOut < 0 || keepOut > MaxKeepOut):
		return Disconnected{}, ErrKeepOut
	}
	o := order{[]byte(m.Channel), []byte(m.Subject), []byte(m.Token), keepOut.Milliseconds()}
	if g.fleet == nil {
		return g.disconnectHere(ctx, o, nil)
	}
	if keepOut > 0 {
		err := g.fleet.Revoke(ctx, bearerText(m), keepOut)
		if errors.Is(err, fleet.ErrTooManyRevoked) {
			err = ErrTooManyKeptOut
		}
		if err != nil {
			return g.disconnectHere(ctx, o, err)
		}
	}
	text, err := json.Marshal(o)
	if err != nil {
		panic(err) // octets and numbers always have a JSON form
	}
	spread, err := g.fleet.Close(ctx, text)
	if err != nil {
		return g.disconnectHere(ctx, o, err)
	}
	d := Disconnected{Asked: spread.Asked}
	for _, share := range spread.Shares {
		d.Streams += share.Streams
		d.Instances = append(d.Instances, DisconnectedAt(share))
	}
	return d, nil
}

// disconnectHere follows an order on this instance alone, because of an error or because
// there is no other.
func (g *Gateway) disconnectHere(ctx context.Context, o order, cause error) (Disconnected, error) {
	n, err := g.follow(ctx, o)
	d := Disconnected{Streams: n, Asked: 1, Instances: []DisconnectedAt{{g.cfg.Feed.Instance, n}}}
	if cause != nil {
		err = errors.Join(fmt.Errorf("ssed: only this instance has closed streams: %w", cause), err)
	}
	return d, err
}

// order is what Disconnect tells the other instances. Names are any octets.
type order struct {
	Channel, Subject, Token []byte
	KeepOutMs               int64
}

// closeByOrder is how another instance's order comes.
func (g *Gateway) closeByOrder(ctx context.Context, text []byte) (int64, error) {
	var o order
	if err := json.Unmarshal(text, &o); err != nil {
		return 0, err
	}
	return g.follow(ctx, o)
}

// follow closes streams of this instance.
func (g *Gateway) follow(ctx context.Context, o order) (int64, error) {
	m := Match{Channel: string(o.Channel), Subject: string(o.Subject), Token: string(o.Token)}
	if (m == Match{}) {
		return 0, ErrMatchesAll
	}
	g.forgetGrants()
	keepOut := time.Duration(o.KeepOutMs) * time.Millisecond
	var full error
	if keepOut > 0 {
		full = g.engine.Revoke(engine.Bearer{Subject: m.Subject, Token: m.Token}, time.Now().Add(keepOut))
	}
	n, err := g.engine.CloseStreams(ctx, m)
	g.cfg.Logger.Info("ssed: streams were closed by an operator", "streams", n,
		"subject", m.Subject, "token_id", m.Token, "channel", m.Channel, "kept_out", keepOut.String())
	return n, errors.Join(full, err)
}

// forgetGrants makes an Authorizer that remembers decisions decide anew: else a client
// could come back with one from before its access was withdrawn.
func (g *Gateway) forgetGrants() {
	if remembers, ok := g.cfg.Auth.(interface{ Forget() }); ok {
		remembers.Forget()
	}
}

// Bearers that are kept out, as they are told in Redis.
const (
	bearerSubject = "sub:"
	bearerToken   = "jti:"
)

func bearerText(m Match) string {
	if m.Subject != "" {
		return bearerSubject + m.Subject
	}
	return bearerToken + m.Token
}

// relearnTimeout bounds the closing of streams of one that is kept out.
const relearnTimeout = 5 * time.Second

// keepOut is told who is kept out by an order that did not come here, or came before this
// instance began. After an error it is told again.
func (g *Gateway) keepOut(ctx context.Context, bearer string, left time.Duration) error {
	var m Match
	if name, ok := strings.CutPrefix(bearer, bearerSubject); ok {
		m.Subject = name
	} else if m.Token, ok = strings.CutPrefix(bearer, bearerToken); !ok {
		return nil // of another version
	}
	if (m == Match{}) {
		return nil
	}
	g.forgetGrants()
	full := g.engine.Revoke(engine.Bearer{Subject: m.Subject, Token: m.Token}, time.Now().Add(left))
	within, cancel := context.WithTimeout(ctx, relearnTimeout)
	defer cancel()
	_, err := g.engine.CloseStreams(within, m)
	if either := errors.Join(full, err); either != nil && ctx.Err() == nil {
		g.cfg.Logger.Warn("ssed: streams of somebody who is kept out could not be closed yet", "error", either)
	}
	return err
}
