package sseproto

import (
	"bytes"
	"net/netip"
)

// TargetForm is the form of a request target (RFC 9112 §3.2).
type TargetForm uint8

const (
	// OriginForm is "/path?query".
	OriginForm TargetForm = iota
	// AbsoluteForm is "http://host/path?query"; a server must accept it.
	AbsoluteForm
	// AuthorityForm is "host:port", of CONNECT and only there.
	AuthorityForm
	// AsteriskForm is "*", of OPTIONS and only there.
	AsteriskForm
)

// rootPath is the path of an absolute target without one (RFC 9110 §4.2.3).
var rootPath = []byte("/")

// parseRequestLine reads "method SP request-target SP HTTP-version" (RFC 9112 §3).
// A line with more or other white space is not repaired.
func (r *Request) parseRequestLine(line []byte) error {
	method, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok || !isToken(method) {
		return ErrBadRequestLine
	}
	target, version, ok := bytes.Cut(rest, []byte{' '})
	if !ok || len(target) == 0 {
		return ErrBadRequestLine
	}
	if err := r.parseVersion(version); err != nil {
		return err
	}
	r.Method, r.Target = method, target
	r.ContentLength = -1
	return r.parseTarget()
}

// parseVersion reads "HTTP/" DIGIT "." DIGIT, case-sensitive (RFC 9112 §2.3). The
// preface of HTTP/2 ends here too: it is "PRI * HTTP/2.0".
func (r *Request) parseVersion(v []byte) error {
	if len(v) != len("HTTP/1.1") || string(v[:5]) != "HTTP/" || !isDigit(v[5]) || v[6] != '.' || !isDigit(v[7]) {
		return ErrBadRequestLine
	}
	if v[5] != '1' {
		return ErrVersion
	}
	r.Minor = min(int(v[7]-'0'), 1)
	return nil
}

// parseTarget splits the target. Octets that RFC 3986 wants escaped but browsers
// and curl send raw in queries (such as ^, | and UTF-8) are let through; "#" is not,
// as no form has a fragment.
func (r *Request) parseTarget() error {
	t := r.Target
	if bytes.IndexByte(t, '#') >= 0 || bytes.IndexByte(t, '\t') >= 0 {
		return ErrBadTarget
	}
	switch {
	case string(r.Method) == "CONNECT":
		r.Form, r.Host = AuthorityForm, t
		if host, port, _ := cutPort(t); len(host) == 0 || len(port) == 0 || !validHost(t) {
			return ErrBadTarget
		}
	case t[0] == '/':
		r.splitPath(t)
	case len(t) == 1 && t[0] == '*' && string(r.Method) == "OPTIONS":
		r.Form = AsteriskForm
	default:
		return r.parseAbsolute(t)
	}
	return nil
}

// parseAbsolute reads an http or https URI (RFC 9110 §4.2). One with userinfo is
// refused (§4.2.4), as is one without a host (§4.2.1).
func (r *Request) parseAbsolute(t []byte) error {
	scheme, rest, ok := bytes.Cut(t, []byte("://"))
	if !ok || !equalFold(scheme, "http") && !equalFold(scheme, "https") {
		return ErrBadTarget
	}
	end := bytes.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	r.Form, r.Host = AbsoluteForm, rest[:end]
	if host, _, _ := cutPort(r.Host); len(host) == 0 || !validHost(r.Host) {
		return ErrBadTarget
	}
	r.splitPath(rest[end:])
	return nil
}

func (r *Request) splitPath(t []byte) {
	path, query, ok := bytes.Cut(t, []byte{'?'})
	if len(path) == 0 {
		path = rootPath
	}
	r.Path = path
	if ok {
		r.Query, r.Params = query, query
	}
}

// validHost reports whether h is uri-host [ ":" port ] (RFC 9110 §7.2, RFC 3986
// §3.2.2): a name, which may be empty, an IPv4 address, or an IPv6 address in
// brackets.
func validHost(h []byte) bool {
	host, port, _ := cutPort(h)
	for _, c := range port {
		if !isDigit(c) {
			return false
		}
	}
	if len(host) > 0 && host[0] == '[' {
		return validIPv6(host)
	}
	return validRegName(host)
}

// cutPort divides at the last colon that is not part of an address in brackets.
func cutPort(h []byte) (host, port []byte, ok bool) {
	colon := bytes.LastIndexByte(h, ':')
	if colon < 0 || bytes.IndexByte(h[colon:], ']') >= 0 {
		return h, nil, false
	}
	return h[:colon], h[colon+1:], true
}

func validIPv6(host []byte) bool {
	end := len(host) - 1
	if host[end] != ']' || bytes.IndexByte(host, '%') >= 0 {
		return false
	}
	addr, err := netip.ParseAddr(viewOf(host[1:end]))
	return err == nil && addr.Is6()
}

// validRegName reports whether name is a reg-name: unreserved, sub-delims and
// complete escapes.
func validRegName(name []byte) bool {
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c == '%' {
			if len(name)-i < 3 || !isHex(name[i+1]) || !isHex(name[i+2]) {
				return false
			}
			i += 2
			continue
		}
		if !regNameChars[c] {
			return false
		}
	}
	return true
}

var regNameChars = func() (set [256]bool) {
	const unreserved = "-._~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	const subDelims = "!$&'()*+,;="
	for _, c := range unreserved + subDelims {
		set[c] = true
	}
	return set
}()

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isHex(c byte) bool {
	c = lower(c)
	return isDigit(c) || 'a' <= c && c <= 'f'
}
