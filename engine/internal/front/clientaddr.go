package front

import (
	"bytes"
	"net/netip"
	"strings"

	"ssed/sseproto"
)

// clientRules tell who a client is and whether its address is limited.
type clientRules struct {
	trusted []netip.Prefix // Config.TrustedProxies
	// limitsLoopback counts connections from this machine too. Off, since a proxy on
	// it that is not named as trusted would make one address of all its clients.
	limitsLoopback bool
}

// trusts reports whether a peer may say whom it speaks for. A peer on a unix socket
// has no address: the rights of its file tell who can be one, and with
// TrustedProxies the answer is a proxy.
func (r *clientRules) trusts(addr netip.Addr) bool {
	if !addr.IsValid() {
		return len(r.trusted) > 0
	}
	for _, prefix := range r.trusted {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// isLimited reports whether connections of that address are counted.
func (r *clientRules) isLimited(addr netip.Addr) bool {
	return addr.IsValid() && !r.trusts(addr) && (r.limitsLoopback || !addr.IsLoopback())
}

// clientOf is the address of the client that sent req through peer: the one nearest
// to us that is not a trusted proxy. A proxy adds the address that it sees at the
// right end of X-Forwarded-For; what is to the left of the first untrusted one may
// be invented. Where a trusted proxy gives no address that can be read, it is the
// client itself.
func (r *clientRules) clientOf(peer netip.Addr, req *sseproto.Request) netip.Addr {
	if len(r.trusted) == 0 || !r.trusts(peer) {
		return peer
	}
	var lines [][]byte
	for value := range req.Values("X-Forwarded-For") {
		lines = append(lines, value)
	}
	client := peer
	for i := len(lines) - 1; i >= 0; i-- {
		for rest := lines[i]; len(rest) > 0; {
			var last []byte
			rest, last = cutLast(rest)
			if len(last) == 0 {
				continue // an empty member of a list counts for nothing (RFC 9110 §5.6.1)
			}
			addr, ok := parseForwarded(last)
			if !ok {
				return client
			}
			client = addr
			if !r.trusts(addr) {
				return client
			}
		}
	}
	return client
}

// cutLast splits the last member from a list.
func cutLast(list []byte) (rest, last []byte) {
	if i := bytes.LastIndexByte(list, ','); i >= 0 {
		return list[:i], bytes.TrimSpace(list[i+1:])
	}
	return nil, bytes.TrimSpace(list)
}

// maxForwardedBytes is the longest address with brackets, a zone and a port.
const maxForwardedBytes = 80

// parseForwarded reads an address as proxies write them: some add the port, some
// put brackets around IPv6.
func parseForwarded(member []byte) (netip.Addr, bool) {
	if len(member) > maxForwardedBytes {
		return netip.Addr{}, false
	}
	text := string(member)
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"))
	if err != nil {
		withPort, err := netip.ParseAddrPort(text)
		if err != nil {
			return netip.Addr{}, false
		}
		addr = withPort.Addr()
	}
	return addr.Unmap().WithZone(""), true
}
