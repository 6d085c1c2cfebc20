package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"ssed/internal/throttle"
	"ssed/internal/wording"
)

// version is set by the linker, see Makefile.
var version string

func init() {
	if version == "" {
		version = buildVersion()
	}
}

const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is the program but for the exit.
func run(args []string, stdout, stderr io.Writer) int {
	var c commandLine
	inv, err := c.parse(args, stdout)
	if err != nil {
		return usageError(stderr, commandOf(err), withoutValue(err, args))
	}
	if c.ShowVersion || inv.command == "version" {
		fmt.Fprintln(stdout, "ssed", versionText())
		return exitOK
	}
	switch inv.command {
	case "doctor":
		return c.Doctor.run(inv, stdout, stderr)
	case "tail":
		return c.Tail.run(inv, stdout, stderr)
	case "pub":
		return c.Pub.run(inv, os.Stdin, stdout, stderr)
	case "partition":
		return c.Partition.run(inv, stdout, stderr)
	case "config":
		return c.Config.run(inv, stdout, stderr)
	default:
		return c.Serve.run(inv, stderr)
	}
}

// load is config with what the file of --config gives.
func (f *flags) load(inv *invocation) (config, error) {
	fileErr := inv.complete(f.ConfigFile)
	cfg, err := f.config()
	return cfg, errors.Join(fileErr, err)
}

func (c *serveCommand) run(inv *invocation, stderr io.Writer) int {
	cfg, err := c.load(inv)
	if err != nil {
		return usageError(stderr, inv.command, inv.located(err))
	}
	log := newLogger(cfg, stderr)
	slog.SetDefault(log) // for what libraries say
	if len(inv.unknown) > 0 {
		log.Warn("ssed: unknown variables are ignored, see ssed --help", "names", inv.unknown)
	}
	if err := serveUntilSignal(cfg, log); err != nil {
		log.Error("ssed: ended", "error", err)
		return exitFailed
	}
	return exitOK
}

// run prints even what is refused: where a bad value comes from is the question then.
func (c *configCommand) run(inv *invocation, stdout, stderr io.Writer) int {
	_, err := c.load(inv)
	printConfig(stdout, inv)
	if len(inv.unknown) > 0 {
		fmt.Fprintln(stderr, "ssed: unknown variables are ignored, see ssed --help:", strings.Join(inv.unknown, ", "))
	}
	if err != nil {
		return usageError(stderr, inv.command, inv.located(err))
	}
	return exitOK
}

// usageError names every problem of a command line, a line each, and where to read on.
func usageError(stderr io.Writer, command string, err error) int {
	fmt.Fprintf(stderr, "ssed: %s\nRun \"ssed --help\" for the commands, \"ssed %s --help\" for the flags, "+
		"\"ssed config\" to see where each value comes from.\n", strings.ReplaceAll(err.Error(), "\n", "\nssed: "), command)
	return exitUsage
}

// commandOf is the command in whose arguments kong found an error.
func commandOf(err error) string {
	if parse, ok := errors.AsType[*kong.ParseError](err); ok {
		if node := parse.Context.Selected(); node != nil {
			return node.Name
		}
	}
	return "serve"
}

// withoutValue is the error of kong, in other words where the last flag lacks its value.
func withoutValue(err error, args []string) error {
	parse, ok := errors.AsType[*kong.ParseError](err)
	if !ok || len(args) == 0 {
		return err
	}
	last := args[len(args)-1]
	for _, flag := range commandNode(parse.Context.Kong, commandOf(err)).Flags {
		if last == "--"+flag.Name && !flag.IsBool() {
			return fmt.Errorf("%s: its value is missing: %s %s", last, last, flag.PlaceHolder)
		}
	}
	return err
}

func versionText() string {
	return fmt.Sprintf("%s %s %s/%s", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// buildVersion is what the toolchain noted of a build without the Makefile: the
// version of the module, better the commit.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return info.Main.Version
}

// readable writes durations as 1.5s in JSON too, where they would be nanoseconds, and errors
// without the names of packages.
func readable(_ []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindDuration:
		a.Value = slog.StringValue(a.Value.Duration().String())
	case slog.KindString:
		a.Value = slog.StringValue(wording.Plain(a.Value.String()))
	case slog.KindAny:
		if err, ok := a.Value.Any().(error); ok {
			a.Value = slog.StringValue(wording.Plain(err.Error()))
		}
	}
	return a
}

func newLogger(cfg config, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.logLevel, ReplaceAttr: readable}
	var lines slog.Handler = slog.NewTextHandler(w, options)
	if cfg.logJSON {
		lines = slog.NewJSONHandler(w, options)
	}
	return slog.New(throttle.Handler(lines))
}

// drainGrace is the time beyond --drain after which the process ends even when
// something hangs: less than the 5 s that are promised.
const drainGrace = 4500 * time.Millisecond

var errSignal = errors.New("signal")

// sameSignal is how long after the first signal a further one is taken for the same:
// timeout(1) of GNU signals the process and its group, supervisors may do so as well.
const sameSignal = time.Second

// waitForDrain returns true when everything is drained, false when the process is to end
// at once: by a second signal, or because something hangs.
func waitForDrain(served <-chan struct{}, signals <-chan os.Signal, window time.Duration, log *slog.Logger) bool {
	began := time.Now()
	late := time.NewTimer(window + drainGrace)
	defer late.Stop()
	for {
		select {
		case <-served:
			return true
		case s := <-signals:
			if time.Since(began) < sameSignal {
				continue
			}
			log.Error("ssed: second signal, ending at once", "signal", s.String())
		case <-late.C:
			log.Error("ssed: the drain takes too long, ending at once", "window", window)
		}
		return false
	}
}

// serveUntilSignal serves until SIGTERM or SIGINT and then drains. A second signal, a
// second or more after the first, or a drain that takes too long, ends the process at once.
func serveUntilSignal(cfg config, log *slog.Logger) error {
	debug.FreeOSMemory() // what reading the command line and the file took: about 2 MB
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)

	ctx, drain := context.WithCancelCause(context.Background())
	served, watched := make(chan struct{}), make(chan struct{})
	defer func() { close(served); <-watched }()
	go func() {
		defer close(watched)
		select {
		case <-served:
			return
		case s := <-signals:
			log.Info("ssed: draining", "signal", s.String(), "window", cfg.gateway.Streams.Drain)
			drain(errSignal)
		}
		drained := waitForDrain(served, signals, cfg.gateway.Streams.Drain, log)
		if !drained {
			os.Exit(exitFailed)
		}
	}()
	return serve(ctx, cfg, log)
}
