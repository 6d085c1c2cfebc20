// Package sseproto turns bytes into values and values into bytes: HTTP/1.1 request
// heads, the query of the stream path and the body in its place, answers, event stream
// frames, event IDs, the envelopes of typed events, and the glob patterns of Redis. It has
// no sockets, clocks, goroutines or locks, and keeps no state between calls but what a
// caller holds (HeadScan, BodyScan, Decoder).
//
// What it promises:
//
//   - No input makes it panic, and the time it takes is in proportion to the input,
//     however the input is cut into pieces. MatchGlob is the exception: pattern times
//     string at worst.
//   - A request head is accepted only when there is one way to read it. The bounds of
//     Limits are those of a single head; nothing is kept of one that is refused.
//   - Whatever a publisher or a client puts into a payload, an event type, a channel
//     name or a header value, one call of an encoder makes one frame or one answer.
//   - A frame gives a conforming client the data that was put in, with CR and CRLF
//     turned into LF and ill-formed UTF-8 into U+FFFD; Lossless tells when neither
//     was there.
//   - Encoding and parsing allocate nothing beyond the growth of dst. ChannelIDs
//     makes one string for each channel, ParseEnvelope one for each that has escapes,
//     ReadBody the parameters.
//
// Who owns the bytes: AppendX extends dst and borrows its other arguments for the
// call. ParseRequest returns slices of its input, valid as long as the input is.
// Decoder lends slices to its callback until that returns.
//
// The standards: RFC 9110 (HTTP semantics), RFC 9112 (HTTP/1.1), RFC 3986 (URIs), the
// WHATWG standards HTML §9.2 (server-sent events), URL (form encoding), Encoding
// (UTF-8) and Fetch (CORS). Section numbers in comments are theirs.
package sseproto
