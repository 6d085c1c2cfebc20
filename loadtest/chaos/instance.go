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
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ssed/internal/child"
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
	proc  *child.Process // guarded by mu; nil while down
	extra []string       // guarded by mu: arguments of the next start
	runs  int            // guarded by mu
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
	cmd := exec.Command(in.bin, append(in.args, in.extra...)...)
	cmd.Env = child.Environ()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return errors.Join(err, log.Close())
	}
	listening := make(chan struct{})
	p, err := child.Start(cmd, func() {
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
	case <-p.Done():
	case <-time.After(startTimeout):
	}
	in.endLocked(syscall.SIGKILL)
	return fmt.Errorf("chaos: %s does not listen, see %s", in.name(), log.Name())
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
