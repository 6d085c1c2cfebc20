package redisconn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"ssed/internal/clusternodes"
)

// All of a partition lies in one hash slot. So a client of a Redis Cluster is a client of
// one node, the primary of that slot: commands stay in one pipeline, a script and what is
// read around it see the same server, and a subscription hangs where the messages are put
// in order. What a cluster adds is to find that node, and to find it anew.

const (
	// findTimeout bounds one search: then who wanted the client hears why there is none. It
	// is longer than most failovers take, for who has heard it waits before the next search.
	findTimeout = 10 * time.Second
	// askInterval is the pause between two questions to a node while the primary is
	// looked for: delivery goes on within a second of a promotion.
	askInterval = 100 * time.Millisecond
	// graceForOthers is how long most of the nodes have to contradict a node that says
	// it is the primary: one that was frozen and replaced says so when it wakes up.
	graceForOthers = 200 * time.Millisecond
	// maxAsked bounds the nodes that one search asks: of a large cluster not all.
	maxAsked = 12
)

var (
	errNoCluster = errors.New("several addresses without master_set have to be nodes of a Redis Cluster, and this is none")
	errNoPrimary = errors.New("no node says that it is the primary")
)

// finder finds the primary of a slot. One search at a time.
type finder struct {
	option rueidis.ClientOption
	slot   int
	wg     *sync.WaitGroup // of the connections that outlive a search
	known  []string        // nodes of the last search, the nearest first
}

// sight is what a node answered.
type sight struct {
	addr  string
	nodes []clusternodes.Node
	err   error
}

// find returns the address of the primary. All nodes that are known are asked at the
// same time, again and again: one that is frozen keeps nobody waiting.
func (f *finder) find(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	sights := make(chan sight)
	last := map[string]sight{} // nil for who was asked and has not answered
	answered := 0
	ask := func(addr string) {
		if _, asked := last[addr]; asked || addr == "" || len(last) >= maxAsked {
			return
		}
		last[addr] = sight{}
		f.wg.Go(func() { f.ask(ctx, addr, sights) })
	}
	for _, addr := range append(slices.Clone(f.known), f.option.InitAddress...) {
		ask(addr)
	}
	grace := time.NewTimer(graceForOthers)
	defer grace.Stop()
	over := false
	for {
		select {
		case s := <-sights:
			if last[s.addr].addr == "" {
				answered++
			}
			last[s.addr] = s
			if errors.Is(s.err, errNoCluster) {
				return "", s.err
			}
		case <-grace.C:
			over = true
		case <-ctx.Done():
			return "", fmt.Errorf("redis cluster: slot %d: %w", f.slot, reason(last))
		}
		addr, isConfirmed := f.primary(last)
		ask(addr)
		if isConfirmed && (over || 2*answered > len(last)) {
			f.remember(addr, last[addr].nodes)
			return addr, nil
		}
	}
}

// reason is why nobody was found: an error of a node, if there is one.
func reason(last map[string]sight) error {
	for _, s := range last {
		if s.err != nil {
			return s.err
		}
	}
	return errNoPrimary
}

// primary returns the node that has the slot: of all claims the one with the newest
// configuration. Confirmed: the node says so itself.
func (f *finder) primary(last map[string]sight) (addr string, isConfirmed bool) {
	var best clusternodes.Node
	for asked, s := range last {
		for _, n := range s.nodes {
			if n.IsPrimary && n.Has(f.slot) && (addr == "" || n.Epoch > best.Epoch) {
				best, addr = n, f.address(&n, asked)
			}
		}
	}
	for asked, s := range last {
		for _, n := range s.nodes {
			if n.IsMyself && n.ID == best.ID && n.IsPrimary && n.Has(f.slot) {
				return asked, true
			}
		}
	}
	return addr, false
}

// address is where to reach a node. With TLS it is its name, if it has one: certificates
// are for names.
func (f *finder) address(n *clusternodes.Node, asked string) string {
	switch {
	case n.IsMyself && n.Addr == "":
		return asked
	case f.option.TLSConfig != nil && n.Host != "":
		return n.Host
	}
	return n.Addr
}

// remember keeps whom to ask the next time: above all those that may be promoted.
func (f *finder) remember(primary string, nodes []clusternodes.Node) {
	f.known = f.known[:0]
	var id string
	for _, n := range nodes {
		if n.IsMyself {
			id = n.ID
		}
	}
	for _, isReplica := range []bool{true, false} {
		for _, n := range nodes {
			if (n.Primary == id) == isReplica && !n.IsMyself {
				f.known = append(f.known, f.address(&n, primary))
			}
		}
	}
	f.known = append([]string{primary}, f.known[:min(len(f.known), maxAsked/2)]...)
}

// ask asks a node until ctx ends.
func (f *finder) ask(ctx context.Context, addr string, sights chan<- sight) {
	client, err := rueidis.NewClient(f.at(addr))
	if client != nil {
		defer client.Close()
	}
	for {
		s := sight{addr: addr, err: err}
		if client != nil {
			var text string
			text, s.err = client.Do(ctx, client.B().ClusterNodes().Build()).ToString()
			if deadline, ok := ctx.Deadline(); ctx.Err() != nil || ok && !time.Now().Before(deadline) {
				return // what the end of the search broke off tells nothing of the node
			}
			s.nodes = clusternodes.Parse(text)
		}
		if Code(s.err) == CodeGeneric {
			s.err = fmt.Errorf("%w: %s", errNoCluster, addr)
		} else if s.err != nil {
			s.err = fmt.Errorf("%s: %w", addr, s.err)
		}
		select {
		case sights <- s:
		case <-ctx.Done():
			return
		}
		if client == nil {
			return
		}
		select {
		case <-time.After(askInterval):
		case <-ctx.Done():
			return
		}
	}
}

// at returns the options of a client for one node, with small buffers.
func (f *finder) at(addr string) rueidis.ClientOption {
	o := Options(f.option)
	o.InitAddress = []string{addr}
	o.ReadBufferEachConn, o.WriteBufferEachConn = SmallBufferBytes, SmallBufferBytes
	return o
}

// nodeClient is a client of the node that was the primary when it was made. An answer
// which says that it is not, or none, ends its use.
type nodeClient struct {
	rueidis.Client
	lazy *Client
}

func (c *nodeClient) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	r := c.Client.Do(ctx, cmd)
	c.look(ctx, r)
	return r
}

func (c *nodeClient) DoMulti(ctx context.Context, cmds ...rueidis.Completed) []rueidis.RedisResult {
	list := c.Client.DoMulti(ctx, cmds...)
	for _, r := range list {
		c.look(ctx, r)
	}
	return list
}

func (c *nodeClient) look(ctx context.Context, r rueidis.RedisResult) {
	switch err := r.Error(); {
	case err == nil || rueidis.IsRedisNil(err):
	case IsMoved(err), r.NonRedisError() != nil && ctx.Err() == nil:
		c.lazy.Discard(c)
	}
}
