package engine

import (
	"slices"
	"strings"
	"time"

	"ssed/sseproto"
)

// corsPolicy tells which pages may read answers (Fetch §3.3).
type corsPolicy struct {
	anyone      bool
	credentials bool
	origins     map[string]string // exact origins, each under itself
}

const (
	corsMethods = "GET, HEAD"
	// corsHeaders is allowed when a preflight does not say what it wants. With
	// credentials "*" would be taken literally.
	corsHeaders = "Last-Event-ID, Cache-Control, Authorization"
	// corsMaxAge is the longest that browsers keep a preflight's answer (Firefox;
	// Chromium keeps it for two hours).
	corsMaxAge = 24 * time.Hour
	// maxOriginBytes and maxCORSHeadersBytes bound what is echoed.
	maxOriginBytes      = 512
	maxCORSHeadersBytes = 1 << 10
)

func newCORSPolicy(origins []string, credentials bool) corsPolicy {
	p := corsPolicy{
		anyone:      slices.Contains(origins, "*"),
		credentials: credentials,
		origins:     make(map[string]string, len(origins)),
	}
	for _, origin := range origins {
		// Browsers send scheme and host in lower case and no slash (RFC 6454 §6.2).
		origin = strings.TrimSuffix(strings.ToLower(origin), "/")
		p.origins[origin] = origin
	}
	return p
}

// grant is what an answer to a page of that origin carries. Origin is borrowed, and
// empty when there is none or it is unknown.
func (p *corsPolicy) grant(origin []byte) sseproto.CORS {
	if p.anyone && !p.credentials {
		return sseproto.CORS{AllowOrigin: "*"}
	}
	cors := sseproto.CORS{VaryOrigin: true}
	if p.anyone && len(origin) <= maxOriginBytes {
		cors.AllowOrigin = string(origin)
	} else {
		cors.AllowOrigin = p.origins[string(origin)]
	}
	cors.Credentials = p.credentials && cors.AllowOrigin != ""
	return cors
}

// preflight is grant for an OPTIONS request, with what it asks to be allowed.
func (p *corsPolicy) preflight(req *sseproto.Request) sseproto.CORS {
	cors := p.grant(req.Header("Origin"))
	if cors.AllowOrigin == "" {
		return cors
	}
	cors.AllowMethods, cors.AllowHeaders, cors.MaxAge = corsMethods, corsHeaders, corsMaxAge
	if wanted := req.Header("Access-Control-Request-Headers"); len(wanted) > 0 && len(wanted) <= maxCORSHeadersBytes {
		cors.AllowHeaders = string(wanted)
	}
	return cors
}
