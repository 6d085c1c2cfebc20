//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"

	"ssed/internal/child"
	"ssed/internal/redistest"
)

const masterSet = "chaos"

// sentinel is one of those that tell who is the primary, on the host of a server.
type sentinel struct {
	proc      *child.Process
	port      int
	announced int // where all others find it
}

func localAddr(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// front is the port under which all but this program find a port of a host.
func (c *cluster) front(h host, port int) (int, error) {
	if c.network == nil {
		return port, nil
	}
	return c.network.relay(h, port)
}

// Where the network can be divided, failures are noticed so late that the former primary takes no
// writes any more before positions reach the first tick of its successor: within 4 s after the
// last word of its replicas. See docs/GUARANTEES.md.
const (
	downAfter        = "600"
	downAfterDivided = "2000"
	maxLag           = "2"
)

// startSentinels runs a primary with a replica, and one sentinel whose word is enough. Where the
// network can be divided it is two replicas, and three sentinels of which two decide.
func (c *cluster) startSentinels(args []string) (err error) {
	c.announced = make(map[int]*redistest.Server)
	servers, sentinels, down := 2, 1, downAfter
	if c.network != nil {
		servers, sentinels, down = 3, 3, downAfterDivided
		args = append(args, "--min-replicas-to-write", "1", "--min-replicas-max-lag", maxLag)
	}
	first := 0
	for i := range servers {
		own := args
		if i > 0 {
			own = append(slices.Clone(args), "--replicaof", "127.0.0.1 "+strconv.Itoa(first))
		}
		s, announced, err := c.startServer(own)
		if err != nil {
			return err
		}
		if i == 0 {
			c.redis, first = s, announced
			c.last[0].Store(s)
		} else {
			c.replicas = append(c.replicas, s)
		}
	}
	for i := range sentinels {
		if err := c.startSentinel(hostOf(c.servers()[i].Port()), first, sentinels/2+1, down); err != nil {
			return err
		}
	}
	return poll(context.Background(), startTimeout, c.sentinelsKnow)
}

// announcedPort is where others find a server.
func (c *cluster) announcedPort(s *redistest.Server) string {
	for port, server := range c.announced {
		if server == s {
			return strconv.Itoa(port)
		}
	}
	return strconv.Itoa(s.Port())
}

// startServer returns a server and the port under which others find it.
func (c *cluster) startServer(args []string) (*redistest.Server, int, error) {
	port, err := redistest.FreePort()
	if err != nil {
		return nil, 0, err
	}
	announced, err := c.front(hostOf(port), port)
	if err != nil {
		return nil, 0, err
	}
	s, err := redistest.Run(c.dir, port, slices.Concat(args, []string{
		"--replica-announce-ip", "127.0.0.1", "--replica-announce-port", strconv.Itoa(announced), "--dbfilename", strconv.Itoa(port) + ".rdb",
	})...)
	c.announced[announced] = s
	return s, announced, err
}

// startSentinel runs one on a host.
func (c *cluster) startSentinel(h host, primary, quorum int, down string) (err error) {
	s := &sentinel{}
	if s.port, err = redistest.FreePort(); err != nil {
		return err
	}
	if s.announced, err = c.front(h, s.port); err != nil {
		return err
	}
	name := filepath.Join(c.dir, fmt.Sprintf("sentinel-%d", s.port))
	text := fmt.Sprintf("port %d\nbind 127.0.0.1\ndir %s\nlogfile %s.log\nsentinel announce-ip 127.0.0.1\nsentinel announce-port %d\n"+
		"sentinel monitor %s 127.0.0.1 %d %d\nsentinel down-after-milliseconds %[5]s %[8]s\nsentinel failover-timeout %[5]s 3000\n",
		s.port, c.dir, name, s.announced, masterSet, primary, quorum, down)
	if err := os.WriteFile(name+".conf", []byte(text), 0o600); err != nil {
		return err
	}
	if s.proc, err = child.Start(exec.Command(redistest.Program(), name+".conf", "--sentinel"), nil); err != nil {
		return fmt.Errorf("chaos: start the sentinel: %w", err)
	}
	c.sentinels = append(c.sentinels, s)
	return nil
}

// sentinelsKnow returns what one of them does not know yet.
func (c *cluster) sentinelsKnow() error {
	for _, s := range c.sentinels {
		for what, want := range map[string]int{"replicas": len(c.replicas), "sentinels": len(c.sentinels) - 1} {
			reply, err := s.ask("SENTINEL", what, masterSet)
			if err != nil {
				return err
			}
			if list, ok := reply.([]any); !ok || len(list) < want {
				return fmt.Errorf("chaos: a sentinel does not know %d %s yet", want, what)
			}
		}
	}
	return nil
}

func (s *sentinel) ask(args ...string) (any, error) { return redistest.Ask(localAddr(s.port), args...) }

// promoted is the server that takes writes: of what the sentinels say the newest. While none
// says anything it is the last one.
func (c *cluster) promoted() *redistest.Server {
	newest, primary := int64(-1), c.last[0].Load()
	for _, s := range c.sentinels {
		epoch, err := s.epoch()
		if err != nil || epoch <= newest {
			continue
		}
		reply, _ := s.ask("SENTINEL", "get-master-addr-by-name", masterSet)
		if addr, ok := reply.([]any); ok && len(addr) == 2 {
			port, _ := strconv.Atoi(fmt.Sprint(addr[1]))
			newest, primary = epoch, cmp.Or(c.announced[port], primary)
		}
	}
	c.last[0].Store(primary)
	return primary
}

// epoch is that of what a sentinel knows of the primary.
func (s *sentinel) epoch() (int64, error) {
	reply, err := s.ask("SENTINEL", "MASTER", masterSet)
	if err != nil {
		return 0, err
	}
	list, _ := reply.([]any)
	for i := 0; i+1 < len(list); i += 2 {
		if list[i] == "config-epoch" {
			return strconv.ParseInt(fmt.Sprint(list[i+1]), 10, 64)
		}
	}
	return 0, errors.New("chaos: a sentinel tells no epoch")
}
