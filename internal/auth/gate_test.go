package auth

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestGateSharesItsSlots(t *testing.T) {
	enter := func(g *gate, client string) bool {
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // who has to wait gives up
		w := g.join(netip.MustParseAddr(client))
		select {
		case err := <-w.done:
			return err == nil
		default:
			require.ErrorIs(t, g.giveUp(w, ctx.Err()), context.Canceled)
			return false
		}
	}
	fill := func(g *gate, client string) (n int) {
		for enter(g, client) {
			n++
		}
		return n
	}
	for slots, want := range map[int][]int{1: {1, 0}, 2: {1, 1}, 3: {2, 1}, 9: {5, 2}, 64: {32, 16}} {
		g := newGate(slots, 10)
		require.Equal(t, want, []int{fill(g, "192.0.2.1"), fill(g, "192.0.2.2")}, slots)
	}
	require.Equal(t, 9, fill(newGate(9, 10), "127.0.0.1"), "of this machine: may be a proxy for all")
	require.Equal(t, 9, fill(newGate(9, 10), "::1"))

	// One IPv6 subscriber has a /64 of addresses.
	g := newGate(9, 10)
	require.Equal(t, 5, fill(g, "2001:db8::1"))
	require.Zero(t, fill(g, "2001:db8::2"))
	require.Equal(t, 2, fill(g, "2001:db8:0:1::2"))
}

// TestGateKeepsItsBoundsUnderRandomOrder: whoever comes, leaves and gives up in whatever order, no more
// are inside than there are slots, nobody is forgotten, and nothing is left in the end.
func TestGateKeepsItsBoundsUnderRandomOrder(t *testing.T) {
	const clients, each, slots, maxWaiting = 40, 200, 7, 24
	g := newGate(slots, maxWaiting)
	var wg sync.WaitGroup
	for n := range clients {
		// Five addresses, of which the first has most.
		addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(max(0, n-35))})
		rng := rand.New(rand.NewPCG(1, uint64(n)))
		wg.Go(func() {
			for range each {
				ctx, cancel := context.WithCancel(context.Background())
				if rng.IntN(4) == 0 {
					cancel()
				}
				leave, err := g.enter(ctx, addr)
				if err == nil {
					g.mu.Lock()
					assert.LessOrEqual(t, g.inside, slots)
					assert.LessOrEqual(t, g.waiting, maxWaiting)
					g.mu.Unlock()
					leave()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	require.Zero(t, g.inside)
	require.Zero(t, g.waiting)
	require.Empty(t, g.lines)
	require.Zero(t, g.turns.Len())
	require.Empty(t, g.longest)
}
