//go:build linux

package swarm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ssed/internal/child"
)

// progressEvery is how often a child tells its progress: often enough for a line
// that a person reads, rare enough to cost nothing.
const progressEvery = 250 * time.Millisecond

// The pipe protocol: a child reads one Config, then requests; for each it writes
// one reply. Replies with Progress set come in between. JSON values, one after
// another.

// request is a command of the Swarm with the method's name.
type request struct {
	Op           string        `json:"op"`
	Open         OpenSpec      `json:"open,omitzero"`
	First        int           `json:"first,omitempty"`
	Count        int           `json:"count,omitempty"`
	Hard         bool          `json:"hard,omitempty"`
	Bytes        int64         `json:"bytes,omitempty"`
	FirstChannel uint32        `json:"first_channel,omitempty"`
	Seqs         []uint32      `json:"seqs,omitempty"`
	Delivered    uint64        `json:"delivered,omitempty"`
	Limit        time.Duration `json:"limit,omitempty"`
	Each         time.Duration `json:"each,omitempty"`
}

type progress struct {
	Open      int64  `json:"open"`
	Delivered uint64 `json:"delivered"`
}

type reply struct {
	Progress *progress   `json:"progress,omitempty"`
	Err      string      `json:"err,omitempty"`
	Open     *OpenResult `json:"open,omitempty"`
	N        int         `json:"n,omitempty"`
	Stats    *Stats      `json:"stats,omitempty"`
	Await    AwaitResult `json:"await,omitzero"`
}

// worker is a swarm in another process.
type worker struct {
	process *child.Process
	stdin   io.WriteCloser

	open      atomic.Int64
	delivered atomic.Uint64

	replies chan reply // closed when the child is gone

	mu  sync.Mutex // held for the length of a command
	enc *json.Encoder
}

func startWorker(args []string, cfg Config) (*worker, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c := &worker{stdin: stdin, enc: json.NewEncoder(stdin), replies: make(chan reply, 1)}
	if c.process, err = child.Start(cmd, func() { c.receive(stdout) }); err != nil {
		return nil, fmt.Errorf("swarm: start a worker process: %w", err)
	}
	if err := c.enc.Encode(cfg); err != nil {
		c.Close()
		return nil, fmt.Errorf("swarm: configure a worker process: %w", err)
	}
	return c, nil
}

// receive sorts what the child writes, until it ends.
func (c *worker) receive(stdout io.Reader) {
	defer close(c.replies)
	dec := json.NewDecoder(stdout)
	for {
		var r reply
		if dec.Decode(&r) != nil {
			return
		}
		if r.Progress == nil {
			c.replies <- r
			continue
		}
		c.open.Store(r.Progress.Open)
		c.delivered.Store(r.Progress.Delivered)
	}
}

// Close ends the child, which ends by itself at the end of its input, and waits
// for it.
func (c *worker) Close() {
	c.stdin.Close()
	for range c.replies {
	}
	<-c.process.Done() // how it ended says nothing that matters now
}

// do performs one command. When ctx ends first, the child is killed: it is of no
// use after that.
func (c *worker) do(ctx context.Context, r request) (reply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.enc.Encode(r); err != nil {
		return reply{}, fmt.Errorf("swarm: %s: worker process: %w", r.Op, err)
	}
	select {
	case out, ok := <-c.replies:
		if !ok {
			return reply{}, fmt.Errorf("swarm: %s: the worker process ended", r.Op)
		}
		if out.Err != "" {
			return out, errors.New(out.Err)
		}
		return out, nil
	case <-ctx.Done():
		c.process.Signal(syscall.SIGKILL)
		return reply{}, ctx.Err()
	}
}

func (c *worker) Open(ctx context.Context, spec OpenSpec) (*OpenResult, error) {
	r, err := c.do(ctx, request{Op: "open", Open: spec})
	return r.Open, err
}

func (c *worker) Drop(ctx context.Context, first, count int, hard bool) error {
	_, err := c.do(ctx, request{Op: "drop", First: first, Count: count, Hard: hard})
	return err
}

func (c *worker) Pause(ctx context.Context, first, count int) (int, error) {
	r, err := c.do(ctx, request{Op: "pause", First: first, Count: count})
	return r.N, err
}

func (c *worker) Full(ctx context.Context, first, count int, bytes int64) (int, error) {
	r, err := c.do(ctx, request{Op: "full", First: first, Count: count, Bytes: bytes})
	return r.N, err
}

func (c *worker) Rest(ctx context.Context, each time.Duration) error {
	_, err := c.do(ctx, request{Op: "rest", Each: each})
	return err
}

func (c *worker) Mark(ctx context.Context) error {
	_, err := c.do(ctx, request{Op: "mark"})
	return err
}

func (c *worker) Audit(ctx context.Context, first, count int, firstChannel uint32, seqs []uint32) error {
	_, err := c.do(ctx, request{Op: "audit", First: first, Count: count, FirstChannel: firstChannel, Seqs: seqs})
	return err
}

func (c *worker) Stats(ctx context.Context) (*Stats, error) {
	r, err := c.do(ctx, request{Op: "stats"})
	return r.Stats, err
}

func (c *worker) Resumable(ctx context.Context) (int, error) {
	r, err := c.do(ctx, request{Op: "resumable"})
	return r.N, err
}

func (c *worker) Await(ctx context.Context, delivered uint64, limit time.Duration) (AwaitResult, error) {
	r, err := c.do(ctx, request{Op: "await", Delivered: delivered, Limit: limit})
	return r.Await, err
}

func (c *worker) Progress() (open int64, delivered uint64) {
	return c.open.Load(), c.delivered.Load()
}

// Serve is the other end of a child: it runs a swarm by the commands on in until
// in ends.
func Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	dec := json.NewDecoder(in)
	var cfg Config
	if err := dec.Decode(&cfg); err != nil {
		return fmt.Errorf("swarm: read the configuration: %w", err)
	}
	s, err := New(cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	w := &replyWriter{enc: json.NewEncoder(out)}
	stop := w.tellProgress(s)
	defer stop()
	for {
		var r request
		if err := dec.Decode(&r); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("swarm: read a command: %w", err)
		}
		answer, err := s.obey(ctx, r)
		if err != nil {
			answer.Err = err.Error()
		}
		if err := w.write(answer); err != nil {
			return err
		}
	}
}

// obey performs one command of the parent.
func (s *Swarm) obey(ctx context.Context, r request) (out reply, err error) {
	switch r.Op {
	case "open":
		out.Open, err = s.Open(ctx, r.Open)
	case "drop":
		err = s.Drop(ctx, r.First, r.Count, r.Hard)
	case "pause":
		out.N, err = s.Pause(ctx, r.First, r.Count)
	case "full":
		out.N, err = s.Full(ctx, r.First, r.Count, r.Bytes)
	case "rest":
		err = s.Rest(ctx, r.Each)
	case "mark":
		err = s.Mark(ctx)
	case "audit":
		err = s.Audit(ctx, r.First, r.Count, r.FirstChannel, r.Seqs)
	case "stats":
		out.Stats, err = s.Stats(ctx)
	case "resumable":
		out.N, err = s.Resumable(ctx)
	case "await":
		out.Await, err = s.Await(ctx, r.Delivered, r.Limit)
	default:
		err = fmt.Errorf("swarm: unknown command %q", r.Op)
	}
	return out, err
}

// replyWriter lets progress and replies share the pipe.
type replyWriter struct {
	mu  sync.Mutex
	enc *json.Encoder
}

func (w *replyWriter) write(r reply) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.enc.Encode(r)
}

// tellProgress writes progress until stop is called, which waits for its end.
func (w *replyWriter) tellProgress(s *Swarm) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				open, delivered := s.Progress()
				if w.write(reply{Progress: &progress{Open: open, Delivered: delivered}}) != nil {
					return
				}
			case <-quit:
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}
