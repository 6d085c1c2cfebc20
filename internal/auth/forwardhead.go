package auth

import (
	"net/http"
	"net/url"
	"strings"

	"ssed/engine"
	"ssed/sseproto"
)

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
