//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"ssed/loadtest/report"
	"ssed/loadtest/swarm"
	"ssed/loadtest/target"
)

// options are the flags that all scenarios share.
type options struct {
	With     []string      `help:"Built-in servers to start: floor (a bare write loop), naive (net/http), ssed (needs --ssed-bin)." enum:"floor,naive,ssed" default:"floor"`
	Target   []string      `help:"A running server: 'name=N;url=http://…{channel}…;publish=redis://…|http://…{channel}…;pid=1,2;redis_pid=3;depth=N;header=K: V;resume=no'. May repeat." sep:"none" placeholder:"SPEC"`
	SsedBin  string        `help:"The ssed program for --with ssed." placeholder:"FILE" type:"path"`
	SsedArg  []string      `help:"A further argument for ssed. May repeat." sep:"none" placeholder:"ARG"`
	Redis    bool          `help:"Run ssed on a private redis-server and publish there; otherwise ssed runs embedded. Beside the floor there is then floor-redis, which subscribes to a Redis as well."`
	RedisBin string        `help:"The redis-server program." default:"redis-server" placeholder:"FILE"`
	Only     bool          `help:"Leave the default floor out: only the targets given."`
	Rounds   int           `help:"Interleaved rounds (A B A B …)." default:"3"`
	Conns    int           `help:"Connections; 0: the scenario's default." default:"0"`
	Bytes    int           `help:"Message size; 0: the scenario's default." default:"0"`
	Window   int           `help:"Connects under way at once." default:"256"`
	Procs    int           `help:"Client processes; 0: as few as the file limit allows." default:"0"`
	Sources  int           `help:"Loopback source addresses; 0: one per 5,000 connections, at least 4." default:"0"`
	Limit    time.Duration `help:"Longest time of one step: connecting all, one broadcast." default:"60s"`
	Calm     time.Duration `help:"Longest wait before a run for the connections of the run before to be forgotten; TIME_WAIT takes 60s." default:"65s"`
	MaxTime  time.Duration `help:"Longest time of everything." default:"2h"`
	MaxConns int           `help:"Most connections that are ever asked for." default:"100000"`

	IOwnThisHost bool   `help:"Allow targets that are not loopback addresses." name:"i-own-this-host"`
	JSON         string `help:"Write all figures and histograms as JSON." name:"json" placeholder:"FILE" type:"path"`
	HTML         string `help:"Write a self-contained report with plots." name:"html" placeholder:"FILE" type:"path"`
	Quiet        bool   `help:"No progress on stderr." short:"q"`
}

// cli is the command line.
type cli struct {
	options

	Hold   hold   `cmd:"" help:"Idle connections: memory each, connect rate, CPU while idle."`
	Fanout fanout `cmd:"" help:"Broadcasts to one channel: deliveries per CPU second, latency."`
	Spread spread `cmd:"" help:"Many small channels, open loop: latency from the due time."`
	Burst  burst  `cmd:"" help:"Messages back to back: deliveries per CPU second."`
	Churn  churn  `cmd:"" help:"Connect and disconnect: rate, CPU each, descriptors left."`
	Slow   slow   `cmd:"" help:"A part of the readers stops: what it does to the others."`
	Resume resume `cmd:"" help:"All drop and come back with Last-Event-ID."`
	Mixed  mixed  `cmd:"" help:"A small channel while broadcasts to a large one run."`

	Hostile hostile `cmd:"" help:"A few small channels beside clients that no server wishes for: latency, CPU and memory as these grow."`

	All all `cmd:"" help:"All of these, in one report."`

	Ingest ingest `cmd:"" help:"Messages on their way in: what they cost Redis and each instance, with several primaries and instances."`

	Million million `cmd:"" help:"As many connections as this machine holds, on many ssed processes and one Redis."`

	ServeFloor serveFloor `cmd:"" hidden:""`
	ServeNaive serveNaive `cmd:"" hidden:""`

	ServeNeighbour serveNeighbour `cmd:"" hidden:""`
	Worker         worker         `cmd:"" hidden:""`
}

// runnable is a command that runs scenarios.
type runnable interface{ scenarios() []scenario }

func (h *hold) scenarios() []scenario    { return []scenario{h} }
func (f *fanout) scenarios() []scenario  { return []scenario{f} }
func (sp *spread) scenarios() []scenario { return []scenario{sp} }
func (b *burst) scenarios() []scenario   { return []scenario{b} }
func (ch *churn) scenarios() []scenario  { return []scenario{ch} }
func (sl *slow) scenarios() []scenario   { return []scenario{sl} }
func (re *resume) scenarios() []scenario { return []scenario{re} }
func (m *mixed) scenarios() []scenario   { return []scenario{m} }

// all runs every scenario with its defaults.
type all struct {
	Quick bool `help:"Open loops of 4 s, fewer broadcasts, one heartbeat interval: some four minutes for each server and round, two of them beside hostile clients, one the wait after churn."`
}

// quickLoop is the length of an open loop with --quick: long enough for a p99 of
// some hundred messages.
const quickLoop = 4 * time.Second

// quickHostile is the length of each of a neighbour's four phases with --quick.
const quickHostile = time.Second

func (a *all) scenarios() []scenario {
	var parsed cli
	parser, err := kong.New(&parsed)
	if err == nil {
		// Any command fills in the defaults of all.
		_, err = parser.Parse([]string{"hold"})
	}
	if err != nil {
		panic("loadtest: defaults: " + err.Error()) // the flags of this program do not fit themselves
	}
	if a.Quick {
		parsed.Spread.Duration, parsed.Slow.Duration, parsed.Mixed.Duration = quickLoop, quickLoop, quickLoop
		parsed.Fanout.Messages, parsed.Burst.Bursts = 10, 2
		parsed.Hold.Idle = heartbeat
		parsed.Hostile.Duration = quickHostile
	}
	return append([]scenario{
		&parsed.Hold, &parsed.Fanout, &parsed.Spread, &parsed.Burst,
		&parsed.Churn, &parsed.Slow, &parsed.Resume, &parsed.Mixed,
	}, parsed.Hostile.scenarios()...)
}

const (
	exitFaults = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the program at once; its children follow it.
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program without its process: it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	raiseFileLimit()
	var c cli
	parser, err := kong.New(&c, kong.Name("loadtest"), kong.Writers(stdout, stderr),
		kong.Description("Load tests of Server-Sent Events servers, side by side. See docs/LOADTEST.md."))
	if err != nil {
		fmt.Fprintln(stderr, "loadtest:", err)
		return exitUsage
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintln(stderr, "loadtest:", err)
		return exitUsage
	}
	switch cmd := parsed.Selected().Target.Addr().Interface().(type) {
	case runnable:
		return c.options.measure(ctx, cmd.scenarios(), args, stdout, stderr)
	case interface {
		measure(ctx context.Context, o *options, args []string, stdout, stderr io.Writer) int
	}:
		return cmd.measure(ctx, &c.options, args, stdout, stderr)
	case interface{ serve(context.Context) error }:
		if err := cmd.serve(ctx); err != nil {
			fmt.Fprintln(stderr, "loadtest:", err)
			return exitFaults
		}
	}
	return 0
}

// measure runs scenarios and writes the results.
func (o *options) measure(ctx context.Context, list []scenario, args []string, stdout, stderr io.Writer) int {
	servers, err := o.servers()
	if err != nil {
		fmt.Fprintln(stderr, "loadtest:", err)
		return exitUsage
	}
	// Sender, readers and a measuring swarm must not wait for each other's turn in
	// the Go scheduler; the kernel shares the cores between their threads.
	runtime.GOMAXPROCS(max(runtime.NumCPU(), 8))
	ctx, cancel := context.WithTimeoutCause(ctx, o.MaxTime, fmt.Errorf("--max-time of %v is over", o.MaxTime))
	defer cancel()
	r := &runner{opts: o, servers: servers, progress: newProgress(stderr, o.Quiet)}
	r.quiet, _ = target.ReadKernel() // unreadable: calm waits for nothing
	out := &report.Report{Started: time.Now(), Command: "loadtest " + quoteArgs(args), Host: describeHost()}
	runErr := r.all(ctx, list, out)
	r.progress.close()
	summariseHostile(out)
	if err := o.write(out, stdout); err != nil {
		fmt.Fprintln(stderr, "loadtest:", err)
		return exitFaults
	}
	return verdict(out, runErr, stderr)
}

// write writes the table and the files asked for.
func (o *options) write(out *report.Report, stdout io.Writer) error {
	err := out.WriteText(stdout)
	if o.JSON != "" {
		err = errors.Join(err, writeFile(o.JSON, out.WriteJSON))
	}
	if o.HTML != "" {
		err = errors.Join(err, writeFile(o.HTML, out.WriteHTML))
	}
	return err
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

func verdict(out *report.Report, runErr error, stderr io.Writer) int {
	faults, failed := out.Wrong()
	switch {
	case runErr != nil:
		fmt.Fprintln(stderr, "loadtest:", runErr)
	case faults > 0 || failed > 0:
		fmt.Fprintf(stderr, "loadtest: %d messages lost, repeated, late or torn, or streams ended; %d runs failed\n", faults, failed)
	default:
		return 0
	}
	return exitFaults
}

// quoteArgs makes the command line one that a shell takes again.
func quoteArgs(args []string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		if quoted[i] = a; strings.ContainsAny(a, " ;&?{}'\"$*|<>()") {
			quoted[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}

// worker is the hidden command of a client process, see swarm.Serve.
type worker struct{}

func (*worker) serve(ctx context.Context) error { return swarm.Serve(ctx, os.Stdin, os.Stdout) }
