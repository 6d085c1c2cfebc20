//go:build e2e

package e2e

import (
	"bytes"
	"io"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	// patience is how long a test waits for what should happen at once.
	patience = 30 * time.Second
	// pollInterval is the pause between two looks at a condition.
	pollInterval = 10 * time.Millisecond
)

// eventually polls until the condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not reached: %s", what)
		}
		<-time.After(pollInterval)
	}
}

// process is a program that runs beside a test.
type process struct {
	cmd  *exec.Cmd
	name string
	done chan struct{} // closed when it is reaped

	mu  sync.Mutex
	log bytes.Buffer // guarded by mu: what it wrote to standard error
}

// spawn starts a program. It gets SIGTERM when the test ends, if it still runs. What
// it writes to standard output goes to out, else to the log.
func spawn(t testing.TB, out func(io.Reader), name string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(name, args...), name: name, done: make(chan struct{})}
	// Should the tests die, so does it. A group of its own is for what it forks.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	stderr, err := p.cmd.StderrPipe()
	require.NoError(t, err)
	var readers sync.WaitGroup
	readers.Go(func() { _, _ = io.Copy(p, stderr) })
	if out == nil {
		p.cmd.Stdout = p.cmd.Stderr
	} else {
		stdout, err := p.cmd.StdoutPipe()
		require.NoError(t, err)
		readers.Go(func() { out(stdout) })
	}
	require.NoError(t, p.start(&readers))
	t.Cleanup(func() { p.end(t) })
	return p
}

// start starts the process from a thread that lives as long as it does: the kernel
// sends the death signal when the parent thread ends.
func (p *process) start(readers *sync.WaitGroup) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		readers.Wait()
		_ = p.cmd.Wait() // the state tells
		close(p.done)
	}()
	return <-started
}

// Write takes standard error.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *process) logText() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) } // it may have ended

func (p *process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// wait returns the exit code.
func (p *process) wait(t testing.TB) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("%s still runs\n%s", p.name, p.logText())
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) end(t testing.TB) {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Errorf("%s did not end on SIGTERM", p.name)
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
	}
	if t.Failed() {
		t.Logf("%s said:\n%s", p.name, p.logText())
	}
}
