//go:build e2e

package e2e

import (
	"bytes"
	"io"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/child"
)

const (
	// patience is how long a test waits for what should happen at once.
	patience = time.Minute
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
	*child.Process
	name string

	mu  sync.Mutex
	log bytes.Buffer // guarded by mu: what it wrote to standard error
}

// spawn starts a program. It gets SIGTERM when the test ends, if it still runs. What
// it writes to standard output goes to out, else to the log.
func spawn(t testing.TB, out func(io.Reader), name string, args ...string) *process {
	t.Helper()
	p := &process{name: name}
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // with what it forks
	cmd.Env = child.Environ()
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	var readers sync.WaitGroup
	readers.Go(func() { _, _ = io.Copy(p, stderr) })
	if out == nil {
		cmd.Stdout = cmd.Stderr
	} else {
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		readers.Go(func() { out(stdout) })
	}
	p.Process, err = child.Start(cmd, readers.Wait)
	require.NoError(t, err)
	t.Cleanup(func() { p.end(t) })
	return p
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

// wait returns the exit code.
func (p *process) wait(t testing.TB) int {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(patience):
		t.Fatalf("%s still runs\n%s", p.name, p.logText())
	}
	return p.Cmd.ProcessState.ExitCode()
}

func (p *process) end(t testing.TB) {
	if err := p.Stop(syscall.SIGTERM, patience); err != nil {
		t.Error(err)
	}
	if t.Failed() {
		t.Logf("%s said:\n%s", p.name, p.logText())
	}
}
