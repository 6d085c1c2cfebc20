// Package auth decides who may open a stream and with which channels: lists of
// channels, JSON Web Tokens, or a service that is asked.
//
// # Order
//
// The lists come first: a channel that matches none of Config.ChannelsAllow, or one of
// Config.ChannelsDeny, refuses the request (403) before a token is looked at or a
// service asked. Then a token or the service decides. All globs are those of Redis
// (sseproto.MatchGlob).
//
// # Tokens
//
// A token comes from Authorization: Bearer, else from the cookie, else from the query
// parameter; the latter two only when named in Config. The key decides the algorithm:
// a secret is HS256, an RSA key RS256, one on P-256 ES256, an Ed25519 key EdDSA.
// Whatever the token says, no key is ever used with another algorithm, and "none" is
// not one. A header with "crit" is refused (RFC 7515 §4.1.11).
//
// The claim "channels" lists names and globs. All channels asked for must be covered,
// otherwise the answer is 403: a client that silently got half of them would wait for
// the rest for ever. A token without the claim covers nothing. "exp" ends the stream;
// a token without it does not. "aud" and "iss" are checked when configured, and are
// required then.
//
// Without a token the answer is 401 with a bare challenge, with a bad one 401 and
// error="invalid_token" (RFC 6750 §3.1). Why a token was refused is counted, and told
// to nobody but for its expiry.
//
// # Keys from a URL
//
// The key set is fetched at the start and every five minutes. A key ID that is not in
// it makes it be fetched again, at most every two seconds, and all who wait for that
// share one fetch. Until the first success, and when it is an hour since the last one,
// nobody is let in (503); in between the keys at hand serve those whom they know, and
// an unknown key ID is 503 while fetching fails: it may be a new key. Symmetric keys,
// short RSA keys and other curves in the set are passed over. A token without a key
// ID is tried with all keys.
//
// With Config.RequireExp a token must have "exp". "sub" is the subject of the
// connection and "jti" the name of its token, each at most 255 bytes without control
// characters. A "sub" that is a number is taken by its digits.
//
// # Forward auth
//
// The service gets a GET with the fields of the request whose names are letters, digits
// and "-" alone: to a CGI program "X~SSE~Channels" is the same variable as
// "X-SSE-Channels". Left out are fields that concern the connection, a body, ranges or
// conditions, and all that name the client or the request in a way of their own
// (notForwarded). These are set anew:
//
//	X-SSE-Channels                         the channels asked for, percent-encoded, with commas
//	X-Original-URI, X-Forwarded-Uri        path and query, as sent
//	X-Original-Method, X-Forwarded-Method  the method
//	X-Forwarded-For                        the client, one address
//	X-Forwarded-Host                       the authority asked for
//	X-Forwarded-Proto                      http, or what the request says if https
//
// A service should judge X-SSE-Channels and not parse the query itself: another
// reading of a repeated parameter would admit what it never saw.
//
// 2xx admits. The answer may have, each once:
//
//	X-SSE-Channels  names and globs: what is granted is the channels that match
//	X-SSE-Subject   who the client is; "%XX" stands for that octet
//	X-SSE-Expires   when the stream ends, in seconds since 1970
//
// No channel left is 403. "%XX" in X-SSE-Channels stands for that octet and has no
// meaning in the glob, so what was asked can be sent back as it came. 3xx, 4xx and 5xx
// are passed on: the status, WWW-Authenticate, Retry-After, Location with 3xx, and of
// 3xx and 4xx the body when it has at most 4 KiB. Redirects are not followed. No answer
// in time, or none at all, is 503, one that makes no sense 502: never a stream.
//
// What was granted is remembered for a few seconds under a hash of everything that was
// sent but the position in the stream and tracing fields; what was denied (3xx and 4xx
// but 408, 425 and 429) for a second, and apart from the grants.
//
// Requests to the service are shared out by client address: see gate.
//
// # Secrets
//
// They come from files or the environment. Neither they nor tokens are in an error,
// in a log line or in what Config prints as; URLs with a password are refused.
package auth
