package front

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"

	"ssed/engine/internal/sock"
	"ssed/sseproto"
)

// copyRequest takes a copy of a request, whose bytes are borrowed, with its parameters:
// deciding goes on when they are gone.
func copyRequest(data []byte, limits sseproto.Limits) *sseproto.Request {
	req, _, _, _ := parseRequest(bytes.Clone(data), limits, new(sseproto.BodyScan)) // it was one a moment ago
	return &req
}

// decide asks the Authorizer about h.ask and does what it says. The connection has left
// netpoll by then, which would go on to read into memory whatever the client sends
// meanwhile. Nobody watches the descriptor: what comes waits in the socket, and a client
// that has hung up is found out by the write of the answer or by who takes the stream.
func (f *Front) decide(h *handshake) {
	req := h.ask.Request
	if h.asked > 0 {
		if !f.large.reserve(h.asked) {
			answer, _ := f.appendUnavailable(nil, req, RefuseMemory, "too many large requests")
			f.dismiss(h, answer)
			return
		}
		defer f.large.release(h.asked)
	}
	f.counters.deciding.Add(1)
	defer f.counters.deciding.Add(-1)
	grant, err := f.ask(h)
	switch reason, why, ok := f.availability(); {
	case err != nil:
		f.dismiss(h, f.appendDenial(nil, req, denialOf(err)))
	case len(grant.Channels) == 0:
		f.dismiss(h, f.appendDenial(nil, req, &Denial{Status: http.StatusForbidden, Body: "no channel is granted\n"}))
	case !ok: // since then
		answer, _ := f.appendUnavailable(nil, req, reason, why)
		f.dismiss(h, answer)
	case f.revoked.keepsOut(grant.Subject, grant.Token):
		f.dismiss(h, f.appendRevoked(nil, req))
	case string(req.Method) == http.MethodHead:
		f.dismiss(h, h.next.Head)
	default:
		f.admitGranted(h, &grant)
	}
}

// admitGranted hands over a stream that was granted, unless its subject has as many as it
// may, or it was revoked since.
func (f *Front) admitGranted(h *handshake, grant *Grant) {
	req := h.ask.Request
	subject, ok := f.subjects.admit(grant.Subject)
	if !ok {
		answer, _ := f.appendUnavailable(nil, req, RefuseSubject, "too many connections of this user")
		f.dismiss(h, answer)
		return
	}
	next := h.next
	next.Channels, next.Ends, next.Subject, next.Token = grant.Channels, grant.Expires, subject, f.TokenHash(grant.Token)
	if !f.revoked.admit(grant.Subject, grant.Token, func() { f.handOver(next) }) {
		f.subjects.release(subject)
		f.dismiss(h, f.appendRevoked(nil, req))
		return
	}
	if log := f.cfg.Logger; grant.Subject != "" && log.Enabled(context.Background(), slog.LevelDebug) {
		log.Debug("auth: a stream was granted", "subject", grant.Subject, "token_id", grant.Token)
	}
}

// appendRevoked is the answer to who is kept out. An EventSource stays away for good.
func (f *Front) appendRevoked(dst []byte, req *sseproto.Request) []byte {
	f.counters.refused[RefuseRevoked].Add(1)
	dst, _ = f.append(dst, req, &sseproto.Response{Status: http.StatusForbidden, Close: true, Body: "access was withdrawn\n"})
	return dst
}

// ask calls the Authorizer. A panic in it concerns this client alone.
func (f *Front) ask(h *handshake) (grant Grant, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			f.panicked("authorizer", cause, debug.Stack())
			err = errUndecided
		}
	}()
	ctx, cancel := context.WithTimeout(f.decisions, f.cfg.AuthTimeout)
	defer cancel()
	grant, err = f.cfg.Authorizer.Authorize(ctx, h.ask)
	if len(grant.Subject) > MaxSubjectBytes || len(grant.Token) > MaxSubjectBytes {
		return Grant{}, errUndecided
	}
	return grant, err
}

var errUndecided = errors.New("front: no decision")

// denialOf is what a client is told about an error of the Authorizer. Only a
// *Denial with a status that denies is told; all else means that there was no
// decision.
func denialOf(err error) *Denial {
	denial, ok := errors.AsType[*Denial](err)
	if !ok || denial.Status < 300 || denial.Status > 599 {
		return &Denial{Status: http.StatusServiceUnavailable, Body: "authorisation is not available\n"}
	}
	return denial
}

// appendDenial extends dst with a denial as the answer. Without a decision an
// EventSource is asked to come again; with one it gets the status, after which it
// stays away (HTML §9.2.3), as it should.
func (f *Front) appendDenial(dst []byte, req *sseproto.Request, denial *Denial) []byte {
	if denial.Status == http.StatusServiceUnavailable {
		if wantsEventStream(req) {
			dst, _ = f.appendUnavailable(dst, req, RefuseUndecided, "")
			return dst
		}
		f.counters.refused[RefuseUndecided].Add(1)
	} else {
		f.counters.refused[RefuseDenied].Add(1)
	}
	resp := sseproto.Response{Status: denial.Status, Body: denial.Body, Close: true}
	for _, field := range denial.Fields {
		switch {
		case strings.EqualFold(field.Name, "Content-Type"):
			resp.ContentType = field.Value
		case !isOurs(field.Name):
			resp.Fields = append(resp.Fields, field)
		}
	}
	if denial.Status == http.StatusServiceUnavailable && !hasField(resp.Fields, "Retry-After") {
		resp.RetryAfter = f.retryDelay(RefuseUndecided)
	}
	dst, _ = f.append(dst, req, &resp)
	return dst
}

// isOurs tells the fields that frame the answer, or that every answer has already:
// a second one of another value would make two answers of it, or none.
func isOurs(name string) bool {
	switch strings.ToLower(name) {
	case "connection", "content-length", "transfer-encoding", "keep-alive", "upgrade", "trailer",
		"date", "cache-control", "vary", "x-content-type-options", "cross-origin-resource-policy":
		return true
	}
	return len(name) >= len(corsPrefix) && strings.EqualFold(name[:len(corsPrefix)], corsPrefix)
}

const corsPrefix = "Access-Control-"

func hasField(fields []sseproto.Field, name string) bool {
	for _, field := range fields {
		if strings.EqualFold(field.Name, name) {
			return true
		}
	}
	return false
}

// dismiss answers and closes a connection that has left netpoll.
func (f *Front) dismiss(h *handshake, answer []byte) {
	if n, result := sock.Send(h.from.fd, []sock.Iovec{sock.Piece(answer)}); result == sock.Again || result == sock.Starved || result == sock.OK && n < len(answer) {
		f.counters.refused[RefuseUnread].Add(1)
	}
	sock.ShutdownWrite(h.from.fd)
	sock.Discard(h.from.fd)
	sock.Close(h.from.fd)
	f.ended(h)
}
