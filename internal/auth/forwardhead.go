package auth

import (
	"net/http"
	"net/url"
	"strings"

	"ssed/engine"
	"ssed/sseproto"
)

// notForwarded are fields of a request that are not sent to the service, in lower
// case: those that concern one connection (RFC 9110 §7.6.1) or a body, those that
// ask for a part of an answer or for one in another coding, and those that ssed
// speaks for itself in. Prefixes are in isForwarded.
var notForwarded = map[string]bool{
	"connection": true, "keep-alive": true, "proxy-connection": true, "te": true, "trailer": true,
	"transfer-encoding": true, "upgrade": true, "http2-settings": true,
	"proxy-authenticate": true, "proxy-authorization": true, "proxy-authentication-info": true,
	"content-length": true, "expect": true,
	"range": true, "accept-encoding": true,
	"host": true, "forwarded": true, "x-real-ip": true, "x-sse-channels": true,
}

// forwardHeader makes the header of the request to the service. It shares no bytes
// with r.
func forwardHeader(r *engine.AuthRequest) http.Header {
	header := make(http.Header)
	hops := connectionOptions(r.Request)
	for name, value := range r.Request.Fields() {
		if key := string(name); isForwarded(key, hops) {
			header.Add(key, string(value))
		}
	}
	if header["User-Agent"] == nil {
		header["User-Agent"] = []string{""} // or net/http sends its own for the client's
	}
	target := originalURI(r.Request)
	header.Set("X-Original-URI", target)
	header.Set("X-Forwarded-Uri", target)
	header.Set("X-Original-Method", string(r.Request.Method))
	header.Set("X-Forwarded-Method", string(r.Request.Method))
	header.Set("X-Forwarded-Proto", protoOf(r.Request))
	if r.Client.IsValid() {
		header.Set("X-Forwarded-For", r.Client.Unmap().WithZone("").String())
	}
	if len(r.Request.Host) > 0 {
		header.Set("X-Forwarded-Host", string(r.Request.Host))
	}
	names := make([]string, len(r.Channels))
	for i, channel := range r.Channels {
		names[i] = url.PathEscape(channel)
	}
	header.Set(fieldChannels, strings.Join(names, ","))
	return header
}

// isForwarded judges a name with "-" for "_": many services cannot tell them apart
// (CGI, RFC 3875 §4.1.18), and "X_Forwarded_For" would be taken for ours.
func isForwarded(name string, hops map[string]bool) bool {
	name = strings.ReplaceAll(strings.ToLower(name), "_", "-")
	for _, prefix := range [...]string{"x-forwarded-", "x-original-", "if-"} {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	return !notForwarded[name] && !hops[name]
}

// connectionOptions are the fields that Connection declares to be for one hop.
func connectionOptions(r *sseproto.Request) map[string]bool {
	var hops map[string]bool
	for value := range r.Values("Connection") {
		for option := range strings.SplitSeq(string(value), ",") {
			if hops == nil {
				hops = make(map[string]bool)
			}
			hops[strings.ToLower(strings.Trim(option, " \t"))] = true
		}
	}
	return hops
}

// originalURI is path and query, also of an absolute target.
func originalURI(r *sseproto.Request) string {
	if r.Query == nil {
		return string(r.Path)
	}
	return string(r.Path) + "?" + string(r.Query)
}

// protoOf believes a request that says it came by https: there is no TLS here, so
// only a proxy in front knows, and a client that lies about it gains nothing for
// its connection.
func protoOf(r *sseproto.Request) string {
	if strings.EqualFold(string(r.Header("X-Forwarded-Proto")), "https") {
		return "https"
	}
	return "http"
}
