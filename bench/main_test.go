//go:build linux

package bench

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/engine"
	"ssed/internal/ssedtest"
	"ssed/loadtest/swarm"
	"ssed/loadtest/target"
)

var (
	// given is the program that -ssed names.
	given string
	// files is a directory that is there until all is over.
	files string
)

// program is the path of ssed, built when it is first asked for unless -ssed names one.
var program = sync.OnceValues(func() (path string, err error) {
	if given != "" {
		return given, nil
	}
	path = filepath.Join(files, "ssed")
	return path, ssedtest.Build(path)
})

// TestMain also plays the client processes that benchmarks start.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "worker" {
		if err := swarm.Serve(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.StringVar(&given, "ssed", "", "measure this `program`, of another version, in place of one that is built")
	flag.Parse()
	var err error
	if files, err = os.MkdirTemp("", "ssed-bench-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(files)
	os.Exit(code)
}

// patience bounds every wait for something that should happen at once.
const patience = time.Minute

// server is a running ssed.
type server struct {
	*ssedtest.Instance
	addr netip.AddrPort
}

// startServer runs ssed until the benchmark ends.
func startServer(b *testing.B, args ...string) *server {
	b.Helper()
	path, err := program()
	require.NoError(b, err)
	in, err := ssedtest.Start(path, ssedtest.Options{}, append([]string{"--drain", "10ms"}, args...)...)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, in.Stop(syscall.SIGTERM, patience)) })
	addr, err := netip.ParseAddrPort(in.Public())
	require.NoError(b, err)
	return &server{in, addr}
}

// eventually polls until ok; what it waits for has no event to wait on.
func eventually(b *testing.B, what string, ok func() bool) {
	b.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.NewTimer(patience)
	defer late.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late.C:
			b.Fatalf("not in %v: %s", patience, what)
		}
	}
}

// discard is a logger without output.
func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// startEngine runs an engine in this process until the benchmark ends.
func startEngine(b *testing.B, cfg engine.Config) *engine.Engine {
	b.Helper()
	cfg.Listen, cfg.Logger, cfg.Drain = []string{"127.0.0.1:0"}, discard(), time.Millisecond
	e, err := engine.New(cfg)
	require.NoError(b, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	b.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	return e
}

// connect opens n streams, connection i on channel prefix + i mod channels, and
// returns when all have their response head. With apart they belong to processes
// of their own.
func connect(b *testing.B, addr netip.AddrPort, prefix string, n, channels int, apart bool) *swarm.Crew {
	b.Helper()
	t := target.Target{URL: "http://" + addr.String() + "/sse/connect?channel_id={channel}"}
	request, err := t.Request()
	require.NoError(b, err)
	self, err := os.Executable()
	require.NoError(b, err)
	var sources []netip.Addr
	for i := range n/5000 + 1 { // each has 28,000 ports
		sources = append(sources, netip.AddrFrom4([4]byte{127, 0, 0, byte(2 + i)}))
	}
	c, err := swarm.Start(swarm.Plan{
		Addr: addr, Request: request, Prefix: prefix, Sources: sources,
		Groups: []swarm.Group{{Count: n, Channels: uint32(channels)}},
		Apart:  apart, Child: []string{self, "worker"},
	})
	require.NoError(b, err)
	b.Cleanup(c.Close)
	opened, err := c.Open(b.Context(), 0, swarm.OpenSpec{Window: 256, Limit: patience})
	require.NoError(b, errors.Join(err, opened.Err()))
	return c
}

// fileLimit is how many files a process may open.
func fileLimit() int {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 1024
	}
	return int(min(l.Cur, 1<<30)) // Go raises the soft limit to the hard one
}
