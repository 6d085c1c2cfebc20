//go:build linux

package refserver

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// subscribe asks Redis for all channels, as ssed does, and returns when it has
// said that messages will come.
func (f *Floor) subscribe(redis netip.AddrPort) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("floor: socket: %w", err)
	}
	f.add(fd, roleRedis)
	const (
		command = "*2\r\n$10\r\nPSUBSCRIBE\r\n$1\r\n*\r\n"
		answer  = "*3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n:1\r\n"
	)
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(redis.Port()), Addr: redis.Addr().As4()})
	if err == nil {
		_, err = unix.Write(fd, []byte(command))
	}
	got := f.buf[:len(answer)]
	n := 0
	for err == nil && n < len(answer) {
		var more int
		if more, err = unix.Read(fd, got[n:]); more == 0 && err == nil {
			err = io.ErrUnexpectedEOF
		}
		n += more
	}
	if err == nil && string(got) != answer {
		err = errProtocol
	}
	if err != nil {
		return fmt.Errorf("floor: subscribe: %w", err)
	}
	return unix.SetNonblock(fd, true)
}

// parsePush reads what Redis (RESP2) pushes to a subscriber, "pmessage", pattern,
// channel, body; n is its length, 0 when it is not whole. Other pushes have no channel.
func parsePush(b []byte) (channel string, body []byte, n int, err error) {
	count, rest, whole, err := parseSize(b, '*')
	if err != nil || !whole {
		return "", nil, 0, err
	}
	var words [4][]byte
	for i := range count {
		if len(rest) > 0 && rest[0] == ':' {
			_, rest, whole, err = parseSize(rest, ':')
		} else {
			var size int
			size, rest, whole, err = parseSize(rest, '$')
			if whole = whole && len(rest) >= size+2; whole {
				words[min(i, len(words)-1)] = rest[:size]
				rest = rest[size+2:]
			}
		}
		if err != nil || !whole {
			return "", nil, 0, err
		}
	}
	n = len(b) - len(rest)
	if string(words[0]) != "pmessage" {
		return "", nil, n, nil
	}
	return string(words[2]), words[3], n, nil
}

// parseSize reads a line "<kind><number>\r\n"; rest is what follows.
func parseSize(b []byte, kind byte) (size int, rest []byte, whole bool, err error) {
	line, rest, whole := bytes.Cut(b, []byte("\r\n"))
	if len(line) > 0 && line[0] != kind || len(line) > maxHeadBytes {
		return 0, nil, false, errProtocol
	}
	if !whole {
		return 0, nil, false, nil
	}
	size, err = strconv.Atoi(string(bytes.TrimPrefix(line, []byte{kind})))
	if err != nil || size < 0 || size > maxMessageBytes {
		return 0, nil, false, errProtocol
	}
	return size, rest, true, nil
}
