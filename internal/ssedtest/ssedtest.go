// Package ssedtest builds the program and runs it beside tests, benchmarks and load:
//
//	in, err := ssedtest.Start(bin, ssedtest.Options{}, "--redis-url", url)
//	err = in.AwaitReady(ctx)
//	n, err := in.Metric("ssed_streams")
//	err = in.Stop(syscall.SIGTERM, ssedtest.StopTimeout)
//
// Each instance listens on free ports of 127.0.0.1 and tells them in its log, so that
// no port is chosen before it is bound. It ends with the process that started it.
package ssedtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"ssed/internal/child"
)

const (
	// StartTimeout bounds the wait for the addresses and for /ready. A start takes
	// 30 ms; beside busy processes, with the race detector, seconds.
	StartTimeout = 30 * time.Second
	// StopTimeout is above a short drain and the 4.5 s that follow it.
	StopTimeout = 20 * time.Second
	// pollInterval is the pause between two looks at a condition.
	pollInterval = 5 * time.Millisecond
	// maxLine bounds a line of the log: a panic of many goroutines fits in.
	maxLine = 1 << 20
)

// Build compiles cmd/ssed into the file to, without debug information: so it links faster.
// Args are arguments of go build, for example "-race". It works from every module that
// requires this one. The program that go run makes stays in the cache of the compiler: go build
// would link it for each caller anew.
func Build(to string, args ...string) error {
	self := reflect.TypeFor[Instance]().PkgPath()
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", self).Output()
	if err != nil {
		return fmt.Errorf("ssedtest: go list %s: %w", self, err)
	}
	if to, err = filepath.Abs(to); err != nil {
		return err
	}
	cmd := exec.Command("go", slices.Concat([]string{"run", "-buildvcs=false", "-ldflags=-s -w", "-exec", "cp -f"}, args, []string{"./cmd/ssed", to})...)
	cmd.Dir = filepath.Join(strings.TrimSpace(string(dir)), "..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ssedtest: go run: %w\n%s", err, out)
	}
	return nil
}

// Options say how an instance runs. The zero value is fine.
type Options struct {
	// Env is the environment; nil: that of this process without SSED_ settings.
	Env []string
	// Log gets the lines of the log and is closed behind the last; nil: Instance.Log
	// keeps them.
	Log io.WriteCloser
}

// Instance is a running ssed. Its methods may be called from several goroutines.
type Instance struct {
	*child.Process

	addresses chan struct{} // closed when public and admin are known

	mu            sync.Mutex
	public, admin string       // guarded by mu
	log           bytes.Buffer // guarded by mu
}

// Start runs the program and returns when it listens. Args are flags; without a
// --listen among them it listens on a free port.
func Start(bin string, o Options, args ...string) (*Instance, error) {
	in, err := Launch(bin, o, args...)
	if err != nil {
		return nil, err
	}
	if err := in.AwaitAddresses(); err != nil {
		return nil, errors.Join(err, in.Stop(syscall.SIGKILL, StopTimeout))
	}
	return in, nil
}

// Launch runs the program and does not wait for it.
func Launch(bin string, o Options, args ...string) (*Instance, error) {
	in := &Instance{addresses: make(chan struct{})}
	cmd := exec.Command(bin, arguments(args)...)
	// A group of its own: an interrupt from the terminal goes to the caller alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if cmd.Env = o.Env; cmd.Env == nil {
		cmd.Env = child.Environ()
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = keeper{in}
	}
	if in.Process, err = child.Start(cmd, func() { in.read(stderr, o.Log) }); err != nil {
		o.Log.Close()
		return nil, fmt.Errorf("ssedtest: start %s: %w", bin, err)
	}
	return in, nil
}

// arguments puts the caller's last, where they override.
func arguments(args []string) []string {
	first := []string{"--admin", "127.0.0.1:0", "--log-format", "json"}
	if !slices.Contains(args, "--listen") { // a list: a default would be added to it
		first = append(first, "--listen", "127.0.0.1:0")
	}
	return append(first, args...)
}

// keeper is the log of an instance as a writer.
type keeper struct{ in *Instance }

func (k keeper) Write(b []byte) (int, error) {
	k.in.mu.Lock()
	defer k.in.mu.Unlock()
	return k.in.log.Write(b)
}

func (keeper) Close() error { return nil }

// read copies the log to its end and takes the first address of each listener from it.
func (in *Instance) read(from io.Reader, to io.WriteCloser) {
	defer to.Close() // a log that is cut short fails nothing
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, maxLine)
	known := false
	for lines.Scan() {
		_, _ = to.Write(append(lines.Bytes(), '\n')) // a log that cannot be kept fails nothing
		if !known && in.note(lines.Bytes()) {
			known = true
			close(in.addresses)
		}
	}
	_, _ = io.Copy(io.Discard, from) // after a line over maxLine: a full pipe would stop the program
}

// note takes an address from a line and reports whether all are known.
func (in *Instance) note(line []byte) bool {
	var entry struct{ Listener, Addr string }
	if json.Unmarshal(line, &entry) != nil {
		return false
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case entry.Listener == "streams" && in.public == "":
		in.public = entry.Addr
	case entry.Listener == "admin" && in.admin == "":
		in.admin = entry.Addr
	}
	return in.public != "" && in.admin != ""
}

// AwaitAddresses returns when Public and Admin are known, or the program has ended.
func (in *Instance) AwaitAddresses() error {
	timer := time.NewTimer(StartTimeout)
	defer timer.Stop()
	select {
	case <-in.addresses:
		return nil
	case <-in.Done():
	case <-timer.C:
	}
	return fmt.Errorf("ssedtest: ssed does not listen: %s", in.lastLog())
}

// lastLog is the end of the log, for an error.
func (in *Instance) lastLog() string {
	text := in.Log()
	return strings.TrimSpace(text[max(0, len(text)-2000):])
}

// Public returns the address of the first public listener, "127.0.0.1:port".
func (in *Instance) Public() string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.public
}

// Admin returns the address of the admin listener.
func (in *Instance) Admin() string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.admin
}

// Pid returns the process id, which stays after the end.
func (in *Instance) Pid() int { return in.Cmd.Process.Pid }

// Log returns what the program logged so far; nothing with Options.Log.
func (in *Instance) Log() string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.log.String()
}

// Client opens a connection for each request and shares nothing between tests.
// It has no timeout of its own: streams go through it too.
var Client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}

// Get asks the admin listener for a path.
func (in *Instance) Get(ctx context.Context, path string) (status int, body string, err error) {
	return Get(ctx, "http://"+in.Admin()+path)
}

// Get asks for a URL and reads the answer to its end, within StartTimeout.
func Get(ctx context.Context, url string) (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, StartTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := Client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// Ready returns nil when the instance serves, else what /ready says.
func (in *Instance) Ready(ctx context.Context) error {
	status, body, err := in.Get(ctx, "/ready")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("ssedtest: not ready: %s", strings.TrimSpace(body))
	}
	return err
}

// AwaitReady returns when the instance serves. It fails when the program ends or
// StartTimeout is over.
func (in *Instance) AwaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, StartTimeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := in.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-in.Done():
			return fmt.Errorf("ssedtest: ssed ended: %s", in.lastLog())
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", err, in.lastLog())
		}
	}
}

// Metric returns the sum of a metric over its labels.
func (in *Instance) Metric(ctx context.Context, name string) (float64, error) {
	status, text, err := in.Get(ctx, "/metrics")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("ssedtest: GET /metrics answers %d", status)
	}
	if err != nil {
		return 0, err
	}
	return Sum(text, name)
}

// Sum adds up a metric over its labels in the text of /metrics. Without one such line
// it fails.
func Sum(text, name string) (sum float64, err error) {
	found := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line != name && !strings.HasPrefix(line, name+" ") && !strings.HasPrefix(line, name+"{") {
			continue
		}
		value := line[strings.LastIndexByte(line, ' ')+1:] // labels may hold spaces
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("ssedtest: metric %s: %w", name, err)
		}
		sum, found = sum+v, true
	}
	if !found {
		return 0, fmt.Errorf("ssedtest: no metric %s", name)
	}
	return sum, nil
}
