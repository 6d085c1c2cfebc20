package auth

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
)

// Publishers decides who may publish: the holder of a token with the claim "publish", a
// list of names and globs like "channels". It is safe for concurrent use.
type Publishers struct {
	bearer   *bearer
	counters *counters
}

// PublisherKeys is where the keys of publishers' tokens come from. Without either file
// they are those of the tokens of clients.
type PublisherKeys struct {
	SecretFile string
	KeyFile    string // PEM
}

// Publisher is who holds a token.
type Publisher struct {
	Subject string
	globs   []string
}

// May reports whether the token covers a channel.
func (p *Publisher) May(channel string) bool { return matchAny(p.globs, channel) }

// Publishers are those who may publish; nil without Config.Publishers.
func (a *Access) Publishers() *Publishers { return a.publishers }

func newPublishers(cfg *Config, keys keySource) *Publishers {
	counters := &counters{}
	return &Publishers{bearer: newBearer(cfg, keys, counters), counters: counters}
}

// Authorize judges the Authorization fields of a request. All its errors are
// *engine.Denial.
func (p *Publishers) Authorize(ctx context.Context, authorization []string) (*Publisher, error) {
	if len(authorization) > 1 {
		return nil, p.bearer.denial(errTwoTokens)
	}
	token, ok := "", false
	if len(authorization) == 1 {
		token, ok = bearerOf([]byte(strings.Trim(authorization[0], " \t")))
	}
	if !ok {
		return nil, p.bearer.denial(errNoToken)
	}
	c, err := p.bearer.verify(ctx, netip.Addr{}, token)
	if err != nil {
		return nil, p.bearer.denial(err)
	}
	if len(c.Publish) == 0 {
		return nil, p.counters.refuse(RefusedChannels, http.StatusForbidden, "forbidden: the token has no claim publish", challengeScope)
	}
	p.counters.granted.Add(1)
	return &Publisher{Subject: string(c.Subject), globs: c.Publish}, nil
}

// Stats returns a snapshot of the counters: those of requests, not of messages.
func (p *Publishers) Stats() Stats { return p.counters.snapshot() }
