package front

import (
	"net/url"
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
	// corsMethods are allowed on every path; those that have no POST say so themselves.
	corsMethods = "GET, HEAD, POST"
	// corsHeaders is allowed when a preflight does not say what it wants. With
	// credentials "*" would be taken literally.
	corsHeaders = "Last-Event-ID, Cache-Control, Authorization, Content-Type"
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
		p.origins[origin] = origin
	}
	return p
}

// CheckOrigins reports what is wrong with CORSOrigins.
func CheckOrigins(origins []string, bad func(field, format string, args ...any)) {
	if len(origins) == 0 {
		bad("CORSOrigins", "no origin given")
	}
	for _, origin := range origins {
		if origin == "*" {
			if len(origins) > 1 {
				bad("CORSOrigins", "* stands for all: no other origin beside it")
			}
			continue
		}
		// As browsers send it (RFC 6454 §6.2): a default port is left out.
		u, err := url.Parse(origin)
		if err != nil || u.Hostname() == "" || origin != strings.ToLower(u.Scheme+"://"+u.Host) || isDefaultPort(u) {
			bad("CORSOrigins", "%q is not an origin such as https://app.example.com: lower case, no path, no default port", origin)
		}
	}
}

func isDefaultPort(u *url.URL) bool {
	return u.Scheme == "https" && u.Port() == "443" || u.Scheme == "http" && u.Port() == "80"
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
