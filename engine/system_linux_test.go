package engine

import "golang.org/x/sys/unix"

// What tests need of the system beside package engine itself.

const (
	sockCloexec  = unix.SOCK_CLOEXEC
	sockNonblock = unix.SOCK_NONBLOCK
)

// bindWithoutPort leaves the port to connect, so that one address serves for more sockets.
func bindWithoutPort(fd int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
}

// dropAll makes the kernel drop all that comes for a socket.
func dropAll(fd int) error {
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop})
}
