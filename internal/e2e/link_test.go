//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// link is a TCP proxy to one address that notes the request heads it passes on and
// cuts connections when it is told to.
type link struct {
	t             testing.TB
	listener      net.Listener
	network, addr string // where it leads to
	wg            sync.WaitGroup

	mu         sync.Mutex // guards what follows
	closed     bool
	open       map[*net.TCPConn]net.Conn // client's side to server's side
	heads      []string                  // request heads in the order of arrival
	answered   int                       // connections on which the server sent something
	heartbeats int                       // lone comment lines passed on
}

// newLink listens on a free port of loopback until the test ends. Addr may be
// "unix:/path".
func newLink(t testing.TB, addr string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := &link{t: t, listener: listener, network: "tcp", addr: addr, open: map[*net.TCPConn]net.Conn{}}
	if path, found := strings.CutPrefix(addr, "unix:"); found {
		l.network, l.addr = "unix", path
	}
	l.wg.Go(l.accept)
	t.Cleanup(l.close)
	return l
}

func (l *link) host() string { return l.listener.Addr().String() }

func (l *link) accept() {
	for {
		c, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.wg.Go(func() { l.serve(c.(*net.TCPConn)) })
	}
}

func (l *link) serve(client *net.TCPConn) {
	defer client.Close()
	server, err := net.Dial(l.network, l.addr)
	if err != nil {
		return // the client sees its connection closed
	}
	defer server.Close()
	if !l.keep(client, server) {
		return
	}
	defer l.drop(client)
	var upstream sync.WaitGroup
	upstream.Go(func() {
		l.passHead(server, client)
		_, _ = io.Copy(server, client)
		server.Close() // ends the loop below
	})
	l.passAnswer(client, server)
	client.Close()
	upstream.Wait()
}

func (l *link) keep(client *net.TCPConn, server net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.open[client] = server
	return true
}

func (l *link) drop(client *net.TCPConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, client)
}

// passHead sends the first request head on, and notes it before the server can answer.
func (l *link) passHead(to io.Writer, from io.Reader) {
	var head []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(head, []byte("\r\n\r\n")) {
		n, err := from.Read(buf)
		head = append(head, buf[:n]...)
		if err != nil {
			return
		}
	}
	l.mu.Lock()
	l.heads = append(l.heads, string(head))
	l.mu.Unlock()
	_, _ = to.Write(head)
}

func (l *link) passAnswer(to io.Writer, from io.Reader) {
	buf := make([]byte, 64<<10)
	for first := true; ; first = false {
		n, err := from.Read(buf)
		if n == 0 {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
		l.mu.Lock()
		if first {
			l.answered++
		}
		if string(buf[:n]) == ":\n" {
			l.heartbeats++
		}
		l.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// cut ends all connections: for the client with a reset, or as if the server had
// closed them.
func (l *link) cut(reset bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for client, server := range l.open {
		if reset {
			_ = client.SetLinger(0)
		}
		client.Close()
		server.Close()
	}
}

func (l *link) close() {
	l.listener.Close()
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cut(false)
	l.wg.Wait()
}

func (l *link) count(what *int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return *what
}

// waitAnswered waits until so many connections in all got an answer. A stream is
// answered after it is subscribed, so what is published from then on comes.
func (l *link) waitAnswered(n int) {
	l.t.Helper()
	eventually(l.t, fmt.Sprintf("%d answers", n), func() bool { return l.count(&l.answered) >= n })
}

// waitHeartbeats waits for so many more.
func (l *link) waitHeartbeats(n int) {
	l.t.Helper()
	from := l.count(&l.heartbeats)
	eventually(l.t, "heartbeats", func() bool { return l.count(&l.heartbeats) >= from+n })
}

// lastHead returns the request line and the header fields of the latest connection.
func (l *link) lastHead() (line string, header textproto.MIMEHeader) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	require.NotEmpty(l.t, l.heads)
	r := textproto.NewReader(bufio.NewReader(strings.NewReader(l.heads[len(l.heads)-1])))
	line, err := r.ReadLine()
	require.NoError(l.t, err)
	header, err = r.ReadMIMEHeader()
	require.NoError(l.t, err)
	return line, header
}
