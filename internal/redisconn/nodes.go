package redisconn

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"

	"github.com/redis/rueidis"
)

// Shared is what the partitions of a process share of connections: for each kind of use the
// nodes that its clients lead to. The zero value has none. Safe for concurrent use.
type Shared struct {
	mu    sync.Mutex
	kinds map[string]*Nodes
}

// Nodes returns those of a kind. Who asks for a kind gives the same options each time. A nil
// Shared shares nothing: each call returns others.
func (s *Shared) Nodes(kind string, option rueidis.ClientOption) *Nodes {
	if s == nil {
		return newNodes(option)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kinds == nil {
		s.kinds = make(map[string]*Nodes)
	}
	if s.kinds[kind] == nil {
		s.kinds[kind] = newNodes(option)
	}
	return s.kinds[kind]
}

// Nodes are the servers that some lazy clients lead to. Those that lead to the same server
// share its connections: with many partitions a server would have as many connections of each
// instance, which do no more. Safe for concurrent use.
type Nodes struct {
	option rueidis.ClientOption
	// isDedicated: its clients are for dedicated connections alone.
	isDedicated bool

	mu   sync.Mutex
	list map[string]*node // by address; outside of a cluster there is one, of the address ""
}

// node is the client of a server. It is closed when its last user leaves.
type node struct {
	nodes *Nodes
	addr  string

	made   chan struct{} // closed when client and err are there
	client rueidis.Client
	err    error // there is no client

	isRetired atomic.Bool // nobody joins it any more, and its users leave when they can
	users     int         // guarded by Nodes.mu
}

func newNodes(option rueidis.ClientOption) *Nodes {
	return &Nodes{option: option, list: make(map[string]*node)}
}

// Client returns a client that is not made yet. Close it after use. In a cluster it leads to
// the primary of the slot.
func (n *Nodes) Client(slot int) *Client {
	l := &Client{nodes: n}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if IsCluster(n.option) {
		l.finder = &finder{option: n.option, slot: slot, wg: &l.wg}
	}
	return l
}

// join makes the caller a user of the client of a server, and makes that if there is none.
// Who joins leaves, also one that has an error.
func (n *Nodes) join(addr string) *node {
	n.mu.Lock()
	d := n.list[addr]
	isNew := d == nil
	if isNew {
		d = &node{nodes: n, addr: addr, made: make(chan struct{})}
		n.list[addr] = d
	}
	d.users++
	n.mu.Unlock()
	if isNew {
		if d.client, d.err = n.dial(addr); d.err != nil {
			d.retire()
		}
		close(d.made)
	}
	<-d.made
	return d
}

func (n *Nodes) dial(addr string) (rueidis.Client, error) {
	o := n.option
	if addr != "" {
		o.InitAddress = []string{addr}
	}
	if n.isDedicated {
		o = withoutSpare(o)
	}
	c, err := rueidis.NewClient(o)
	switch {
	case c == nil:
		return nil, err
	case err == nil, addr == "", errors.Is(err, errSpare):
		// A single-node client comes back together with the error of its first
		// dial and dials again when used; a Sentinel client does not come back.
		return c, nil
	}
	c.Close() // it would dial this node for ever, and another may be the primary by now
	return nil, err
}

// errSpare is what the first dial of a client meets that needs none.
var errSpare = errors.New("the connection for commands is not needed")

// withoutSpare keeps a single-node client from making a connection for commands that nobody
// sends: it dials one when it is made, beside those that are dedicated.
func withoutSpare(o rueidis.ClientOption) rueidis.ClientOption {
	if !o.ForceSingleClient { // Sentinels are asked by the same dial
		return o
	}
	dial := o.DialCtxFn
	if dial == nil {
		dial = dialTCP
	}
	var isMade atomic.Bool
	o.DialCtxFn = func(ctx context.Context, addr string, d *net.Dialer, config *tls.Config) (net.Conn, error) {
		if !isMade.Swap(true) {
			return nil, errSpare
		}
		return dial(ctx, addr, d, config)
	}
	return o
}

// retire is for a client that leads to the wrong server, or to none: who joins gets another
// one. Its users leave it one after the other, each at its next Client.Get.
func (d *node) retire() {
	n := d.nodes
	n.mu.Lock()
	defer n.mu.Unlock()
	d.isRetired.Store(true)
	if n.list[d.addr] == d {
		delete(n.list, d.addr)
	}
}

// leave ends the use of a client. The last user closes it, which waits for commands that are
// under way, for a second at most.
func (d *node) leave() {
	n := d.nodes
	n.mu.Lock()
	d.users--
	isLast := d.users == 0
	if isLast && n.list[d.addr] == d {
		delete(n.list, d.addr)
	}
	n.mu.Unlock()
	if isLast && d.client != nil {
		d.client.Close()
	}
}
