package front

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// peers counts the connections of each client address and how fast they come. It
// knows an address only while it has a connection, or has had one so recently that
// its bucket is not full again.
type peers struct {
	// fixed after construction
	maxOpen  uint32 // connections of one address; 0: no limit
	interval int64  // nanoseconds between two connections at the rate; 0: no limit
	slack    int64  // nanoseconds by which they may come early: the burst
	started  time.Time

	mu        sync.Mutex // held for a few memory accesses
	byKey     map[peerKey]uint32
	all       []peerEntry // index 0 is never given out
	free      uint32      // first of the unused entries, linked by next
	idleFirst uint32      // entries without a connection, in the order in which they lost the last
	idleLast  uint32
	idle      int
}

// peerKey is an IPv4 address or the first 64 bits of an IPv6 one: what one
// subscriber of a provider has at least (RFC 6177), and changes at will.
type peerKey struct{ high, low uint64 }

// peerEntry is one address: 40 bytes, and as many in the map.
type peerEntry struct {
	key peerKey
	// due is when the next connection would come at exactly the rate, in nanoseconds
	// of the table's life. It holds the whole bucket (GCRA): full when due is past.
	due        int64
	open       uint32 // connections, refused ones included
	refused    uint32 // of these, the ones that are there only to be refused
	next, prev uint32 // among the idle ones
}

const (
	// refusedPerAddress is how many connections of an address over its limit may be
	// open for the moment that it takes to read their request and refuse them in the
	// right form. Browsers open six at once.
	refusedPerAddress = 8
	// maxIdlePeers bounds the addresses remembered without a connection: 5 MB. Beyond
	// it the one idle for longest is forgotten, and gets its burst anew. It takes so
	// many addresses within the time that a bucket needs to fill.
	maxIdlePeers = 1 << 16
)

// notRefused is where a RefuseReason may be missing.
const notRefused = numRefuseReasons

func newPeers(maxOpen, rate, burst int) *peers {
	p := &peers{maxOpen: uint32(maxOpen), started: time.Now(), byKey: make(map[peerKey]uint32), all: make([]peerEntry, 1)}
	if rate > 0 {
		p.interval = int64(time.Second) / int64(rate)
		p.slack = p.interval * int64(max(burst, 1)-1)
	}
	return p
}

// isOff reports whether there is nothing to limit.
func (p *peers) isOff() bool { return p.maxOpen == 0 && p.interval == 0 }

func peerKeyOf(addr netip.Addr) peerKey {
	bytes := addr.As16()
	key := peerKey{high: binary.BigEndian.Uint64(bytes[:8])}
	if addr.Is4() || addr.Is4In6() {
		key.low = binary.BigEndian.Uint64(bytes[8:])
	}
	return key
}

var clientSeed = maphash.MakeSeed()

// ClientKey stands for the address of a client, an IPv6 one for its /64. Without one, on
// a unix socket, it stands for the descriptor: each connection is a client. It is the same
// for the life of the process, never 0, and another one for nearly all other addresses.
func ClientKey(addr netip.Addr, fd int) uint64 {
	if !addr.IsValid() {
		return max(maphash.Comparable(clientSeed, fd), 1)
	}
	return max(maphash.Comparable(clientSeed, peerKeyOf(addr)), 1)
}

// admit counts a connection of addr. Over is notRefused when it may stay. Else a
// handle says that there is time to read its request before it is refused; without
// one it is to be refused at once and not counted. The handle goes back by release.
func (p *peers) admit(addr netip.Addr) (handle uint32, over RefuseReason) {
	now := int64(time.Since(p.started))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgetLocked(now)
	handle = p.entryLocked(peerKeyOf(addr))
	e := &p.all[handle]
	switch {
	case p.maxOpen > 0 && e.open-e.refused >= p.maxOpen:
		over = RefuseAddress
	case p.interval > 0 && e.due > now+p.slack:
		over = RefuseRate
	default:
		if p.interval > 0 {
			e.due = max(e.due, now) + p.interval
		}
		e.open++
		return handle, notRefused
	}
	if e.refused == refusedPerAddress {
		return 0, over
	}
	e.open++
	e.refused++
	return handle, over
}

// release takes back a handle of admit, with what admit said. Zero is none.
func (p *peers) release(handle uint32, over RefuseReason) {
	if handle == 0 {
		return
	}
	now := int64(time.Since(p.started))
	p.mu.Lock()
	defer p.mu.Unlock()
	e := &p.all[handle]
	if over != notRefused {
		e.refused--
	}
	if e.open--; e.open == 0 {
		if e.due <= now {
			p.dropLocked(handle)
		} else {
			p.parkLocked(handle)
		}
	}
	p.forgetLocked(now)
}

// name is the address of a handle that is not released: an IPv6 one by its /64.
func (p *peers) name(handle uint32) string {
	p.mu.Lock()
	key := p.all[handle].key
	p.mu.Unlock()
	var bytes [16]byte
	binary.BigEndian.PutUint64(bytes[:8], key.high)
	binary.BigEndian.PutUint64(bytes[8:], key.low)
	addr := netip.AddrFrom16(bytes)
	if addr.Is4In6() {
		return addr.Unmap().String()
	}
	return netip.PrefixFrom(addr, 64).String()
}

// len is the number of addresses known.
func (p *peers) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.byKey)
}

// entryLocked returns the entry of a key, which is not among the idle ones.
func (p *peers) entryLocked(key peerKey) uint32 {
	if n, ok := p.byKey[key]; ok {
		if p.all[n].open == 0 {
			p.unparkLocked(n)
		}
		return n
	}
	n := p.free
	if n == 0 {
		n = uint32(len(p.all))
		p.all = append(p.all, peerEntry{})
	} else {
		p.free = p.all[n].next
	}
	p.all[n] = peerEntry{key: key}
	p.byKey[key] = n
	return n
}

// forgetLocked drops the idle entries that are due, two at a time: more than one
// call can add. The list is not sorted by time, so one may wait for another, for
// the time of a whole bucket at most.
func (p *peers) forgetLocked(now int64) {
	for range 2 {
		n := p.idleFirst
		if n == 0 || p.all[n].due > now && p.idle <= maxIdlePeers {
			return
		}
		p.unparkLocked(n)
		p.dropLocked(n)
	}
}

func (p *peers) dropLocked(n uint32) {
	delete(p.byKey, p.all[n].key)
	p.all[n] = peerEntry{next: p.free}
	p.free = n
}

func (p *peers) parkLocked(n uint32) {
	e := &p.all[n]
	e.prev, e.next = p.idleLast, 0
	if p.idleLast != 0 {
		p.all[p.idleLast].next = n
	} else {
		p.idleFirst = n
	}
	p.idleLast = n
	p.idle++
}

func (p *peers) unparkLocked(n uint32) {
	e := &p.all[n]
	if e.prev != 0 {
		p.all[e.prev].next = e.next
	} else {
		p.idleFirst = e.next
	}
	if e.next != 0 {
		p.all[e.next].prev = e.prev
	} else {
		p.idleLast = e.prev
	}
	e.prev, e.next = 0, 0
	p.idle--
}
