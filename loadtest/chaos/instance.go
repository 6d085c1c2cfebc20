package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// instance is one ssed process, or its place while it is down.
type instance struct {
	// Fixed after construction.
	index  int
	bin    string
	dir    string
	args   []string
	public atomic.Pointer[string] // address of the streams; nil while down
	admin  atomic.Pointer[string]

	mu    sync.Mutex
	proc  *process // guarded by mu; nil while down
	extra []string // guarded by mu: arguments of the next start
	runs  int      // guarded by mu
}

// process is one run of the program.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process is reaped and its log is read
}

// start starts the process, which ends with this program. While it runs, along is
// called once and has to return when the output ends.
func (p *process) start(along func()) error {
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The death signal comes when the thread that started the process ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			along()
			_ = p.cmd.Wait() // the way it ended is in the plan
			close(p.done)
		}
	}()
	return <-started
}

const (
	startTimeout = 20 * time.Second
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
	p := &process{cmd: exec.Command(in.bin, append(in.args, in.extra...)...), done: make(chan struct{})}
	p.cmd.Env = environment()
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return errors.Join(err, log.Close())
	}
	listening := make(chan struct{})
	err = p.start(func() {
		in.readLog(stderr, log, listening)
		_ = log.Close() // a log that is cut short fails nothing
	})
	if err != nil {
		return errors.Join(fmt.Errorf("chaos: start %s: %w", in.bin, err), log.Close())
	}
	in.proc = p
	select {
	case <-listening:
		return nil
	case <-p.done:
	case <-time.After(startTimeout):
	}
	in.endLocked(syscall.SIGKILL)
	return fmt.Errorf("chaos: %s does not listen, see %s", in.name(), log.Name())
}

// environment leaves out what would change the flags of ssed.
func environment() (env []string) {
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "SSED_") {
			env = append(env, v)
		}
	}
	return env
}

// readLog copies the log and takes the addresses from it.
func (in *instance) readLog(from io.Reader, to io.Writer, listening chan struct{}) {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<20)
	told := false
	for lines.Scan() {
		_, _ = to.Write(append(lines.Bytes(), '\n')) // a log that can not be kept fails nothing
		var entry struct{ Msg, Listener, Addr string }
		if told || json.Unmarshal(lines.Bytes(), &entry) != nil {
			continue
		}
		switch entry.Listener {
		case "streams":
			in.public.Store(&entry.Addr)
		case "admin":
			in.admin.Store(&entry.Addr)
		}
		if in.public.Load() != nil && in.admin.Load() != nil {
			told = true
			close(listening)
		}
	}
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
	in.admin.Store(nil)
	_ = p.cmd.Process.Signal(sig)
	_ = p.cmd.Process.Signal(syscall.SIGCONT) // it may be frozen
	select {
	case <-p.done:
		return nil
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("chaos: %s did not end in %v after %v", in.name(), stopTimeout, sig)
	}
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

// signal freezes or wakes the process.
func (in *instance) signal(sig syscall.Signal) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.proc == nil {
		return nil
	}
	return in.proc.cmd.Process.Signal(sig)
}

func (in *instance) running() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.proc != nil
}

var adminClient = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// get asks the admin listener.
func (in *instance) get(path string) (status int, body []byte, err error) {
	addr := in.admin.Load()
	if addr == nil {
		return 0, nil, fmt.Errorf("chaos: %s is down", in.name())
	}
	resp, err := adminClient.Get("http://" + *addr + path)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	return resp.StatusCode, body, err
}

// ready is what /ready says; nil: it serves.
func (in *instance) ready() error {
	status, body, err := in.get("/ready")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("chaos: %s is not ready: %s", in.name(), strings.TrimSpace(string(body)))
	}
	return err
}

// metric returns the sum of a metric over its labels.
func (in *instance) metric(name string) (sum float64, err error) {
	_, text, err := in.get("/metrics")
	if err != nil {
		return 0, err
	}
	found := false
	for line := range strings.Lines(string(text)) {
		id, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if id != name && !strings.HasPrefix(id, name+"{") {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("chaos: metric %s: %w", name, err)
		}
		sum, found = sum+v, true
	}
	if !found {
		return 0, fmt.Errorf("chaos: %s has no metric %s", in.name(), name)
	}
	return sum, nil
}
