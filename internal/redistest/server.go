package redistest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ssed/internal/child"
)

// ErrNotInstalled is returned when the server's program is not there.
var ErrNotInstalled = errors.New("redistest: the server's program is not there (Debian: apt-get install redis-server; see REDIS_SERVER)")

const (
	// startTimeout bounds the wait for the first PONG: a start takes about 20 ms,
	// loading an append-only file or a crowded machine more.
	startTimeout = 30 * time.Second
	// stopTimeout is how long SIGTERM may take before SIGKILL.
	stopTimeout = 10 * time.Second
	// pollInterval is the pause between two attempts to connect.
	pollInterval = 5 * time.Millisecond
	// The ports lie below the range from which Linux takes source ports (32768
	// and up). Inside it a client that dials a stopped server again and again may
	// be given the very port as its source, connects to itself, and the server
	// cannot bind any more.
	portLow, portHigh = 12000, 32000
)

// Server is one redis-server process, or its place while it is stopped. Its
// methods may be called from several goroutines.
type Server struct {
	// Fixed after construction.
	bin  string
	dir  string
	port int
	args []string
	// Of a node of a cluster: where clients and other nodes find it.
	announced, announcedBus int

	pid atomic.Int64 // 0 while stopped

	mu   sync.Mutex
	proc *child.Process // nil while stopped
}

// Start runs a server for the length of a test. Args are arguments of
// redis-server, for example "--appendonly", "yes" or "--replicaof", "127.0.0.1 7000".
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	s, err := Run(t.TempDir(), 0, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s
}

// Run starts a server with its files in dir, which must exist, and returns when
// it answers PING. Port 0 picks a free one. The caller ends it with Stop or Kill;
// should the caller die, the kernel kills it.
func Run(dir string, port int, args ...string) (*Server, error) {
	return RunProgram(Program(), dir, port, args...)
}

// Program is what servers run on: a path, or a name in PATH. The environment variable
// REDIS_SERVER names another one than redis-server, such as valkey-server.
func Program() string { return cmp.Or(os.Getenv("REDIS_SERVER"), "redis-server") }

// RunProgram is Run with another program: a path, or a name in PATH, of a server that
// takes the arguments of redis-server.
func RunProgram(bin, dir string, port int, args ...string) (*Server, error) {
	if port != 0 {
		s := &Server{bin: bin, dir: dir, port: port, args: args}
		return s, s.Restart()
	}
	// Another process may take the port between the look and the bind.
	var err error
	for range 5 {
		if port, err = FreePort(); err != nil {
			return nil, err
		}
		s := &Server{bin: bin, dir: dir, port: port, args: args}
		if err = s.Restart(); err == nil {
			return s, nil
		}
		if errors.Is(err, ErrNotInstalled) {
			break
		}
	}
	return nil, err
}

// givenPorts are those that FreePort has returned: tests that run side by side, or ask for
// several at once, would get the same one in some runs of thousands.
var givenPorts sync.Map

// FreePort returns a port of 127.0.0.1 on which nobody listens, outside the
// range of source ports. It returns none twice.
func FreePort() (int, error) {
	err := errors.New("all were given away")
	for range 1000 {
		port := portLow + rand.IntN(portHigh-portLow)
		if _, given := givenPorts.LoadOrStore(port, true); given {
			continue
		}
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("redistest: no free port: %w", err)
}

// Addr returns "127.0.0.1:port".
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// AnnouncedAddr returns where a node of a cluster says that it is found: Addr, unless it is
// behind a Front.
func (s *Server) AnnouncedAddr() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(cmp.Or(s.announced, s.port)))
}

// URL returns "redis://127.0.0.1:port".
func (s *Server) URL() string { return "redis://" + s.Addr() }

// Port returns the port, which stays the same over restarts.
func (s *Server) Port() int { return s.port }

// Dir returns the directory of the server's files.
func (s *Server) Dir() string { return s.dir }

// Pid returns the process id, or 0 while the server is stopped. It waits for nobody, also
// while the server starts.
func (s *Server) Pid() int { return int(s.pid.Load()) }

// Restart stops the server if it runs and starts it on the same port. The data
// are kept when the args enable persistence, else gone.
func (s *Server) Restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopLocked(syscall.SIGTERM)
	p, err := s.launch()
	if err != nil {
		return err
	}
	s.proc = p
	if err := s.waitReady(p); err != nil {
		s.stopLocked(syscall.SIGKILL)
		return err
	}
	return nil
}

// Stop ends the server with SIGTERM, which lets it save if it is set up to, and
// waits for it.
func (s *Server) Stop() { s.stop(syscall.SIGTERM) }

// Kill ends the server with SIGKILL, as a crash would, and waits for it.
func (s *Server) Kill() { s.stop(syscall.SIGKILL) }

// Pause freezes the server with SIGSTOP: connections stay open, nothing answers.
func (s *Server) Pause() error { return s.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *Server) Resume() error { return s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return fmt.Errorf("redistest: %v to a stopped server", sig)
	}
	return s.proc.Cmd.Process.Signal(sig)
}

func (s *Server) stop(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopLocked(sig)
}

func (s *Server) stopLocked(sig syscall.Signal) {
	p := s.proc
	if p == nil {
		return
	}
	s.proc = nil
	s.pid.Store(0)
	_ = p.Stop(sig, stopTimeout) // it has ended, one way or the other
}

func (s *Server) launch() (*child.Process, error) {
	path, err := exec.LookPath(s.bin)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotInstalled, err)
	}
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(path, s.arguments()...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	p, err := child.Start(cmd, nil)
	if err != nil {
		return nil, fmt.Errorf("redistest: start %s: %w", path, err)
	}
	s.pid.Store(int64(p.Cmd.Process.Pid))
	return p, nil
}

// arguments puts the caller's args last, where they override.
func (s *Server) arguments() []string {
	return append([]string{
		"--bind", "127.0.0.1", "--port", strconv.Itoa(s.port), "--dir", s.dir,
		"--save", "", "--appendonly", "no", "--daemonize", "no",
		// A stopped primary would otherwise wait 10 s for its replicas.
		"--shutdown-timeout", "0",
		"--repl-diskless-sync-delay", "0",
	}, s.args...)
}

func (s *Server) logPath() string { return filepath.Join(s.dir, "redis-"+strconv.Itoa(s.port)+".log") }

// waitReady polls until the server answers PING.
func (s *Server) waitReady(p *child.Process) error {
	deadline := time.Now().Add(startTimeout)
	for {
		reply, err := s.Do("PING")
		if err == nil && reply == "PONG" && !s.isAnother(p) {
			return nil
		}
		select {
		case <-p.Done():
			return fmt.Errorf("redistest: %s on port %d ended at start: %s", s.bin, s.port, s.lastLog())
		case <-time.After(pollInterval):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("redistest: no PONG from %s in %v: %w: %s", s.Addr(), startTimeout, err, s.lastLog())
		}
	}
}

// isAnother tells that not p answers on the port: of two servers that start at once, the
// second finds the port taken, and a PING to it is answered by the first.
func (s *Server) isAnother(p *child.Process) bool {
	reply, err := s.Do("INFO", "server")
	if err != nil {
		return false
	}
	text, _ := reply.(string)
	_, id, ok := strings.Cut(text, "\nprocess_id:")
	id, _, _ = strings.Cut(id, "\r")
	return ok && id != strconv.Itoa(p.Cmd.Process.Pid)
}

// lastLog returns the last lines of the server's log for an error.
func (s *Server) lastLog() []byte {
	b, err := os.ReadFile(s.logPath())
	if err != nil {
		return []byte(err.Error())
	}
	return bytes.TrimSpace(b[max(0, len(b)-600):])
}
