package admin

import (
	"net"
	"sync"
)

// maxConnections is how many connections the admin listener holds: dashboards, scrapers
// and the pools of some backends. They come out of the 256 files that the engine keeps
// free of streams; with 64 for refusals that leaves as many for Redis and the event loops.
const maxConnections = 128

// Listener gives the connections of l to the server of the API, and closes at once what
// comes while maxConnections are open.
func (a *API) Listener(l net.Listener) net.Listener { return &listener{l, a} }

type listener struct {
	net.Listener
	api *API
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.api.connSeats.take() {
			return &seatedConn{Conn: conn, leave: sync.OnceFunc(l.api.connSeats.leave)}, nil
		}
		l.api.connectionsRefused.Add(1)
		_ = conn.Close() // nothing was written
	}
}

// seatedConn gives its seat back with its file.
type seatedConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn. The server may call it more than once.
func (c *seatedConn) Close() error {
	err := c.Conn.Close()
	c.leave()
	return err
}
