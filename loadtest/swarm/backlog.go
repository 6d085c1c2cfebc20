//go:build linux

package swarm

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Full returns how many of the paused connections first to first+count could not
// take bytes: the kernel holds less for them on both ends, so the server had to wait
// with a write, to drop messages, or to close. Only the socket of a server on this
// host can be seen; of another host it is 0.
func (s *Swarm) Full(ctx context.Context, first, count int, bytes int64) (full int, err error) {
	callErr := s.call(ctx, func(s *Swarm) {
		var table map[link]queues
		if table, err = readQueues(); err != nil {
			return
		}
		for i := first; i < first+count; i++ {
			if c := &s.conns[i]; c.state == statePaused && isFull(table, int(c.fd), s.cfg.Addr, bytes) {
				full++
			}
		}
	})
	return full, errors.Join(callErr, err)
}

func isFull(table map[link]queues, fd int, server netip.AddrPort, bytes int64) bool {
	own, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	here := addrPort(own)
	near, there := table[link{here, server}]
	far, seen := table[link{server, here}]
	closed := !there || near.state != established
	return (seen || closed) && near.received+far.unsent < bytes
}

func addrPort(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// link is a TCP connection as one end sees it.
type link struct{ own, peer netip.AddrPort }

// queues are what the kernel holds for one end.
type queues struct {
	state    uint8
	unsent   int64 // not acknowledged
	received int64 // not read
}

// established is TCP_ESTABLISHED of the kernel.
const established = 1

// readQueues reads the TCP sockets of this host.
func readQueues() (map[link]queues, error) {
	table := make(map[link]queues)
	for _, path := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		if err := addQueues(table, path); err != nil && !errors.Is(err, fs.ErrNotExist) { // no IPv6
			return nil, fmt.Errorf("swarm: %w", err)
		}
	}
	return table, nil
}

func addQueues(table map[link]queues, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if l, q, ok := parseQueues(lines.Text()); ok {
			table[l] = q
		}
	}
	return lines.Err()
}

// parseQueues reads "0: 0100007F:1F90 0200007F:C350 01 00000000:00000000 …": number,
// own address, peer, state, bytes to send and received. ok is false for the heading.
func parseQueues(line string) (l link, q queues, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 5 {
		return l, q, false
	}
	var err1, err2, err3, err4, err5 error
	l.own, err1 = parseAddr(fields[1])
	l.peer, err2 = parseAddr(fields[2])
	state, err3 := strconv.ParseUint(fields[3], 16, 8)
	unsent, received, _ := strings.Cut(fields[4], ":")
	q.unsent, err4 = strconv.ParseInt(unsent, 16, 64)
	q.received, err5 = strconv.ParseInt(received, 16, 64)
	q.state = uint8(state)
	return l, q, errors.Join(err1, err2, err3, err4, err5) == nil
}

// parseAddr reads an address as the kernel prints it: words of 32 bits in the order
// of this host, then the port.
func parseAddr(text string) (netip.AddrPort, error) {
	words, port, _ := strings.Cut(text, ":")
	var b []byte
	for ; len(words) >= 8; words = words[8:] {
		w, err := strconv.ParseUint(words[:8], 16, 32)
		if err != nil {
			return netip.AddrPort{}, err
		}
		b = binary.NativeEndian.AppendUint32(b, uint32(w))
	}
	p, err := strconv.ParseUint(port, 16, 16)
	addr, ok := netip.AddrFromSlice(b)
	if err != nil || !ok {
		return netip.AddrPort{}, fmt.Errorf("swarm: not an address: %q", text)
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(p)), nil
}
