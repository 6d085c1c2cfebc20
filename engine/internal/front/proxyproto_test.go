package front

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// proxyV2 makes a header of version 2.
func proxyV2(command, family byte, block string) string {
	head := proxyV2Signature + string([]byte{0x20 | command, family})
	return string(binary.BigEndian.AppendUint16([]byte(head), uint16(len(block)))) + block
}

const (
	block4 = "\xc0\x00\x02\x01" + "\x0a\x00\x00\x01" + "\x10\x00" + "\x00\x50"
	block6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02" + "\x10\x00" + "\x00\x50"
)

func TestProxyHeaders(t *testing.T) {
	// f reads the header in every chunking that matters: each prefix is incomplete.
	f := func(header, want string) {
		t.Helper()
		for end := 1; end < len(header); end++ {
			_, n, err := parseProxyHeader([]byte(header[:end]))
			require.NoError(t, err, "%q", header[:end])
			require.Zero(t, n, "%q", header[:end])
		}
		source, n, err := parseProxyHeader([]byte(header + "GET / HTTP/1.1\r\n"))
		require.NoError(t, err, "%q", header)
		require.Equal(t, len(header), n)
		if want == "" {
			require.False(t, source.IsValid(), "%q", header)
			return
		}
		require.Equal(t, netip.MustParseAddrPort(want), source)
	}
	f("PROXY TCP4 192.0.2.1 10.0.0.1 4096 80\r\n", "192.0.2.1:4096")
	f("PROXY TCP6 2001:db8::1 2001:db8::2 4096 80\r\n", "[2001:db8::1]:4096")
	f("PROXY TCP6 ::ffff:192.0.2.1 ::ffff:10.0.0.1 4096 80\r\n", "192.0.2.1:4096")
	f("PROXY TCP6 "+strings.Repeat("ffff:", 7)+"ffff "+strings.Repeat("ffff:", 7)+"ffff 65535 65535\r\n",
		"[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535")
	f("PROXY UNKNOWN\r\n", "")
	f("PROXY UNKNOWN whatever this may be\r\n", "")
	f(proxyV2(1, 0x11, block4), "192.0.2.1:4096")
	f(proxyV2(1, 0x11, block4+"\x04\x00\x03abc"), "192.0.2.1:4096")
	f(proxyV2(1, 0x21, block6), "[2001:db8::1]:4096")
	f(proxyV2(1, 0x21, block6+strings.Repeat("\x05\x00\x00", 100)), "[2001:db8::1]:4096")
	f(proxyV2(0, 0x00, ""), "")                          // LOCAL
	f(proxyV2(0, 0x11, block4), "")                      // LOCAL, whatever follows
	f(proxyV2(1, 0x00, ""), "")                          // UNSPEC
	f(proxyV2(1, 0x31, strings.Repeat("\x00", 216)), "") // unix
	f(proxyV2(1, 0x12, block4), "")                      // UDP
	f(proxyV2(1, 0x11, block4+strings.Repeat("x", maxProxyV2Bytes-len(block4))), "192.0.2.1:4096")
}

func TestBadProxyHeadersAreRefusedAtOnce(t *testing.T) {
	f := func(header string) {
		t.Helper()
		_, n, err := parseProxyHeader([]byte(header))
		require.ErrorIs(t, err, errProxyHeader, "%q", header)
		require.Zero(t, n)
	}
	f("GET / HTTP/1.1\r\n")
	f("proxy ")
	f("PROXX")
	f("\r\n\r\nG")
	f("PROXY \r\n")
	f("PROXY TCP4\r\n")
	f("PROXY TCP5 192.0.2.1 10.0.0.1 1 2\r\n")
	f("PROXY TCP4 192.0.2.1 10.0.0.1 1\r\n")
	f("PROXY TCP4 192.0.2.1 10.0.0.1 1 2 3\r\n")
	f("PROXY TCP4  192.0.2.1 10.0.0.1 1 2\r\n")
	f("PROXY TCP4 192.0.2.1 10.0.0.1 1 65536\r\n")
	f("PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n")
	f("PROXY TCP6 192.0.2.1 10.0.0.1 1 2\r\n")
	f("PROXY TCP6 fe80::1%eth0 2001:db8::2 1 2\r\n")
	f("PROXY TCP6 [2001:db8::1] 2001:db8::2 1 2\r\n")
	f("PROXY TCP4 192.0.2.1 nowhere 1 2\r\n")
	f("PROXY TCP4 " + strings.Repeat("1", maxProxyV1Bytes))
	f("PROXY UNKNOWN " + strings.Repeat("1", maxProxyV1Bytes))
	f(proxyV2Signature + "\x11\x11\x00\x0c" + block4) // version 1
	f(proxyV2Signature + "\x22\x11\x00\x0c" + block4) // an unknown command
	f(proxyV2(1, 0x11, block4[:11]))
	f(proxyV2(1, 0x21, block6[:35]))
	f(proxyV2(1, 0x41, block4))
	f(proxyV2(1, 0x13, block4))
	f(proxyV2Signature + "\x21\x11\xff\xff")
}

// Whatever comes, a header is read the same in pieces and at once.
func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.1 10.0.0.1 4096 80\r\nGET"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add([]byte(proxyV2(1, 0x11, block4)))
	f.Add([]byte(proxyV2(1, 0x21, block6+"\x04\x00\x00")))
	f.Add([]byte(proxyV2(0, 0, "")))
	f.Fuzz(func(t *testing.T, input []byte) {
		whole, n, err := parseProxyHeader(input)
		require.LessOrEqual(t, n, min(len(input), proxyV2Fixed+maxProxyV2Bytes))
		for end := 1; end < len(input); end++ {
			source, size, early := parseProxyHeader(input[:end])
			if early == nil && size == 0 {
				continue
			}
			require.Equal(t, err, early)
			require.Equal(t, n, size)
			require.Equal(t, whole, source)
			return
		}
	})
}
