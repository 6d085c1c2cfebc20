//go:build linux

package swarm

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ending says how a connection is given up.
type ending uint8

const (
	graceful ending = iota // FIN; leaves TIME_WAIT on this side
	abort                  // RST; leaves nothing
)

// readable are the events that end in a read(2), which tells what it is.
const readable = unix.EPOLLIN | unix.EPOLLHUP | unix.EPOLLERR | unix.EPOLLRDHUP

// dial starts to connect slot i. A connect on loopback is over when connect(2)
// returns, so the request usually goes out at once.
func (s *Swarm) dial(i int) error {
	c := &s.conns[i]
	fd, err := s.socket(i)
	if err != nil {
		return err
	}
	c.fd, c.state, c.acc = int32(fd), stateConnect, uint64(Now())
	err = unix.Connect(fd, s.peer)
	if err == nil || err == unix.EINPROGRESS {
		err = s.sendRequest(c)
	} else {
		err = fmt.Errorf("connect: %w", err)
	}
	if err != nil {
		s.drop(c, stateIdle, abort)
		return err
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: int32(i)}
	if c.state == stateConnect {
		ev.Events |= unix.EPOLLOUT
	}
	if err := unix.EpollCtl(s.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		s.drop(c, stateIdle, abort)
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// socket opens a socket with the source address of slot i.
func (s *Swarm) socket(i int) (int, error) {
	family := unix.AF_INET
	if _, v6 := s.peer.(*unix.SockaddrInet6); v6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	if s.tight(i) {
		if err := tighten(fd); err != nil {
			unix.Close(fd)
			return 0, fmt.Errorf("tighten the socket: %w", err)
		}
	}
	if len(s.sources) == 0 {
		return fd, nil
	}
	// Without this option bind(2) takes a port that no other connection may have,
	// whatever its peer, and searches for it under a lock.
	err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	if err == nil {
		err = unix.Bind(fd, s.sources[i%len(s.sources)])
	}
	if err != nil {
		unix.Close(fd)
		return 0, fmt.Errorf("bind to %v: %w", s.cfg.Sources[i%len(s.sources)], err)
	}
	return fd, nil
}

// tight reports whether slot i belongs to a group of that kind.
func (s *Swarm) tight(i int) bool {
	for _, g := range s.cfg.Groups {
		if i -= g.Count; i < 0 {
			return g.Tight
		}
	}
	return false
}

// tighten has to come before the connect. The kernel lets the other end queue some
// thirty segments (ten of a first window, by 2 or 3), which are 64 KiB on loopback: what
// a server writes to a reader that has stopped fits for megabytes. With segments of an
// Ethernet it is below 100 KiB.
func tighten(fd int) error {
	const segment, receive = 1400, 4096
	return errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, segment),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receive),
	)
}

// sendRequest writes the request head. While the connect is under way it does
// nothing and the state stays stateConnect.
func (s *Swarm) sendRequest(c *conn) error {
	b := s.request[:0]
	for i, piece := range s.cfg.Request {
		if i > 0 {
			b = append(b, s.cfg.Prefix...)
			b = strconv.AppendUint(b, uint64(c.channel), 10)
		}
		b = append(b, piece...)
	}
	if s.opening.spec.Resume && c.idLen > 0 {
		b = append(b, "Last-Event-ID: "...)
		b = append(b, c.lastID()...)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	s.request = b
	n, err := rawWrite(c.fd, b)
	switch {
	case err == unix.EAGAIN || err == unix.ENOTCONN:
		return nil
	case err != nil:
		return fmt.Errorf("connect: %w", err)
	case n < len(b):
		return fmt.Errorf("send request: %d of %d bytes", n, len(b))
	}
	c.state = stateHead
	c.restart()
	return nil
}

// ready handles the readiness of slot i.
func (s *Swarm) ready(i int32, events uint32) {
	c := &s.conns[i]
	if c.fd < 0 {
		return // closed by an earlier event of the same batch
	}
	if c.state == stateConnect {
		s.connected(i, c)
		return
	}
	if events&readable != 0 {
		s.read(i, c)
	}
}

// connected sends the request that had to wait for the connect.
func (s *Swarm) connected(i int32, c *conn) {
	if err := s.sendRequest(c); err != nil {
		s.failed(i, c, err)
		return
	}
	if c.state == stateConnect {
		return
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: i}
	if err := unix.EpollCtl(s.epfd, unix.EPOLL_CTL_MOD, int(c.fd), &ev); err != nil {
		s.failed(i, c, fmt.Errorf("epoll_ctl: %w", err))
	}
}

// errEnded is a response that ended inside its head.
var errEnded = errors.New("the server closed the connection before a whole response head")

// read takes what arrived on slot i. One read per event: epoll is level-triggered,
// and others wait.
func (s *Swarm) read(i int32, c *conn) {
	n, err := rawRead(c.fd, s.buf)
	if err == unix.EAGAIN || err == unix.EINTR {
		return
	}
	now := Now()
	// Events right behind the head overwrite acc, which is the start of the connect so far.
	before, start, head := s.stats.Delivered, c.acc, c.state == stateHead
	switch {
	case err == nil && n > 0:
		err = c.feed(s.buf[:n], &s.stats, now)
	case err == nil:
		err = errEnded
	}
	if s.stats.Delivered != before {
		s.last = now
	}
	if head && c.state == stateStream && (err == nil || err == errOver) {
		s.open.Add(1)
		s.opening.succeeded(s, i, time.Duration(now-int64(start)))
		s.opening.result.End = now
		head = false
	}
	switch {
	case err != nil && head:
		s.failed(i, c, s.explain(c, err))
	case err != nil && c.fd >= 0: // a churn has closed it already
		s.stats.Closed++
		s.drop(c, stateClosed, abort)
	}
}

// explain adds the status code to errStatus.
func (s *Swarm) explain(c *conn, err error) error {
	if err == errStatus {
		return fmt.Errorf("%w but a %d", err, c.left)
	}
	return err
}

// failed gives a connect up.
func (s *Swarm) failed(i int32, c *conn, err error) {
	s.drop(c, stateIdle, abort)
	s.opening.failed(s, i, err)
}

// drop closes the descriptor of c, if it has one.
func (s *Swarm) drop(c *conn, next connState, how ending) {
	if c.fd >= 0 {
		if how == abort {
			_ = unix.SetsockoptLinger(int(c.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		}
		unix.Close(int(c.fd))
		if c.state == stateStream || c.state == statePaused {
			s.open.Add(-1)
		}
	}
	c.fd, c.state = -1, next
}
