// Package sock has the system calls on sockets that the front and the loops share. None
// of them blocks, and none allocates. A descriptor is the caller's: who closes it says so
// by calling Close, once.
package sock

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Result is the outcome of one non-blocking system call.
type Result uint8

const (
	OK      Result = iota
	Again          // the socket is full, or has nothing to read
	Starved        // the kernel has no memory for it. As Again, but no edge of epoll follows where nothing is in the socket
	Failed         // the connection is gone
)

func resultOf(errno unix.Errno) Result {
	switch errno {
	case 0:
		return OK
	case unix.EAGAIN, unix.EINTR:
		return Again
	case unix.ENOBUFS, unix.ENOMEM:
		return Starved
	}
	return Failed
}

// Iovec is one Piece of a gathered write.
type Iovec = unix.Iovec

// Piece returns b as an Iovec; b must not be empty and stays borrowed until the write.
func Piece(b []byte) Iovec {
	v := Iovec{Base: unsafe.SliceData(b)}
	v.SetLen(len(b))
	return v
}

// Extend lets v reach over b as well when b lies right behind it in memory.
func Extend(v *Iovec, b []byte) bool {
	// As numbers: a pointer behind the end of an allocation must not be made.
	if uintptr(unsafe.Pointer(v.Base))+uintptr(v.Len) != uintptr(unsafe.Pointer(unsafe.SliceData(b))) {
		return false
	}
	v.SetLen(int(v.Len) + len(b))
	return true
}

// MaxIovecs is the kernel's limit for one sendmsg (UIO_MAXIOV).
const MaxIovecs = 1024

// Send is sendto(2) for one Piece and sendmsg(2) for more. They do what write(2) and
// writev(2) do on a socket with less of the kernel's file layer: of the 4.4 µs that
// 2 bytes take on loopback, 0.4 µs less; of the 4.8 µs of 160 bytes, 0.25 µs (medians of
// 40 rounds over 4,000 sockets). They do not block, so the scheduler need not be told.
func Send(fd int, vec []Iovec) (int, Result) {
	const flags = unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	var n uintptr
	var errno unix.Errno
	if len(vec) == 1 {
		n, _, errno = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd),
			uintptr(unsafe.Pointer(vec[0].Base)), uintptr(vec[0].Len), flags, 0, 0)
	} else {
		msg := unix.Msghdr{Iov: &vec[0]}
		msg.SetIovlen(len(vec))
		n, _, errno = unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), flags)
	}
	if errno != 0 {
		return 0, resultOf(errno)
	}
	return int(n), OK
}

// Read is read(2).
func Read(fd int, b []byte) (int, Result) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno != 0 {
		return 0, resultOf(errno)
	}
	return int(n), OK
}

// Close is the only place where a parked descriptor is closed.
func Close(fd int) { _ = unix.Close(fd) }

// FileLimit is the number of files this process may have open.
func FileLimit() int {
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) != nil {
		return 1024
	}
	return int(min(lim.Cur, 1<<30))
}

// TCPInfo is room for what Window and Unsent ask for.
type TCPInfo = unix.TCPInfo

// Window is the receive window that the peer has told last, in bytes (TCP_INFO). Not ok: it
// is no TCP socket, or the kernel is older than 5.4. Some 1 µs.
func Window(fd int, info *TCPInfo) (window uint32, ok bool) {
	size := readInfo(fd, info)
	return info.Snd_wnd, size >= unsafe.Offsetof(info.Snd_wnd)+unsafe.Sizeof(info.Snd_wnd)
}

// Unsent is how many bytes the kernel holds that it has not sent yet (TCP_INFO). Not ok: it
// is no TCP socket, or the kernel is older than 4.6. Some 1 µs.
func Unsent(fd int, info *TCPInfo) (bytes uint32, ok bool) {
	size := readInfo(fd, info)
	return info.Notsent_bytes, size >= unsafe.Offsetof(info.Notsent_bytes)+unsafe.Sizeof(info.Notsent_bytes)
}

// readInfo returns how many bytes of info the kernel has filled; 0: it is no TCP socket.
func readInfo(fd int, info *TCPInfo) (size uintptr) {
	n := uint32(unsafe.Sizeof(*info))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_INFO,
		uintptr(unsafe.Pointer(info)), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return 0
	}
	return uintptr(n)
}

// LimitUnsent makes the socket full when it holds about so many bytes that are not sent yet
// (TCP_NOTSENT_LOWAT). One that is no TCP socket stays as it is.
func LimitUnsent(fd, bytes int) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, bytes)
}

// Peek reads without taking (recv(2), MSG_PEEK).
func Peek(fd int, b []byte) (int, Result) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_PEEK, 0, 0)
	if errno != 0 {
		return 0, resultOf(errno)
	}
	return int(n), OK
}

// AddrOf is the address of a TCP socket, without the form of IPv4 in IPv6; none of another one.
func AddrOf(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// PeerOf is the address of the peer of a connected socket; none of a unix socket.
func PeerOf(fd int) netip.AddrPort {
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return netip.AddrPort{} // it has just been reset
	}
	return AddrOf(sa)
}

// ShutdownWrite ends our side of a connection; the peer sees the end of the answer.
func ShutdownWrite(fd int) { _ = unix.Shutdown(fd, unix.SHUT_WR) }

// Shutdown ends both sides of a connection. The descriptor stays open: whoever watches it
// sees that it has hung up, and closes it.
func Shutdown(fd int) { _ = unix.Shutdown(fd, unix.SHUT_RDWR) }

// discardReads bounds what Discard reads: 64 KiB.
const discardReads = 16

// Discard throws away what has come, since closing with unread input resets
// the connection and could take the answer with it. For more it does not wait.
func Discard(fd int) {
	var scratch [4 << 10]byte
	for range discardReads {
		if n, result := Read(fd, scratch[:]); result != OK || n == 0 {
			return
		}
	}
}
