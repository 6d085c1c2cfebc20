//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"ssed/internal/child"
	"ssed/internal/redistest"
	"ssed/internal/ssedtest"
	"ssed/loadtest/neighbour"
	"ssed/loadtest/refserver"
	"ssed/loadtest/swarm"
	"ssed/loadtest/target"
)

// server is one side of a comparison. start returns a target that is ready and
// what ends it; a target that was running before is only looked at.
type server struct {
	name string
	// extra are further arguments of ssed.
	start func(ctx context.Context, extra ...string) (target.Target, func(), error)
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
		list = append(list, server{t.Name, func(context.Context, ...string) (target.Target, func(), error) { return t, func() {}, nil }})
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
		return server{name, func(context.Context, ...string) (target.Target, func(), error) { return startOwn(name) }}, nil
	case o.SsedBin == "":
		return server{}, errors.New("--with ssed needs --ssed-bin")
	case o.Redis:
		return server{name, o.startSsedOnRedis}, nil
	}
	return server{name, func(ctx context.Context, extra ...string) (target.Target, func(), error) {
		return o.launchSsed(ctx, heartbeat, extra...)
	}}, nil
}

// killAfter is how long a child may take to end by itself.
const killAfter = 5 * time.Second

// stopProcess asks a process to end, and kills it when it takes long: it is a part of a
// measurement that is over, so how it ends does not matter.
func stopProcess(p *child.Process) { _ = p.Stop(syscall.SIGTERM, killAfter) }

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
	cmd := exec.Command(self, append([]string{"serve-" + name, "--beat", heartbeat.String()}, args...)...)
	// A group of its own: an interrupt from the terminal must not end it in the middle
	// of a measurement.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log := &tail{}
	cmd.Stderr = log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return t, nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return t, nil, err
	}
	told := make(chan []byte, 1)
	p, err := child.Start(cmd, func() {
		out := bufio.NewReader(stdout)
		line, _ := out.ReadBytes('\n') // cut short: it is no JSON
		told <- line
		_, _ = io.Copy(io.Discard, out)
	})
	if err != nil {
		return t, nil, fmt.Errorf("start %s: %w", name, err)
	}
	stop = func() {
		stdin.Close() // the server ends with its input
		stopProcess(p)
	}
	var where announcement
	if err := json.Unmarshal(<-told, &where); err != nil {
		stop()
		return t, nil, fmt.Errorf("start %s: %w %s", name, err, log)
	}
	return target.Target{Name: name, URL: where.URL, Publish: where.Publish, PIDs: []int{cmd.Process.Pid}}, stop, nil
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
	serveNeighbour struct{}
)

// What is measured beside neighbours is the server's work, not theirs.
func (*serveNeighbour) serve(ctx context.Context) error {
	// Each thread has a priority of its own; those to come have that of the thread that makes them.
	threads, _ := os.ReadDir("/proc/self/task")
	for _, t := range threads {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			swarm.GiveWay(tid)
		}
	}
	return neighbour.Serve(ctx, os.Stdin, os.Stdout)
}

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
func (o *options) startSsedOnRedis(ctx context.Context, extra ...string) (target.Target, func(), error) {
	return o.onRedis(func(address string) (target.Target, func(), error) {
		return o.launchSsed(ctx, heartbeat, append(extra, "--redis-url", "redis://"+address)...)
	})
}

// startFloorOnRedis runs the floor on a private Redis; messages are published there.
func (o *options) startFloorOnRedis(context.Context, ...string) (target.Target, func(), error) {
	return o.onRedis(func(address string) (target.Target, func(), error) {
		t, stop, err := startOwn("floor", "--subscribe", address)
		t.Name = floorRedis
		return t, stop, err
	})
}

// onRedis starts a server that gets its messages from a Redis of its own.
func (o *options) onRedis(start func(address string) (target.Target, func(), error)) (target.Target, func(), error) {
	redis, remove, err := o.startRedis()
	if err != nil {
		return target.Target{}, nil, err
	}
	t, stop, err := start(redis.Addr())
	if err != nil {
		remove()
		return t, nil, err
	}
	t.Publish, t.RedisPIDs = redis.URL(), []int{redis.Pid()}
	return t, func() { stop(); remove() }, nil
}

// launchSsed runs ssed; without Redis messages are posted to its admin listener.
func (o *options) launchSsed(ctx context.Context, beat time.Duration, extra ...string) (t target.Target, stop func(), err error) {
	args := slices.Concat([]string{"--drain", "10ms", "--heartbeat", beat.String()}, extra, o.SsedArg)
	in, err := ssedtest.Start(o.SsedBin, ssedtest.Options{}, args...)
	if err != nil {
		return t, nil, err
	}
	stop = func() { stopProcess(in.Process) }
	if err := in.AwaitReady(ctx); err != nil {
		stop()
		return t, nil, err
	}
	return target.Target{
		Name:    "ssed",
		URL:     "http://" + in.Public() + "/sse/connect?channel_id={channel}",
		Publish: "http://" + in.Admin() + "/publish?channel_id={channel}",
		PIDs:    []int{in.Pid()},
		Resumes: true,
	}, stop, nil
}

// startRedis runs a Redis that keeps nothing. remove ends it.
func (o *options) startRedis() (r *redistest.Server, remove func(), err error) {
	dir, err := os.MkdirTemp("", "ssed-load-")
	if err != nil {
		return nil, nil, err
	}
	if r, err = redistest.RunProgram(o.RedisBin, dir, 0); err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return r, func() { r.Stop(); _ = os.RemoveAll(dir) }, nil
}

// poll calls f until it succeeds or ctx ends.
func poll(ctx context.Context, f func() error) error {
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
