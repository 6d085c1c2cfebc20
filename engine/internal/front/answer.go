package front

import (
	"bytes"
	"cmp"
	"errors"
	"html"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"ssed/sseproto"
)

// The public paths.
const (
	pathStream = "/sse/connect"
	pathHealth = "/health"
	pathReady  = "/ready"
)

const (
	typeEventStream = "text/event-stream"
	// maxRequestedBytes is how much of a Last-Event-ID is kept for the gap event: more
	// than an ID of ours has with the longest id of a publisher behind it.
	maxRequestedBytes = 256
	// fullRetryFactor stretches the reconnect delay of clients that were turned away
	// for want of room: it frees up more slowly than a feed comes back.
	fullRetryFactor = 4
)

// afterAnswer says what becomes of the connection when the answer is out.
type afterAnswer uint8

const (
	thenKeep      afterAnswer = iota // the next request may come
	thenClose                        // the request was read whole: closing loses nothing
	thenLinger                       // more may be on its way that is not going to be read
	thenAttach                       // it becomes a stream; nothing was written
	thenAuthorize                    // the same, if the Authorizer agrees
)

// appendAnswer extends dst with the answer to req. With thenAttach and thenAuthorize it has
// set h.next, and with the latter h.ask too, but for its Request.
func (f *Front) appendAnswer(dst []byte, req *sseproto.Request, h *handshake) ([]byte, afterAnswer) {
	if isForStream(req) {
		return f.appendStream(dst, req, h)
	}
	isKnown := true
	switch string(req.Path) {
	case pathStream, pathHealth, pathReady:
	default:
		isKnown = req.Form == sseproto.AsteriskForm
	}
	method := string(req.Method)
	switch {
	case !isKnownMethod(method):
		return f.appendText(dst, req, http.StatusNotImplemented, "method not implemented")
	case !isKnown:
		return f.appendHint(dst, req, http.StatusNotFound, "no such path: "+hintStream)
	case method == http.MethodOptions:
		return f.appendOptions(dst, req)
	case method != http.MethodGet && method != http.MethodHead:
		return f.append(dst, req, &sseproto.Response{
			Status: http.StatusMethodNotAllowed, Allow: allowedMethods(req), Body: "method not allowed\n",
		})
	case req.HasBody():
		// The body is not read, so nothing after this head is taken for a request.
		return f.appendText(dst, req, http.StatusRequestEntityTooLarge, "such a request has no body")
	}
	return f.append(dst, req, f.probed(string(req.Path)))
}

// allowedMethods are those of a path.
func allowedMethods(req *sseproto.Request) string {
	if string(req.Path) == pathStream {
		return "GET, HEAD, POST, OPTIONS"
	}
	return "GET, HEAD, OPTIONS"
}

// appendBodyRefusal answers a request for a stream whose body cannot be taken. What
// remains of it is not read, so no request can follow.
func (f *Front) appendBodyRefusal(dst []byte, req *sseproto.Request, err error) ([]byte, afterAnswer) {
	return f.appendText(dst, req, sseproto.StatusOf(err), textOf(err))
}

// probed is the answer to a probe: of pathHealth or pathReady.
func (f *Front) probed(path string) *sseproto.Response {
	if path == pathHealth {
		return &sseproto.Response{Status: http.StatusOK, Body: "ok\n"}
	}
	if _, why, ok := f.allows(f.host.Ready); !ok {
		return &sseproto.Response{Status: http.StatusServiceUnavailable, Body: why + "\n"}
	}
	return &sseproto.Response{Status: http.StatusOK, Body: "ready\n"}
}

// isProbe reports whether a request is one for the health or the readiness.
func isProbe(req *sseproto.Request) bool {
	isGet := string(req.Method) == http.MethodGet || string(req.Method) == http.MethodHead
	return isGet && !req.HasBody() && (string(req.Path) == pathHealth || string(req.Path) == pathReady)
}

// isKnownMethod tells the methods of RFC 9110 §9.3 and RFC 5789, which are refused
// by path, from those that this server does not know at all (RFC 9110 §9.1).
func isKnownMethod(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete,
		http.MethodConnect, http.MethodOptions, http.MethodTrace, http.MethodPatch:
		return true
	}
	return false
}

func (f *Front) appendOptions(dst []byte, req *sseproto.Request) ([]byte, afterAnswer) {
	resp := sseproto.Response{Status: http.StatusNoContent, Allow: allowedMethods(req)}
	if req.Header("Access-Control-Request-Method") != nil {
		resp.CORS = f.cors.preflight(req)
	}
	return f.append(dst, req, &resp)
}

// appendStream answers a request for a stream. If it can be had, nothing is written: who
// takes the stream sends the head.
func (f *Front) appendStream(dst []byte, req *sseproto.Request, h *handshake) ([]byte, afterAnswer) {
	client := h.from.addr
	if !h.from.proxied {
		client = f.clients.clientOf(client, req)
	}
	switch v := f.judge(req, &h.from, client); {
	case v.err != nil:
		return f.appendHint(dst, req, sseproto.StatusOf(v.err), textOf(v.err))
	case v.stream == nil:
		return f.appendUnavailable(dst, req, v.reason, v.why)
	case f.cfg.Authorizer != nil:
		h.next, h.ask = v.stream, &AuthRequest{Channels: v.stream.Channels, Client: client}
		return dst, thenAuthorize
	case string(req.Method) == http.MethodHead:
		return append(dst, v.stream.Head...), thenClose
	default:
		h.next = v.stream
		return dst, thenAttach
	}
}

// appendUnavailable turns a stream request away. A browser never comes back after
// anything but a 200 (HTML §9.2.3), so it gets an empty stream that tells it when to;
// programs get the status that they understand.
func (f *Front) appendUnavailable(dst []byte, req *sseproto.Request, reason RefuseReason, why string) ([]byte, afterAnswer) {
	f.counters.refused[reason].Add(1)
	if !wantsEventStream(req) {
		return f.append(dst, req, f.unavailable(reason, why))
	}
	return f.appendEmptyStream(dst, req, reason), thenClose
}

// unavailable is what programs get.
func (f *Front) unavailable(reason RefuseReason, why string) *sseproto.Response {
	return &sseproto.Response{Status: statusFor(reason), RetryAfter: f.retryDelay(reason), Body: why + "\n"}
}

// appendEmptyStream is what browsers get.
func (f *Front) appendEmptyStream(dst []byte, req *sseproto.Request, reason RefuseReason) []byte {
	dst = append(dst, f.head(req)...)
	if string(req.Method) == http.MethodHead {
		return dst
	}
	start := len(dst)
	dst = sseproto.AppendRetry(dst, f.retryDelay(reason))
	if f.wantsChunks(req) {
		dst = append(sseproto.WrapChunk(dst, start), sseproto.LastChunk...)
	}
	return dst
}

// Refusal turns a stream away that the host has taken and not answered.
type Refusal struct {
	answer []byte
	status int // of it; 0: it is an empty stream
}

// refusalOf makes the answer of appendUnavailable for later: the request is gone by then.
func (f *Front) refusalOf(req *sseproto.Request) *Refusal {
	if wantsEventStream(req) {
		return &Refusal{answer: f.appendEmptyStream(nil, req, RefuseNotReady)}
	}
	_, why := f.host.Ready()
	resp := f.unavailable(RefuseNotReady, cmp.Or(why, "not ready"))
	resp.Close = true
	answer, _ := f.compose(nil, req, resp)
	return &Refusal{answer, resp.Status}
}

// TurnAway counts a refusal and returns the answer, after which the host closes.
func (f *Front) TurnAway(r *Refusal) []byte {
	f.counters.refused[RefuseNotReady].Add(1)
	if r.status != 0 {
		f.count(r.status)
	}
	return r.answer
}

// wantsChunks reports whether the stream that answers a request has chunks. A client of
// HTTP/1.0 does not understand them.
func (f *Front) wantsChunks(req *sseproto.Request) bool { return req.Minor > 0 && !f.cfg.Unchunked }

// head is the head of the stream that answers a request; shared.
func (f *Front) head(req *sseproto.Request) []byte {
	return f.heads.get(f.cors.grant(req.Header("Origin")), f.wantsChunks(req))
}

// appendOverload answers on a connection that there is no room to read from. Input
// is what has arrived of its request. A probe gets the truth: an orchestrator that hears of
// the limit where it asks for the health ends the process.
func (f *Front) appendOverload(dst, input []byte, reason RefuseReason) []byte {
	req, n, err := sseproto.ParseRequest(input, f.limits)
	isWhole := err == nil && n > 0
	if isWhole && isProbe(&req) {
		resp := f.probed(string(req.Path))
		resp.Close = true
		dst, _ = f.append(dst, &req, resp)
		return dst
	}
	if isWhole && (string(req.Path) != pathStream || !wantsEventStream(&req)) {
		f.counters.refused[reason].Add(1)
		dst, _ = f.append(dst, &req, &sseproto.Response{
			Status: statusFor(reason), Close: true, RetryAfter: f.retryDelay(reason), Body: "overloaded\n",
		})
		return dst
	}
	if isWhole {
		dst, _ = f.appendUnavailable(dst, &req, reason, "overloaded")
		return dst
	}
	f.counters.refused[reason].Add(1)
	dst = append(dst, f.heads.get(f.cors.grant(nil), false)...) // its version is not known
	return sseproto.AppendRetry(dst, f.retryDelay(reason))
}

// statusFor is what programs get when they are turned away.
func statusFor(reason RefuseReason) int {
	switch reason {
	case RefuseAddress, RefuseRate, RefuseSubject:
		return http.StatusTooManyRequests
	}
	return http.StatusServiceUnavailable
}

// appendProxyRefusal answers a trusted proxy that does not begin with its header.
func (f *Front) appendProxyRefusal(dst []byte) []byte {
	f.counters.refused[RefuseProxy].Add(1)
	return f.appendRefused(dst, http.StatusBadRequest, "a PROXY header is missing or malformed")
}

// appendRefusal answers what is not a request; nothing is known of it, so there is
// no origin either.
func (f *Front) appendRefusal(dst []byte, err error) []byte {
	f.counters.refused[RefuseProtocol].Add(1)
	return f.appendRefused(dst, sseproto.StatusOf(err), textOf(err))
}

func (f *Front) appendRefused(dst []byte, status int, text string) []byte {
	resp := sseproto.Response{Status: status, Body: text + "\n", Close: true, Date: time.Now(), CORS: f.cors.grant(nil)}
	f.count(resp.Status)
	return resp.AppendTo(dst)
}

func (f *Front) appendText(dst []byte, req *sseproto.Request, status int, text string) ([]byte, afterAnswer) {
	return f.append(dst, req, &sseproto.Response{Status: status, Body: text + "\n"})
}

// appendHint is appendText with a page for who has typed the address into a browser.
func (f *Front) appendHint(dst []byte, req *sseproto.Request, status int, text string) ([]byte, afterAnswer) {
	if !accepts(req, typePage) {
		return f.appendText(dst, req, status, text)
	}
	return f.append(dst, req, &sseproto.Response{
		Status: status, ContentType: typePage + "; charset=utf-8", Body: pageStart + html.EscapeString(text) + pageEnd,
		Fields: []sseproto.Field{{Name: "Content-Security-Policy", Value: "default-src 'none'"}},
	})
}

// The page holds nothing of the request.
const (
	typePage  = "text/html"
	pageStart = "<!doctype html>\n<title>ssed</title>\n<h1>Event streams</h1>\n<p>"
	pageEnd   = "</p>\n<p>A page reads a stream with <code>new EventSource(\"" + pathStream + "?" + sseproto.ParamChannelID + "=NAME\")</code>, " +
		"a shell with <code>curl -N</code>. The dashboard is on the admin listener.</p>\n"
)

// append extends dst with resp as the answer to req, counts it, and says whether another
// request may follow on the connection.
func (f *Front) append(dst []byte, req *sseproto.Request, resp *sseproto.Response) ([]byte, afterAnswer) {
	f.count(resp.Status)
	return f.compose(dst, req, resp)
}

// compose is append for an answer that may not be given.
func (f *Front) compose(dst []byte, req *sseproto.Request, resp *sseproto.Response) ([]byte, afterAnswer) {
	then := thenKeep
	switch {
	case req.HasBody():
		then = thenLinger
	case resp.Close || !req.KeepAlive() || f.draining.Load():
		then = thenClose
	}
	resp.Close = then != thenKeep
	resp.NoBody = string(req.Method) == http.MethodHead
	resp.Date = time.Now()
	if resp.CORS == (sseproto.CORS{}) {
		resp.CORS = f.cors.grant(req.Header("Origin"))
	}
	return resp.AppendTo(dst), then
}

func (f *Front) count(status int) { f.counters.answered[status/100].Add(1) }

// retryDelay is when a client that was turned away shall come again.
func (f *Front) retryDelay(reason RefuseReason) time.Duration {
	low, high := f.cfg.RetryMin, f.cfg.RetryMax
	switch reason {
	case RefuseFull, RefuseFiles, RefuseAddress, RefuseRate, RefuseSubject:
		low, high = fullRetryFactor*low, fullRetryFactor*high
	}
	return jitter(low, high)
}

// jitter draws a duration between low and high, so that clients sent away together
// do not come back together.
func jitter(low, high time.Duration) time.Duration {
	return low + rand.N(max(high-low, 0)+1)
}

// textOf is the text of a refusal, for the client.
func textOf(err error) string {
	var refused *sseproto.ProtocolError
	switch {
	case errors.Is(err, sseproto.ErrNoChannel):
		return sseproto.ErrNoChannel.(*sseproto.ProtocolError).Text() + ": " + hintStream
	case errors.As(err, &refused):
		return refused.Text()
	}
	return "internal error"
}

// hintStream is for who tries it for the first time.
const hintStream = "try " + pathStream + "?" + sseproto.ParamChannelID + "=NAME"

// wantsEventStream reports whether Accept names event streams, as every EventSource
// does (HTML §9.2.2). "*/*" does not: that is what programs send.
func wantsEventStream(req *sseproto.Request) bool { return accepts(req, typeEventStream) }

// accepts reports whether Accept names the type, in lower case, itself.
func accepts(req *sseproto.Request, want string) bool {
	for accept := range req.Values("Accept") {
		for part := range bytes.SplitSeq(accept, []byte{','}) {
			mediaType, _, _ := bytes.Cut(part, []byte{';'})
			if strings.EqualFold(string(bytes.TrimSpace(mediaType)), want) {
				return true
			}
		}
	}
	return false
}

// headCache keeps the last stream head without chunks and the last one with them: within
// a second, and for one origin, all are the same bytes.
type headCache struct{ plain, chunked atomic.Pointer[cachedHead] }

type cachedHead struct {
	second int64
	cors   sseproto.CORS
	bytes  []byte
}

// get returns a stream head, shared and not to be modified.
func (c *headCache) get(cors sseproto.CORS, chunked bool) []byte {
	now, place := time.Now(), &c.plain
	if chunked {
		place = &c.chunked
	}
	if last := place.Load(); last != nil && last.second == now.Unix() && last.cors == cors {
		return last.bytes
	}
	head := sseproto.StreamHead{Chunked: chunked, Date: now, CORS: cors}
	made := &cachedHead{second: now.Unix(), cors: cors, bytes: head.AppendTo(nil)}
	place.Store(made)
	return made.bytes
}
