//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"ssed/internal/ssedtest"
)

// options is the command line.
type options struct {
	Scenario   []string `help:"Scenarios to run; default: all but short." placeholder:"NAME"`
	Fault      []string `help:"Only these faults of the scenarios." placeholder:"NAME" sep:"none"`
	Rounds     int      `help:"How often each list of faults is gone through; default: as the scenario says." placeholder:"N"`
	Seed       uint64   `help:"Seed of the plan; 0: by the time."`
	Clients    int      `help:"Clients that hop between the instances." default:"200"`
	Channels   int      `help:"Channels." default:"100"`
	Publishers int      `help:"Publishers at work at once." default:"8"`
	Rate       int      `help:"Messages per second of all publishers." default:"1000"`
	SsedBin    string   `help:"The ssed program; default: built from this module." placeholder:"FILE" type:"path"`
	OldBin     string   `help:"The earlier ssed program of the scenario upgrade; default: built from its commit with git." placeholder:"FILE" type:"path"`
	Bounds     bool     `help:"Also measure commands per message, ticks and the resync of 20,000 channels." default:"true" negatable:""`
	JSON       string   `help:"Write everything as JSON." name:"json" placeholder:"FILE" type:"path"`
	Markdown   string   `help:"Put the tables between the markers of a document." placeholder:"FILE" type:"path"`
	Keep       string   `help:"Keep logs and files of Redis in this directory." placeholder:"DIR" type:"path"`
	Quiet      bool     `help:"No progress." short:"q"`
}

const (
	exitWrong = 1
	exitUsage = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program but for the exit.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	parser, err := kong.New(&o, kong.Name("chaos"), kong.Writers(stdout, stderr),
		kong.Description("Checks the guarantee of ssed under faults. See docs/GUARANTEES.md."))
	if err == nil {
		_, err = parser.Parse(args)
	}
	if err != nil {
		fmt.Fprintln(stderr, "chaos:", err)
		return exitUsage
	}
	if err := o.check(); err != nil {
		fmt.Fprintln(stderr, "chaos:", err)
		return exitUsage
	}
	rep, err := o.runAll(ctx, stderr)
	if err == nil {
		err = o.write(rep, stdout)
	}
	switch {
	case err != nil:
		fmt.Fprintln(stderr, "chaos:", err)
		return exitWrong
	case rep.wrong() > 0:
		fmt.Fprintf(stderr, "chaos: %d findings\n", rep.wrong())
		return exitWrong
	}
	return 0
}

func (o *options) check() error {
	if o.Clients < 1 || o.Channels < mostChannels || o.Publishers < 1 || o.Rate < 1 || o.Rate > 10_000 {
		return fmt.Errorf("at least 1 client and publisher, %d channels, a rate of 1 to 10000", mostChannels)
	}
	for _, name := range o.Scenario {
		if len(chosen([]string{name})) == 0 {
			return fmt.Errorf("no scenario %q", name)
		}
	}
	if len(o.plan()) == 0 {
		return fmt.Errorf("none of the faults %q", o.Fault)
	}
	if o.Seed == 0 {
		o.Seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	return nil
}

// plan is the scenarios that were asked for, with the faults that were asked for.
func (o *options) plan() (list []scenario) {
	for _, s := range chosen(o.Scenario) {
		if o.Rounds > 0 {
			s.rounds = o.Rounds
		}
		isUnwanted := func(f fault) bool { return len(o.Fault) > 0 && !slices.Contains(o.Fault, f.name) }
		s.faults, s.beside = slices.DeleteFunc(s.faults, isUnwanted), slices.DeleteFunc(s.beside, isUnwanted)
		if len(s.faults)+len(s.beside) > 0 {
			list = append(list, s)
		}
	}
	return list
}

func (o *options) runAll(ctx context.Context, stderr io.Writer) (*report, error) {
	dir, remove, err := o.directory()
	if err != nil {
		return nil, err
	}
	defer remove()
	if o.SsedBin == "" {
		o.SsedBin = filepath.Join(dir, "ssed")
		if err := ssedtest.Build(o.SsedBin); err != nil {
			return nil, err
		}
	}
	if o.OldBin == "" && slices.ContainsFunc(o.plan(), func(s scenario) bool { return s.setup.old }) {
		if o.OldBin, err = buildOld(ctx, dir); err != nil {
			return nil, err
		}
	}
	say := func(format string, args ...any) {
		if !o.Quiet {
			fmt.Fprintf(stderr, format+"\n", args...)
		}
	}
	rep := &report{Seed: o.Seed, Started: time.Now(), Clients: o.Clients, Channels: o.Channels, Publishers: o.Publishers, Rate: o.Rate}
	for _, s := range o.plan() {
		say("== %s: %s (seed %d)", s.name, s.setup.text(), o.Seed)
		res := runScenario(ctx, o, s, newDir(dir, s.name), say)
		rep.Scenarios = append(rep.Scenarios, res)
		say("%s", res.summary())
		if ctx.Err() != nil {
			return rep, ctx.Err()
		}
	}
	if o.Bounds {
		rep.Bounds, err = o.measureBounds(ctx, dir, say)
	}
	rep.Bounds = append(rep.silenceBounds(), rep.Bounds...)
	return rep, err
}

// directory is where all files go.
func (o *options) directory() (dir string, remove func(), err error) {
	if o.Keep != "" {
		return o.Keep, func() {}, os.MkdirAll(o.Keep, 0o755)
	}
	dir, err = os.MkdirTemp("", "ssed-chaos-")
	return dir, func() { _ = os.RemoveAll(dir) }, err
}
