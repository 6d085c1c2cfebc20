package redistest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// doTimeout bounds one command, so that a paused server gives an error.
const doTimeout = 10 * time.Second

// Error is an error reply of the server.
type Error string

// Error implements error.
func (e Error) Error() string { return "redistest: " + string(e) }

// Do sends one command on a connection of its own and returns the reply: string,
// int64, nil, or []any of these and of Error. An error reply is returned as error.
func (s *Server) Do(args ...string) (any, error) { return Ask(s.Addr(), args...) }

// Ask is Do for any server that speaks the protocol, for example a sentinel.
func Ask(addr string, args ...string) (any, error) {
	c, err := Dial(addr, doTimeout)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Do(args...)
}

// Conn is a connection for one command after the other. One goroutine at a time.
type Conn struct {
	conn    net.Conn
	r       *bufio.Reader
	timeout time.Duration
}

// Dial connects to a server. The timeout is that of each command too.
func Dial(addr string, timeout time.Duration) (*Conn, error) {
	conn, err := net.DialTimeout("tcp", addr, timeout)
	if err != nil {
		return nil, err
	}
	return &Conn{conn: conn, r: bufio.NewReader(conn), timeout: timeout}, nil
}

// Close closes the connection.
func (c *Conn) Close() error { return c.conn.Close() }

// Do sends a command once and returns its reply, see Server.Do. After an error
// that is not an Error the connection is of no more use.
func (c *Conn) Do(args ...string) (any, error) {
	if err := c.conn.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return nil, err
	}
	if _, err := c.conn.Write(appendCommand(nil, args)); err != nil {
		return nil, err
	}
	reply, err := readReply(c.r)
	if err != nil {
		return nil, err
	}
	if e, ok := reply.(Error); ok {
		return nil, e
	}
	return reply, nil
}

func appendCommand(dst []byte, args []string) []byte {
	dst = fmt.Appendf(dst, "*%d\r\n", len(args))
	for _, a := range args {
		dst = fmt.Appendf(dst, "$%d\r\n%s\r\n", len(a), a)
	}
	return dst
}

// hasLine reports whether a text such as that of INFO has this line.
func hasLine(text, line string) bool {
	for l := range strings.Lines(text) {
		if strings.TrimRight(l, "\r\n") == line {
			return true
		}
	}
	return false
}

var errReply = errors.New("redistest: malformed reply")

// readReply reads one RESP2 reply.
func readReply(r *bufio.Reader) (any, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	if len(line) < 3 {
		return nil, errReply
	}
	kind, rest := line[0], line[1:len(line)-2]
	switch kind {
	case '+':
		return rest, nil
	case '-':
		return Error(rest), nil
	}
	n, err := strconv.ParseInt(rest, 10, 64)
	if err != nil {
		return nil, errReply
	}
	switch {
	case kind == ':':
		return n, nil
	case n < 0:
		return nil, nil
	case kind == '$':
		return readBulk(r, n)
	case kind == '*':
		return readArray(r, n)
	}
	return nil, errReply
}

func readBulk(r *bufio.Reader, n int64) (any, error) {
	b := make([]byte, n+2)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	return string(b[:n]), nil
}

func readArray(r *bufio.Reader, n int64) (any, error) {
	list := make([]any, n)
	for i := range list {
		var err error
		if list[i], err = readReply(r); err != nil {
			return nil, err
		}
	}
	return list, nil
}
