//go:build linux

package swarm

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ssed/loadtest/hist"
)

// operation is a command while the loop works on it.
type operation interface {
	base() *opBase
	// begin runs once, in the loop.
	begin(s *Swarm)
	// step runs after each batch of events and reports whether the operation is over.
	step(s *Swarm) bool
	// end runs once, also when the operation is cut short.
	end(s *Swarm)
}

// opBase is the part that operations share.
type opBase struct {
	deadline  int64 // by Now; 0: none
	done      chan struct{}
	cancelled atomic.Bool
}

func (b *opBase) base() *opBase { return b }
func (b *opBase) begin(*Swarm)  {}
func (b *opBase) end(*Swarm)    {}

func newBase(limit time.Duration) *opBase {
	b := &opBase{done: make(chan struct{})}
	if limit > 0 {
		b.deadline = Now() + int64(limit)
	}
	return b
}

// OpenSpec tells which connections to open and how.
type OpenSpec struct {
	// First and Count are the range of connections.
	First int `json:"first"`
	Count int `json:"count"`
	// Churn > 0 opens that many connections in all, each closed again as soon as
	// its response head is there.
	Churn int `json:"churn,omitempty"`
	// Resume sends the last event id and keeps the expected numbers. Otherwise
	// Seqs says what was published before: Seqs[i] on channel FirstChannel+i.
	Resume       bool     `json:"resume,omitempty"`
	FirstChannel uint32   `json:"first_channel,omitempty"`
	Seqs         []uint32 `json:"seqs,omitempty"`
	// Window is how many connects are under way at once.
	Window int `json:"window"`
	// Limit bounds the time of the whole operation.
	Limit time.Duration `json:"limit"`
}

// OpenResult is the outcome of an open.
type OpenResult struct {
	// Opened got their whole response head; Failed did not.
	Opened int `json:"opened"`
	Failed int `json:"failed"`
	// Start and End are readings of Now at the first connect and the last head.
	Start int64 `json:"start"`
	End   int64 `json:"end"`
	// FirstError is why the first of the failed did.
	FirstError string `json:"first_error,omitempty"`
	// Latency is the time from connect(2) to the whole response head.
	Latency hist.Histogram `json:"latency"`
}

// opening is an open under way.
type opening struct {
	*opBase
	spec     OpenSpec
	result   *OpenResult
	total    int
	started  int
	inflight int
	fresh    int     // slots used for the first time
	free     []int32 // slots of a churn that may be used again
}

// dialSlice is how many connects are started before events are looked at again:
// about 1 ms of connect(2) calls.
const dialSlice = 32

// Open opens connections and returns when all of them have their response head,
// have failed, or the limit is over.
func (s *Swarm) Open(ctx context.Context, spec OpenSpec) (*OpenResult, error) {
	o := &opening{opBase: newBase(spec.Limit), spec: spec, result: &OpenResult{}, total: spec.Count}
	if spec.Churn > 0 {
		o.total = spec.Churn
		o.spec.Window = min(spec.Window, spec.Count)
	}
	err := s.perform(ctx, o)
	return o.result, err
}

func (o *opening) begin(s *Swarm) {
	s.opening = o
	o.result.Start = Now()
	o.result.End = o.result.Start
}

// hasRoom reports whether another connect may be started now.
func (o *opening) hasRoom() bool { return o.started < o.total && o.inflight < o.spec.Window }

func (o *opening) step(s *Swarm) bool {
	for n := 0; n < dialSlice && o.hasRoom(); n++ {
		o.dial(s, o.nextSlot())
	}
	return o.started == o.total && o.inflight == 0
}

// end gives up what is still under way.
func (o *opening) end(s *Swarm) {
	for i := o.spec.First; o.inflight > 0 && i < o.spec.First+o.spec.Count; i++ {
		if c := &s.conns[i]; c.state == stateConnect || c.state == stateHead {
			s.failed(int32(i), c, errLate)
		}
	}
	s.opening = nil
}

// nextSlot returns the slot of the next connect. While a churn is in its first
// window no slot has been freed yet.
func (o *opening) nextSlot() int32 {
	if last := len(o.free) - 1; last >= 0 {
		i := o.free[last]
		o.free = o.free[:last]
		return i
	}
	o.fresh++
	return int32(o.spec.First + o.fresh - 1)
}

func (o *opening) dial(s *Swarm, i int32) {
	if c := &s.conns[i]; !o.spec.Resume {
		var seq uint32
		if k := int(c.channel - o.spec.FirstChannel); k < len(o.spec.Seqs) {
			seq = o.spec.Seqs[k]
		}
		c.idLen = 0
		c.expect(seq + 1)
	}
	o.started++
	o.inflight++
	if err := s.dial(int(i)); err != nil {
		o.failed(s, i, err)
	}
}

// succeeded is called when the response head of slot i is whole.
func (o *opening) succeeded(s *Swarm, i int32, took time.Duration) {
	o.inflight--
	o.result.Opened++
	o.result.Latency.Record(took)
	if o.spec.Churn > 0 {
		s.drop(&s.conns[i], stateIdle, graceful)
		o.free = append(o.free, i)
	}
}

func (o *opening) failed(_ *Swarm, i int32, err error) {
	o.inflight--
	o.result.Failed++
	if o.result.FirstError == "" {
		o.result.FirstError = err.Error()
	}
	if o.spec.Churn > 0 {
		o.free = append(o.free, i)
	}
}

// errLate is a connect that the limit of its operation cut off.
var errLate = errors.New("no whole response head in time")

// immediate is an operation that is over at once.
type immediate struct {
	*opBase
	f func(s *Swarm)
}

func (o *immediate) begin(s *Swarm)     { o.f(s) }
func (o *immediate) step(_ *Swarm) bool { return true }

func (s *Swarm) call(ctx context.Context, f func(s *Swarm)) error {
	return s.perform(ctx, &immediate{opBase: newBase(0), f: f})
}

// Drop closes connections first to first+count: with a FIN, or with a RST when
// hard, which leaves no TIME_WAIT behind. Their ids and numbers stay.
func (s *Swarm) Drop(ctx context.Context, first, count int, hard bool) error {
	how := graceful
	if hard {
		how = abort
	}
	return s.call(ctx, func(s *Swarm) {
		for i := first; i < first+count; i++ {
			s.drop(&s.conns[i], stateIdle, how)
		}
	})
}

// Pause stops reading the connections first to first+count, and returns how many.
// They are left out of audits.
func (s *Swarm) Pause(ctx context.Context, first, count int) (paused int, err error) {
	err = s.call(ctx, func(s *Swarm) {
		for i := first; i < first+count; i++ {
			c := &s.conns[i]
			if c.state != stateStream {
				continue
			}
			if unix.EpollCtl(s.epfd, unix.EPOLL_CTL_DEL, int(c.fd), nil) == nil {
				c.state = statePaused
				paused++
			}
		}
	})
	return paused, err
}

// Rest lets the loop look at the connections only once each time, in milliseconds,
// while no command is under way; 0 ends that. Otherwise whoever writes to an idle
// connection of this host pays for waking its reader up.
func (s *Swarm) Rest(ctx context.Context, each time.Duration) error {
	return s.call(ctx, func(s *Swarm) { s.rest = each })
}

// Mark forgets counts and latencies; the expected numbers stay.
func (s *Swarm) Mark(ctx context.Context) error {
	return s.call(ctx, func(s *Swarm) {
		s.stats = Stats{}
		s.last = 0
		s.delivered.Store(0)
	})
}

// Audit counts as lost what the established connections first to first+count
// have not received: seqs[i] is the last number of channel firstChannel+i.
func (s *Swarm) Audit(ctx context.Context, first, count int, firstChannel uint32, seqs []uint32) error {
	return s.call(ctx, func(s *Swarm) {
		for i := first; i < first+count; i++ {
			c := &s.conns[i]
			k := int(c.channel - firstChannel)
			if k < len(seqs) && (c.state == stateStream || c.state == stateClosed) {
				c.audit(seqs[k], &s.stats)
			}
		}
	})
}

// Stats returns what was counted since the last Mark.
func (s *Swarm) Stats(ctx context.Context) (out *Stats, err error) {
	out = &Stats{}
	err = s.call(ctx, func(s *Swarm) { *out = s.stats })
	return out, err
}

// Resumable returns how many connections know a last event id.
func (s *Swarm) Resumable(ctx context.Context) (n int, err error) {
	err = s.call(ctx, func(s *Swarm) {
		for i := range s.conns {
			if s.conns[i].idLen > 0 {
				n++
			}
		}
	})
	return n, err
}

// AwaitResult tells how far the deliveries came.
type AwaitResult struct {
	// Reached: the deliveries asked for are there.
	Reached bool `json:"reached"`
	// Last is a reading of Now at the newest delivery; 0 when there was none.
	Last int64 `json:"last"`
}

type awaiting struct {
	*opBase
	target uint64
	result AwaitResult
}

func (o *awaiting) step(s *Swarm) bool { return s.stats.Delivered >= o.target }

func (o *awaiting) end(s *Swarm) {
	o.result = AwaitResult{Reached: s.stats.Delivered >= o.target, Last: s.last}
}

// Await returns when so many messages were delivered since the last Mark, or
// after limit.
func (s *Swarm) Await(ctx context.Context, delivered uint64, limit time.Duration) (AwaitResult, error) {
	o := &awaiting{opBase: newBase(limit), target: delivered}
	err := s.perform(ctx, o)
	return o.result, err
}
