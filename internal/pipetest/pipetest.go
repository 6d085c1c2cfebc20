// Package pipetest serves HTTP to tests in a bubble of testing/synctest. A connection is
// a net.Pipe: waiting for it is waiting that the bubble knows of, as that for a socket
// is not, so timers fire at once and exactly when nothing else goes on.
package pipetest

import (
	"context"
	"net"
	"net/http"
	"testing"
)

// Dial is for http.Transport.DialContext.
type Dial func(ctx context.Context, network, addr string) (net.Conn, error)

// Serve serves a handler until the test ends. Whatever the address, dial leads to it.
func Serve(t testing.TB, h http.Handler) (dial Dial) {
	l := &listener{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // ends with Close
	}()
	t.Cleanup(func() {
		_ = server.Close() // of pipes
		<-done
	})
	return l.dial
}

// listener hands over one end of each pipe.
type listener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *listener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close is called once, by http.Server, which keeps to that.
func (l *listener) Close() error {
	close(l.closed)
	return nil
}

func (l *listener) Addr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "pipe" }
func (addr) String() string  { return "pipe" }
