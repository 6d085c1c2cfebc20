package auth

import "strings"

// notForwarded are fields of a request that are not sent to the service, in lower
// case. What begins or ends so is in notForwardedPrefixes and notForwardedSuffixes.
var notForwarded = setOf(
	// They concern one connection (RFC 9110 §7.6.1), a body, or an answer in parts or in
	// another coding.
	"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding",
	"upgrade", "http2-settings", "expect", "range", "accept-encoding",
	"proxy-authenticate", "proxy-authorization", "proxy-authentication-info",
	// A CGI program has it as HTTP_PROXY, where many HTTP clients look for their proxy.
	"proxy",
	// ssed says for itself who the client is and what was asked for, in other fields.
	"host", "via", "forwarded", "forwarded-for", "x-forwarded", "x-forward-for",
	"x-envoy-external-address", "x-envoy-original-path",
	"x-rewrite-url", "x-host", "x-http-host-override", "x-url-scheme", "front-end-https",
	"x-http-method-override", "x-http-method", "x-method-override",
)

// notForwardedPrefixes are those of conditions, of fields about a body, and of fields
// that ssed sets.
var notForwardedPrefixes = [...]string{"if-", "content-", "x-forwarded-", "x-original-", "x-sse-"}

// notForwardedSuffixes are how proxies end the names of fields that tell an address:
// X-Real-IP, WL-Proxy-Client-IP, CF-Connecting-IPv6, CF-Pseudo-IPv4, X-Azure-SocketIP,
// Remote-Addr, X-Vercel-Forwarded-For. Each new proxy has one more.
var notForwardedSuffixes = [...]string{"-ip", "-ipv4", "-ipv6", "clientip", "socketip", "-addr", "-forwarded-for"}

func setOf(names ...string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, name := range names {
		set[name] = true
	}
	return set
}

// isForwarded reports whether a field of the client goes to the service. CGI programs
// cannot tell "_" or "~" in a name from "-" (RFC 3875 §4.1.18): to them
// "X~SSE~Channels" is the variable that "X-SSE-Channels" is. Only names of letters,
// digits and "-" pass, of which no two become the same variable.
func isForwarded(name string, hops map[string]bool) bool {
	for i := range len(name) {
		if !isLetterOrDigit(name[i]) && name[i] != '-' {
			return false
		}
	}
	name = strings.ToLower(name)
	for _, prefix := range notForwardedPrefixes {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	for _, suffix := range notForwardedSuffixes {
		if strings.HasSuffix(name, suffix) {
			return false
		}
	}
	return !notForwarded[name] && !hops[name]
}

func isLetterOrDigit(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
