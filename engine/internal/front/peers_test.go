package front

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func ip(text string) netip.Addr { return netip.MustParseAddr(text) }

func TestAddressHasSoManyConnectionsAtOnce(t *testing.T) {
	p := newPeers(3, 0, 0)
	var handles []uint32
	for range 3 {
		h, over := p.admit(ip("192.0.2.1"))
		require.Equal(t, notRefused, over)
		handles = append(handles, h)
	}
	for range refusedPerAddress {
		h, over := p.admit(ip("192.0.2.1"))
		require.NotZero(t, h, "there is time to refuse it in the right form")
		require.Equal(t, RefuseAddress, over)
		handles = append(handles, h)
	}
	h, over := p.admit(ip("192.0.2.1"))
	require.Zero(t, h)
	require.Equal(t, RefuseAddress, over)
	h, over = p.admit(ip("192.0.2.2"))
	require.Equal(t, notRefused, over, "it is not the other's fault")
	p.release(h, over)

	p.release(handles[3], RefuseAddress) // a refused one makes no room for a stream
	h, over = p.admit(ip("192.0.2.1"))
	require.Equal(t, RefuseAddress, over)
	p.release(h, over)
	p.release(handles[0], notRefused)
	_, over = p.admit(ip("192.0.2.1"))
	require.Equal(t, notRefused, over)
}

func TestAddressesOfOneNetworkCountAsOne(t *testing.T) {
	f := func(a, b string, same bool) {
		t.Helper()
		require.Equal(t, same, peerKeyOf(ip(a)) == peerKeyOf(ip(b)))
	}
	f("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true)
	f("2001:db8:1:2::1", "2001:db8:1:3::1", false)
	f("192.0.2.1", "192.0.2.2", false)
	f("192.0.2.1", "::ffff:192.0.2.1", true)
	f("0.0.0.0", "::", false)
}

func TestConnectionsOfAnAddressComeAtTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers(0, 10, 5)
		connect := func() RefuseReason {
			h, over := p.admit(ip("192.0.2.1"))
			p.release(h, over)
			return over
		}
		for range 5 {
			require.Equal(t, notRefused, connect())
		}
		for range 100 {
			require.Equal(t, RefuseRate, connect(), "refused ones do not put it off")
		}
		time.Sleep(100 * time.Millisecond)
		require.Equal(t, notRefused, connect())
		require.Equal(t, RefuseRate, connect())
		time.Sleep(time.Hour)
		for range 5 {
			require.Equal(t, notRefused, connect())
		}
		require.Equal(t, RefuseRate, connect(), "it saves up no more than the burst")
	})
}

func TestAddressesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers(2, 10, 2)
		at := func(n int) netip.Addr {
			var b [16]byte
			binary.BigEndian.PutUint64(b[:], uint64(n)+1)
			return netip.AddrFrom16(b)
		}
		handles := make([]uint32, 1000)
		for n := range handles {
			handles[n], _ = p.admit(at(n))
		}
		require.Equal(t, 1000, p.len())
		for _, h := range handles[:500] {
			p.release(h, notRefused)
		}
		require.Equal(t, 1000, p.len(), "their buckets still run")
		time.Sleep(time.Second)
		for _, h := range handles[500:] {
			p.release(h, notRefused)
		}
		require.Zero(t, p.len())
		require.LessOrEqual(t, len(p.all), 1001)

		for n := range 3 * maxIdlePeers { // all within one moment
			h, over := p.admit(at(n))
			p.release(h, over)
		}
		require.LessOrEqual(t, p.len(), maxIdlePeers+1)
		require.LessOrEqual(t, len(p.all), maxIdlePeers+3)
	})
}

// The table agrees with counting by hand, whoever takes and gives back.
func TestAddressTableIsRightUnderConcurrency(t *testing.T) {
	p := newPeers(4, 1000, 1000)
	var workers sync.WaitGroup
	for worker := range 8 {
		workers.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(worker), 7))
			type held struct {
				handle uint32
				over   RefuseReason
			}
			var mine []held
			for range 5000 {
				if rng.IntN(2) == 0 || len(mine) == 0 {
					h, over := p.admit(netip.AddrFrom4([4]byte{192, 0, 2, byte(rng.IntN(10))}))
					if h != 0 {
						mine = append(mine, held{h, over})
					}
					continue
				}
				k := rng.IntN(len(mine))
				p.release(mine[k].handle, mine[k].over)
				mine[k] = mine[len(mine)-1]
				mine = mine[:len(mine)-1]
			}
			for _, m := range mine {
				p.release(m.handle, m.over)
			}
		})
	}
	workers.Wait()
	require.LessOrEqual(t, p.len(), 10)
	require.Equal(t, p.len(), p.idle)
	for _, n := range p.byKey {
		require.Zero(t, p.all[n].open)
		require.Zero(t, p.all[n].refused)
	}
}

func BenchmarkPeers(b *testing.B) {
	p := newPeers(100, 1000, 1000)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		n := rand.Uint32()
		for pb.Next() {
			n++
			h, over := p.admit(netip.AddrFrom4([4]byte{192, 0, byte(n >> 8), byte(n)}))
			p.release(h, over)
		}
	})
}
