//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"ssed/loadtest/hist"
	"ssed/loadtest/report"
	"ssed/loadtest/swarm"
	"ssed/loadtest/target"
)

// stage is what a scenario works with during one run: the server, the client
// connections, the publishers and the results.
type stage struct {
	opts     *options
	target   target.Target
	progress *progress
	run      *report.Run

	conns      int // how many connections the limits allow
	bytes      int // message size
	perProcess int // how many of them a client process can have
	network    int // they come from 127.network.0.2 and up
	workers    []int
	closers    []func()
}

// runSerial makes the channel names of a run differ from those of all others, so
// that a Redis with old history does not mix in.
var runSerial atomic.Uint64

// ownFiles are what this program needs besides connections.
const ownFiles = 128

// prepare adapts the number of connections to the limits, and says so.
func (s *stage) prepare(conns, bytes int) error {
	s.conns, s.bytes = conns, bytes
	s.cut(s.opts.MaxConns, "--max-conns")
	if room := serverRoom(&s.target); len(s.target.PIDs) > 0 && room > 0 {
		s.cut(room, "the server's limit of open files")
	}
	s.perProcess = fileLimit() - ownFiles
	if s.perProcess < 1 {
		return errors.New("the limit of open files is too low: see ulimit -n")
	}
	return nil
}

// note adds a remark to the results of the run.
func (s *stage) note(format string, args ...any) {
	s.run.Notes = append(s.run.Notes, fmt.Sprintf(format, args...))
}

// cut lowers the number of connections to limit.
func (s *stage) cut(limit int, why string) {
	if s.conns > limit {
		s.note("%d connections instead of %d: %s", limit, s.conns, why)
		s.conns = limit
	}
}

func (s *stage) close() {
	for _, f := range slices.Backward(s.closers) {
		f()
	}
}

// set records a figure.
func (s *stage) set(key string, value float64) { s.run.Values[key] = value }

// berth says where connections live.
type berth uint8

const (
	here    berth = iota // in this process
	apart                // in a process of their own
	closely              // in a process of their own with priority: latency is measured there
)

// crew starts client connections in groups; they end with the stage.
func (s *stage) crew(prefix string, where berth, groups ...swarm.Group) (*swarm.Crew, error) {
	request, err := s.target.Request()
	if err != nil {
		return nil, err
	}
	addr, err := s.target.Addr()
	if err != nil {
		return nil, err
	}
	total := 0
	for _, g := range groups {
		total += g.Count
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c, err := swarm.Start(swarm.Plan{
		Addr: addr, Request: request, Prefix: prefix, Groups: groups,
		Apart: where != here, Boost: where == closely,
		Sources:   s.sources(addr.Addr(), total),
		Processes: s.processes(total),
		Child:     []string{self, "worker"},
	})
	if err == nil {
		s.closers = append(s.closers, c.Close)
		s.workers = append(s.workers, c.PIDs()...)
	}
	return c, err
}

// processes is one, in this process, unless that has too few files.
func (s *stage) processes(conns int) int {
	n := s.opts.Procs
	if need := (conns + s.perProcess - 1) / s.perProcess; n < need {
		n = need
		if need > 1 {
			s.note("%d client processes: each may open %d files", n, fileLimit())
		}
	}
	return max(n, 1)
}

// connsPerSource keeps a source's port range (28,000 by default) sparse: the
// kernel searches it for a free port at each connect.
const connsPerSource = 5000

// sources are loopback addresses of this host to connect from, none for a target
// elsewhere.
func (s *stage) sources(to netip.Addr, conns int) (list []netip.Addr) {
	if !to.Is4() || !to.IsLoopback() {
		return nil
	}
	n := s.opts.Sources
	if n <= 0 {
		n = max(conns/connsPerSource+1, 4)
	}
	for i := range min(n, 250) {
		list = append(list, netip.AddrFrom4([4]byte{127, byte(s.network), 0, byte(2 + i)}))
	}
	return list
}

// prefix makes the channel names of this run.
func (s *stage) prefix() string {
	return "lt-" + strconv.FormatInt(time.Now().UnixNano()>>10&(1<<40-1), 36) + "-" + strconv.FormatUint(runSerial.Add(1), 36) + "-"
}

// open connects a group and fails unless every connection got its response.
func (s *stage) open(ctx context.Context, c *swarm.Crew, group int, spec swarm.OpenSpec, step string) (*swarm.OpenResult, error) {
	s.progress.show(step, func() string {
		open, delivered := c.Progress()
		return fmt.Sprintf("%d of %d open, %d delivered", open, s.conns, delivered)
	})
	spec.Window, spec.Limit = s.opts.Window, s.opts.Limit
	r, err := c.Open(ctx, group, spec)
	if err != nil {
		return nil, err
	}
	return r, r.Err()
}

// watch shows the deliveries of a crew.
func (s *stage) watch(c *swarm.Crew, step string) {
	s.progress.show(step, func() string {
		_, delivered := c.Progress()
		return fmt.Sprintf("%d delivered", delivered)
	})
}

// warmConns and warmMessages let a server touch its code and its first buffers
// before anything is measured.
const (
	warmConns    = 200
	warmMessages = 5
	// warmStorm connects are more than those after which ssed gives the memory of
	// handshakes back (1,000). With fewer, that garbage would be in the memory
	// before, and be missing in the growth.
	warmStorm = 1200
)

// warmUpMemory is a warm-up after which memory can be compared: with connects in
// plenty, few at a time, and a rest that lets the server settle.
func (s *stage) warmUpMemory(ctx context.Context, rest time.Duration) error {
	if err := s.warmUp(ctx); err != nil {
		return err
	}
	count := min(warmConns, s.conns)
	c, err := s.crew(s.prefix(), here, swarm.Group{Count: count, Channels: 1})
	if err != nil {
		return err
	}
	fds := s.fds()
	for opened := 0; opened < warmStorm; opened += count {
		if _, err := s.open(ctx, c, 0, swarm.OpenSpec{}, "warming up"); err != nil {
			return err
		}
		if err := c.Drop(ctx, 0, true); err != nil {
			return err
		}
		if err := s.awaitFDs(ctx, fds); err != nil {
			return err
		}
	}
	s.progress.show("settling", func() string { return "for " + rest.String() })
	return pause(ctx, rest)
}

// warmUp connects, sends and disconnects.
func (s *stage) warmUp(ctx context.Context) error {
	prefix := s.prefix()
	c, err := s.crew(prefix, here, swarm.Group{Count: min(warmConns, s.conns), Channels: 1})
	if err != nil {
		return err
	}
	fds := s.fds()
	if _, err := s.open(ctx, c, 0, swarm.OpenSpec{}, "warming up"); err != nil {
		return err
	}
	if s.target.Publish != "" {
		f, err := s.feed(prefix, 0, 1)
		if err != nil {
			return err
		}
		for range warmMessages {
			if err := f.send(0, swarm.Now()); err != nil {
				return err
			}
		}
		if err := f.pub.Settle(); err != nil {
			return err
		}
		if _, err := s.awaitAll(ctx, c, f, 0, "the messages of the warm-up"); err != nil {
			return err
		}
	}
	if err := c.Drop(ctx, 0, true); err != nil {
		return err
	}
	return s.awaitFDs(ctx, fds)
}

// fds is how many descriptors the server has, 0 when that can not be seen.
func (s *stage) fds() int {
	n, err := target.CountFDs(s.target.PIDs)
	if err != nil {
		return 0
	}
	return n
}

// awaitFDs waits until the server has no more than n descriptors: it has seen
// that clients are gone. Some servers keep a few for long; then it goes on.
func (s *stage) awaitFDs(ctx context.Context, n int) error {
	if n == 0 {
		return nil
	}
	const slack, patience = 3, 5 * time.Second
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := poll(limited, func() error {
		if s.fds() > n+slack {
			return errors.New("still connected")
		}
		return nil
	})
	if err != nil {
		s.note("the server still had descriptors of closed connections after %v", patience)
	}
	return context.Cause(ctx)
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// cpu is the CPU time of processes so far; ok is false when it can not be read.
func (s *stage) cpu(pids []int) (c target.CPU, ok bool) {
	if len(pids) == 0 {
		return c, false
	}
	c, err := target.ReadCPU(pids)
	if err != nil {
		s.note("%v", err)
	}
	return c, err == nil
}

// softIRQ are the kernel's threads for network work.
var softIRQ = sync.OnceValue(target.SoftIRQThreads)

// threads is how long the threads ran that may hold a server back: those of the
// load, and the kernel's.
func (s *stage) threads() (load, kernel map[int]time.Duration) {
	return target.ReadThreads(append([]int{os.Getpid()}, s.workers...)), target.ReadThreads(softIRQ())
}

// meter measures CPU time over a stretch: the server's, and that of what is
// around it.
type meter struct {
	stage        *stage
	load, kernel map[int]time.Duration
	server       target.CPU
	redis        target.CPU
	serverSeen   bool
	redisSeen    bool
	begin        time.Time
}

func (s *stage) meter() meter {
	m := meter{stage: s}
	m.load, m.kernel = s.threads()
	m.redis, m.redisSeen = s.cpu(s.target.RedisPIDs)
	m.begin = time.Now()
	m.server, m.serverSeen = s.cpu(s.target.PIDs)
	return m
}

// read returns the server's CPU time since the meter was made.
func (m meter) read() (cpu target.CPU, wall time.Duration, ok bool) {
	now, ok := m.stage.cpu(m.stage.target.PIDs)
	wall = time.Since(m.begin)
	cpu, ok = now.Sub(m.server), ok && m.serverSeen
	if ok {
		m.bottlenecks(cpu, wall)
	}
	return cpu, wall, ok
}

// A thread of the load that works for busyShare of the time is as likely the limit
// as the server is. What ksoftirqd does is the work of a socket's write(2) that
// nobody is charged for: from softIRQShare of the server's time on it shows in the figures.
const (
	busyShare    = 0.9
	softIRQShare = 0.02
)

// bottlenecks records how busy the load was, and notes what else than the server
// may have set the pace.
func (m meter) bottlenecks(server target.CPU, wall time.Duration) {
	s := m.stage
	load, kernel := s.threads()
	sum, busiest := spent(m.load, load)
	s.set("load_share", sum.Seconds()/wall.Seconds()*100)
	if busiest.Seconds() > busyShare*wall.Seconds() {
		s.note("a thread of the load was busy for more than %.0f %% of a measured time: the server may not have been the limit", busyShare*100)
	}
	if sum, _ := spent(m.kernel, kernel); sum.Seconds() > softIRQShare*server.Total.Seconds() {
		s.note("ksoftirqd worked for more than %.0f %% of the server's CPU time, which is in no figure here", softIRQShare*100)
	}
	if redis, ok := s.cpu(s.target.RedisPIDs); ok && m.redisSeen {
		s.set("redis_share", redis.Sub(m.redis).Total.Seconds()/wall.Seconds()*100)
	}
}

// spent is how much longer threads have run, all together and the busiest.
func spent(before, after map[int]time.Duration) (sum, most time.Duration) {
	for tid, ran := range after {
		ran -= before[tid]
		sum += ran
		most = max(most, ran)
	}
	return sum, most
}

// deliveries records what n deliveries cost since the meter was made.
func (m meter) deliveries(n uint64) {
	cpu, wall, ok := m.read()
	s := m.stage
	s.set("deliveries_per_s", float64(n)/wall.Seconds())
	if !ok || cpu.Total <= 0 {
		return
	}
	s.set("deliveries_per_cpu_s", float64(n)/cpu.Total.Seconds())
	s.set("cpu_share", cpu.Total.Seconds()/wall.Seconds()*100)
	if both := cpu.User + cpu.System; both > 0 {
		s.set("user_share", float64(cpu.User)/float64(both)*100)
	}
}

// collect adds the counts of a crew to the run and its latencies as a phase.
func (s *stage) collect(ctx context.Context, c *swarm.Crew, phase string) (*swarm.Stats, error) {
	st, err := c.Stats(ctx)
	if err != nil {
		return nil, err
	}
	s.run.Counts.Add(st.Counts)
	if phase != "" {
		s.phase(phase, st)
	}
	return st, nil
}

// phase records latencies under a name.
func (s *stage) phase(name string, st *swarm.Stats) {
	if s.run.Latency == nil {
		s.run.Latency = latencies{}
	}
	h := st.Latency
	s.run.Latency[name] = &h
}

// percentiles records latency figures in milliseconds, keys with a prefix.
func (s *stage) percentiles(prefix string, st *swarm.Stats) {
	if st.Latency.Count() == 0 {
		s.note("nothing arrived: there are no latencies")
	}
	for key, q := range map[string]float64{"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1} {
		s.quantile(prefix+key, &st.Latency, q)
	}
}

// quantile records one in milliseconds. Of nothing there is none: a 0 would be the
// best of all results.
func (s *stage) quantile(key string, h *hist.Histogram, q float64) {
	if h.Count() > 0 {
		s.set(key, ms(h.Quantile(q)))
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// slabGrowth lists the object caches that grew by more than a byte per
// connection, which includes both ends.
func slabGrowth(before, after map[string]int64, conns int) map[string]float64 {
	out := map[string]float64{}
	for name := range maps.Keys(after) {
		if per := float64(after[name]-before[name]) / float64(conns); per > 1 {
			out[name] = per
		}
	}
	return out
}
