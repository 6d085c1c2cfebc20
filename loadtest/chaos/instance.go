//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ssed/internal/ssedtest"
)

// instance is one ssed process, or its place while it is down.
type instance struct {
	// Fixed after construction.
	index  int
	dir    string
	args   []string
	public atomic.Pointer[string] // address of the streams; nil while down
	number atomic.Int64           // of the process; 0 while down

	mu    sync.Mutex
	proc  *ssedtest.Instance // guarded by mu; nil while down
	bin   string             // guarded by mu: the program of the next start
	extra []string           // guarded by mu: arguments of the next start
	runs  int                // guarded by mu
}

const (
	startTimeout = 20 * time.Second // of the sentinel
	// stopTimeout is above the drain of an instance and the grace it takes.
	stopTimeout = 10 * time.Second
)

func (in *instance) name() string { return "chaos-" + strconv.Itoa(in.index) }

// start runs the program and returns when it listens.
func (in *instance) start() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.proc != nil {
		return nil
	}
	in.runs++
	log, err := os.Create(filepath.Join(in.dir, fmt.Sprintf("%s.%d.log", in.name(), in.runs)))
	if err != nil {
		return err
	}
	p, err := ssedtest.Start(in.bin, ssedtest.Options{Log: log}, append(in.args, in.extra...)...)
	if err != nil {
		return fmt.Errorf("chaos: %s, see %s: %w", in.name(), log.Name(), err)
	}
	in.proc = p
	public := p.Public()
	in.public.Store(&public)
	in.number.Store(int64(p.Cmd.Process.Pid))
	return nil
}

// end stops the process with a signal and waits for it. A process that takes
// too long is killed, which is an error.
func (in *instance) end(sig syscall.Signal) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.endLocked(sig)
}

func (in *instance) endLocked(sig syscall.Signal) error {
	p := in.proc
	if p == nil {
		return nil
	}
	in.proc = nil
	in.public.Store(nil)
	in.number.Store(0)
	if err := p.Stop(sig, stopTimeout); err != nil {
		return fmt.Errorf("chaos: %s: %w", in.name(), err)
	}
	return nil
}

// restart starts the process again, with further arguments.
func (in *instance) restart(sig syscall.Signal, extra ...string) error {
	if err := in.end(sig); err != nil {
		return err
	}
	in.mu.Lock()
	in.extra = extra
	in.mu.Unlock()
	return in.start()
}

// replace starts another program in the place of the one that runs.
func (in *instance) replace(bin string) error {
	if err := in.end(syscall.SIGTERM); err != nil {
		return err
	}
	in.mu.Lock()
	in.bin = bin
	in.mu.Unlock()
	return in.start()
}

// program is what runs, or ran last.
func (in *instance) program() string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.bin
}

// pid of the process, 0 while it is down. It waits for nobody.
func (in *instance) pid() int { return int(in.number.Load()) }

// signal freezes or wakes the process.
func (in *instance) signal(sig syscall.Signal) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.proc == nil {
		return nil
	}
	return in.proc.Cmd.Process.Signal(sig)
}

func (in *instance) running() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.proc != nil
}

// adminTimeout is for an instance that is frozen.
const adminTimeout = 2 * time.Second

// admin returns the running instance, for questions to its admin listener.
func (in *instance) admin() (*ssedtest.Instance, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.proc == nil {
		return nil, fmt.Errorf("chaos: %s is down", in.name())
	}
	return in.proc, nil
}

// ready is what /ready says; nil: it serves.
func (in *instance) ready() error {
	p, err := in.admin()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
	defer cancel()
	if err := p.Ready(ctx); err != nil {
		return fmt.Errorf("chaos: %s: %w", in.name(), err)
	}
	return nil
}

// metric returns the sum of a metric over its labels.
func (in *instance) metric(name string) (float64, error) {
	p, err := in.admin()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
	defer cancel()
	return p.Metric(ctx, name)
}
