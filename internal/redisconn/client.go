package redisconn

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/redis/rueidis"
)

var (
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("connection to Redis closed")
	// ErrNotConnected is returned while there is no client.
	ErrNotConnected = errors.New("not connected to Redis")
)

// Client is a lazy client: made when it is first needed, so that Redis or its Sentinels
// may be absent at start. A new one replaces a client that leads to the wrong server.
// Others of its Nodes use the same connections. Safe for concurrent use.
type Client struct {
	nodes  *Nodes
	finder *finder        // of the node to connect to; nil: no cluster
	wg     sync.WaitGroup // dials and closings under way
	ctx    context.Context
	cancel context.CancelFunc

	mu     sync.Mutex
	client rueidis.Client // nil: none
	node   *node          // that it is of
	dial   *dial          // under way, nil otherwise
	closed bool
}

type dial struct {
	done chan struct{}
	err  error // valid after done
}

// New is Nodes.Client for a client that shares its connections with no other.
func New(option rueidis.ClientOption, slot int) *Client { return newNodes(option).Client(slot) }

// NewSubscribing is New for a client of which every connection is a dedicated one, with
// subscriptions. See Subscribing.
func NewSubscribing(option rueidis.ClientOption, slot int, bytes *atomic.Int64) *Client {
	n := newNodes(Subscribing(option, bytes))
	n.isDedicated = true
	return n.Client(slot)
}

// Get returns the client and makes it if there is none. Callers at the same time share
// one attempt to make it.
func (l *Client) Get(ctx context.Context) (rueidis.Client, error) {
	for {
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			return nil, ErrClosed
		}
		if l.client != nil && l.node.isRetired.Load() {
			l.dropLocked()
		}
		if c := l.client; c != nil {
			l.mu.Unlock()
			return c, nil
		}
		d := l.dial
		if d == nil {
			d = &dial{done: make(chan struct{})}
			l.dial = d
			l.wg.Go(func() { l.make(d) })
		}
		l.mu.Unlock()
		select {
		case <-d.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if d.err != nil {
			return nil, d.err
		}
	}
}

func (l *Client) make(d *dial) {
	c, n, err := l.connect()
	l.mu.Lock()
	if n != nil && !l.closed {
		l.client, l.node, n = c, n, nil
	}
	l.dial = nil
	l.mu.Unlock()
	if n != nil {
		n.leave()
	}
	d.err = err
	close(d.done)
}

// connect returns a client, and the node to leave after its use.
func (l *Client) connect() (rueidis.Client, *node, error) {
	addr := ""
	if l.finder != nil {
		var err error
		if addr, err = l.finder.find(l.ctx); err != nil {
			return nil, nil, err
		}
	}
	n := l.nodes.join(addr)
	if n.err != nil {
		n.leave()
		return nil, nil, n.err
	}
	if l.finder != nil {
		return &nodeClient{n.client, l}, n, nil
	}
	return n.client, n, nil
}

// Current returns the client if there is one.
func (l *Client) Current() (rueidis.Client, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return nil, ErrClosed
	case l.client == nil:
		return nil, ErrNotConnected
	}
	return l.client, nil
}

// Addr is the address of the server that the client leads to, "" while there is none.
func (l *Client) Addr() string {
	c, err := l.Current()
	if err != nil {
		return ""
	}
	for addr := range c.Nodes() { // one
		return addr
	}
	return ""
}

// Discard gives up a client that is bound to the wrong server if it is still in use, so
// that the next Get finds the server anew: names are resolved, Sentinels are asked. Those
// who share it give it up at their next Get. It is closed when the last of them has.
func (l *Client) Discard(old rueidis.Client) {
	l.mu.Lock()
	d := l.node
	if l.client != old {
		d = nil
	}
	l.mu.Unlock()
	if d == nil {
		return
	}
	d.retire() // first, or the next Get might join it again
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.node == d {
		l.dropLocked()
	}
}

// dropLocked ends the use of the client that there is.
func (l *Client) dropLocked() {
	l.wg.Go(l.node.leave)
	l.client, l.node = nil, nil
}

// Lost is told of a connection of the client that was lost, or could not be used: in a
// cluster another node may be the primary.
func (l *Client) Lost(client rueidis.Client) {
	if l.finder != nil {
		l.Discard(client)
	}
}

// DiscardCurrent closes whatever client there is, as Discard does.
func (l *Client) DiscardCurrent() {
	if c, err := l.Current(); err == nil {
		l.Discard(c)
	}
}

// Close closes the client and waits for what is under way.
func (l *Client) Close() {
	l.mu.Lock()
	l.closed = true
	if l.client != nil {
		l.dropLocked()
	}
	l.mu.Unlock()
	l.cancel()
	l.wg.Wait()
}
