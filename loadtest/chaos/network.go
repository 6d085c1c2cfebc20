//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ssed/internal/redistest"
)

// host is a machine as far as the network is concerned: an instance, a publisher, or a server
// of Redis with the sentinel beside it.
type host string

// everywhere is the host of who sees all others whatever happens.
const everywhere host = ""

// publisherHost is that of a publisher.
func publisherHost(i int) host { return host("publisher-" + strconv.Itoa(i)) }

// hostOf is that of the server on a port.
func hostOf(port int) host { return host("redis-" + strconv.Itoa(port)) }

// way is in which directions bytes go between the two sides of a divided network.
type way uint8

const (
	noWay   way = iota // in neither
	inward             // only to those who are apart: nobody hears them
	outward            // only from them: they hear nobody
)

// division is a network in two parts.
type division struct {
	apart map[host]bool // the hosts of the one part; all others are the other
	way   way
	since time.Duration
}

// carries tells whether bytes get from one host to the other.
func (d *division) carries(from, to host) bool {
	if d == nil || d.apart[from] == d.apart[to] {
		return true
	}
	return d.way == inward && d.apart[to] || d.way == outward && d.apart[from]
}

// network is the ways between hosts. Every server of Redis, its bus and every sentinel has a
// relay in front of it, by which all processes find it. A relay between two hosts that do not
// see each other stops carrying bytes and closes nothing. When the network is whole again it
// goes on with what it held: commands come late, and so does the end of a connection.
//
// Publishers are no processes: they ask reaches.
type network struct {
	clock     clock
	processes func() map[host][]int // who may dial: their pids

	closing chan struct{}
	wg      sync.WaitGroup // of all relays

	mu       sync.Mutex
	division *division       // guarded by mu; nil: none
	change   chan struct{}   // guarded by mu; closed at the next change
	relays   []*relay        // guarded by mu
	fronts   map[string]host // guarded by mu: who is at an address behind a relay
	sockets  map[string]host // guarded by mu: who has a socket, by inode; of this division
}

func newNetwork(clock clock, processes func() map[host][]int) *network {
	return &network{
		clock: clock, processes: processes, closing: make(chan struct{}), change: make(chan struct{}),
		fronts: make(map[string]host), sockets: make(map[string]host),
	}
}

// divide parts some hosts from the rest.
func (n *network) divide(way way, apart ...host) {
	d := &division{apart: make(map[host]bool), way: way, since: n.clock.now()}
	for _, h := range apart {
		d.apart[h] = true
	}
	n.set(d)
}

// heal makes the network whole.
func (n *network) heal() { n.set(nil) }

func (n *network) set(d *division) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.division = d
	clear(n.sockets)
	close(n.change)
	n.change = make(chan struct{})
}

// current is the division, and what is closed when it is another.
func (n *network) current() (d *division, change <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.division, n.change
}

// reaches tells whether a host and the server at an address see each other. A nil network is
// whole.
func (n *network) reaches(from host, addr string) bool {
	if n == nil || from == everywhere {
		return true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	to := n.fronts[addr]
	return n.division.carries(from, to) && n.division.carries(to, from)
}

// isWithMost tells whether the server at an address is not apart.
func (n *network) isWithMost(addr string) bool {
	if n == nil {
		return true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.division == nil || !n.division.apart[n.fronts[addr]]
}

// soonestReplaced is how long after the network was divided nobody is promoted yet.
const soonestReplaced = 2 * time.Second

// isApartForLong tells whether the server at an address may be replaced by now.
func (n *network) isApartForLong(addr string, now time.Duration) bool {
	if n == nil {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	d := n.division
	return d != nil && d.apart[n.fronts[addr]] && now-d.since >= soonestReplaced
}

// relay puts a relay in front of a port of a host, and returns the relay's port.
func (n *network) relay(h host, port int) (int, error) {
	front, err := redistest.FreePort()
	if err != nil {
		return 0, err
	}
	l, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(front))
	if err != nil {
		return 0, fmt.Errorf("chaos: relay: %w", err)
	}
	r := &relay{network: n, host: h, to: "127.0.0.1:" + strconv.Itoa(port), listener: l.(*net.TCPListener)}
	n.mu.Lock()
	n.relays = append(n.relays, r)
	n.fronts[r.to] = h
	n.mu.Unlock()
	n.wg.Go(r.run)
	return front, nil
}

// close ends all relays and waits for them.
func (n *network) close() {
	close(n.closing)
	n.mu.Lock()
	relays := n.relays
	n.mu.Unlock()
	for _, r := range relays {
		_ = r.listener.Close() // run ends
	}
	n.wg.Wait()
}

// dialer is the host that a socket belongs to; "" when no process has it now.
func (n *network) dialer(inode string) host {
	n.mu.Lock()
	defer n.mu.Unlock()
	if h, ok := n.sockets[inode]; ok {
		return h
	}
	for h, pids := range n.processes() {
		for _, pid := range pids {
			for _, socket := range socketsOf(pid) {
				n.sockets[socket] = h
			}
		}
	}
	return n.sockets[inode]
}

// socketsOf returns the inodes of a process's sockets; none of a process that is not there.
func socketsOf(pid int) (inodes []string) {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	entries, err := os.ReadDir(dir)
	if pid == 0 || err != nil {
		return nil
	}
	for _, e := range entries {
		link, _ := os.Readlink(dir + "/" + e.Name()) // closed meanwhile: ""
		if inode, ok := strings.CutPrefix(link, "socket:["); ok {
			inodes = append(inodes, strings.TrimSuffix(inode, "]"))
		}
	}
	return inodes
}

var errNoSocket = errors.New("chaos: the other end of the connection is gone")

// The question to the kernel for one socket, see sock_diag(7): struct nlmsghdr and struct
// inet_diag_req_v2. /proc/net/tcp would take it a tenth of a second beside other programs.
const (
	diagByFamily  = 20 // SOCK_DIAG_BY_FAMILY
	diagAddrAt    = 16 + 8
	diagBytes     = diagAddrAt + 48
	diagInodeAt   = 16 + 4 + 48 + 4*4 // in the answer, struct inet_diag_msg
	diagAllStates = 0xffffffff
	diagNoCookie  = 0xffffffff
)

// farInode is the inode of the socket at the other end of a connection on this machine.
func farInode(c *net.TCPConn) (string, error) {
	q := make([]byte, diagBytes)
	order := binary.NativeEndian
	order.PutUint32(q, diagBytes)
	order.PutUint16(q[4:], diagByFamily)
	order.PutUint16(q[6:], unix.NLM_F_REQUEST)
	q[16], q[17] = unix.AF_INET, unix.IPPROTO_TCP
	order.PutUint32(q[20:], diagAllStates)
	far, near := c.RemoteAddr().(*net.TCPAddr), c.LocalAddr().(*net.TCPAddr)
	binary.BigEndian.PutUint16(q[diagAddrAt:], uint16(far.Port))
	binary.BigEndian.PutUint16(q[diagAddrAt+2:], uint16(near.Port))
	copy(q[diagAddrAt+4:], far.IP.To4())
	copy(q[diagAddrAt+20:], near.IP.To4())
	order.PutUint32(q[diagAddrAt+40:], diagNoCookie)
	order.PutUint32(q[diagAddrAt+44:], diagNoCookie)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, q, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return "", err
	}
	a := make([]byte, 512)
	n, _, err := unix.Recvfrom(fd, a, 0)
	if err != nil {
		return "", err
	}
	if n < diagInodeAt+4 || order.Uint16(a[4:]) != diagByFamily {
		return "", errNoSocket
	}
	inode := order.Uint32(a[diagInodeAt:])
	if inode == 0 { // closed
		return "", errNoSocket
	}
	return strconv.FormatUint(uint64(inode), 10), nil
}

// relay stands in front of a port of a host.
type relay struct {
	network  *network
	host     host
	to       string // the address behind it
	listener *net.TCPListener
}

func (r *relay) run() {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		c, err := r.listener.AcceptTCP()
		if err != nil {
			return // closed
		}
		conns.Go(func() { r.serve(c) })
	}
}

// serve carries one connection.
func (r *relay) serve(near *net.TCPConn) {
	defer near.Close()
	x := &crossing{relay: r, near: near}
	// To connect takes both directions.
	if !x.await(x.toServer, near) || !x.await(x.toDialer, near) {
		return
	}
	c, err := net.DialTimeout("tcp4", r.to, dialTimeout)
	if err != nil {
		_ = near.SetLinger(0) // refused
		return
	}
	far := c.(*net.TCPConn)
	defer far.Close()
	// Who waits in a read does not see the end.
	ended := make(chan struct{})
	var both sync.WaitGroup
	both.Go(func() {
		select {
		case <-r.network.closing:
		case <-ended:
		}
		_, _ = near.Close(), far.Close()
	})
	var pumps sync.WaitGroup
	pumps.Go(func() { x.pump(near, far, x.toServer) })
	pumps.Go(func() { x.pump(far, near, x.toDialer) })
	pumps.Wait()
	close(ended)
	both.Wait()
}

// crossing is one connection by a relay.
type crossing struct {
	relay *relay
	near  *net.TCPConn // to who dialled

	mu    sync.Mutex
	owner host // guarded by mu: who dialled; "" when not known yet
}

func (x *crossing) dialer() host {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.owner == "" {
		if inode, err := farInode(x.near); err == nil {
			x.owner = x.relay.network.dialer(inode)
		}
	}
	return x.owner
}

// The two directions.

func (x *crossing) toServer(d *division) bool { return d.carries(x.dialer(), x.relay.host) }

func (x *crossing) toDialer(d *division) bool { return d.carries(x.relay.host, x.dialer()) }

// The pause between two looks for the process that has a socket grows: of one that starts the
// pid may not be known yet, and one that has ended is not found any more.
const (
	minOwnerPause = 5 * time.Millisecond
	maxOwnerPause = time.Second
)

// await waits until a direction is open. False: the network ends, or who dialled has given up
// where a connection waits to be made.
func (x *crossing) await(isOpen func(*division) bool, waiting *net.TCPConn) bool {
	pause := minOwnerPause
	for {
		d, change := x.relay.network.current()
		isKnown := d == nil || x.dialer() != ""
		if d == nil || isKnown && isOpen(d) {
			return waiting == nil || !hasHungUp(waiting)
		}
		var again <-chan time.Time
		if !isKnown {
			again = time.After(pause)
			pause = min(2*pause, maxOwnerPause)
		}
		select {
		case <-change:
		case <-again:
		case <-x.relay.network.closing:
			return false
		}
	}
}

// hasHungUp tells whether the other end has closed: unlike a read it sees that behind bytes.
func hasHungUp(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	var info *unix.TCPInfo
	err2 := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	const established = 1 // TCP_ESTABLISHED of the kernel
	return err2 != nil || err != nil || info.State != established
}

// pump carries one direction until its end.
func (x *crossing) pump(from, to *net.TCPConn, isOpen func(*division) bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if !x.await(isOpen, nil) {
			return
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				_ = from.SetLinger(0) // a reset goes back
				_, _ = from.Close(), to.Close()
				return
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			_ = to.CloseWrite() // whatever it says, it is the end
			return
		default:
			_ = to.SetLinger(0) // a reset goes on
			_, _ = from.Close(), to.Close()
			return
		}
	}
}
