// Package outbound reaches servers for the commands of a terminal: ssed tail, pub and
// doctor. Their URLs are typed by people and may hold a password or a token.
package outbound

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"
)

// connectTimeout is for TCP and for TLS, each.
const connectTimeout = 10 * time.Second

// Transport has bounds for connecting and for the head of an answer, and none for its
// body: streams last. It asks for no compression and undoes none.
func Transport(head time.Duration) *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: connectTimeout}).DialContext,
		TLSHandshakeTimeout:   connectTimeout,
		ResponseHeaderTimeout: head,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true,
	}
}

// WithoutURL returns what is behind the URL in an error of net/http or net/url, and
// other errors as they are.
func WithoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
