//go:build linux

package swarm

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// readBufBytes is the one read buffer of a swarm: the default ceiling of a
// receive buffer on loopback, so that one read(2) empties most sockets.
const readBufBytes = 256 << 10

// maxEvents is the number of readiness events taken per epoll_wait(2).
const maxEvents = 1024

// ErrClosed is returned for a command to a closed swarm.
var ErrClosed = errors.New("swarm: closed")

// Group is a contiguous range of connections: connection k of the group is on
// channel First + (Offset+k) mod Channels.
type Group struct {
	Count    int    `json:"count"`
	First    uint32 `json:"first"`
	Channels uint32 `json:"channels"`
	Offset   uint32 `json:"offset"`
	// Tight gives the sockets of both ends the smallest buffers that the kernel
	// allows, as far as this end has a say: what is not read soon fills them.
	Tight bool `json:"tight,omitempty"`
}

// Config describes the connections of a swarm.
type Config struct {
	// Addr is the server.
	Addr netip.AddrPort `json:"addr"`
	// Request is the request head without its last empty line, split where the
	// channel's name goes.
	Request []string `json:"request"`
	// Prefix and the decimal channel number make a channel's name. It is put
	// into the request as it is and must not need escaping.
	Prefix string `json:"prefix"`
	// Sources are the local addresses to connect from, in turn. Each has a port
	// range of its own. None: the kernel chooses.
	Sources []netip.Addr `json:"sources"`
	// Groups are the connections, numbered through from 0.
	Groups []Group `json:"groups"`
	// Boost asks for a higher scheduling priority of the loop's thread, so that a
	// measuring swarm is not delayed by a busy one beside it. Best effort.
	Boost bool `json:"boost"`
}

// Swarm is a set of connections and the loop that owns them.
type Swarm struct {
	// fixed after New
	cfg      Config
	epfd     int
	wakefd   int
	peer     unix.Sockaddr
	sources  []unix.Sockaddr
	commands chan operation
	finished chan struct{}

	// owned by the loop
	conns   []conn
	stats   Stats
	last    int64 // when the newest counted delivery came
	buf     []byte
	request []byte
	events  []unix.EpollEvent
	op      operation
	opening *opening
	rest    time.Duration // from one look at the connections to the next; 0: no rest

	// atomic
	open      atomic.Int64
	delivered atomic.Uint64

	// guarded by mu, which is held for the length of a command: one at a time
	mu     sync.Mutex
	closed bool
}

// New prepares a swarm and starts its loop; nothing is connected yet.
func New(cfg Config) (*Swarm, error) {
	s := &Swarm{
		cfg:      cfg,
		peer:     sockaddr(cfg.Addr),
		finished: make(chan struct{}),
		buf:      make([]byte, readBufBytes),
		events:   make([]unix.EpollEvent, maxEvents),
		commands: make(chan operation, 1),
	}
	for _, a := range cfg.Sources {
		s.sources = append(s.sources, sockaddr(netip.AddrPortFrom(a, 0)))
	}
	s.layOut()
	var err error
	if s.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("swarm: epoll_create1: %w", err)
	}
	if s.wakefd, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		unix.Close(s.epfd)
		return nil, fmt.Errorf("swarm: eventfd: %w", err)
	}
	wake := unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1}
	if err := unix.EpollCtl(s.epfd, unix.EPOLL_CTL_ADD, s.wakefd, &wake); err != nil {
		unix.Close(s.epfd)
		unix.Close(s.wakefd)
		return nil, fmt.Errorf("swarm: epoll_ctl: %w", err)
	}
	go s.loop()
	return s, nil
}

// layOut makes the slots of all groups.
func (s *Swarm) layOut() {
	total := 0
	for _, g := range s.cfg.Groups {
		total += g.Count
	}
	s.conns = make([]conn, 0, total)
	for _, g := range s.cfg.Groups {
		for k := range g.Count {
			s.conns = append(s.conns, conn{fd: -1, channel: g.First + (g.Offset+uint32(k))%g.Channels})
		}
	}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// Progress returns how many connections stand and how many messages were
// delivered since the last Mark. It never waits for the loop.
func (s *Swarm) Progress() (open int64, delivered uint64) {
	return s.open.Load(), s.delivered.Load()
}

// Close ends the loop and every connection.
func (s *Swarm) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	close(s.commands)
	s.wake()
	<-s.finished
}

// perform hands o to the loop and waits for its end; when ctx ends first, o is
// cut short.
func (s *Swarm) perform(ctx context.Context, o operation) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	s.commands <- o
	s.wake()
	select {
	case <-o.base().done:
		return nil
	case <-ctx.Done():
	}
	o.base().cancelled.Store(true)
	s.wake()
	<-o.base().done
	return ctx.Err()
}

func (s *Swarm) wake() {
	one := [8]byte{1}
	// The only failure is a counter at its limit, which wakes the loop as well.
	_, _ = unix.Write(s.wakefd, one[:])
}

// loop owns the connections until Close.
func (s *Swarm) loop() {
	defer close(s.finished)
	defer s.closeAll()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if s.cfg.Boost {
		defer Boost()()
	}
	for n, err := 0, error(nil); s.takeCommand(); {
		if n < len(s.events) {
			s.doze()
		}
		n, err = unix.EpollWait(s.epfd, s.events, s.timeout())
		if err != nil && err != unix.EINTR {
			panic("swarm: epoll_wait: " + err.Error()) // EBADF or EFAULT: a bug here
		}
		for _, ev := range s.events[:max(n, 0)] {
			if ev.Fd >= 0 {
				s.ready(ev.Fd, ev.Events)
			} else {
				_, _ = unix.Read(s.wakefd, s.buf[:8])
			}
		}
		s.delivered.Store(s.stats.Delivered)
		s.stepOperation()
	}
}

// takeCommand starts the next operation when none is under way. It returns
// false after Close.
func (s *Swarm) takeCommand() bool {
	if s.op != nil {
		return true
	}
	select {
	case o, ok := <-s.commands:
		if !ok {
			return false
		}
		s.op = o
		o.begin(s)
		s.stepOperation()
	default:
	}
	return true
}

// doze sleeps for the time of a rest, or until the next command. Nobody waits on
// the epoll instance meanwhile, so what arrives wakes nobody up.
func (s *Swarm) doze() {
	if s.rest <= 0 || s.op != nil || len(s.commands) > 0 {
		return
	}
	wake := [1]unix.PollFd{{Fd: int32(s.wakefd), Events: unix.POLLIN}}
	_, _ = unix.Poll(wake[:], int(s.rest/time.Millisecond)) // however it ends, the connections are looked at next
}

func (s *Swarm) stepOperation() {
	if s.op == nil {
		return
	}
	b := s.op.base()
	over := s.op.step(s) || b.cancelled.Load() || b.deadline != 0 && Now() >= b.deadline
	if !over {
		return
	}
	s.op.end(s)
	s.op = nil
	close(b.done)
}

// timeout returns how long the loop may sleep, in milliseconds.
func (s *Swarm) timeout() int {
	switch {
	case s.op == nil && (s.rest > 0 || len(s.commands) > 0), s.opening != nil && s.opening.hasRoom():
		return 0
	case s.op == nil || s.op.base().deadline == 0:
		return -1
	}
	return int(max(s.op.base().deadline-Now(), 0)/1e6) + 1
}

// closeAll closes what the loop owns.
func (s *Swarm) closeAll() {
	for i := range s.conns {
		s.drop(&s.conns[i], stateIdle, abort)
	}
	unix.Close(s.epfd)
	unix.Close(s.wakefd)
}
