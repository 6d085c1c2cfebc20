package front

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

func networks(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range list {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func TestClientIsTheNearestAddressThatIsNoTrustedProxy(t *testing.T) {
	rules := clientRules{trusted: networks("10.0.0.0/8", "fd00::/8")}
	f := func(peer, want string, forwarded ...string) {
		t.Helper()
		head := "GET / HTTP/1.1\r\nHost: a\r\n"
		for _, line := range forwarded {
			head += "X-Forwarded-For: " + line + "\r\n"
		}
		req, _, err := sseproto.ParseRequest([]byte(head+"\r\n"), sseproto.Limits{})
		require.NoError(t, err)
		var from netip.Addr
		if peer != "" {
			from = ip(peer)
		}
		got := rules.clientOf(from, &req)
		if want == "" {
			require.False(t, got.IsValid())
			return
		}
		require.Equal(t, ip(want), got, forwarded)
	}
	f("192.0.2.1", "192.0.2.1")
	f("192.0.2.1", "192.0.2.1", "198.51.100.1") // not a proxy of ours: it may say what it likes
	f("10.0.0.1", "10.0.0.1")
	f("10.0.0.1", "198.51.100.1", "198.51.100.1")
	f("10.0.0.1", "198.51.100.2", "198.51.100.1, 198.51.100.2")
	f("10.0.0.1", "198.51.100.2", "198.51.100.1,198.51.100.2 , 10.1.1.1")
	f("10.0.0.1", "198.51.100.2", "198.51.100.1", "198.51.100.2", "10.1.1.1")
	f("10.0.0.1", "198.51.100.2", "198.51.100.1", "198.51.100.2, fd00::1,, ")
	f("10.0.0.1", "10.2.2.2", "10.2.2.2, 10.1.1.1")
	f("10.0.0.1", "10.1.1.1", "198.51.100.1, unknown, 10.1.1.1")
	f("10.0.0.1", "10.0.0.1", "198.51.100.1, "+strings.Repeat("1", 100))
	f("10.0.0.1", "198.51.100.1", "198.51.100.1:4711")
	f("fd00::5", "2001:db8::1", "[2001:db8::1]:4711")
	f("fd00::5", "2001:db8::1", "[2001:db8::1]")
	f("fd00::5", "2001:db8::1", "2001:db8::1")
	f("10.0.0.1", "198.51.100.1", "::ffff:198.51.100.1")
	f("", "198.51.100.1", "198.51.100.1") // by a unix socket
	f("", "")
	rules.trusted = nil
	f("", "", "198.51.100.1")
	f("10.0.0.1", "10.0.0.1", "198.51.100.1")
}

func TestAddressesOfThisMachineAndOfProxiesAreNotLimited(t *testing.T) {
	rules := clientRules{trusted: networks("10.0.0.0/8")}
	f := func(addr netip.Addr, limited bool) {
		t.Helper()
		require.Equal(t, limited, rules.isLimited(addr))
	}
	f(ip("192.0.2.1"), true)
	f(ip("2001:db8::1"), true)
	f(ip("127.0.0.1"), false)
	f(ip("::1"), false)
	f(ip("10.9.9.9"), false)
	f(netip.Addr{}, false)
}
