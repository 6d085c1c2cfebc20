//go:build linux

package swarm_test

import (
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/loadtest/swarm"
	"ssed/loadtest/target"
)

// BenchmarkWorkerMemory is what a connection takes in a client process: its slot.
// What a process takes by itself is that of a small one.
func BenchmarkWorkerMemory(b *testing.B) {
	const few, many, most = 1000, 201_000, 128
	resident := func(conns int) int64 {
		c, err := swarm.Start(swarm.Plan{
			Addr: netip.MustParseAddrPort("127.0.0.1:1"), Request: []string{"GET / HTTP/1.1\r\nHost: x\r\n"},
			Groups: []swarm.Group{{Count: conns, Channels: 1}}, Apart: true, Child: []string{os.Args[0], "worker"},
		})
		require.NoError(b, err)
		defer c.Close()
		_, err = c.Stats(b.Context()) // it has made its slots
		require.NoError(b, err)
		m, err := target.ReadMemory(c.PIDs())
		require.NoError(b, err)
		return m.RSS
	}
	for b.Loop() {
		per := float64(resident(many)-resident(few)) / (many - few)
		b.ReportMetric(per, "B/conn")
		// What the runtimes of two processes have touched differs by some hundred pages.
		if per > most+8 {
			b.Errorf("%.0f bytes of resident memory for a connection of the client, more than %d", per, most)
		}
	}
}
