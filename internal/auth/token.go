package auth

import (
	"bytes"
	"errors"

	"ssed/sseproto"
)

var (
	errNoToken   = errors.New("auth: no token")
	errTwoTokens = errors.New("auth: more than one Authorization field")
)

// tokenPlaces are the names under which a token may come besides Authorization.
type tokenPlaces struct{ cookie, query string }

// find returns the token of a request, a copy. A field of another scheme is passed
// over: a proxy may have one of its own in front of a page that sends a cookie.
func (p tokenPlaces) find(r *sseproto.Request) (string, error) {
	var field []byte
	count := 0
	for value := range r.Values("Authorization") {
		field = value
		count++
	}
	if count > 1 {
		return "", errTwoTokens // which of them counts is anybody's guess
	}
	if token, ok := bearerOf(field); ok {
		return token, nil
	}
	if p.cookie != "" {
		if token := cookieOf(r, p.cookie); token != "" {
			return token, nil
		}
	}
	if p.query != "" {
		if token, _ := sseproto.QueryParam(nil, r.Params, p.query); len(token) > 0 {
			return string(token), nil
		}
	}
	return "", errNoToken
}

// bearerOf reads "Bearer" 1*SP token (RFC 6750 §2.1); schemes are case-insensitive
// (RFC 9110 §11.1). An empty token is one, and not valid.
func bearerOf(field []byte) (string, bool) {
	const scheme = "Bearer"
	if len(field) < len(scheme) || !bytes.EqualFold(field[:len(scheme)], []byte(scheme)) {
		return "", false
	}
	rest := field[len(scheme):]
	if len(rest) > 0 && rest[0] != ' ' {
		return "", false
	}
	return string(bytes.TrimLeft(rest, " ")), true
}

// cookieOf returns the first cookie of that name that has a value, without the
// quotes that it may be in (RFC 6265 §4.1.1).
func cookieOf(r *sseproto.Request, name string) string {
	for field := range r.Values("Cookie") {
		for pair := range bytes.SplitSeq(field, []byte{';'}) {
			key, value, _ := bytes.Cut(pair, []byte{'='})
			if string(bytes.Trim(key, " \t")) != name {
				continue
			}
			value = bytes.Trim(value, " \t")
			if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
				value = value[1 : n-1]
			}
			if len(value) > 0 {
				return string(value)
			}
		}
	}
	return ""
}
