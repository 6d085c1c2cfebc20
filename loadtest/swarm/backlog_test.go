//go:build linux

package swarm

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSocketTableIsRead(t *testing.T) {
	f := func(line, own, peer string, want queues) {
		t.Helper()
		l, q, ok := parseQueues(line)
		require.True(t, ok)
		require.Equal(t, netip.MustParseAddrPort(own), l.own)
		require.Equal(t, netip.MustParseAddrPort(peer), l.peer)
		require.Equal(t, want, q)
	}
	f("   0: 0100007F:1F90 0300017F:C350 01 0000A000:00000010 01:00000014 00000000     0        0 1 1 x",
		"127.0.0.1:8080", "127.1.0.3:50000", queues{established, 0xa000, 0x10})
	// An IPv4 connection to a listener for both.
	f("  12: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000200007F:C350 08 00000000:00000000 00:00000000",
		"127.0.0.1:8080", "127.0.0.2:50000", queues{8, 0, 0})
	f("  12: 00000000000000000000000001000000:1F90 00000000000000000000000001000000:0001 01 00000000:00000001 00:00000000",
		"[::1]:8080", "[::1]:1", queues{established, 0, 1})
	for _, bad := range []string{"", "  sl  local_address rem_address   st tx_queue rx_queue tr", "0: x:1 y:2 01 0:0"} {
		_, _, ok := parseQueues(bad)
		require.False(t, ok, bad)
	}
}
