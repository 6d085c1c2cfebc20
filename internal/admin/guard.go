package admin

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// browserGuard refuses requests that a web page of another origin makes a browser
// send. net/http's check covers pages elsewhere: Sec-Fetch-Site, and Origin
// against Host. It can't cover a page whose own host name was pointed at this
// machine (DNS rebinding), for which both agree; so a browser must have come by
// an IP address, localhost, or the name that --admin gives. Clients that are not
// browsers send neither header and are let through.
func browserGuard(host string, next http.Handler) http.Handler {
	checked := http.NewCrossOriginProtection().Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") != "" && !isOwnHost(r.Host, host) {
			writeError(w, http.StatusForbidden, "a browser must come by an IP address, localhost or the name in --admin")
			return
		}
		checked.ServeHTTP(w, r)
	})
}

// isOwnHost reports whether a Host header names this listener without DNS, or by
// the configured name.
func isOwnHost(hostport, configured string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]") // no port
	}
	if strings.EqualFold(host, "localhost") || configured != "" && strings.EqualFold(host, configured) {
		return true
	}
	_, err = netip.ParseAddr(host)
	return err == nil
}
