package ssed

import "ssed/engine"

// Authorizer decides who may open a stream, see Config.Auth. It has one method:
//
//	Authorize(ctx context.Context, r *AuthRequest) (Grant, error)
//
// It is called on a goroutine of its own and may take its time. Ctx ends after
// StreamConfig.AuthTimeout, or when the drain is over; it does not end when the client
// leaves. A *Denial becomes the answer to the client; any other error becomes 503.
//
// An Authorizer that remembers its decisions may have a second method, Forget(), which
// Gateway.Disconnect calls before it closes streams.
type Authorizer = engine.Authorizer

// AuthRequest is what an Authorizer may look at, until Authorize returns:
//
//	Request  *sseproto.Request // its Header("Authorization") is a []byte, nil without that field
//	Channels []string          // asked for; not empty, no duplicates
//	Client   netip.Addr        // of the client; zero for a unix socket
//
// An Authorizer that lets clients with one key read what they ask for:
//
//	func (a keyed) Authorize(_ context.Context, r *ssed.AuthRequest) (ssed.Grant, error) {
//		if string(r.Request.Header("X-Key")) != a.key {
//			return ssed.Grant{}, &ssed.Denial{Status: 403}
//		}
//		return ssed.Grant{Channels: r.Channels}, nil
//	}
//
// A program that checks a secret compares it with crypto/subtle.
type AuthRequest = engine.AuthRequest

// Grant is what a client may have. Channels is the part of the channels asked for that it
// gets, not empty; at Expires its stream is closed, never when that is zero.
type Grant = engine.Grant

// Denial is the error of an Authorizer that decided against a client, or could not decide:
// the Status, Body and Fields of the answer.
type Denial = engine.Denial
