package redistest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
)

// plan is a cluster as the files of its nodes have it at first, see RunCluster.
type plan struct {
	primaries int
	servers   []*Server // primaries first
	ids       []string  // of the servers
	absent    []string  // of the nodes that do not exist: one for each primary
}

// newPlan gives ports to the nodes and writes their files.
func newPlan(dir string, primaries, replicas int, front Front, args []string) (*plan, error) {
	p := &plan{primaries: primaries}
	for k := range primaries * (1 + replicas) {
		port, err := FreePort()
		if err != nil {
			return nil, err
		}
		// By itself a node takes a port for the bus that is 10,000 higher, perhaps from the
		// range of source ports.
		bus, err := FreePort()
		if err != nil {
			return nil, err
		}
		announced, announcedBus := port, bus
		if front != nil {
			if announced, announcedBus, err = front(port, bus); err != nil {
				return nil, err
			}
		}
		p.servers = append(p.servers, &Server{bin: Program(), dir: dir, port: port, announced: announced, announcedBus: announcedBus, args: append([]string{
			"--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", strconv.Itoa(announced), "--cluster-announce-bus-port", strconv.Itoa(announcedBus),
			"--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus), "--cluster-config-file", nodesFile(port),
			"--cluster-node-timeout", "1000", "--dbfilename", strconv.Itoa(port) + ".rdb", "--appenddirname", strconv.Itoa(port) + ".aof",
		}, args...)})
		p.ids = append(p.ids, nodeID())
		if k < primaries {
			p.absent = append(p.absent, nodeID())
		}
	}
	for k, s := range p.servers {
		if err := os.WriteFile(filepath.Join(dir, nodesFile(s.port)), p.file(k), 0o600); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func nodesFile(port int) string { return "nodes-" + strconv.Itoa(port) + ".conf" }

// nodeID is a new one: 40 hexadecimal digits.
func nodeID() string {
	return fmt.Sprintf("%016x%016x%08x", rand.Uint64(), rand.Uint64(), rand.Uint32())
}

// file is what node k knows when it starts. The lines are those of CLUSTER NODES.
func (p *plan) file(k int) (text []byte) {
	line := func(j int, id, ip, flags, primary string, epoch int, slots string) {
		text = fmt.Appendf(text, "%s %s:%d@%d %s %s 0 0 %d connected %s\n", id, ip, p.servers[j].announced, p.servers[j].announcedBus, flags, primary, epoch, slots)
	}
	for j, id := range p.ids {
		replica, slots := "slave", p.slots(j%p.primaries)
		if j == k {
			replica = "myself,slave"
		}
		switch {
		case j >= p.primaries:
			line(j, id, "127.0.0.1", replica, p.ids[j%p.primaries], 0, "")
		case j < k: // it is promoted by then
			line(j, id, "127.0.0.1", "master", "-", j+1, slots)
		default:
			line(j, id, "127.0.0.1", replica, p.absent[j], 0, "")
			line(j, p.absent[j], "127.0.0.2", "master", "-", 0, slots) // where nobody listens
		}
	}
	return fmt.Appendf(text, "vars currentEpoch %d lastVoteEpoch 0\n", min(k, p.primaries))
}

// slots is the share of a primary: all have as many.
func (p *plan) slots(j int) string {
	return fmt.Sprintf("%d-%d", j*slots/p.primaries, (j+1)*slots/p.primaries-1)
}

// start starts the nodes and promotes the primaries. One after the other: each takes the next
// epoch. Two with the same one would need half a second to find that out.
func (p *plan) start() error {
	for _, s := range p.servers[:p.primaries] {
		if err := s.Restart(); err != nil {
			return err
		}
		if _, err := s.Do("CLUSTER", "FAILOVER", "TAKEOVER"); err != nil {
			return err
		}
	}
	return together(p.servers[p.primaries:], (*Server).Restart)
}

// agree returns an error until all nodes see the same cluster, and have all links: what is
// published on other nodes comes by them.
func (p *plan) agree() error {
	first := ""
	for _, s := range p.servers {
		seen, err := p.seenBy(s)
		if err != nil {
			return err
		}
		if first == "" {
			first = seen
		}
		if seen != first {
			return fmt.Errorf("redistest: %s sees %s, and another one %s", s.Addr(), seen, first)
		}
		if err := p.linked(s); err != nil {
			return err
		}
	}
	return nil
}

// seenBy tells what a node sees of those that exist.
func (p *plan) seenBy(s *Server) (string, error) {
	view, err := s.view()
	if err != nil {
		return "", err
	}
	var lines []string
	for _, n := range view {
		if !slices.Contains(p.absent, n.ID) {
			lines = append(lines, fmt.Sprint(n.ID, n.Primary, n.Epoch, n.Slots))
		}
	}
	slices.Sort(lines)
	return fmt.Sprint(lines), nil
}

// linked returns an error until a node has a link to each other one, and one from it.
func (p *plan) linked(s *Server) error {
	reply, err := s.Do("CLUSTER", "LINKS")
	if err != nil {
		return err
	}
	links, _ := reply.([]any)
	n := 0
	for _, link := range links { // names and values in turn: "direction", "to", "node", "07c3…", …
		fields, _ := link.([]any)
		if i := slices.Index(fields, any("node")); i >= 0 && slices.Contains(p.ids, fmt.Sprint(fields[i+1])) {
			n++
		}
	}
	if want := 2 * (len(p.servers) - 1); n != want {
		return fmt.Errorf("redistest: %s has %d links of %d", s.Addr(), n, want)
	}
	return nil
}

// forget makes all nodes forget those that do not exist.
func (p *plan) forget() error {
	return together(p.servers, func(s *Server) error {
		for _, id := range p.absent {
			if _, err := s.Do("CLUSTER", "FORGET", id); err != nil && !errors.As(err, new(Error)) {
				return err // an Error: a replica may not know it
			}
		}
		return nil
	})
}

// together does something with all servers at once.
func together(list []*Server, do func(*Server) error) error {
	failures := make([]error, len(list))
	var all sync.WaitGroup
	for i, s := range list {
		all.Go(func() { failures[i] = do(s) })
	}
	all.Wait()
	return errors.Join(failures...)
}
