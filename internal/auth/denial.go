package auth

import (
	"net/http"

	"ssed/engine"
	"ssed/sseproto"
)

// What clients are told. The challenges are those of RFC 6750 §3: without an error
// for a request that has no token.
const (
	challengeNone    = `Bearer realm="ssed"`
	challengeInvalid = challengeNone + `, error="invalid_token"`
	challengeExpired = challengeInvalid + `, error_description="The token expired"`
	challengeTwice   = challengeNone + `, error="invalid_request"`
	challengeScope   = challengeNone + `, error="insufficient_scope"`
)

// retrySoon is the Retry-After of a refusal without a decision, in seconds.
const retrySoon = "2"

// refuse counts a refusal and returns it. An empty challenge is left out.
func (c *counters) refuse(why Reason, status int, body, challenge string) *engine.Denial {
	c.refused[why].Add(1)
	d := &engine.Denial{Status: status, Body: body + "\n"}
	if challenge != "" {
		d.Fields = []sseproto.Field{{Name: "WWW-Authenticate", Value: challenge}}
	}
	return d
}

// unavailable is the refusal when there is no decision.
func (c *counters) unavailable(why Reason) *engine.Denial {
	c.refused[why].Add(1)
	return &engine.Denial{
		Status: http.StatusServiceUnavailable,
		Body:   "authorization is not available\n",
		Fields: []sseproto.Field{{Name: "Retry-After", Value: retrySoon}},
	}
}
