package front

import (
	"net/http"
	"net/netip"
	"time"

	"ssed/sseproto"
)

// caller is a connection as far as it matters for what its requests may have.
type caller struct {
	fd   int
	addr netip.Addr   // of the peer, or whom its PROXY header names; zero for a unix socket
	peer uint32       // handle of the address in Front.peers; 0: not counted
	over RefuseReason // the limit that the address exceeds; notRefused: none
	// proxied: a PROXY header came, and its word counts, also where it names nobody. What
	// X-Forwarded-For says then comes from the client: a proxy that sends the header may
	// pass the rest on unread.
	proxied bool
}

// verdict is what judge says of a request for a stream.
type verdict struct {
	stream *Stream      // what the connection may become; nil: refused
	reason RefuseReason // refused, for now: why
	why    string       // the same as text for the client
	err    error        // refused for good: the request is wrong
}

// isForStream reports whether a request is one for a stream, whatever becomes of it.
func isForStream(req *sseproto.Request) bool {
	if string(req.Path) != pathStream || req.HasBody() {
		return false
	}
	switch string(req.Method) {
	case http.MethodGet, http.MethodHead, http.MethodPost:
		return true
	}
	return false
}

// bringsParams reports whether a request for a stream has parameters in its body, which
// was not read yet.
func bringsParams(req *sseproto.Request) bool {
	return string(req.Method) == http.MethodPost && string(req.Path) == pathStream && req.HasBody()
}

// judge decides about a request for a stream: the one place where that is done, but for
// what an Authorizer says afterwards. Client is who asks: c.addr, or whom a trusted proxy
// has just named; then its address is counted, in c.peer.
func (f *Front) judge(req *sseproto.Request, c *caller, client netip.Addr) verdict {
	if c.over != notRefused && !f.chargeAgain(c) {
		return verdict{reason: c.over, why: whyRefused(c.over)}
	}
	if !f.hosts.allows(req.Host) {
		return verdict{err: sseproto.ErrMisdirected}
	}
	if string(req.Method) == http.MethodPost && req.ContentLength < 0 && !req.Chunked {
		return verdict{err: sseproto.ErrNoLength}
	}
	since := f.host.Standing()
	channels, err := sseproto.ChannelIDs(nil, req.Params, f.cfg.MaxChannels)
	if err != nil {
		return verdict{err: err}
	}
	options, err := sseproto.ParseOptions(req.Params, f.cfg.MaxLast)
	if err != nil {
		return verdict{err: err}
	}
	if reason, why, ok := f.availability(); !ok {
		return verdict{reason: reason, why: why}
	}
	if f.full() {
		return verdict{reason: RefuseFull, why: "too many connections"}
	}
	if client != c.addr {
		peer, over := f.charge(client)
		if over != notRefused {
			f.peers.release(peer, over) // the proxy's next request may be another client's
			return verdict{reason: over, why: whyRefused(over)}
		}
		c.peer = peer
	}
	lastEventID, resumes := f.lastEventIDOf(req)
	s := &Stream{
		FD: c.fd, Head: f.head(req), Chunked: f.wantsChunks(req), Told: options.Told, Channels: channels,
		LastEventID: lastEventID, Resumes: resumes, TakesID: f.wantsStartID(req, options.Start),
		Expires: f.maxAge(), Peer: c.peer, Since: since, Client: ClientKey(client, c.fd),
		Start: f.startOf(options.From, resumes),
	}
	if f.host.Begun != nil && !f.host.Begun() {
		s.Refusal = f.refusalOf(req)
	}
	return verdict{stream: s}
}

// startOf is Stream.Start for what a client asks for. An age counts from the request, not
// from when an Authorizer has made up its mind.
func (f *Front) startOf(p sseproto.StartPoint, resumes bool) *sseproto.StartPoint {
	if resumes || p.IsNow() {
		return nil
	}
	if p.Kind == sseproto.FromAge {
		now := f.host.Clock()
		p = sseproto.StartPoint{Kind: sseproto.FromTime, Time: now - min(now, uint64(p.Age/time.Millisecond))}
	}
	start := p // p itself would be allocated for who asks for nothing, too
	return &start
}

// maxAge draws when a stream that begins now is closed; the zero time is never.
// Streams that began together, after a restart of another instance, do not end
// together.
func (f *Front) maxAge() time.Time {
	age := f.cfg.MaxAge
	if age == 0 {
		return time.Time{}
	}
	return time.Now().Add(jitter(age/10*8, age))
}

// whyRefused is the text for an address over its limit.
func whyRefused(over RefuseReason) string {
	if over == RefuseRate {
		return "too many new connections from this address"
	}
	return "too many connections from this address"
}

// lastEventIDOf reads where the client left off. The position comes first in it, so that
// what is cut from a long one tells nothing.
func (f *Front) lastEventIDOf(req *sseproto.Request) (id string, ok bool) {
	var buf [maxRequestedBytes]byte
	raw, ok := req.LastEventID(buf[:0])
	return string(raw[:min(len(raw), maxRequestedBytes+f.cfg.MoreIDBytes)]), ok
}
