package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"ssed/loadtest/refserver"
	"ssed/loadtest/target"
)

// server is one side of a comparison. start returns a target that is ready and
// what ends it; a target that was running before is only looked at.
type server struct {
	name  string
	start func(ctx context.Context) (target.Target, func(), error)
}

// servers lists the sides in the order of the flags. It refuses what is not on
// this host.
func (o *options) servers() (list []server, err error) {
	with := o.With
	if o.Only && slices.Equal(with, []string{"floor"}) {
		with = nil
	}
	if i := slices.Index(with, "floor"); i >= 0 && o.Redis {
		with = slices.Insert(slices.Clone(with), i+1, floorRedis)
	}
	for _, name := range with {
		s, err := o.builtin(name)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	for _, text := range o.Target {
		t, err := target.Parse(text)
		if err != nil {
			return nil, err
		}
		if err := t.CheckLoopback(); err != nil && (!errors.Is(err, target.ErrNotLoopback) || !o.IOwnThisHost) {
			return nil, fmt.Errorf("%w; a load test of a host that is not yours is an attack: give --i-own-this-host if it is", err)
		}
		list = append(list, server{t.Name, func(context.Context) (target.Target, func(), error) { return t, func() {}, nil }})
	}
	names := map[string]bool{}
	for _, s := range list {
		if names[s.name] {
			return nil, fmt.Errorf("two targets are called %q", s.name)
		}
		names[s.name] = true
	}
	if len(list) == 0 {
		return nil, errors.New("nothing to measure: give --with or --target")
	}
	return list, nil
}

// floorRedis is the floor behind a private Redis: the way in that ssed has there.
const floorRedis = "floor-redis"

func (o *options) builtin(name string) (server, error) {
	switch {
	case name == floorRedis:
		return server{name, o.startFloorOnRedis}, nil
	case name != "ssed":
		return server{name, func(context.Context) (target.Target, func(), error) { return startOwn(name) }}, nil
	case o.SsedBin == "":
		return server{}, errors.New("--with ssed needs --ssed-bin")
	case o.Redis:
		return server{name, o.startSsedOnRedis}, nil
	}
	return server{name, func(ctx context.Context) (target.Target, func(), error) { return o.launchSsed(ctx, heartbeat) }}, nil
}

// process is a child that ends with this program: it is told to by the kernel
// when the thread that started it is gone, and it has its own group so that an
// interrupt from the terminal does not end it in the middle of a measurement.
type process struct {
	cmd  *exec.Cmd
	log  *tail
	wait func() error // waits for the end, any number of times
}

func startProcess(name string, args, env []string, setUp func(*exec.Cmd) error) (*process, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &process{cmd: cmd, log: &tail{}}
	cmd.Stderr = p.log
	if setUp != nil {
		if err := setUp(cmd); err != nil {
			return nil, err
		}
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(name), err)
	}
	p.wait = sync.OnceValue(cmd.Wait)
	return p, nil
}

// killAfter is how long a child may take to end by itself.
const killAfter = 5 * time.Second

// stop asks the process to end and waits for it.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(killAfter, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	_ = p.wait() // it was asked to end; how does not matter
}

// tail keeps the end of what a child wrote, to be shown when it fails.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailBytes = 2 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if extra := len(t.b) - tailBytes; extra > 0 {
		t.b = append(t.b[:0], t.b[extra:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.b))
}

// announcement is the line with which the built-in servers tell where they are.
type announcement struct {
	URL     string `json:"url"`
	Publish string `json:"publish"`
}

// startOwn runs a built-in server as a process of its own.
func startOwn(name string, args ...string) (t target.Target, stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return t, nil, err
	}
	stdout, stdin := io.ReadCloser(nil), io.WriteCloser(nil)
	args = append([]string{"serve-" + name, "--beat", heartbeat.String()}, args...)
	p, err := startProcess(self, args, os.Environ(), func(cmd *exec.Cmd) (err error) {
		if stdin, err = cmd.StdinPipe(); err != nil {
			return err
		}
		stdout, err = cmd.StdoutPipe()
		return err
	})
	if err != nil {
		return t, nil, err
	}
	stop = func() {
		stdin.Close() // the server ends with its input
		p.stop()
	}
	var where announcement
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &where)
	}
	if err != nil {
		stop()
		return t, nil, fmt.Errorf("start %s: %w %s", name, err, p.log)
	}
	return target.Target{Name: name, URL: where.URL, Publish: where.Publish, PIDs: []int{p.cmd.Process.Pid}}, stop, nil
}

// heartbeat is the longest silence on a stream of every server that is started
// here: ssed's default. Servers that write at different times cost different
// amounts while idle.
const heartbeat = 15 * time.Second

type (
	serveFloor struct {
		Beat      time.Duration `help:"Longest silence on a stream." required:""`
		Subscribe string        `help:"Address of a Redis to get messages from."`
	}
	serveNaive struct {
		Beat time.Duration `help:"Time from one heartbeat to the next." required:""`
	}
)

func (sf *serveFloor) serve(ctx context.Context) error {
	var redis netip.AddrPort
	if sf.Subscribe != "" {
		var err error
		if redis, err = netip.ParseAddrPort(sf.Subscribe); err != nil {
			return err
		}
	}
	f, err := refserver.StartFloorOnRedis(sf.Beat, redis)
	if err != nil {
		return err
	}
	defer f.Close()
	return announce(ctx, f.URL, f.PublishURL)
}

func (sn *serveNaive) serve(ctx context.Context) error {
	n, err := refserver.StartNaive(sn.Beat)
	if err != nil {
		return err
	}
	defer n.Close()
	return announce(ctx, n.URL, n.PublishURL)
}

// announce tells the parent the addresses and returns when it is time to end: at
// the end of the input, or of ctx.
func announce(ctx context.Context, url, publish string) error {
	if err := json.NewEncoder(os.Stdout).Encode(announcement{url, publish}); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // any end will do
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	return nil
}

// startSsedOnRedis runs ssed on a private Redis; messages are published there.
func (o *options) startSsedOnRedis(ctx context.Context) (target.Target, func(), error) {
	return o.onRedis(ctx, func(address string) (target.Target, func(), error) {
		return o.launchSsed(ctx, heartbeat, "--redis-url", "redis://"+address)
	})
}

// startFloorOnRedis runs the floor on a private Redis; messages are published there.
func (o *options) startFloorOnRedis(ctx context.Context) (target.Target, func(), error) {
	return o.onRedis(ctx, func(address string) (target.Target, func(), error) {
		t, stop, err := startOwn("floor", "--subscribe", address)
		t.Name = floorRedis
		return t, stop, err
	})
}

// onRedis starts a server that gets its messages from a Redis of its own.
func (o *options) onRedis(ctx context.Context, start func(address string) (target.Target, func(), error)) (target.Target, func(), error) {
	address, redis, err := o.startRedis(ctx)
	if err != nil {
		return target.Target{}, nil, err
	}
	t, stop, err := start(address)
	if err != nil {
		redis.stop()
		return t, nil, err
	}
	t.Publish, t.RedisPIDs = "redis://"+address, []int{redis.cmd.Process.Pid}
	return t, func() { stop(); redis.stop() }, nil
}

// launchSsed runs ssed; without Redis messages are posted to its admin listener.
func (o *options) launchSsed(ctx context.Context, beat time.Duration, extra ...string) (t target.Target, stop func(), err error) {
	public, err := freeAddress()
	if err != nil {
		return t, nil, err
	}
	admin, err := freeAddress()
	if err != nil {
		return t, nil, err
	}
	// Settings of this shell must not change what is measured.
	env := slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "SSED_") })
	args := slices.Concat([]string{"--listen", public, "--admin", admin, "--drain", "10ms", "--heartbeat", beat.String()}, extra, o.SsedArg)
	p, err := startProcess(o.SsedBin, args, env, nil)
	if err != nil {
		return t, nil, err
	}
	if err := awaitReady(ctx, "http://"+public+"/ready"); err != nil {
		p.stop()
		return t, nil, fmt.Errorf("start ssed: %w: %s", err, p.log)
	}
	return target.Target{
		Name:    "ssed",
		URL:     "http://" + public + "/sse/connect?channel_id={channel}",
		Publish: "http://" + admin + "/publish?channel_id={channel}",
		PIDs:    []int{p.cmd.Process.Pid},
		Resumes: true,
	}, p.stop, nil
}

// startRedis runs a Redis that keeps nothing on disk.
func (o *options) startRedis(ctx context.Context) (address string, p *process, err error) {
	if address, err = freeAddress(); err != nil {
		return "", nil, err
	}
	_, port, _ := net.SplitHostPort(address)
	p, err = startProcess(o.RedisBin, []string{
		"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", os.TempDir(),
	}, os.Environ(), nil)
	if err != nil {
		return "", nil, err
	}
	err = poll(ctx, func() error {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err
	})
	if err != nil {
		p.stop()
		return "", nil, fmt.Errorf("start redis-server: %w: %s", err, p.log)
	}
	return address, p, nil
}

// freeAddress finds a port that is free now. Another process may take it before
// the server does; then the server does not start, and that is said.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// startLimit is how long a server may take to get ready.
const startLimit = 15 * time.Second

func awaitReady(ctx context.Context, url string) error {
	return poll(ctx, func() error {
		resp, err := http.Get(url)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New("GET /ready answers " + strconv.Itoa(resp.StatusCode))
		}
		return nil
	})
}

// poll calls f until it succeeds or startLimit is over.
func poll(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}
