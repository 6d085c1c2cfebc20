package front

import "net/netip"

// remoteAddr is the address of a peer, the zero one for unix sockets, with what
// front.peers says of it. Netpoll carries it to the handshake.
type remoteAddr struct {
	netip.AddrPort
	peer uint32
	over RefuseReason
}

// Network implements net.Addr.
func (*remoteAddr) Network() string { return "tcp" }
