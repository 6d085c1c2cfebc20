package doctor

import (
	"fmt"
	"net/netip"
)

// Networks with fewer bits hold more than the proxies: 256 addresses, or one /64, are what
// a site gives to its machines.
const (
	leastBits4 = 24
	leastBits6 = 64
)

// trust looks for networks in which more than proxies may be: each of their addresses can
// say who its client is, and so has no limit of its own.
func (d *doctor) trust() {
	const check = "trusted proxies"
	if len(d.TrustedProxies) == 0 {
		return
	}
	wide := 0
	for _, network := range d.TrustedProxies {
		if isWide(network) {
			wide++
			d.warn(check, fmt.Sprintf("every machine in %v can name any address as its client, and has no limit", network), "--trusted-proxies with the addresses of the proxies alone")
		}
	}
	if wide == 0 {
		d.ok(check, fmt.Sprint(d.TrustedProxies))
	}
}

func isWide(network netip.Prefix) bool {
	if network.Addr().Is4() {
		return network.Bits() < leastBits4
	}
	return network.Bits() < leastBits6
}
