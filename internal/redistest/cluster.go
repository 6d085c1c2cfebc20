package redistest

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"ssed/internal/clusternodes"
)

// clusterTimeout bounds every wait for the nodes of a cluster to agree.
const clusterTimeout = 30 * time.Second

const slots = 1 << 14

// Cluster is a Redis Cluster of private servers: primaries first, which share out the
// slots equally, then their replicas in the same order.
type Cluster struct{ Nodes []*Server }

// StartCluster runs a cluster for the length of a test, see RunCluster.
func StartCluster(t testing.TB, primaries, replicas int, args ...string) *Cluster {
	t.Helper()
	c, err := RunCluster(t.TempDir(), primaries, replicas, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Kill)
	return c
}

// RunCluster starts primaries with so many replicas each, with their files in dir, and
// returns when all of them serve. A node is taken for failed after 1 s of silence, unless
// args say otherwise.
//
// A primary serves 2 s after its start at the earliest (CLUSTER_WRITABLE_DELAY). A replica
// that is promoted serves at once. So each primary starts as the replica of a node that does
// not exist. It takes the slots of that node, and all forget that node.
func RunCluster(dir string, primaries, replicas int, args ...string) (*Cluster, error) {
	return RunClusterBehind(dir, primaries, replicas, nil, args...)
}

// Front puts something in front of a node that is about to start, which has these ports for
// clients and for the bus. It returns the ports that the node announces in their place.
type Front func(port, bus int) (announced, announcedBus int, err error)

// RunClusterBehind is RunCluster with something in front of each node: clients and the other
// nodes go through it. A nil front is none.
func RunClusterBehind(dir string, primaries, replicas int, front Front, args ...string) (*Cluster, error) {
	c := &Cluster{}
	if err := c.run(dir, primaries, replicas, front, args); err != nil {
		c.Kill()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) run(dir string, primaries, replicas int, front Front, args []string) (err error) {
	for range 5 { // another process may take a port between the look and the bind
		var p *plan
		if p, err = newPlan(dir, primaries, replicas, front, args); err != nil {
			return err
		}
		c.Nodes = p.servers
		if err = p.start(); err == nil {
			return c.settle(p)
		}
		c.Kill()
		if errors.Is(err, ErrNotInstalled) {
			break
		}
	}
	return err
}

// settle returns when all nodes know the cluster as it is, and serve. A node that does not know
// an absent one yet cannot forget it, and may hear of it from one that has not forgotten it:
// on a busy machine it would be known for good.
func (c *Cluster) settle(p *plan) error {
	if err := c.await(p.agree); err != nil {
		return err
	}
	return c.await(func() error {
		if err := p.forget(); err != nil {
			return err
		}
		return c.health()
	})
}

// AwaitHealth waits until all nodes serve, and every replica follows its primary.
func (c *Cluster) AwaitHealth() error { return c.await(c.health) }

func (c *Cluster) health() error {
	for _, s := range c.Nodes {
		if err := s.health(len(c.Nodes)); err != nil {
			return fmt.Errorf("redistest: %s: %w", s.Addr(), err)
		}
	}
	return nil
}

// health returns why a node does not serve in the eyes of all.
func (s *Server) health(nodes int) error {
	info, err := s.Do("CLUSTER", "INFO")
	if err != nil {
		return err
	}
	if text, _ := info.(string); !hasLine(text, "cluster_state:ok") {
		return errors.New("the cluster is down")
	}
	view, err := s.view()
	if err != nil {
		return err
	}
	for _, n := range view {
		if n.HasFailed {
			return fmt.Errorf("%s has failed", n.Addr)
		}
	}
	reply, err := s.Do("INFO", "replication")
	if err != nil {
		return err
	}
	text, _ := reply.(string)
	if hasLine(text, "role:slave") && !hasLine(text, "master_link_status:up") {
		return errors.New("it does not follow its primary yet")
	}
	if len(view) != nodes {
		return fmt.Errorf("it knows %d nodes of %d", len(view), nodes)
	}
	return nil
}

// view is what the node knows of the cluster.
func (s *Server) view() ([]clusternodes.Node, error) {
	reply, err := s.Do("CLUSTER", "NODES")
	text, _ := reply.(string)
	return clusternodes.Parse(text), err
}

func (c *Cluster) await(check func() error) error {
	deadline := time.Now().Add(clusterTimeout)
	for {
		err := check()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(2 * pollInterval)
	}
}

// Primary returns the node that serves a slot: of those that say so of themselves the one
// with the newest configuration. A node that does not answer is left out.
func (c *Cluster) Primary(slot int) (*Server, error) {
	var best *Server
	var epoch uint64
	var failures []error
	var mu sync.Mutex // guards all of these
	var all sync.WaitGroup
	for _, s := range c.Nodes {
		all.Go(func() {
			reply, err := s.ask(quickTimeout, "CLUSTER", "NODES")
			text, _ := reply.(string)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failures = append(failures, err)
			}
			for _, n := range clusternodes.Parse(text) {
				if n.IsMyself && n.IsPrimary && n.Has(slot) && (best == nil || n.Epoch > epoch) {
					best, epoch = s, n.Epoch
				}
			}
		})
	}
	all.Wait()
	if best == nil {
		return nil, fmt.Errorf("redistest: nobody serves slot %d: %w", slot, errors.Join(failures...))
	}
	return best, nil
}

// AwaitPrimary is Primary where there is one: a node that is slow to answer, on a busy
// machine, is asked again.
func (c *Cluster) AwaitPrimary(slot int) (s *Server, err error) {
	err = c.await(func() error {
		s, err = c.Primary(slot)
		return err
	})
	return s, err
}

// quickTimeout is for a node that may be frozen.
const quickTimeout = 150 * time.Millisecond

func (s *Server) ask(timeout time.Duration, args ...string) (any, error) {
	conn, err := Dial(s.Addr(), timeout)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.Do(args...)
}

// ReplicaOf returns a node that follows s, or nil.
func (c *Cluster) ReplicaOf(s *Server) *Server {
	id, err := s.Do("CLUSTER", "MYID")
	if err != nil {
		return nil
	}
	for _, other := range c.Nodes {
		view, _ := other.view()
		for _, n := range view {
			if n.IsMyself && n.Primary == id {
				return other
			}
		}
	}
	return nil
}

// Promote makes a replica the primary, by an ordered failover, and waits until it is. A
// busy node gives the first attempt up after 5 s.
func (c *Cluster) Promote(replica *Server) error {
	return c.await(func() error {
		if _, err := replica.Do("CLUSTER", "FAILOVER"); err != nil && !errors.As(err, new(Error)) {
			return err
		}
		deadline := time.Now().Add(manualFailover)
		for time.Now().Before(deadline) {
			view, err := replica.view()
			if err != nil {
				return err
			}
			for _, n := range view {
				if n.IsMyself && n.IsPrimary {
					return nil
				}
			}
			time.Sleep(pollInterval)
		}
		return fmt.Errorf("redistest: %s was not promoted", replica.Addr())
	})
}

// manualFailover is a little more than the time after which a node gives an attempt up.
const manualFailover = 6 * time.Second

// Move gives a slot with all its keys to another primary, as redis-cli --cluster reshard
// does. Halfway, if there is such a function, is called when half of the keys have moved.
func (c *Cluster) Move(slot int, to *Server, halfway func()) error {
	from, err := c.AwaitPrimary(slot)
	if err != nil {
		return err
	}
	fromID, err := from.Do("CLUSTER", "MYID")
	toID, err2 := to.Do("CLUSTER", "MYID")
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	n := strconv.Itoa(slot)
	_, err = to.Do("CLUSTER", "SETSLOT", n, "IMPORTING", fmt.Sprint(fromID))
	_, err2 = from.Do("CLUSTER", "SETSLOT", n, "MIGRATING", fmt.Sprint(toID))
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	count, err := from.Do("CLUSTER", "COUNTKEYSINSLOT", n)
	if err != nil {
		return err
	}
	total, _ := count.(int64)
	for moved := 0; ; {
		reply, err := from.Do("CLUSTER", "GETKEYSINSLOT", n, "10")
		if err != nil {
			return err
		}
		keys, _ := reply.([]any)
		if len(keys) == 0 {
			break
		}
		args := []string{"MIGRATE", "127.0.0.1", strconv.Itoa(to.announced), "", "0", "5000", "KEYS"}
		for _, key := range keys {
			args = append(args, fmt.Sprint(key))
		}
		if _, err := from.Do(args...); err != nil {
			return err
		}
		if moved += len(keys); halfway != nil && moved >= int(total)/2 {
			halfway()
			halfway = nil
		}
	}
	if halfway != nil {
		halfway()
	}
	// The new one first: should the old one be told and the new one not, nobody had it.
	for _, s := range []*Server{to, from} {
		if _, err := s.Do("CLUSTER", "SETSLOT", n, "NODE", fmt.Sprint(toID)); err != nil {
			return err
		}
	}
	return nil
}

// URL names all nodes, as clients find them.
func (c *Cluster) URL() string {
	url := "redis://" + c.Nodes[0].AnnouncedAddr()
	for i, s := range c.Nodes[1:] {
		sign := "&"
		if i == 0 {
			sign = "?"
		}
		url += sign + "addr=" + s.AnnouncedAddr()
	}
	return url
}

// Kill ends all nodes.
func (c *Cluster) Kill() {
	for _, s := range c.Nodes {
		s.Kill()
	}
}
