//go:build linux

package refserver

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ssed/sseproto"
)

const (
	// floorReadBytes holds a burst of published messages.
	floorReadBytes = 256 << 10
	// maxHeadBytes bounds a request head.
	maxHeadBytes = 16 << 10
	// maxMessageBytes bounds a published message.
	maxMessageBytes = 1 << 20
)

// responseHead is answered to every request. The stream has chunks, as that of ssed has.
const responseHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache, no-transform\r\n" +
	"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"

// role says what a descriptor of the floor is.
type role uint8

const (
	roleNone role = iota
	roleWake
	roleListener
	rolePublishListener
	roleRequest // the request head is not whole yet
	rolePublisher
	roleRedis // messages that Redis pushes
	roleMember
)

// slot is what the floor keeps per descriptor: 12 bytes.
type slot struct {
	role    role
	idle    uint8 // visits since something was written, of a member
	channel int32 // index into channels, of a member
	at      int32 // index into the channel's members
}

// Floor is a running floor server.
type Floor struct {
	// URL is where streams are served, PublishURL where messages come in.
	URL        string
	PublishURL string

	epfd, wakefd int
	beat         time.Duration // longest silence on a stream; 0: no heartbeats
	finished     chan struct{}

	// owned by the loop
	slots    []slot // by descriptor
	channels map[string]int32
	members  [][]int32
	partial  map[int32][]byte // what a request or a publisher has sent of an unfinished unit
	buf      []byte
	frame    []byte
	serial   uint64
	ticked   time.Time // when the walk for heartbeats last went on
	visited  int       // the slot it came to
	owed     float64   // visits due, with the fraction of one
}

// StartFloor listens on free ports of 127.0.0.1 and serves until Close. A stream
// that nothing is sent on for the time of beat gets a comment line; 0: none does.
func StartFloor(beat time.Duration) (*Floor, error) { return StartFloorOnRedis(beat, netip.AddrPort{}) }

// StartFloorOnRedis is StartFloor with a further way in: what is published on a
// Redis, on any channel.
func StartFloorOnRedis(beat time.Duration, redis netip.AddrPort) (*Floor, error) {
	f := &Floor{
		beat:     beat,
		ticked:   time.Now(),
		finished: make(chan struct{}),
		channels: map[string]int32{},
		partial:  map[int32][]byte{},
		buf:      make([]byte, floorReadBytes),
	}
	var err error
	if f.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("floor: epoll_create1: %w", err)
	}
	if err = f.open(); err == nil && redis.IsValid() {
		err = f.subscribe(redis)
	}
	if err != nil {
		f.closeAll()
		return nil, err
	}
	go f.loop()
	return f, nil
}

// open makes the wake descriptor and both listeners.
func (f *Floor) open() (err error) {
	if f.wakefd, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return fmt.Errorf("floor: eventfd: %w", err)
	}
	f.add(f.wakefd, roleWake)
	port, err := f.listen(roleListener)
	if err != nil {
		return err
	}
	f.URL = "http://127.0.0.1:" + strconv.Itoa(port) + "/sse/connect?channel_id={channel}"
	if port, err = f.listen(rolePublishListener); err != nil {
		return err
	}
	f.PublishURL = "line://127.0.0.1:" + strconv.Itoa(port)
	return nil
}

func (f *Floor) listen(r role) (port int, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("floor: socket: %w", err)
	}
	f.add(fd, r)
	err = errors.Join(
		// Accepted sockets inherit it.
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr("127.0.0.1").As4()}),
		unix.Listen(fd, 1<<16), // the kernel lowers it to somaxconn
	)
	if err != nil {
		return 0, fmt.Errorf("floor: listen: %w", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return 0, fmt.Errorf("floor: getsockname: %w", err)
	}
	return name.(*unix.SockaddrInet4).Port, nil
}

// Close ends the loop and all connections.
func (f *Floor) Close() {
	one := [8]byte{1}
	_, _ = unix.Write(f.wakefd, one[:])
	<-f.finished
}

func (f *Floor) loop() {
	defer close(f.finished)
	defer f.closeAll()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	events := make([]unix.EpollEvent, 512)
	for {
		n, err := unix.EpollWait(f.epfd, events, f.untilTick())
		if err != nil && err != unix.EINTR {
			panic("floor: epoll_wait: " + err.Error()) // EBADF or EFAULT: a bug here
		}
		for _, ev := range events[:max(n, 0)] {
			switch f.slots[ev.Fd].role {
			case roleWake:
				return
			case roleListener:
				f.accept(int(ev.Fd), roleRequest)
			case rolePublishListener:
				f.accept(int(ev.Fd), rolePublisher)
			case roleRequest, rolePublisher, roleRedis, roleMember:
				f.read(ev.Fd)
			}
		}
		if f.beat > 0 {
			f.tick(time.Now())
		}
	}
}

// accept takes some of the waiting connections; epoll tells of the others again.
func (f *Floor) accept(listener int, r role) {
	for range 64 {
		fd, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		if errno != 0 {
			return
		}
		f.add(int(fd), r)
	}
}

func (f *Floor) add(fd int, r role) {
	for len(f.slots) <= fd {
		f.slots = append(f.slots, slot{})
	}
	f.slots[fd] = slot{role: r}
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: int32(fd)}
	if unix.EpollCtl(f.epfd, unix.EPOLL_CTL_ADD, fd, &ev) != nil {
		f.drop(int32(fd))
	}
}

// read takes what a connection sent; the end of the stream ends it.
func (f *Floor) read(fd int32) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&f.buf[0])), uintptr(len(f.buf)))
	if errno == unix.EAGAIN || errno == unix.EINTR {
		return
	}
	if errno != 0 || n == 0 {
		f.drop(fd)
		return
	}
	switch b := f.buf[:n]; f.slots[fd].role {
	case roleRequest:
		f.request(fd, b)
	case rolePublisher:
		f.messages(fd, b, parsePublish)
	case roleRedis:
		f.messages(fd, b, parsePush)
	}
}

// request answers a whole request head and makes the connection a member.
func (f *Floor) request(fd int32, b []byte) {
	if old := f.partial[fd]; len(old) > 0 {
		b = append(old, b...)
		delete(f.partial, fd)
	}
	if !bytes.HasSuffix(b, []byte("\r\n\r\n")) {
		if len(b) > maxHeadBytes {
			f.drop(fd)
			return
		}
		f.partial[fd] = bytes.Clone(b)
		return
	}
	name, ok := channelName(b)
	if !ok || !f.write(fd, []byte(responseHead)) {
		f.drop(fd)
		return
	}
	c, ok := f.channels[name]
	if !ok {
		c = int32(len(f.members))
		f.channels[name] = c
		f.members = append(f.members, nil)
	}
	f.slots[fd] = slot{role: roleMember, channel: c, at: int32(len(f.members[c]))}
	f.members[c] = append(f.members[c], fd)
}

// channelName finds channel_id in the request line.
func channelName(head []byte) (string, bool) {
	line, _, _ := bytes.Cut(head, []byte("\r\n"))
	_, value, ok := bytes.Cut(line, []byte("channel_id="))
	value, _, more := bytes.Cut(value, []byte(" "))
	name, err := url.QueryUnescape(string(value))
	return name, ok && more && err == nil
}

// errProtocol is a publisher that keeps neither to the line protocol nor to Redis'.
var errProtocol = errors.New("floor: malformed message")

// messages sends on every whole message.
func (f *Floor) messages(fd int32, b []byte, parse func([]byte) (channel string, body []byte, n int, err error)) {
	if old := f.partial[fd]; len(old) > 0 {
		b = append(old, b...)
	}
	for {
		channel, body, n, err := parse(b)
		if err != nil {
			f.drop(fd)
			return
		}
		if n == 0 {
			break
		}
		f.publish(channel, body)
		b = b[n:]
	}
	delete(f.partial, fd)
	if len(b) > 0 {
		f.partial[fd] = bytes.Clone(b)
	}
}

// parsePublish reads one command "PUB <channel> <bytes>\n<body>" from b; n is its length, 0 when it is not whole.
func parsePublish(b []byte) (channel string, body []byte, n int, err error) {
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		if len(b) > maxHeadBytes {
			err = errProtocol
		}
		return "", nil, 0, err
	}
	words := strings.Split(string(b[:end]), " ")
	if len(words) != 3 || words[0] != "PUB" {
		return "", nil, 0, errProtocol
	}
	size, err := strconv.Atoi(words[2])
	if err != nil || size < 0 || size > maxMessageBytes {
		return "", nil, 0, errProtocol
	}
	if len(b) < end+1+size {
		return "", nil, 0, nil
	}
	return words[1], b[end+1 : end+1+size], end + 1 + size, nil
}

// publish encodes the frame once and writes it to every member.
func (f *Floor) publish(channel string, body []byte) {
	c, ok := f.channels[channel]
	if !ok {
		return
	}
	f.serial++
	b := append(f.frame[:0], "id: 1700000000000-"...)
	b = strconv.AppendUint(b, f.serial, 10)
	b = append(b, "\ndata: "...)
	b = append(b, body...)
	b = sseproto.WrapChunk(append(b, "\n\n"...), 0)
	f.frame = b
	// From the end: dropping a member moves the last one into its place.
	for i := len(f.members[c]) - 1; i >= 0; i-- {
		fd := f.members[c][i]
		f.slots[fd].idle = 0
		if !f.write(fd, b) {
			f.drop(fd)
		}
	}
}

// write sends b or nothing of it. It returns false when the stream can not go on:
// after an error, or a part of b.
func (f *Floor) write(fd int32, b []byte) bool {
	n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return errno == unix.EAGAIN || errno == 0 && int(n) == len(b)
}

// drop closes a descriptor and forgets it.
func (f *Floor) drop(fd int32) {
	s := f.slots[fd]
	if s.role == roleMember {
		all := f.members[s.channel]
		moved := all[len(all)-1]
		all[s.at] = moved
		f.slots[moved].at = s.at
		f.members[s.channel] = all[:len(all)-1]
	}
	delete(f.partial, fd)
	f.slots[fd] = slot{}
	unix.Close(int(fd))
}

func (f *Floor) closeAll() {
	for fd, s := range f.slots {
		if s.role != roleNone {
			unix.Close(fd)
		}
	}
	unix.Close(f.epfd)
}
