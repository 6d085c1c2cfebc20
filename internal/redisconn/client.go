package redisconn

import (
	"context"
	"errors"
	"sync"

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
// Safe for concurrent use.
type Client struct {
	option rueidis.ClientOption
	finder *finder        // of the node to connect to; nil: no cluster
	wg     sync.WaitGroup // dials and closings under way
	ctx    context.Context
	cancel context.CancelFunc

	mu     sync.Mutex
	client rueidis.Client // nil: none
	dial   *dial          // under way, nil otherwise
	closed bool
}

type dial struct {
	done chan struct{}
	err  error // valid after done
}

// New returns a client that is not made yet. Close it after use. In a cluster it leads to
// the primary of the slot.
func New(option rueidis.ClientOption, slot int) *Client {
	l := &Client{option: option}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if IsCluster(option) {
		l.finder = &finder{option: option, slot: slot, wg: &l.wg}
	}
	return l
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
	c, err := l.connect()
	l.mu.Lock()
	if c != nil && !l.closed {
		l.client, c, err = c, nil, nil
	}
	l.dial = nil
	l.mu.Unlock()
	if c != nil {
		c.Close()
	}
	d.err = err
	close(d.done)
}

func (l *Client) connect() (rueidis.Client, error) {
	if l.finder == nil {
		// A single-node client comes back together with the error of its first
		// dial and dials again when used; a Sentinel client does not come back.
		return rueidis.NewClient(l.option)
	}
	addr, err := l.finder.find(l.ctx)
	if err != nil {
		return nil, err
	}
	o := l.option
	o.InitAddress = []string{addr}
	c, err := rueidis.NewClient(o)
	if err != nil {
		if c != nil {
			c.Close() // it would dial this node for ever, and another may be the primary by now
		}
		return nil, err
	}
	return &nodeClient{c, l}, nil
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

// Discard closes a client that is bound to the wrong server if it is still in use, so
// that the next Get finds the server anew: names are resolved, Sentinels are asked.
func (l *Client) Discard(old rueidis.Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client == old && !l.closed {
		l.client = nil
		l.wg.Go(old.Close)
	}
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
	c := l.client
	l.client, l.closed = nil, true
	l.mu.Unlock()
	l.cancel()
	if c != nil {
		c.Close()
	}
	l.wg.Wait()
}
