//go:build linux

// Package neighbour plays clients that a server does not wish for: readers that do not
// read, storms of connects, heads that never end.
package neighbour

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Kind says how the clients behave.
type Kind string

const (
	// Kinds that stand: Spec.Count connections. One that the server closes comes back.
	NeverReads Kind = "never-reads" // the smallest buffers, and no read
	DripReads  Kind = "drip-reads"  // one byte every dripEvery
	Reads      Kind = "reads"       // all there is, every readEvery
	HalfHead   Kind = "half-head"   // the first half of a request head

	// Kinds that come and go: Spec.Rate a second.
	Connects  Kind = "connects"  // connect, read the head of the answer, leave
	Resets    Kind = "resets"    // the same, ended by a reset at a random byte of either direction
	Resumes   Kind = "resumes"   // come with Spec.LastID, leave behind Spec.Until
	Abandons  Kind = "abandons"  // come with an ID that nobody else has, leave at once
	FreshName Kind = "names"     // as Connects, each on Spec.Each channels of its own
	Pipelines Kind = "pipelines" // pipelined requests that are no streams, then leave
)

const (
	dripEvery = 100 * time.Millisecond
	readEvery = 20 * time.Millisecond
	// lookEvery is how soon a connection that the server closed comes back.
	lookEvery = 100 * time.Millisecond
	// opTimeout ends an operation of a server that does not answer.
	opTimeout = 10 * time.Second
	// maxAtWork bounds the operations under way: what is due beyond them counts as missed.
	maxAtWork = 256
	// pipelined requests go out at once.
	pipelined = 50
	// tightBytes is below what the kernel grants: it takes its smallest buffer.
	tightBytes = 1
)

// Spec is one neighbour.
type Spec struct {
	Kind Kind           `json:"kind"`
	Addr netip.AddrPort `json:"addr"`
	// Request is the head of a stream request without its last empty line, split where
	// the channel goes.
	Request []string `json:"request"`
	// Key joins further channels of one request: "&channel_id=".
	Key     string       `json:"key"`
	Sources []netip.Addr `json:"sources"`
	// Channels are taken in turn, Each of them by one connection; 0: one.
	Channels []string `json:"channels"`
	Each     int      `json:"each"`
	Count    int      `json:"count"`
	Rate     float64  `json:"rate"`
	LastID   string   `json:"last_id"`
	Until    string   `json:"until"`
}

// Result is what a neighbour did.
type Result struct {
	Ready  bool   `json:"ready,omitempty"`
	Opened int64  `json:"opened"` // connections of the kinds that stand, those that came back too
	Done   int64  `json:"done"`   // operations of the other kinds
	Failed int64  `json:"failed"`
	Missed int64  `json:"missed"` // operations that were due while maxAtWork were under way
	Error  string `json:"error,omitempty"`
}

// Serve reads a Spec from in, plays it until in ends, and writes two Results to out:
// one when all connections stand, one at the end.
func Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	dec, enc := json.NewDecoder(in), json.NewEncoder(out)
	var spec Spec
	if err := dec.Decode(&spec); err != nil {
		return fmt.Errorf("neighbour: spec: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, in) // any end will do
		cancel()
	}()
	r, err := Play(ctx, spec, func() error { return enc.Encode(Result{Ready: true}) })
	if err != nil {
		return errors.Join(err, enc.Encode(Result{Error: err.Error()}))
	}
	return enc.Encode(r)
}

// Play is the neighbour in this process, until ctx ends. Ready is called when all
// connections stand.
func Play(ctx context.Context, spec Spec, ready func() error) (Result, error) {
	p := &player{Spec: spec}
	err := p.play(ctx, ready)
	return Result{Opened: p.opened.Load(), Done: p.done.Load(), Failed: p.failed.Load(), Missed: p.missed.Load()}, err
}

// player is a neighbour at work.
type player struct {
	Spec
	serial                       atomic.Uint64
	opened, done, failed, missed atomic.Int64
}

func (p *player) play(ctx context.Context, ready func() error) error {
	switch p.Kind {
	case NeverReads, DripReads, Reads, HalfHead:
		return p.stand(ctx, ready)
	case Connects, Resets, Resumes, Abandons, FreshName, Pipelines:
		if err := ready(); err != nil {
			return err
		}
		p.comeAndGo(ctx)
		return nil
	}
	return fmt.Errorf("neighbour: no kind %q", p.Kind)
}

// dial connects from the next source.
func (p *player) dial(ctx context.Context, tight bool) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: opTimeout, KeepAlive: -1}
	if n := len(p.Sources); n > 0 {
		d.LocalAddr = &net.TCPAddr{IP: p.Sources[p.serial.Add(1)%uint64(n)].AsSlice()}
	}
	if tight { // before the connect, which tells the window
		d.Control = func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, tightBytes) })
		}
	}
	c, err := d.DialContext(ctx, "tcp", p.Addr.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// request is the whole head for the n-th connection.
func (p *player) request(n uint64, lastID string) []byte {
	each := max(p.Each, 1)
	names := make([]string, 0, each)
	for k := range uint64(each) {
		if p.Kind == FreshName {
			names = append(names, strconv.FormatUint(n*uint64(each)+k, 36)+"~")
			continue
		}
		names = append(names, p.Channels[(n*uint64(each)+k)%uint64(len(p.Channels))])
	}
	head := strings.Join(p.Request, strings.Join(names, p.Key))
	if lastID != "" {
		head += "Last-Event-ID: " + lastID + "\r\n"
	}
	return []byte(head + "\r\n")
}

// stand keeps Count connections until ctx ends.
func (p *player) stand(ctx context.Context, ready func() error) error {
	conns := make([]*net.TCPConn, p.Count)
	defer func() {
		for _, c := range conns {
			if c != nil {
				_ = c.SetLinger(0)
				_ = c.Close()
			}
		}
	}()
	for i := range conns {
		var err error
		if conns[i], err = p.enter(ctx, uint64(i)); err != nil {
			return err
		}
	}
	if err := ready(); err != nil {
		return err
	}
	every := lookEvery
	switch p.Kind {
	case Reads:
		every = readEvery
	case DripReads:
		every = dripEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	polls, buf := make([]unix.PollFd, p.Count), make([]byte, 256<<10)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for i, c := range conns {
			polls[i] = unix.PollFd{Fd: fdOf(c), Events: unix.POLLRDHUP}
		}
		if _, err := unix.Poll(polls, 0); err != nil && err != unix.EINTR {
			return fmt.Errorf("neighbour: poll: %w", err)
		}
		for i, c := range conns {
			if polls[i].Revents == 0 && p.read(c, buf) {
				continue
			}
			_ = c.Close()
			again, err := p.enter(ctx, uint64(i))
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return err
			}
			conns[i] = again
		}
	}
}

// enter makes one connection that stands.
func (p *player) enter(ctx context.Context, n uint64) (*net.TCPConn, error) {
	c, err := p.dial(ctx, p.Kind == NeverReads || p.Kind == DripReads)
	if err != nil {
		return nil, err
	}
	head := p.request(n, "")
	if p.Kind == HalfHead {
		head = head[:len(head)/2]
	}
	if _, err := c.Write(head); err != nil {
		_ = c.Close()
		return nil, err
	}
	p.opened.Add(1)
	return c, nil
}

// read reads as the kind does, and reports whether the connection stands.
func (p *player) read(c *net.TCPConn, buf []byte) (stands bool) {
	switch p.Kind {
	case NeverReads, HalfHead:
		return true
	case DripReads:
		buf = buf[:1]
	}
	for {
		n, _, err := unix.Recvfrom(int(fdOf(c)), buf, unix.MSG_DONTWAIT)
		switch {
		case err == unix.EAGAIN || err == unix.EINTR || n > 0 && n <= len(buf) && p.Kind == DripReads:
			return true
		case err != nil || n == 0:
			return false
		}
	}
}

func fdOf(c *net.TCPConn) (fd int32) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1
	}
	_ = raw.Control(func(f uintptr) { fd = int32(f) }) // fails when it is closed
	return fd
}

// comeAndGo starts Rate operations a second, by schedule.
func (p *player) comeAndGo(ctx context.Context) {
	var atWork sync.WaitGroup
	defer atWork.Wait()
	places := make(chan struct{}, maxAtWork)
	begin := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for n := uint64(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for ; float64(n) < p.Rate*time.Since(begin).Seconds(); n++ {
			select {
			case places <- struct{}{}:
			default:
				p.missed.Add(1)
				continue
			}
			n := n // the loop goes on with it
			atWork.Go(func() {
				defer func() { <-places }()
				switch err := p.once(ctx, n); {
				case err == nil:
					p.done.Add(1)
				case ctx.Err() == nil:
					p.failed.Add(1)
				}
			})
		}
	}
}

// once is one operation.
func (p *player) once(ctx context.Context, n uint64) error {
	c, err := p.dial(ctx, false)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	_ = c.SetDeadline(time.Now().Add(opTimeout)) // fails on a closed connection only
	switch p.Kind {
	case Resets:
		return p.reset(c, p.request(n, ""))
	case Resumes:
		return p.converse(c, p.request(n, p.LastID), p.Until)
	case Abandons:
		// Two IDs are never the same, so that no two share a read.
		_, err := c.Write(p.request(n, "1-1/"+strconv.FormatUint(rand.Uint64(), 36)))
		return err
	case Pipelines:
		one := "GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
		last := "GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
		if _, err := c.Write([]byte(strings.Repeat(one, pipelined-1) + last)); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, c)
		return err
	}
	return p.converse(c, p.request(n, ""), "\r\n\r\n")
}

// converse sends a request and reads up to a text.
func (p *player) converse(c *net.TCPConn, request []byte, until string) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for kept := 0; ; {
		n, err := c.Read(buf[kept:])
		seen := buf[:kept+n]
		if bytes.Contains(seen, []byte(until)) {
			return nil
		}
		if err != nil {
			return err
		}
		kept = copy(buf, seen[max(0, len(seen)-len(until)):]) // the text may lie across two reads
	}
}

// reset sends some of the request, or all of it and reads some of the answer.
func (p *player) reset(c *net.TCPConn, request []byte) error {
	if rand.IntN(2) == 0 {
		request = request[:rand.IntN(len(request))]
	}
	if _, err := c.Write(request); err != nil {
		return err
	}
	if len(request) > 0 && bytes.HasSuffix(request, []byte("\r\n\r\n")) {
		if _, err := io.ReadFull(c, make([]byte, 1+rand.IntN(100))); err != nil {
			return err
		}
	}
	return c.SetLinger(0)
}
