package auth

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"ssed/engine"
)

var (
	errCritical = errors.New("auth: the token has critical extensions")
	errNumber   = errors.New("auth: a time claim is out of range")
	errIdentity = errors.New("auth: sub or jti is not at most 255 bytes without control characters")
)

// bearer grants what the token of a request covers.
type bearer struct {
	keys     keySource
	places   tokenPlaces
	parser   *jwt.Parser
	leeway   time.Duration
	needsEnd bool // every token must have exp
	counters *counters
}

func newBearer(cfg *Config, keys keySource, counters *counters) *bearer {
	options := []jwt.ParserOption{
		jwt.WithValidMethods(keys.algorithms()),
		jwt.WithLeeway(cfg.JWTLeeway),
		jwt.WithStrictDecoding(), // otherwise several texts are the same token
	}
	if len(cfg.JWTAudience) > 0 {
		options = append(options, jwt.WithAudience(cfg.JWTAudience...))
	}
	if cfg.JWTIssuer != "" {
		options = append(options, jwt.WithIssuer(cfg.JWTIssuer))
	}
	return &bearer{
		keys:     keys,
		places:   tokenPlaces{cookie: cfg.Cookie, query: cfg.Query},
		parser:   jwt.NewParser(options...),
		leeway:   cfg.JWTLeeway,
		needsEnd: cfg.RequireExp,
		counters: counters,
	}
}

// Authorize implements engine.Authorizer.
func (b *bearer) Authorize(ctx context.Context, r *engine.AuthRequest) (engine.Grant, error) {
	token, err := b.places.find(r.Request)
	if err != nil {
		return engine.Grant{}, b.denial(err)
	}
	c, err := b.verify(ctx, r.Client, token)
	if err != nil {
		return engine.Grant{}, b.denial(err)
	}
	for _, channel := range r.Channels {
		if !matchAny(c.Channels, channel) {
			return engine.Grant{}, b.counters.refuse(RefusedChannels, http.StatusForbidden,
				"forbidden: the token does not cover all channels", challengeScope)
		}
	}
	return engine.Grant{Channels: r.Channels, Expires: b.expiry(c), Subject: string(c.Subject), Token: c.ID}, nil
}

// verify returns the claims of a token that holds. What the parser has to say is judged
// by denial, not repeated: it quotes from the token.
func (b *bearer) verify(ctx context.Context, client netip.Addr, token string) (*claims, error) {
	c := &claims{}
	_, err := b.parser.ParseWithClaims(token, c, func(token *jwt.Token) (any, error) {
		// RFC 7515 §4.1.11: refused by whoever does not know them, and none is known.
		if _, ok := token.Header["crit"]; ok {
			return nil, errCritical
		}
		return b.keys.lookup(ctx, client, token)
	})
	if err == nil && b.needsEnd && c.ExpiresAt == nil {
		err = jwt.ErrTokenInvalidClaims
	}
	return c, err
}

// expiry is exp. A token that is let in after it, by leeway, has the rest of the
// leeway: with exp its stream would end at once, and begin anew.
func (b *bearer) expiry(c *claims) time.Time {
	if c.ExpiresAt == nil {
		return time.Time{}
	}
	if exp := c.ExpiresAt.Time; exp.After(time.Now()) {
		return exp
	}
	return c.ExpiresAt.Add(b.leeway)
}

func (b *bearer) denial(err error) *engine.Denial {
	unauthorized := func(why Reason, body, challenge string) *engine.Denial {
		return b.counters.refuse(why, http.StatusUnauthorized, body, challenge)
	}
	switch {
	case errors.Is(err, errNoToken):
		return unauthorized(RefusedNoToken, "unauthorized: a token is needed", challengeNone)
	case errors.Is(err, errTwoTokens):
		return b.counters.refuse(RefusedMalformed, http.StatusBadRequest, "bad request: one Authorization field, please", challengeTwice)
	case errors.Is(err, errKeysUnavailable):
		return b.counters.unavailable(RefusedKeys)
	case errors.Is(err, jwt.ErrTokenExpired):
		return unauthorized(RefusedExpired, "unauthorized: the token expired", challengeExpired)
	}
	return unauthorized(reasonOf(err), "unauthorized: the token is not valid", challengeInvalid)
}

// reasonOf sorts the errors of a token whose time is not up.
func reasonOf(err error) Reason {
	switch {
	case errors.Is(err, jwt.ErrTokenMalformed):
		return RefusedMalformed
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return RefusedNotYet
	case errors.Is(err, jwt.ErrTokenInvalidAudience),
		errors.Is(err, jwt.ErrTokenInvalidIssuer),
		errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return RefusedAudience
	case errors.Is(err, jwt.ErrTokenInvalidClaims):
		return RefusedClaims
	}
	return RefusedSignature
}

// claims are those that are looked at.
type claims struct {
	jwt.RegisteredClaims
	Subject  subject
	Channels jwt.ClaimStrings
	Publish  jwt.ClaimStrings
}

// subject is a string (RFC 7519 §4.1.2). Issuers with numbers for users send those:
// they are taken by their digits.
type subject string

func (s *subject) UnmarshalJSON(data []byte) error {
	var number json.Number // takes a string for a number, too
	if len(data) > 0 && data[0] != '"' && json.Unmarshal(data, &number) == nil {
		*s = subject(number)
		return nil
	}
	return json.Unmarshal(data, (*string)(s))
}

// UnmarshalJSON takes names as they are spelled. Left to itself encoding/json would
// take "CHANNELS" for "channels", and whoever lets users add claims of their own to
// tokens would let them add channels.
func (c *claims) UnmarshalJSON(data []byte) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	for name, field := range map[string]any{
		"exp":      &c.ExpiresAt,
		"nbf":      &c.NotBefore,
		"aud":      &c.Audience,
		"iss":      &c.Issuer,
		"sub":      &c.Subject,
		"jti":      &c.ID,
		"channels": &c.Channels,
		"publish":  &c.Publish,
	} {
		if raw, ok := all[name]; ok {
			if err := json.Unmarshal(raw, field); err != nil {
				return err
			}
		}
	}
	return nil
}

// Validate implements jwt.ClaimsValidator. A number that no clock shows has lost its
// meaning on the way to a time.Time.
func (c *claims) Validate() error {
	for _, date := range []*jwt.NumericDate{c.ExpiresAt, c.NotBefore} {
		if date == nil {
			continue
		}
		if year := date.UTC().Year(); year < 1970 || year > 9999 {
			return errNumber
		}
	}
	if !isSubject(string(c.Subject)) || !isSubject(c.ID) {
		return errIdentity
	}
	return nil
}
