//go:build linux

package main

import (
	"context"
	"strconv"
	"time"

	"ssed/loadtest/report"
	"ssed/loadtest/swarm"
	"ssed/loadtest/target"
)

// orDefault is value unless it is zero.
func orDefault(value, def int) int {
	if value == 0 {
		return def
	}
	return value
}

func param(name string, value any) report.Param {
	switch v := value.(type) {
	case int:
		return report.Param{Name: name, Value: strconv.Itoa(v)}
	case time.Duration:
		return report.Param{Name: name, Value: v.String()}
	}
	return report.Param{Name: name, Value: value.(string)}
}

// hold keeps connections that nothing is sent to.
type hold struct {
	Channels int           `help:"Channels the connections are spread over; 0: one each." default:"1"`
	Settle   time.Duration `help:"How long a server rests before anything is read: as long as the first heartbeat takes, and what it gives back after connecting." default:"15s"`
	Idle     time.Duration `help:"How long to watch the idle server: a multiple of its heartbeat interval." default:"30s"`
}

func (h *hold) describe(o *options) report.Scenario {
	conns, _ := h.load(o)
	return report.Scenario{
		Name:  "hold",
		About: "Idle connections: what one costs in memory and CPU, and how fast they are accepted.",
		Params: []report.Param{
			param("connections", conns), param("channels", orDefault(h.Channels, conns)),
			param("settled for", h.Settle), param("idle", h.Idle), param("connects at once", o.Window),
		},
		Metrics: []report.Metric{
			{Key: "user_bytes", Label: "user memory per idle connection", Unit: "B", Better: report.Less, Plot: true},
			{Key: "user_bytes_connected", Label: "the same right after connecting", Unit: "B", Better: report.Less},
			{Key: "anon_bytes", Label: "of that anonymous (heap, stacks)", Unit: "B", Better: report.Less},
			{Key: "kernel_bytes", Label: "kernel memory per connection, both ends", Unit: "B", Better: report.Less, Plot: true},
			{Key: "slab_bytes", Label: "growth of all kernel objects of the machine", Unit: "B"},
			{Key: "sockbuf_bytes", Label: "queued in TCP buffers, both ends", Unit: "B"},
			{Key: "connects_per_s", Label: "connects per second", Unit: "1/s", Better: report.More, Plot: true},
			{Key: "connect_cpu_us", Label: "server CPU per connect", Unit: "µs", Better: report.Less},
			{Key: "connect_p99", Label: "connect to response head, p99", Unit: "ms", Better: report.Less},
			{Key: "idle_cpu_us", Label: "server CPU per idle connection and minute", Unit: "µs/min", Better: report.Less, Plot: true},
		},
	}
}

func (h *hold) load(o *options) (conns, bytes int) {
	return orDefault(o.Conns, 15000), orDefault(o.Bytes, 128)
}

// sample is the memory of the server and of the kernel at one time.
type sample struct {
	user   target.Memory
	kernel target.Kernel
	slabs  map[string]int64
}

func (s *stage) sample() (m sample, err error) {
	if m.user, err = target.ReadMemory(s.target.PIDs); err != nil {
		return m, err
	}
	m.slabs = target.ReadSlabs()
	m.kernel, err = target.ReadKernel()
	return m, err
}

func (h *hold) run(ctx context.Context, s *stage) error {
	if err := s.warmUpMemory(ctx, h.Settle); err != nil {
		return err
	}
	c, err := s.crew(s.prefix(), here, swarm.Group{Count: s.conns, Channels: uint32(orDefault(h.Channels, s.conns))})
	if err != nil {
		return err
	}
	before, err := s.sample()
	if err != nil {
		return err
	}
	if err := h.connect(ctx, s, c, before); err != nil {
		return err
	}
	if err := h.idle(ctx, s, c); err != nil {
		return err
	}
	after, err := s.sample()
	if err != nil {
		return err
	}
	h.memory(s, before, after)
	_, err = s.collect(ctx, c, "")
	return err
}

// connect opens all connections and records the rate.
func (h *hold) connect(ctx context.Context, s *stage, c *swarm.Crew, before sample) error {
	cost := s.meter()
	opened, err := s.open(ctx, c, 0, swarm.OpenSpec{}, "connecting")
	if err != nil {
		return err
	}
	s.set("connects_per_s", float64(s.conns)/opened.Elapsed().Seconds())
	s.set("connect_p99", ms(opened.Latency.Quantile(0.99)))
	s.run.Latency = latencies{"connect": &opened.Latency}
	cpu, _, ok := cost.read()
	if !ok {
		return nil
	}
	s.set("connect_cpu_us", cpu.Total.Seconds()*1e6/float64(s.conns))
	now, err := target.ReadMemory(s.target.PIDs)
	s.set("user_bytes_connected", float64(now.RSS-before.user.RSS)/float64(s.conns))
	return err
}

// restEach is how often idle connections are looked at. A reader that waits is
// woken by each heartbeat, and on one host that is charged to the server's
// write(2); the clients of a real one are on other machines.
const restEach = 100 * time.Millisecond

// idle records what the server does for connections that nothing is sent to. Once
// it has settled, every connection gets a heartbeat each period, and nothing else
// is left to do.
func (h *hold) idle(ctx context.Context, s *stage, c *swarm.Crew) error {
	s.progress.show("idle", func() string { return "for " + (h.Settle + h.Idle).String() })
	if err := c.Rest(ctx, restEach); err != nil {
		return err
	}
	if err := pause(ctx, h.Settle); err != nil {
		return err
	}
	idle := s.meter()
	if err := pause(ctx, h.Idle); err != nil {
		return err
	}
	if cpu, wall, ok := idle.read(); ok {
		s.set("idle_cpu_us", cpu.Total.Seconds()*1e6/float64(s.conns)/wall.Minutes())
	}
	return nil
}

// connectionCaches adds up the kernel's objects that a connection is made of; 0
// where they cannot be read. The rest of the slabs is the whole machine's: a
// compiler that runs meanwhile changes them by more than all connections do.
func connectionCaches(slabs map[string]int64) (sum int64) {
	for _, name := range []string{"TCP", "sock_inode_cache", "filp", "dentry", "eventpoll_epi"} {
		sum += slabs[name]
	}
	return sum
}

// memory records what the connections cost.
func (h *hold) memory(s *stage, before, after sample) {
	per := func(bytes int64) float64 { return float64(bytes) / float64(s.conns) }
	if len(s.target.PIDs) > 0 {
		s.set("user_bytes", per(after.user.RSS-before.user.RSS))
		s.set("anon_bytes", per(after.user.Anonymous-before.user.Anonymous))
	}
	if caches := connectionCaches(after.slabs); caches > 0 {
		s.set("kernel_bytes", per(caches-connectionCaches(before.slabs)))
	}
	s.set("slab_bytes", per(after.kernel.Slab-before.kernel.Slab+after.kernel.PageTables-before.kernel.PageTables))
	s.set("sockbuf_bytes", per(after.kernel.SockBufs-before.kernel.SockBufs))
	s.run.Kernel = slabGrowth(before.slabs, after.slabs, s.conns)
}
