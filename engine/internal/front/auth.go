package front

import (
	"context"
	"net/netip"
	"time"

	"ssed/sseproto"
)

// AuthRequest is what an Authorizer may look at. All of it is valid until
// Authorize returns.
type AuthRequest struct {
	Request  *sseproto.Request
	Channels []string   // asked for; not empty, no duplicates
	Client   netip.Addr // of the client, behind trusted proxies too; zero for a unix socket without such
}

// Grant is what a client may have.
type Grant struct {
	Channels []string  // the part of the channels asked for that is granted, not empty
	Expires  time.Time // the stream is closed then; zero: no end
	Subject  string    // who the client is, at most MaxSubjectBytes; "": not known
	Token    string    // ID of the token that was shown, at most MaxSubjectBytes; "": none
}

// MaxSubjectBytes bounds the subject and the token ID of a Grant: as long as the name of
// a channel may be.
const MaxSubjectBytes = 255

// Denial is the error of an Authorizer that decided against a client, or could
// not decide. It becomes the answer.
type Denial struct {
	Status int // 401, 403, … or 503 when there was no decision
	Body   string
	Fields []sseproto.Field // WWW-Authenticate and the like
}

// Error implements error. The text is for logs; clients get Body.
func (d *Denial) Error() string { return "engine: denied: " + d.Body }

// Authorizer decides who may open a stream. Authorize is called on a goroutine
// of its own and may take its time; ctx ends after engine.Config.AuthTimeout, or when the
// server closes what its drain has left, and does not when the client leaves. Errors
// other than *Denial are answered with 503.
type Authorizer interface {
	Authorize(ctx context.Context, r *AuthRequest) (Grant, error)
}
