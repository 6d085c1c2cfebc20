package front

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ssed/engine/internal/sock"
)

// listener is one public address. It accepts for netpoll, in place of netpoll's
// own listener, so that there is always an answer at the limits: beyond
// MaxConnections, and when the process runs out of files, where netpoll would take
// the listener out of its poller and try again after up to a second.
type listener struct {
	// fixed after construction
	front   *Front
	address string // as configured
	addr    net.Addr
	network string
	path    string // of a unix socket, removed at close
	fd      int

	serving atomic.Bool // a loop runs, and closes it at its end
	stopped atomic.Bool // nothing is accepted any more

	// stopping orders stop and close. Stop holds it while it refuses what is in the queue, so
	// that close does not free the descriptor meanwhile. Accept does not wait for it: the
	// same goroutine serves the handshakes.
	stopping sync.Mutex

	mu       sync.Mutex // orders accept and close, behind stopping; accepts come from one goroutine
	isClosed bool
	spare    int // a file given up to be able to accept without a free one; -1: none
	scratch  [chunkBytes]byte
	out      []byte
}

const (
	// acceptTries bounds how many connections that died in the queue are skipped at once.
	acceptTries = 64
	// acceptPause is how long accept rests when the kernel has no memory, or no file
	// even for the moment of a refusal. It holds up the handshakes, which need both
	// too, and keeps the poller from spinning.
	acceptPause = 10 * time.Millisecond
	// maxQueue is how many connections a listener's queue holds: the default of
	// net.core.somaxconn, which Go asks for.
	maxQueue = 4096
)

// listen opens "host:port" or "unix:/path".
func listen(f *Front, address string) (*listener, error) {
	l := &listener{front: f, address: address, network: "tcp", fd: -1, spare: -1}
	target := address
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		l.network, l.path, target = "unix", path, path
		if err := removeStaleSocket(path); err != nil {
			return nil, fmt.Errorf("front: listen %q: %w", address, err)
		}
	}
	lc := net.ListenConfig{Control: func(network, _ string, raw syscall.RawConn) error {
		return tuneListener(network, raw, &f.cfg)
	}}
	// A socket of Multipath TCP has no TCP_USER_TIMEOUT.
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), l.network, target)
	if err != nil {
		return nil, fmt.Errorf("front: %w", err)
	}
	if err := l.setMode(f.cfg.SocketMode); err != nil {
		_ = ln.Close() // and with it the file
		return nil, fmt.Errorf("front: listen %q: %w", address, err)
	}
	if err := l.takeFrom(ln); err != nil {
		return nil, fmt.Errorf("front: listen %q: %w", address, err)
	}
	l.openSpare()
	return l, nil
}

// takeFrom makes the socket of ln ours. Accepting through package net would put
// each connection into the runtime's poller first.
func (l *listener) takeFrom(ln net.Listener) error {
	defer ln.Close()
	if unixListener, ok := ln.(*net.UnixListener); ok {
		unixListener.SetUnlinkOnClose(false)
	}
	l.addr = ln.Addr()
	raw, err := ln.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	var dupErr error
	err = raw.Control(func(fd uintptr) {
		l.fd, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err := errors.Join(err, dupErr); err != nil {
		return err
	}
	l.fd = renumber(l.fd)
	return nil
}

// setMode gives a unix socket its permissions.
func (l *listener) setMode(mode fs.FileMode) error {
	if mode == 0 || l.path == "" || strings.HasPrefix(l.path, "@") {
		return nil
	}
	return os.Chmod(l.path, mode)
}

// tuneListener sets what accepted sockets inherit: events go out when written, and
// a peer that has vanished is found. A unix socket gets its permissions here.
func tuneListener(network string, raw syscall.RawConn, cfg *Config) error {
	var errs []error
	err := raw.Control(func(fd uintptr) {
		if network == "unix" {
			errs = append(errs, restrict(int(fd), cfg.SocketMode))
			return
		}
		set := func(level, option, value int) {
			errs = append(errs, unix.SetsockoptInt(int(fd), level, option, value))
		}
		set(unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if cfg.ReusePort {
			set(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}
		if cfg.PeerTimeout > 0 {
			setPeerTimeout(set, cfg.PeerTimeout, cfg.Heartbeat)
		}
	})
	return errors.Join(append(errs, err)...)
}

// restrict takes permissions from the file that bind will make of a unix socket: it
// takes them from the descriptor, less the umask. So nobody connects before setMode
// who may not afterwards.
func restrict(fd int, mode fs.FileMode) error {
	if mode == 0 {
		return nil
	}
	return unix.Fchmod(fd, uint32(mode))
}

// keepAliveProbes is how often a silent peer is asked before it counts as gone.
const keepAliveProbes = 3

// setPeerTimeout lets the kernel give up a peer that has not answered for so long:
// to what was sent (TCP_USER_TIMEOUT) and, where less is sent than that, to probes,
// which begin after half of the time. With heartbeats no rarer than the timeout there
// are none: they would be a timer for each connection, and with 150,000 that rested
// at once the loopback device dropped nine in ten of their probes.
func setPeerTimeout(set func(level, option, value int), timeout, heartbeat time.Duration) {
	set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(timeout/time.Millisecond))
	if heartbeat > 0 && heartbeat <= timeout {
		return
	}
	seconds := func(d time.Duration) int { return int(max((d+time.Second/2)/time.Second, 1)) }
	set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	set(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, seconds(timeout/2))
	set(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, seconds(timeout/2/keepAliveProbes))
	set(unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveProbes)
}

// removeStaleSocket removes the socket that a killed process left behind, but not
// one that somebody listens on, and nothing that is not a socket.
func removeStaleSocket(path string) error {
	if strings.HasPrefix(path, "@") {
		return nil // abstract (unix(7)): not a file
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode()&fs.ModeSocket == 0:
		return fs.ErrExist
	}
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		_ = conn.Close()
		return unix.EADDRINUSE
	case errors.Is(err, unix.ECONNREFUSED):
		return os.Remove(path)
	}
	return err
}

// Accept implements netpoll.Listener. It returns neither a connection nor an error
// when there is none to be read from, and an error only when stopped, which ends
// the loop.
func (l *listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range acceptTries {
		if l.stopped.Load() {
			return nil, net.ErrClosed
		}
		fd, peer, err := l.acceptFD()
		switch err {
		case nil:
			from, refused := l.front.admit(sock.AddrOf(peer))
			switch {
			case refused != notRefused:
				l.refuseLocked(fd, refused)
			case !l.attachDirectly(fd, from):
				return &accepted{fd: renumber(fd), local: l.addr, remote: from}, nil
			}
		case unix.EAGAIN:
			return nil, nil
		case unix.EMFILE, unix.ENFILE:
			switch l.refuseWithSpareLocked() {
			case unix.EAGAIN:
				return nil, nil
			case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
				time.Sleep(acceptPause)
				return nil, nil
			}
		case unix.ENOBUFS, unix.ENOMEM:
			time.Sleep(acceptPause)
			return nil, nil
		default:
			// ECONNABORTED and the network errors of a connection that died in the queue
			// (accept(2), "Error handling").
		}
	}
	return nil, nil
}

// acceptFD takes a connection off the queue. Its descriptor is the caller's.
func (l *listener) acceptFD() (fd int, peer unix.Sockaddr, err error) {
	l.front.counters.accepts.Add(1)
	return unix.Accept4(l.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
}

// refuseLocked is refuse with the buffers of Accept.
func (l *listener) refuseLocked(fd int, reason RefuseReason) {
	l.out = l.front.refuse(fd, reason, l.scratch[:], l.out)
}

// refuse answers on a connection that is not going to be read from, and closes it: to what
// its request asks for if that is here already, else as a stream would be answered,
// since clients of streams never come back after anything but a 200. When the server is
// full the request has a moment to come. The request goes into scratch, the answer into
// out, which it returns for the next one.
func (f *Front) refuse(fd int, reason RefuseReason, scratch, out []byte) []byte {
	n, result := sock.Read(fd, scratch)
	if result == sock.Again && reason == RefuseFull && f.lobby.take(fd, reason) {
		return out
	}
	if result != sock.OK {
		n = 0
	}
	out = f.appendOverload(out[:0], scratch[:n], reason)
	_, _ = sock.Send(fd, []sock.Iovec{sock.Piece(out)})
	sock.ShutdownWrite(fd)
	sock.Close(fd)
	return out
}

// refuseWithSpareLocked refuses the first connection of the queue in the place of
// the spare file, and returns the error of accept. Left in the queue it would wake
// the poller for ever, and its client would wait. That the queue is empty is found
// out only here: without a free file the kernel does not look at it.
func (l *listener) refuseWithSpareLocked() error {
	if l.spare < 0 {
		l.openSpare()
	}
	if l.spare < 0 {
		return unix.EMFILE
	}
	_ = unix.Close(l.spare)
	l.spare = -1
	defer l.openSpare()
	fd, _, err := l.acceptFD()
	if err == nil {
		l.refuseLocked(fd, RefuseFiles)
	}
	return err
}

func (l *listener) openSpare() {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		fd = -1
	}
	l.spare = fd
}

func (l *listener) startServing() { l.serving.Store(true) }

// stop refuses what is in the queue and lets no more come: as much as a queue holds, and
// what has come meanwhile is reset. Until then Accept goes on beside it: each connection is
// taken by one of the two. The socket stays open, and in netpoll's epoll, until its loop has
// seen the end and closes it; without a loop it reports false.
func (l *listener) stop() (hasLoop bool) {
	l.stopping.Lock()
	defer l.stopping.Unlock()
	hasLoop = l.serving.Load()
	if l.stopped.Load() {
		return hasLoop
	}
	if hasLoop {
		l.refuseQueue()
	}
	l.stopped.Store(true)
	_ = unix.Shutdown(l.fd, unix.SHUT_RDWR) // wakes the poller
	return hasLoop
}

// refuseQueue refuses the connections that wait to be accepted.
func (l *listener) refuseQueue() {
	scratch, out := make([]byte, chunkBytes), []byte(nil)
	for range maxQueue {
		fd, _, err := l.acceptFD()
		switch err {
		case nil:
			out = l.front.refuse(fd, RefuseDraining, scratch, out)
		case unix.EAGAIN, unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
			return
		default: // of a connection that died in the queue, see Accept
		}
	}
}

// close frees the descriptor. Netpoll must not watch it any more: it takes
// listeners out of its epoll by number, which may be another's by then.
func (l *listener) close() {
	l.stopping.Lock()
	defer l.stopping.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed {
		return
	}
	l.stopped.Store(true)
	l.isClosed = true
	_ = unix.Close(l.fd)
	if l.spare >= 0 {
		_ = unix.Close(l.spare)
	}
	if l.path != "" && l.path[0] != '@' {
		_ = os.Remove(l.path)
	}
}

// Close implements netpoll.Listener.
func (l *listener) Close() error {
	l.stop()
	return nil
}

// Addr implements netpoll.Listener.
func (l *listener) Addr() net.Addr { return l.addr }

// Fd implements netpoll.Listener.
func (l *listener) Fd() int { return l.fd }

// accepted is a new connection on its way into netpoll, which takes descriptor and
// addresses from it and calls nothing else.
type accepted struct {
	net.Conn
	fd     int
	local  net.Addr
	remote *remoteAddr
}

func (a *accepted) Fd() int              { return a.fd }
func (a *accepted) LocalAddr() net.Addr  { return a.local }
func (a *accepted) RemoteAddr() net.Addr { return a.remote }
