// Package child runs programs beside this one and leaves none of them behind.
package child

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Process is a program that was started. Its methods may be called from several
// goroutines.
type Process struct {
	Cmd  *exec.Cmd // its ProcessState may be read when Done is closed
	done chan struct{}
}

// Start starts a program that ends with this one: should this one die, the kernel kills
// it. Unless it is nil, along is called while the program runs, and has to return when the
// program's output ends: a pipe must be read to its end before the program is waited for.
func Start(cmd *exec.Cmd, along func()) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	endWithParent(cmd.SysProcAttr)
	p := &Process{Cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go p.run(along, started)
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// run keeps its thread for itself: the kernel takes the end of the thread that started a
// process for the end of its parent.
func (p *Process) run(along func(), started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.Cmd.Start()
	started <- err
	if err != nil {
		return
	}
	if along != nil {
		along()
	}
	_ = p.Cmd.Wait() // the state tells
	close(p.done)
}

// Done is closed when the program has ended and along has returned.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exited reports whether Done is closed.
func (p *Process) Exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Signal sends a signal, to nobody if the program has ended.
func (p *Process) Signal(sig syscall.Signal) { _ = p.Cmd.Process.Signal(sig) }

// Stop sends a signal, which a frozen program gets too, and waits for the end. A program
// that takes longer than after is killed, with its group if it has one of its own, and
// that is an error.
func (p *Process) Stop(sig syscall.Signal, after time.Duration) error {
	p.Signal(sig)
	p.Signal(syscall.SIGCONT)
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
	}
	p.Signal(syscall.SIGKILL)
	if p.Cmd.SysProcAttr.Setpgid {
		_ = syscall.Kill(-p.Cmd.Process.Pid, syscall.SIGKILL) // it may have been alone
	}
	<-p.done
	return fmt.Errorf("%s did not end in %v after %v", p.Cmd.Path, after, sig)
}

// Environ is the environment of this program without what ssed would take for settings.
func Environ() (env []string) {
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "SSED_") {
			env = append(env, v)
		}
	}
	return env
}
