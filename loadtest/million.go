//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"ssed/loadtest/report"
	"ssed/loadtest/swarm"
	"ssed/loadtest/target"
)

// million opens as many connections as the machine holds, on many ssed processes
// that share one Redis.
type million struct {
	Max       int           `help:"Connections at most." default:"1000000"`
	KeepFree  int           `help:"Memory in MiB that stays available." default:"2048"`
	Heartbeat time.Duration `help:"Heartbeat interval of the servers. Above half of their --peer-timeout the kernel probes idle peers, see docs/PERFORMANCE.md." default:"25s"`
	Rest      time.Duration `help:"How long the idle servers are watched, after one heartbeat interval: a multiple of it." default:"25s"`
	Each      int           `help:"Connections per server; 0: as many as its file limit allows." default:"0"`
}

// measure runs the fleet against ssed alone: the floor has no history and needs
// no Redis, so there is nothing to compare with.
func (m *million) measure(ctx context.Context, o *options, args []string, stdout, stderr io.Writer) int {
	if o.SsedBin == "" {
		fmt.Fprintln(stderr, "loadtest: million needs --ssed-bin")
		return exitUsage
	}
	runtime.GOMAXPROCS(max(runtime.NumCPU(), 8))
	ctx, cancel := context.WithTimeoutCause(ctx, o.MaxTime, fmt.Errorf("--max-time of %v is over", o.MaxTime))
	defer cancel()
	f := &fleet{million: m, opts: o, progress: newProgress(stderr, o.Quiet)}
	f.run.Target, f.run.Round, f.run.Values = "ssed", 1, map[string]float64{}
	err := f.measure(ctx)
	f.progress.show("closing all", nil)
	f.close()
	f.progress.close()
	if err != nil {
		f.run.Error = err.Error()
	}
	out := &report.Report{Started: f.started, Command: "loadtest " + quoteArgs(args), Host: describeHost()}
	scenario := m.describe(f)
	scenario.Runs = []report.Run{f.run}
	out.Scenarios = append(out.Scenarios, scenario)
	if err := o.write(out, stdout); err != nil {
		fmt.Fprintln(stderr, "loadtest:", err)
		return exitFaults
	}
	return verdict(out, nil, stderr)
}

func (m *million) describe(f *fleet) report.Scenario {
	return report.Scenario{
		Name:    "million",
		About:   "As many connections as the machine holds, on ssed processes that share one Redis; then one broadcast to all.",
		Targets: []string{"ssed"}, References: []string{"ssed"},
		Params: []report.Param{
			param("at most", m.Max), param("per server", f.each), param("memory kept free, MiB", m.KeepFree),
			param("heartbeat", m.Heartbeat), param("connects at once", f.opts.Window),
		},
		Metrics: []report.Metric{
			{Key: "connections", Label: "connections open at once"},
			{Key: "servers", Label: "ssed processes"},
			{Key: "connects_per_s", Label: "connects per second, all servers", Unit: "1/s"},
			{Key: "user_bytes", Label: "user memory per connection", Unit: "B"},
			{Key: "process_bytes", Label: "user memory per connection, with the idle processes' own", Unit: "B"},
			{Key: "kernel_bytes", Label: "kernel memory per connection, both ends", Unit: "B"},
			{Key: "sockbuf_bytes", Label: "queued in TCP buffers, both ends", Unit: "B"},
			{Key: "idle_cpu_us", Label: "server CPU per connection and minute", Unit: "µs/min"},
			{Key: "complete", Label: "broadcast until the last one has it", Unit: "ms"},
			{Key: "broadcast_cpu_us", Label: "server CPU per delivery of the broadcast", Unit: "µs"},
			{Key: "available", Label: "memory still available", Unit: "MiB"},
			{Key: "files", Label: "open files of the machine", Unit: ""},
		},
	}
}

// wave is one server with the connections to it.
type wave struct {
	stage *stage
	crew  *swarm.Crew
	conns int
}

// fleet is a million under way.
type fleet struct {
	*million
	opts     *options
	progress *progress
	run      report.Run
	started  time.Time
	redis    string
	prefix   string
	each     int // connections per server
	open     int
	before   target.Kernel // before the first server
	own      target.Memory // of the first server after its warm-up; the others are alike
	waves    []*wave
	closers  []func()
}

// Bounds of the machine that are looked at before each server.
const (
	// waveBytes is what one more connection is expected to take: 10 KB of kernel
	// memory on both ends were measured, and the slots come on top.
	waveBytes = 11 << 10
	// waveOwnBytes is a server and its client process before any connection.
	waveOwnBytes = 64 << 20
	// waveReserve is how many files of the machine others may still open.
	waveReserve = 10_000
)

func (f *fleet) measure(ctx context.Context) error {
	f.started = time.Now()
	f.each = fileLimit() - reserve
	if f.Each > 0 {
		f.each = min(f.each, f.Each)
	}
	if f.each < 1 {
		return errors.New("the limit of open files is too low: see ulimit -n")
	}
	f.progress.begin("million")
	redis, remove, err := f.opts.startRedis()
	if err != nil {
		return err
	}
	f.closers = append(f.closers, remove)
	f.redis, f.prefix = redis.Addr(), fmt.Sprintf("lt-%x-", f.started.UnixNano())
	if f.before, err = target.ReadKernel(); err != nil {
		return err
	}
	if err := f.fill(ctx); err != nil {
		return err
	}
	if err := f.rest(ctx); err != nil {
		return err
	}
	return f.broadcast(ctx)
}

// fill adds servers until one bound is reached, and notes which.
func (f *fleet) fill(ctx context.Context) error {
	var connecting time.Duration
	for f.open < f.Max {
		n := min(f.each, f.Max-f.open)
		if why := f.full(n); why != "" {
			if f.note("stopped at %d: %s", f.open, why); f.open == 0 {
				return errors.New("not even one server fits")
			}
			break
		}
		opened, err := f.add(ctx, n)
		if opened != nil {
			connecting += opened.Elapsed()
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			// What the machine refuses is the answer, not a failure, once there is something to measure.
			if f.note("stopped at %d: %v", f.open, err); len(f.waves) == 0 {
				return err
			}
			break
		}
	}
	if f.open >= f.Max {
		f.note("nothing held it back below --max")
	}
	f.set("connections", float64(f.open))
	f.set("servers", float64(len(f.waves)))
	if connecting > 0 {
		f.set("connects_per_s", float64(f.open)/connecting.Seconds())
	}
	return nil
}

// full returns why n more connections do not fit, or "".
func (f *fleet) full(n int) string {
	if free, need := f.available(), int64(n*waveBytes+waveOwnBytes+f.KeepFree<<20); free < need {
		return fmt.Sprintf("memory: %d MiB are available, %d of them stay free", free>>20, f.KeepFree)
	}
	used, limit := openFiles()
	if limit > 0 && used+2*n+waveReserve > limit {
		return fmt.Sprintf("files: %d of %d (fs.file-max) are open", used, limit)
	}
	const netfilter = "/proc/sys/net/netfilter/nf_conntrack_"
	if tracked, limit := readNumber(netfilter+"count"), readNumber(netfilter+"max"); tracked > 0 && tracked+n > limit {
		return fmt.Sprintf("connection tracking: %d of %d (nf_conntrack_max)", tracked, limit)
	}
	const watches = "/proc/sys/fs/epoll/max_user_watches"
	if limit := readNumber(watches); limit > 0 && 2*(f.open+n) > limit {
		return fmt.Sprintf("epoll: %d watches (fs.epoll.max_user_watches)", limit)
	}
	return ""
}

// available is how many bytes can still be allocated. The kernel counts the inodes
// and dentries of open sockets as reclaimable, which they are not: what was added
// to them since the start is taken off.
func (f *fleet) available() int64 {
	k, err := target.ReadKernel()
	if err != nil {
		return 0
	}
	return k.Available - max(k.Slack-f.before.Slack, 0)
}

// openFiles returns how many files the machine has open and may have.
func openFiles() (used, limit int) {
	text, _ := os.ReadFile("/proc/sys/fs/file-nr")
	var unused int
	_, _ = fmt.Sscan(string(text), &used, &unused, &limit) // unreadable: no bound known
	return used, limit
}

// readNumber reads a setting of the kernel, 0 when it is not there.
func readNumber(path string) (n int) {
	text, _ := os.ReadFile(path)
	_, _ = fmt.Sscan(string(text), &n)
	return n
}

// add starts a server and opens n connections to it.
func (f *fleet) add(ctx context.Context, n int) (*swarm.OpenResult, error) {
	t, stop, err := f.opts.launchSsed(ctx, f.Heartbeat, "--redis-url", "redis://"+f.redis)
	if err != nil {
		return nil, err
	}
	f.closers = append(f.closers, stop)
	t.Publish = "redis://" + f.redis
	w := &wave{conns: n, stage: &stage{opts: f.opts, target: t, progress: f.progress, run: &f.run, conns: n, network: 1 + len(f.waves)%250}}
	f.closers = append(f.closers, w.stage.close)
	if err := w.stage.prepare(n, f.opts.Bytes); err != nil {
		return nil, err
	}
	if err := f.warmUp(ctx, w.stage); err != nil {
		return nil, err
	}
	if w.crew, err = w.stage.crew(f.prefix, apart, swarm.Group{Count: w.stage.conns, Channels: 1}); err != nil {
		return nil, err
	}
	opened, err := w.stage.open(ctx, w.crew, 0, swarm.OpenSpec{}, fmt.Sprintf("%d open, connecting to server %d:", f.open, len(f.waves)+1))
	if opened == nil {
		return nil, err
	}
	f.open += opened.Opened
	w.conns = opened.Opened
	f.waves = append(f.waves, w)
	return opened, err
}

// warmUp lets the first server settle before its memory is read, which takes too
// long to do for each.
func (f *fleet) warmUp(ctx context.Context, s *stage) (err error) {
	if len(f.waves) > 0 {
		return s.warmUp(ctx)
	}
	if err := s.warmUpMemory(ctx, f.Heartbeat); err != nil {
		return err
	}
	f.own, err = target.ReadMemory(s.target.PIDs)
	return err
}

// rest reads memory and CPU time of the idle fleet.
func (f *fleet) rest(ctx context.Context) error {
	f.progress.show(fmt.Sprintf("%d open, idle for %v", f.open, f.Heartbeat+f.Rest), nil)
	for _, w := range f.waves {
		if err := w.crew.Rest(ctx, restEach); err != nil {
			return err
		}
	}
	// The first heartbeats come at the end of the first interval, and before that
	// servers give back what connecting took.
	if err := pause(ctx, f.Heartbeat); err != nil {
		return err
	}
	pids := f.pids()
	start, err := target.ReadCPU(pids)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := pause(ctx, f.Rest); err != nil {
		return err
	}
	end, err := target.ReadCPU(pids)
	if err != nil {
		return err
	}
	per := func(v float64) float64 { return v / float64(f.open) }
	f.set("idle_cpu_us", per(end.Sub(start).Total.Seconds()*1e6/time.Since(begin).Minutes()))
	user, err := target.ReadMemory(pids)
	if err != nil {
		return err
	}
	kernel, err := target.ReadKernel()
	if err != nil {
		return err
	}
	f.set("user_bytes", per(float64(user.RSS-int64(len(f.waves))*f.own.RSS)))
	f.set("process_bytes", per(float64(user.RSS)))
	f.set("kernel_bytes", per(float64(kernel.Slab-f.before.Slab+kernel.PageTables-f.before.PageTables)))
	f.set("sockbuf_bytes", per(float64(kernel.SockBufs-f.before.SockBufs)))
	f.set("available", float64(f.available()>>20))
	used, _ := openFiles()
	f.set("files", float64(used))
	return nil
}

// broadcast sends one message to all connections through Redis and counts who
// got it.
func (f *fleet) broadcast(ctx context.Context) error {
	f.progress.show(fmt.Sprintf("one message to %d", f.open), nil)
	for _, w := range f.waves {
		if err := w.crew.Rest(ctx, 0); err != nil {
			return err
		}
	}
	s := f.waves[0].stage
	feed, err := s.feed(f.prefix, 0, 1)
	if err != nil {
		return err
	}
	start, err := target.ReadCPU(f.pids())
	if err != nil {
		return err
	}
	due := swarm.Now()
	if err := feed.send(0, due); err != nil {
		return err
	}
	if err := feed.pub.Flush(); err != nil {
		return err
	}
	last, reached := int64(0), true
	for _, w := range f.waves {
		left := max(f.opts.Limit-nanos(swarm.Now()-due), time.Millisecond) // for all together
		r, err := w.crew.Await(ctx, left, feed.want(0))
		if err != nil {
			return err
		}
		last, reached = max(last, r.Last), reached && r.Reached
	}
	end, err := target.ReadCPU(f.pids())
	if err != nil {
		return err
	}
	if reached {
		f.set("complete", ms(nanos(last-due)))
	}
	f.set("broadcast_cpu_us", end.Sub(start).Total.Seconds()*1e6/float64(f.open))
	return f.count(ctx, feed)
}

// count adds up what the clients got: a connection without the message, or one
// that the server ended, is a loss.
func (f *fleet) count(ctx context.Context, feed *feed) error {
	all := &swarm.Stats{}
	for _, w := range f.waves {
		if err := w.crew.Audit(ctx, 0, feed.seqs); err != nil {
			return err
		}
		st, err := w.crew.Stats(ctx)
		if err != nil {
			return err
		}
		all.Add(st)
	}
	f.run.Counts.Add(all.Counts)
	f.run.Latency = latencies{"broadcast": &all.Latency}
	f.note("the broadcast reached %d of %d connections; %d streams had ended", all.Delivered, f.open, all.Closed)
	if int(all.Delivered) != f.open {
		return fmt.Errorf("%d of %d connections got the broadcast", all.Delivered, f.open)
	}
	return nil
}

func (f *fleet) pids() (list []int) {
	for _, w := range f.waves {
		list = append(list, w.stage.target.PIDs...)
	}
	return list
}

func (f *fleet) set(key string, value float64) { f.run.Values[key] = value }

func (f *fleet) note(format string, args ...any) {
	f.run.Notes = append(f.run.Notes, fmt.Sprintf(format, args...))
}

// close ends clients and servers, the newest first.
func (f *fleet) close() {
	for i := len(f.closers) - 1; i >= 0; i-- {
		f.closers[i]()
	}
}
