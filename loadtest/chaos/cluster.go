//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"ssed/internal/redisconn"
	"ssed/internal/redistest"
	"ssed/sseproto"
)

const streamPrefix = "sse:stream:" // the default of --stream-prefix

// parts are the names in Redis, by partition.
func (s setup) parts() (list []redisconn.Keys) {
	if !s.cluster && s.partitions < 2 {
		return []redisconn.Keys{redisconn.MakeKeys(streamPrefix)}
	}
	for q := range max(s.partitions, 1) {
		list = append(list, redisconn.MakePartitionKeys(streamPrefix, redisconn.Partition{Number: q, Of: max(s.partitions, 1)}))
	}
	return list
}

// partitionOf is the partition of a channel.
func partitionOf(channel, partitions int) int {
	return sseproto.PartitionOf(channelName(channel), partitions)
}

// inboxOf is the inbox of these names.
func inboxOf(k redisconn.Keys) string { return k.Inbox(redisconn.DefaultInbox(streamPrefix)) }

// setup says what a scenario runs on.
type setup struct {
	instances  int
	feeds      int
	proxied    bool   // a proxy between each instance and Redis
	persist    bool   // append-only file
	sentinel   bool   // a replica, and a sentinel that tells who is the primary: three where the network can be divided
	cluster    bool   // three primaries with a replica each
	sharded    bool   // messages by the shard channel
	partitions int    // of the channels; 0: one
	inbox      bool   // half of the publishers add to the inbox
	joiner     bool   // one more instance, down at first
	old        bool   // the program of an earlier commit at first
	bent       bool   // the clock of Redis can be set
	divisible  bool   // the network can be divided; with a sentinel there are three, and two replicas
	ring       string // memory of every instance; empty: a different one for each
	// ttl is how long a channel's history outlives its last message; 0: longer than the
	// scenario. Otherwise most channels are quiet for longer than that, and clients stay
	// away for so long.
	ttl time.Duration
	// historyMax is per channel; above what a scenario publishes, so that trimming
	// is not what limits.
	historyMax int
}

// cluster is all processes of one scenario but the clients.
type cluster struct {
	dir        string
	setup      setup
	parts      []redisconn.Keys                   // by partition
	redis      *redistest.Server                  // of a cluster the primary of the first partition
	nodes      *redistest.Cluster                 // nil without
	last       []atomic.Pointer[redistest.Server] // of nodes or sentinels: the primary of each partition that was seen last
	replicas   []*redistest.Server                // of a primary with sentinels
	announced  map[int]*redistest.Server          // of these, by the port under which others find them
	sentinels  []*sentinel
	network    *network // nil unless it can be divided
	publishers int      // at work at once
	proxies    []*toxiproxy.Proxy
	fleet      *fleet
	bin, old   string    // the program, and that of the earlier commit
	bent       *bentTime // nil unless the clock of Redis can be set
}

// fleet is the ssed processes and what is measured at them.
type fleet struct {
	instances []*instance
	lines     []timelines    // of each instance
	streams   []atomic.Int64 // clients that read right now
}

// anywhere is the home of a client that has none.
const anywhere = -1

// pick chooses an instance as a load balancer without health checks would.
func (f *fleet) pick(rng *rand.Rand, home int) (int, string) {
	i := rng.IntN(len(f.instances))
	if home != anywhere {
		i = home
	}
	if addr := f.instances[i].public.Load(); addr != nil {
		return i, *addr
	}
	return i, ""
}

func (f *fleet) delivered(i, partition int, id sseproto.ID, at time.Duration) {
	f.lines[i][partition].advance(id, at)
}

// running returns the instances that are up.
func (f *fleet) running() (list []*instance) {
	for _, in := range f.instances {
		if in.running() {
			list = append(list, in)
		}
	}
	return list
}

func startCluster(ctx context.Context, o *options, s setup, dir string, clock clock, longest time.Duration) (c *cluster, err error) {
	c = &cluster{dir: dir, setup: s, parts: s.parts(), publishers: o.Publishers, bin: o.SsedBin, old: o.OldBin}
	c.last = make([]atomic.Pointer[redistest.Server], len(c.parts))
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	args := []string{"--repl-backlog-size", "64mb", "--enable-debug-command", "yes"}
	if s.persist {
		args = append(args, "--appendonly", "yes")
	}
	if s.persist && s.inbox {
		// What was answered must be there after a kill: with everysec it is not written
		// while an fsync runs.
		args = append(args, "--appendfsync", "always")
	}
	if s.divisible {
		c.network = newNetwork(clock, c.processes)
	}
	server := redistest.Program()
	if s.bent {
		if c.bent, err = bendTime(dir); err != nil {
			return nil, err
		}
		server = c.bent.server
	}
	if err := c.startRedis(server, args); err != nil {
		return nil, err
	}
	n := s.instances
	if s.joiner {
		n++
	}
	c.fleet = &fleet{streams: make([]atomic.Int64, n)}
	for i := range n {
		if err := c.addInstance(i, longest); err != nil {
			return nil, err
		}
	}
	for _, in := range c.fleet.instances[:s.instances] {
		if err := in.start(); err != nil {
			return nil, err
		}
	}
	return c, c.awaitReady(ctx)
}

// nodeTimeout is how long a node of a cluster may be silent.
const nodeTimeout = 2 * time.Second

// startRedis runs what the set-up says: a server, with sentinels, or a cluster.
func (c *cluster) startRedis(server string, args []string) (err error) {
	switch {
	case c.setup.cluster:
		return c.startNodes(args)
	case c.setup.sentinel:
		return c.startSentinels(args)
	}
	c.redis, err = redistest.RunProgram(server, c.dir, 0, args...)
	return err
}

func (c *cluster) startNodes(args []string) (err error) {
	var front redistest.Front
	if c.network != nil {
		front = func(port, bus int) (announced, announcedBus int, err error) {
			h := hostOf(port)
			announced, err = c.network.relay(h, port)
			if err == nil {
				announcedBus, err = c.network.relay(h, bus)
			}
			return announced, announcedBus, err
		}
	}
	c.nodes, err = redistest.RunClusterBehind(c.dir, 3, 1, front, append(args, "--cluster-node-timeout", strconv.FormatInt(nodeTimeout.Milliseconds(), 10))...)
	for q, keys := range c.parts {
		if err == nil {
			var s *redistest.Server
			s, err = c.nodes.Primary(keys.Slot)
			c.last[q].Store(s)
		}
	}
	c.redis = c.last[0].Load()
	return err
}

// processes are those that dial servers of Redis, by their hosts.
func (c *cluster) processes() map[host][]int {
	m := make(map[host][]int)
	for _, in := range c.fleet.instances {
		m[host(in.name())] = []int{in.pid()}
	}
	for i, s := range c.servers() {
		m[hostOf(s.Port())] = append(m[hostOf(s.Port())], s.Pid())
		if i < len(c.sentinels) {
			m[hostOf(s.Port())] = append(m[hostOf(s.Port())], c.sentinels[i].proc.Cmd.Process.Pid)
		}
	}
	return m
}

// servers are all of Redis.
func (c *cluster) servers() []*redistest.Server {
	if c.nodes != nil {
		return c.nodes.Nodes
	}
	return append([]*redistest.Server{c.redis}, c.replicas...)
}

// poll tries until it works, and returns the last error when it did not in time.
func poll(ctx context.Context, atMost time.Duration, try func() error) error {
	deadline := time.Now().Add(atMost)
	for {
		err := try()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// ringBytes differ, so that some instances resume clients from memory and others
// from the history.
var ringBytes = []string{"256KiB", "64MiB", "1MiB", "8MiB"}

func (c *cluster) addInstance(i int, longest time.Duration) error {
	in := &instance{index: i, bin: c.bin, dir: c.dir}
	if c.setup.old {
		in.bin = c.old
	}
	addr, err := c.redisAddrFor(i)
	if err != nil {
		return err
	}
	query := "?client_name=" + in.name()
	if c.setup.sentinel {
		query += "&master_set=" + masterSet
	}
	if c.nodes != nil {
		for _, s := range c.nodes.Nodes {
			query += "&addr=" + s.AnnouncedAddr()
		}
	}
	for i := 1; i < len(c.sentinels); i++ {
		query += "&addr=" + localAddr(c.sentinels[i].announced)
	}
	ring := c.setup.ring
	if ring == "" {
		ring = ringBytes[i%len(ringBytes)]
	}
	in.args = []string{
		"--redis-url", "redis://" + addr + query,
		"--patterns", "chaos:*",
		"--instance", in.name(),
		"--redis-feeds", strconv.Itoa(max(c.setup.feeds, 1)),
		"--history-max", strconv.Itoa(c.setup.historyMax),
		"--ring-bytes", ring,
		"--retry", "20ms-60ms", "--drain", "300ms",
	}
	if c.setup.sharded {
		in.args = append(in.args, "--feed", "sharded")
	}
	if c.setup.partitions > 1 {
		in.args = append(in.args, "--partitions", strconv.Itoa(c.setup.partitions))
	}
	if c.setup.ttl > 0 {
		in.args = append(in.args, "--history-ttl", c.setup.ttl.String())
	}
	c.fleet.instances = append(c.fleet.instances, in)
	c.fleet.lines = append(c.fleet.lines, newTimelines(len(c.parts), longest))
	return nil
}

// redisAddrFor returns where instance i finds Redis.
func (c *cluster) redisAddrFor(i int) (string, error) {
	switch {
	case c.setup.sentinel:
		return localAddr(c.sentinels[0].announced), nil
	case c.nodes != nil:
		return c.redis.AnnouncedAddr(), nil
	case !c.setup.proxied:
		return c.redis.Addr(), nil
	}
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := toxiproxy.NewProxy(server, "redis-"+strconv.Itoa(i), "127.0.0.1:0", c.redis.Addr())
	if err := p.Start(); err != nil {
		return "", fmt.Errorf("chaos: proxy: %w", err)
	}
	c.proxies = append(c.proxies, p)
	return p.Listen, nil
}

// primary returns the server that takes writes of a partition. Of a cluster it is the one that
// serves the slot; while there is none, the last one.
func (c *cluster) primary(partition int) *redistest.Server {
	switch {
	case c.nodes != nil:
		if now, err := c.nodes.Primary(c.parts[partition].Slot); err == nil {
			c.last[partition].Store(now)
		}
		return c.last[partition].Load()
	case c.setup.sentinel:
		return c.promoted()
	}
	return c.redis
}

// askSentinel asks the first one.
func (c *cluster) askSentinel(args ...string) (any, error) { return c.sentinels[0].ask(args...) }

// do sends a command to the primary of a partition.
func (c *cluster) do(partition int, args ...string) (any, error) {
	return c.primary(partition).Do(args...)
}

func (c *cluster) text(partition int, args ...string) string {
	reply, _ := c.do(partition, args...)
	text, _ := reply.(string)
	return text
}

// readyTimeout is how long the fleet may take to serve after a fault.
const readyTimeout = 30 * time.Second

// awaitReady returns when every instance that runs says so and the history is
// written up to the newest tick but one.
func (c *cluster) awaitReady(ctx context.Context) error {
	err := poll(ctx, readyTimeout, func() error {
		for _, in := range c.fleet.running() {
			if err := in.ready(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for q := range c.parts {
		if err := c.awaitWritten(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

// awaitWritten returns when the history of a partition has got to where its clock is now.
func (c *cluster) awaitWritten(ctx context.Context, partition int) error {
	clock := c.parts[partition].Clock
	from := c.text(partition, "HGET", clock, "t")
	return poll(ctx, readyTimeout, func() error {
		written, _, _ := strings.Cut(c.text(partition, "HGET", clock, "watermark"), "-")
		if len(written) < len(from) || written < from || written == "" {
			return fmt.Errorf("chaos: the history of partition %d is written up to %q, the clock was at %q", partition, written, from)
		}
		return nil
	})
}

// writer is the instance that holds the lease of a partition, or any that runs.
func (c *cluster) writer(partition int, rng *rand.Rand) *instance {
	name := c.text(partition, "GET", c.parts[partition].Lease)
	for _, in := range c.fleet.running() {
		if in.name() == name {
			return in
		}
	}
	return c.any(rng)
}

// any is a random instance that runs.
func (c *cluster) any(rng *rand.Rand) *instance {
	list := c.fleet.running()
	return list[rng.IntN(len(list))]
}

// close ends all processes.
func (c *cluster) close() error {
	var errs []error
	if c.fleet != nil {
		for _, in := range c.fleet.instances {
			errs = append(errs, in.end(syscall.SIGTERM))
		}
	}
	for _, p := range c.proxies {
		p.Stop()
	}
	for _, s := range c.sentinels {
		errs = append(errs, s.proc.Stop(syscall.SIGKILL, stopTimeout))
	}
	for _, s := range c.replicas {
		s.Kill()
	}
	if c.nodes != nil {
		c.nodes.Kill()
	} else if c.redis != nil {
		c.redis.Kill()
	}
	if c.network != nil {
		c.network.close()
	}
	if c.bent != nil {
		errs = append(errs, c.bent.close())
	}
	return errors.Join(errs...)
}
