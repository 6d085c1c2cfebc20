//go:build linux

package child

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// patience is how long a test waits for what should happen soon.
const patience = time.Minute

// parentRole makes the tests a program that starts another one and waits for it.
const parentRole = "CHILD_TEST_PARENT"

func TestMain(m *testing.M) {
	if os.Getenv(parentRole) != "" {
		cmd := exec.Command("sleep", "1000")
		cmd.Stdout = os.Stdout
		p, err := Start(cmd, nil)
		if err != nil {
			os.Exit(1)
		}
		os.Stdout.WriteString("started\n")
		<-p.Done()
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// shell starts a script that tells when it has set itself up.
func shell(t *testing.T, group bool, script string) *Process {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: group}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	ready := make(chan struct{})
	p, err := Start(cmd, func() {
		in := bufio.NewReader(out)
		_, _ = in.ReadString('\n')
		close(ready)
		_, _ = io.Copy(io.Discard, in)
	})
	require.NoError(t, err)
	t.Cleanup(func() { p.Signal(syscall.SIGKILL); <-p.Done() })
	<-ready
	return p
}

// TestProcessEndsWithItsParent: the pipe ends when the last process that writes to it has ended.
func TestProcessEndsWithItsParent(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), parentRole+"=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, out.(*os.File).SetReadDeadline(time.Now().Add(patience)))
	require.NoError(t, cmd.Start())
	in := bufio.NewReader(out)
	line, err := in.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "started\n", line)
	require.NoError(t, cmd.Process.Kill())
	_, err = io.Copy(io.Discard, in)
	require.NoError(t, err, "the program outlived its parent")
	require.Error(t, cmd.Wait(), "it was killed")
}

func TestProcessOutlivesTheThreadThatStartedIt(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	lines := make(chan string)
	var p *Process
	tid := onThreadThatEnds(t, func() {
		p, err = Start(cmd, func() {
			defer close(lines)
			for s := bufio.NewScanner(out); s.Scan(); {
				lines <- s.Text()
			}
		})
	})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join("/proc/self/task", strconv.Itoa(tid)))
		return os.IsNotExist(err)
	}, patience, time.Millisecond)
	_, err = io.WriteString(in, "still here\n")
	require.NoError(t, err)
	require.Equal(t, "still here", <-lines)
	require.NoError(t, in.Close())
	<-p.Done()
	require.True(t, p.Exited())
	require.True(t, p.Cmd.ProcessState.Success())
}

// onThreadThatEnds runs f on a thread that ends afterwards: that of a goroutine that never
// gives it back. The first thread of a program cannot end.
func onThreadThatEnds(t *testing.T, f func()) (tid int) {
	t.Helper()
	hold := make(chan struct{})
	defer close(hold)
	for tid == 0 {
		done := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			if syscall.Gettid() == os.Getpid() {
				defer runtime.UnlockOSThread()
				close(done)
				<-hold
				return
			}
			tid = syscall.Gettid()
			f()
			close(done)
		}()
		<-done
	}
	return tid
}

func TestStopEndsFrozenProcessesAndKillsThoseThatIgnoreIt(t *testing.T) {
	frozen := shell(t, false, "echo; exec sleep 1000")
	frozen.Signal(syscall.SIGSTOP)
	require.NoError(t, frozen.Stop(syscall.SIGTERM, patience))
	require.NoError(t, frozen.Stop(syscall.SIGTERM, patience), "again")
	deaf := shell(t, false, `trap "" TERM; echo; exec sleep 1000`)
	require.ErrorContains(t, deaf.Stop(syscall.SIGTERM, time.Millisecond), "did not end in 1ms after terminated")
	require.True(t, deaf.Exited())
}

// TestStopKillsTheGroup: what a program has forked holds the pipe open, which along reads.
func TestStopKillsTheGroup(t *testing.T) {
	p := shell(t, true, `trap "" TERM; sleep 1000 & echo; wait`)
	require.Error(t, p.Stop(syscall.SIGTERM, time.Millisecond))
}

func TestProgramThatIsNotThereIsAnError(t *testing.T) {
	_, err := Start(exec.Command("/not/there"), func() { t.Error("nothing to go along with") })
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestEnvironLeavesOutSettings(t *testing.T) {
	t.Setenv("SSED_LISTEN", ":1")
	t.Setenv("CHILD_TEST_OTHER", "x")
	env := Environ()
	require.Contains(t, env, "CHILD_TEST_OTHER=x")
	require.False(t, strings.Contains(strings.Join(env, "\n"), "SSED_"))
}
