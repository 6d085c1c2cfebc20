package sseproto

import (
	"net/http"
	"strconv"
	"time"
)

// The fixed start of every stream head. The body ends when the connection does, or with
// its last chunk. The charset is what event streams have anyway (HTML §9.2.5); some
// clients take Latin-1 without it. no-transform keeps proxies from compressing, hence from
// buffering; X-Accel-Buffering switches off nginx's buffer.
const streamHead = "HTTP/1.1 200 OK\r\n" +
	"Content-Type: text/event-stream; charset=utf-8\r\n" +
	"Cache-Control: no-cache, no-transform\r\n" +
	"X-Accel-Buffering: no\r\n" +
	"Connection: close\r\n"

// TypeText is the content type of plain answers.
const TypeText = "text/plain; charset=utf-8"

// Field is one header field of an answer.
type Field struct{ Name, Value string }

// CORS is what an answer tells a browser about other origins (Fetch §3.3). Empty
// members are left out.
type CORS struct {
	// AllowOrigin is "*" or the origin of the request. With Credentials it must not
	// be "*": browsers refuse that.
	AllowOrigin string
	Credentials bool
	// VaryOrigin is to be set whenever the answer depends on the Origin field, also
	// on answers without AllowOrigin: a shared cache must not mix them up.
	VaryOrigin bool
	// AllowMethods, AllowHeaders and MaxAge belong to the answer to a preflight.
	AllowMethods string
	AllowHeaders string
	MaxAge       time.Duration
}

// Response is an answer that is not a stream. Whatever its strings hold, it is one
// answer: control characters in values are left out, a field whose name is not a
// token too.
type Response struct {
	// Status is three digits; its reason phrase is that of net/http.
	Status int
	// Body is sent with its Content-Length. ContentType is TypeText when empty.
	Body        string
	ContentType string
	// NoBody leaves the body out, but not its length: for HEAD (RFC 9110 §9.3.2).
	NoBody bool
	// Close announces the end of the connection; the caller closes it.
	Close bool
	// Date is left out when zero. A server with a clock must send it (RFC 9110 §6.6.1).
	Date time.Time
	// Allow lists the methods; required with 405 (RFC 9110 §15.5.6).
	Allow string
	// RetryAfter is sent in whole seconds, rounded up, when above zero.
	RetryAfter time.Duration
	CORS       CORS
	Fields     []Field
}

// AppendTo extends dst with the whole answer.
func (r *Response) AppendTo(dst []byte) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(r.Status), 10)
	dst = append(dst, ' ')
	dst = append(dst, http.StatusText(r.Status)...)
	dst = append(dst, "\r\n"...)
	dst = r.appendContentFields(dst)
	dst = appendField(dst, "Allow", r.Allow)
	dst = appendSeconds(dst, "Retry-After", r.RetryAfter)
	if r.Close {
		dst = append(dst, "Connection: close\r\n"...)
	} else {
		// The default of HTTP/1.1, but a client of 1.0 has to be told.
		dst = append(dst, "Connection: keep-alive\r\n"...)
	}
	dst = appendCommon(dst, r.Date, &r.CORS, r.Fields)
	if r.NoBody || !hasContent(r.Status) {
		return dst
	}
	return append(dst, r.Body...)
}

// appendContentFields writes what describes the body. A 204 or 304 has no length
// either (RFC 9110 §8.6).
func (r *Response) appendContentFields(dst []byte) []byte {
	if !hasContent(r.Status) {
		return dst
	}
	if r.Body != "" {
		contentType := r.ContentType
		if contentType == "" {
			contentType = TypeText
		}
		dst = appendField(dst, "Content-Type", contentType)
	}
	dst = append(dst, "Content-Length: "...)
	dst = strconv.AppendInt(dst, int64(len(r.Body)), 10)
	dst = append(dst, "\r\n"...)
	// Health, readiness and errors change from one moment to the next.
	return append(dst, "Cache-Control: no-store\r\n"...)
}

func hasContent(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// StreamHead is the head of an event stream; the zero value is complete.
type StreamHead struct {
	// Chunked announces a body in chunks. Only for a request of HTTP/1.1 (RFC 9112 §6.1).
	Chunked bool
	// Date is left out when zero.
	Date   time.Time
	CORS   CORS
	Fields []Field
}

// AppendTo extends dst with the head and its empty line. After it come frames until the
// connection is closed; if Chunked, in chunks.
func (h *StreamHead) AppendTo(dst []byte) []byte {
	dst = append(dst, streamHead...)
	if h.Chunked {
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	}
	return appendCommon(dst, h.Date, &h.CORS, h.Fields)
}

// appendCommon writes the fields that all answers may have, and the empty line.
func appendCommon(dst []byte, date time.Time, cors *CORS, fields []Field) []byte {
	if !date.IsZero() {
		dst = append(dst, "Date: "...)
		dst = date.UTC().AppendFormat(dst, http.TimeFormat)
		dst = append(dst, "\r\n"...)
	}
	dst = append(dst, "X-Content-Type-Options: nosniff\r\n"...)
	dst = cors.appendTo(dst)
	for _, f := range fields {
		dst = appendField(dst, f.Name, f.Value)
	}
	return append(dst, "\r\n"...)
}

func (c *CORS) appendTo(dst []byte) []byte {
	dst = appendField(dst, "Access-Control-Allow-Origin", c.AllowOrigin)
	// Who may read an answer asks for it by CORS. Others must not even get it into their
	// process, as an image or a script (Fetch §3.7).
	if c.AllowOrigin == "*" {
		dst = append(dst, "Cross-Origin-Resource-Policy: cross-origin\r\n"...)
	} else {
		dst = append(dst, "Cross-Origin-Resource-Policy: same-origin\r\n"...)
	}
	if c.Credentials {
		dst = append(dst, "Access-Control-Allow-Credentials: true\r\n"...)
	}
	if c.VaryOrigin {
		dst = append(dst, "Vary: Origin\r\n"...)
	}
	dst = appendField(dst, "Access-Control-Allow-Methods", c.AllowMethods)
	dst = appendField(dst, "Access-Control-Allow-Headers", c.AllowHeaders)
	return appendSeconds(dst, "Access-Control-Max-Age", c.MaxAge)
}

// appendField writes one field line, or nothing when value is empty or name is not a
// token. Control characters of value are left out: with CR and LF gone it cannot
// become a second field or a second answer.
func appendField(dst []byte, name, value string) []byte {
	if value == "" || !isToken(name) {
		return dst
	}
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	for i := 0; i < len(value); i++ {
		if c := value[i]; c >= ' ' && c != 0x7F || c == '\t' {
			dst = append(dst, c)
		}
	}
	return append(dst, "\r\n"...)
}

// appendSeconds writes d in whole seconds, rounded up, or nothing when it is not
// above zero.
func appendSeconds(dst []byte, name string, d time.Duration) []byte {
	if d <= 0 {
		return dst
	}
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	dst = strconv.AppendInt(dst, int64((d-1)/time.Second)+1, 10)
	return append(dst, "\r\n"...)
}
