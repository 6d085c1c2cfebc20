package front

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
)

// The PROXY protocol, versions 1 and 2, of the receiver's side:
// https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt

// proxyV2Signature starts a header of version 2. As HTTP it is refused at the NUL.
const proxyV2Signature = "\r\n\r\n\x00\r\nQUIT\n"

const (
	proxyV1Start = "PROXY "
	// maxProxyV1Bytes is the longest line of version 1, its CRLF included (section 2.1).
	maxProxyV1Bytes = 107
	proxyV2Fixed    = 16 // signature, version and command, family, length
	// maxProxyV2Bytes bounds what follows. Addresses take 36 bytes, or 216 for unix
	// sockets, and what proxies add in TLVs (names, connection ids, parts of a client's
	// certificate) some hundred.
	maxProxyV2Bytes = 4 << 10
)

// errProxyHeader is the one answer to a header that is not one.
var errProxyHeader = errors.New("front: missing or malformed PROXY header")

// parseProxyHeader reads a header at the start of b: n is its length, source the
// client, which is the zero value where the proxy speaks for itself (LOCAL, its
// health checks) or knows of no address (UNKNOWN, UNSPEC, unix sockets). n == 0
// without an error means that the header is incomplete. What cannot become one is
// refused at once.
func parseProxyHeader(b []byte) (source netip.AddrPort, n int, err error) {
	switch {
	case startsAs(b, proxyV1Start):
		return parseProxyV1(b)
	case startsAs(b, proxyV2Signature):
		return parseProxyV2(b)
	}
	return netip.AddrPort{}, 0, errProxyHeader
}

// startsAs reports whether b is the start of text, or begins with all of it.
func startsAs(b []byte, text string) bool {
	n := min(len(b), len(text))
	return string(b[:n]) == text[:n]
}

func parseProxyV1(b []byte) (source netip.AddrPort, n int, err error) {
	head := b[:min(len(b), maxProxyV1Bytes)]
	end := bytes.Index(head, []byte("\r\n"))
	if end < 0 {
		if len(head) == maxProxyV1Bytes {
			return netip.AddrPort{}, 0, errProxyHeader
		}
		return netip.AddrPort{}, 0, nil
	}
	n = end + 2
	line := string(head[:end])
	if line == "PROXY UNKNOWN" || strings.HasPrefix(line, "PROXY UNKNOWN ") {
		return netip.AddrPort{}, n, nil // the rest of the line counts for nothing
	}
	parts := strings.Split(line, " ")
	if len(parts) != 6 || parts[1] != "TCP4" && parts[1] != "TCP6" {
		return netip.AddrPort{}, 0, errProxyHeader
	}
	source, err1 := parseProxyAddr(parts[2], parts[4])
	destination, err2 := parseProxyAddr(parts[3], parts[5])
	is4 := parts[1] == "TCP4"
	if err1 != nil || err2 != nil || source.Addr().Is4() != is4 || destination.Addr().Is4() != is4 {
		return netip.AddrPort{}, 0, errProxyHeader
	}
	return unmapped(source), n, nil
}

func parseProxyAddr(host, port string) (netip.AddrPort, error) {
	// Of the forms that ParseAddrPort takes only this one is left: no zones, no
	// brackets within.
	if strings.ContainsAny(host, "%[]") {
		return netip.AddrPort{}, errProxyHeader
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return netip.ParseAddrPort(host + ":" + port)
}

func parseProxyV2(b []byte) (source netip.AddrPort, n int, err error) {
	if len(b) < proxyV2Fixed {
		return netip.AddrPort{}, 0, nil
	}
	version, command, family := b[12]>>4, b[12]&0xF, b[13]
	size := int(binary.BigEndian.Uint16(b[14:]))
	if version != 2 || command > 1 || size > maxProxyV2Bytes {
		return netip.AddrPort{}, 0, errProxyHeader
	}
	if len(b) < proxyV2Fixed+size {
		return netip.AddrPort{}, 0, nil
	}
	n = proxyV2Fixed + size
	if command == 0 { // LOCAL: whatever the rest says
		return netip.AddrPort{}, n, nil
	}
	source, err = parseProxyV2Source(family, b[proxyV2Fixed:n])
	if err != nil {
		return netip.AddrPort{}, 0, err
	}
	return source, n, nil
}

// parseProxyV2Source reads the address block. TLVs behind it are skipped.
func parseProxyV2Source(family byte, block []byte) (netip.AddrPort, error) {
	const (
		overIPv4 = 0x11 // TCP; the other transports do not come by a TCP connection
		overIPv6 = 0x21
	)
	switch {
	case family == overIPv4 && len(block) >= 12:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(block)), binary.BigEndian.Uint16(block[8:])), nil
	case family == overIPv6 && len(block) >= 36:
		return unmapped(netip.AddrPortFrom(netip.AddrFrom16([16]byte(block)), binary.BigEndian.Uint16(block[32:]))), nil
	case family == overIPv4 || family == overIPv6 || family>>4 > 3 || family&0xF > 2:
		return netip.AddrPort{}, errProxyHeader
	}
	return netip.AddrPort{}, nil // UNSPEC, datagrams, unix sockets
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
