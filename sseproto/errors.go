package sseproto

import (
	"errors"
	"net/http"
)

// ProtocolError is why a request is refused. All of them are the Err values of
// this package, to be compared with errors.Is; the text holds nothing of the
// request, so it may be logged and sent.
type ProtocolError struct {
	// Status is the HTTP status to answer with. The connection is closed after it:
	// where the next request would begin is not known.
	Status int
	text   string
	of     error // the Err value that it is a case of; nil: none
}

// Error returns the text with the name of the package.
func (e *ProtocolError) Error() string { return "sseproto: " + e.text }

// Unwrap returns the Err value of which e is a case with a text of its own.
func (e *ProtocolError) Unwrap() error { return e.of }

// Text returns the text alone, fit for the body of an answer.
func (e *ProtocolError) Text() string { return e.text }

func refusal(status int, text string) error { return &ProtocolError{Status: status, text: text} }

// Refusals of a request head.
var (
	// ErrBadOctet: a control character, a CR without LF or a LF without CR.
	// A lone LF or CR may be a line end to one recipient and not to the next, which
	// is how requests are smuggled (RFC 9112 §2.2, §11.2), so neither is let through.
	ErrBadOctet = refusal(http.StatusBadRequest, "control character or bare line end in the request head")
	// ErrLeadingLines: more empty lines before the request line than are skipped.
	ErrLeadingLines = refusal(http.StatusBadRequest, "empty lines in place of a request")
	// ErrBadRequestLine: not "method SP target SP version" (RFC 9112 §3), as in HTTP/0.9.
	ErrBadRequestLine = refusal(http.StatusBadRequest, "malformed request line")
	// ErrBadTarget: a request target that does not fit the method or is malformed (RFC 9112 §3.2).
	ErrBadTarget = refusal(http.StatusBadRequest, "malformed request target")
	// ErrVersion: an HTTP major version other than 1.
	ErrVersion = refusal(http.StatusHTTPVersionNotSupported, "HTTP version not supported")
	// ErrTargetTooLong: the request line does not end within Limits.MaxHeadBytes.
	ErrTargetTooLong = refusal(http.StatusRequestURITooLong, "request target too long")
	// ErrMethodTooLong: as ErrTargetTooLong, and it is the method that does not end (RFC 9112 §3).
	ErrMethodTooLong = refusal(http.StatusNotImplemented, "request method too long")
	// ErrHeadTooLarge: the fields do not end within Limits.MaxHeadBytes (RFC 6585 §5).
	ErrHeadTooLarge = refusal(http.StatusRequestHeaderFieldsTooLarge, "request head too large")
	// ErrTooManyFields: more fields than Limits.MaxFields.
	ErrTooManyFields = refusal(http.StatusRequestHeaderFieldsTooLarge, "too many header fields")
	// ErrBadField: no colon, or a name that is not a token, as with space before the
	// colon (RFC 9112 §5.1).
	ErrBadField = refusal(http.StatusBadRequest, "malformed header field")
	// ErrFold: a field line that begins with white space (RFC 9112 §5.2).
	ErrFold = refusal(http.StatusBadRequest, "folded header field")
	// ErrBadHost: Host missing in HTTP/1.1, repeated or malformed (RFC 9112 §3.2).
	ErrBadHost = refusal(http.StatusBadRequest, "missing, repeated or malformed Host")
	// ErrBadContentLength: not digits only, or repeated (RFC 9110 §8.6).
	ErrBadContentLength = refusal(http.StatusBadRequest, "malformed or repeated Content-Length")
	// ErrContentTooLarge: a Content-Length beyond 63 bits.
	ErrContentTooLarge = refusal(http.StatusRequestEntityTooLarge, "content too large")
	// ErrBadTransferEncoding: chunked is not the only final coding, the field is
	// repeated, stands beside Content-Length or in HTTP/1.0 (RFC 9112 §6.1, §6.3).
	ErrBadTransferEncoding = refusal(http.StatusBadRequest, "malformed or misplaced Transfer-Encoding")
	// ErrTransferCoding: a coding before chunked (RFC 9112 §6.1).
	ErrTransferCoding = refusal(http.StatusNotImplemented, "transfer coding not supported")
	// ErrMisdirected: a Host by which this server is not to be asked (RFC 9110 §15.5.20).
	ErrMisdirected = refusal(http.StatusMisdirectedRequest, "not served by this host name")
	// ErrExpectation: an Expect other than 100-continue (RFC 9110 §10.1.1).
	ErrExpectation = refusal(http.StatusExpectationFailed, "expectation not supported")
)

// Refusals of a query.
var (
	// ErrBadEscape: "%" without two hex digits after it.
	ErrBadEscape = refusal(http.StatusBadRequest, "malformed percent escape in the parameters")
	// ErrNoChannel: no channel_id.
	ErrNoChannel = refusal(http.StatusBadRequest, "channel_id is missing")
	// ErrBadChannel: a channel_id that is empty, longer than MaxChannelBytes or has a NUL.
	ErrBadChannel = refusal(http.StatusBadRequest, "channel_id is empty, too long or has a NUL")
	// ErrBadStart: a start other than id and none.
	ErrBadStart = refusal(http.StatusBadRequest, "start is neither id nor none")
	// ErrBadTell: a tell other than channel.
	ErrBadTell = refusal(http.StatusBadRequest, "tell is not channel")
	// ErrBadSince: a since in none of its forms.
	ErrBadSince = refusal(http.StatusBadRequest, "since is not earliest, a duration as 10m, a Unix time in seconds or milliseconds, or a time as 2026-11-30T10:00:00Z")
	// ErrBadLast: a last that is not a number, or out of its range. The limit follows in the
	// text of an error.
	ErrBadLast = refusal(http.StatusBadRequest, "last is not a number from 1 to")
	// ErrSinceAndLast: both of them.
	ErrSinceAndLast = refusal(http.StatusBadRequest, "since and last are both given: use one of them")
	// ErrTooManyChannels: more different channels than the caller allows.
	ErrTooManyChannels = refusal(http.StatusBadRequest, "too many channels")
)

// Refusals of the body of a request for a stream.
var (
	// ErrBodyTooLarge: more than MaxBodyBytes.
	ErrBodyTooLarge = refusal(http.StatusRequestEntityTooLarge, "the body has more than 64 KiB")
	// ErrNoLength: a POST without Content-Length and Transfer-Encoding. It has no body (RFC 9112
	// §6.3), but who means that says "Content-Length: 0" (RFC 9110 §8.6).
	ErrNoLength = refusal(http.StatusLengthRequired, "Content-Length is missing: it is 0 without a body")
	// ErrNoBodyType: a body without a Content-Type. What it was meant as is not known.
	ErrNoBodyType = refusal(http.StatusBadRequest, "Content-Type is missing: application/x-www-form-urlencoded or application/json")
	// ErrBodyType: a Content-Type of neither kind. A page's fetch sends text/plain unless told
	// otherwise.
	ErrBodyType = refusal(http.StatusUnsupportedMediaType, "Content-Type is neither application/x-www-form-urlencoded nor application/json")
	// ErrContentCoding: a body that is compressed.
	ErrContentCoding = refusal(http.StatusUnsupportedMediaType, "Content-Encoding is not supported")
	// ErrBadChunk: a body in chunks that is none by RFC 9112 §7.1.
	ErrBadChunk = refusal(http.StatusBadRequest, "malformed chunk")
	// ErrBadForm: a form with a control character.
	ErrBadForm = refusal(http.StatusBadRequest, "control character in the form")
	// ErrBadJSON: not one JSON object of strings, numbers, null and lists of these, or a
	// member twice.
	ErrBadJSON = refusal(http.StatusBadRequest, "the body is not a JSON object of strings, numbers and lists of them, each name once")
)

// StatusOf returns the status to answer err with: that of a *ProtocolError in its
// chain, else 500.
func StatusOf(err error) int {
	if refused, ok := errors.AsType[*ProtocolError](err); ok {
		return refused.Status
	}
	return http.StatusInternalServerError
}
