//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// link is a TCP proxy to one address that notes the request heads it passes on and
// cuts connections when it is told to.
type link struct {
	t        testing.TB
	listener net.Listener
	wg       sync.WaitGroup

	mu            sync.Mutex // guards what follows
	network, addr string     // where it leads to
	closed        bool
	open          map[*net.TCPConn]net.Conn // client's side to server's side
	heads         []string                  // request heads in the order of arrival
	streams       int                       // event streams that the server began
	heartbeats    int                       // lone comment lines passed on
	dead          map[*net.TCPConn]bool     // those whose answers go nowhere
}

// newLink listens on a free port of loopback until the test ends. Addr may be
// "unix:/path".
func newLink(t testing.TB, addr string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := &link{t: t, listener: listener, network: "tcp", addr: addr, open: map[*net.TCPConn]net.Conn{}, dead: map[*net.TCPConn]bool{}}
	if path, found := strings.CutPrefix(addr, "unix:"); found {
		l.network, l.addr = "unix", path
	}
	l.wg.Go(l.accept)
	t.Cleanup(l.close)
	return l
}

// leadTo makes it a way to another address, for connections to come.
func (l *link) leadTo(addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.network, l.addr = "tcp", addr
}

func (l *link) dial() (net.Conn, error) {
	l.mu.Lock()
	network, addr := l.network, l.addr
	l.mu.Unlock()
	return net.Dial(network, addr)
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
	server, err := l.dial()
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
		l.passRequests(server, client)
		server.Close() // ends the loop below
	})
	l.passAnswers(client, server)
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
	delete(l.dead, client)
}

// swallow lets all connections of now stand, and nothing come out of them any more: what
// a client sees of a network that has gone.
func (l *link) swallow() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for client := range l.open {
		l.dead[client] = true
	}
}

func (l *link) swallows(client *net.TCPConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead[client]
}

// passRequests sends on what the client sends, which is request heads without bodies,
// and notes each before the server can answer it.
func (l *link) passRequests(to io.Writer, from io.Reader) {
	var head []byte
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		head = append(head, buf[:n]...)
		for {
			whole, rest, found := bytes.Cut(head, []byte("\r\n\r\n"))
			if !found {
				break
			}
			l.mu.Lock()
			l.heads = append(l.heads, string(whole)+"\r\n\r\n")
			l.mu.Unlock()
			head = rest
		}
		if err != nil {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (l *link) passAnswers(to *net.TCPConn, from io.Reader) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n == 0 {
			return
		}
		if l.swallows(to) {
			continue
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
		l.mu.Lock()
		if bytes.Contains(buf[:n], []byte("Content-Type: text/event-stream; charset=utf-8\r\n")) {
			l.streams++
		}
		if text := string(buf[:n]); text == ":\n" || text == "2\r\n:\n\r\n" { // the second in a chunk
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

// openCount counts the connections that stand.
func (l *link) openCount() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

// waitStreams waits until so many streams have begun in all. A stream is subscribed
// before it is answered, so what is published from then on comes.
func (l *link) waitStreams(n int) {
	l.t.Helper()
	eventually(l.t, fmt.Sprintf("%d streams", n), func() bool { return l.count(&l.streams) >= n })
}

// waitHeartbeats waits for so many more.
func (l *link) waitHeartbeats(n int) {
	l.t.Helper()
	from := l.count(&l.heartbeats)
	eventually(l.t, "heartbeats", func() bool { return l.count(&l.heartbeats) >= from+n })
}

// lastGet returns the request line and the header fields of the latest GET.
func (l *link) lastGet() (line string, header textproto.MIMEHeader) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, head := range slices.Backward(l.heads) {
		if !strings.HasPrefix(head, "GET ") {
			continue // a preflight
		}
		r := textproto.NewReader(bufio.NewReader(strings.NewReader(head)))
		line, err := r.ReadLine()
		require.NoError(l.t, err)
		header, err = r.ReadMIMEHeader()
		require.NoError(l.t, err)
		return line, header
	}
	l.t.Fatal("no GET")
	return "", nil
}

// lastID is where the last GET goes on: its Last-Event-ID, else the one in its query.
func (l *link) lastID() string {
	l.t.Helper()
	line, header := l.lastGet()
	if id := header.Get("Last-Event-ID"); id != "" {
		return id
	}
	target, err := url.ParseRequestURI(strings.Fields(line)[1])
	require.NoError(l.t, err)
	return target.Query().Get("last_event_id")
}
