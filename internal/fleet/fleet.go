package fleet

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"ssed/internal/throttle"
)

// Config is what a Fleet needs.
type Config struct {
	// Client tells how to reach Redis. The Fleet makes one connection of its own.
	Client rueidis.ClientOption
	// Prefix is that of the streams; instances that work together have the same.
	Prefix string
	// Instance is the name of this one, unique among them, without spaces.
	Instance string
	// Report is what others are told about this instance, in any form. It is called
	// once per interval.
	Report func() []byte
	// Subscribers counts the streams of a channel on this instance.
	Subscribers func(ctx context.Context, channel string) (int64, error)
	// Notify sends words to all instances, where they come to Notice.
	Notify func(ctx context.Context, words ...string) error
	// Interval is the time between two reports. 0 is 2 s.
	Interval time.Duration
	// Logger gets what an operator should know. nil is slog.Default.
	Logger *slog.Logger
}

const (
	defaultInterval = 2 * time.Second
	// missed is how many intervals an instance may be silent: one beat may be late
	// and one lost before it is taken for gone.
	missed = 3
	// maxListed bounds a list of instances.
	maxListed = 1000
	// commandTimeout bounds one command; the client gives up after a second as well.
	commandTimeout = time.Second
	// leaveTimeout bounds the farewell, which only spares the others some seconds.
	leaveTimeout = 500 * time.Millisecond
)

// ErrNotConnected is returned while there is no connection to Redis.
var ErrNotConnected = errors.New("fleet: not connected to Redis")

var (
	//go:embed beat.lua
	beatLua    string
	beatScript = rueidis.NewLuaScript(beatLua)
)

// Fleet is one instance's view of all. Make it with New, run it once.
type Fleet struct {
	// Fixed after construction.
	cfg       Config
	questions chan question // bounded: what does not fit is dropped
	asking    chan struct{} // one element per question under way

	client    atomic.Pointer[rueidis.Client] // nil: none; replaced by Run
	lastAsked atomic.Uint64                  // nonce of the last question of another
	counters  counters
	outage    throttle.Outage // for the log
}

// New does not need Redis yet.
func New(cfg Config) *Fleet {
	if cfg.Interval == 0 {
		cfg.Interval = defaultInterval
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	cfg.Client = clientDefaults(cfg.Client)
	return &Fleet{cfg: cfg, questions: make(chan question, maxQuestions), asking: make(chan struct{}, maxAsking)}
}

// clientDefaults: one connection, on which a command that was cut off is not sent again.
func clientDefaults(o rueidis.ClientOption) rueidis.ClientOption {
	o.DisableCache, o.DisableRetry, o.PipelineMultiplex = true, true, -1
	o.ForceSingleClient = len(o.InitAddress) == 1 && o.Sentinel.MasterSet == ""
	if o.Dialer.Timeout == 0 {
		o.Dialer.Timeout = commandTimeout
	}
	if o.ConnWriteTimeout == 0 {
		o.ConnWriteTimeout = commandTimeout
	}
	if o.Sentinel.MasterSet != "" && o.Sentinel.TopologyRefreshInterval == 0 {
		o.Sentinel.TopologyRefreshInterval = topologyInterval
	}
	if o.WriteBufferEachConn == 0 {
		o.WriteBufferEachConn = bufferBytes
	}
	if o.ReadBufferEachConn == 0 {
		o.ReadBufferEachConn = bufferBytes
	}
	return o
}

// topologyInterval is how often the sentinels are asked whether the primary is still the
// same: a client that missed their message would stay with the old one for good.
const topologyInterval = 5 * time.Second

// bufferBytes of each direction: the library's default is half a megabyte.
const bufferBytes = 32 << 10

// Run says that the instance is there and answers questions until ctx ends, and then
// says that it leaves. Redis may be absent or go away.
func (f *Fleet) Run(ctx context.Context) {
	var answers sync.WaitGroup
	answers.Go(func() { f.answer(ctx) })
	ticker := time.NewTicker(f.cfg.Interval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		if err := f.beat(ctx); ctx.Err() == nil {
			f.noted(err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
	answers.Wait()
	f.leave()
	f.replace(nil)
}

// noted counts a beat, and tells when Redis begins to fail and when it is there again.
func (f *Fleet) noted(err error) {
	if err == nil {
		f.counters.beats.Add(1)
		if f.outage.Worked() {
			f.cfg.Logger.Info("fleet: this instance is listed again")
		}
		return
	}
	f.counters.beatErrors.Add(1)
	if failures, tell := f.outage.Failed(); tell {
		f.cfg.Logger.Warn("fleet: this instance cannot be listed", "error", err, "failures", failures)
	}
}

// beat says that the instance is there.
func (f *Fleet) beat(ctx context.Context) error {
	client, err := f.connect()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	err = beatScript.Exec(ctx, client, []string{f.index(), f.key(f.cfg.Instance)},
		[]string{f.cfg.Instance, millis(missed * f.cfg.Interval), rueidis.BinaryString(f.cfg.Report())}).Error()
	if rueidis.IsRedisNil(err) {
		return nil // the script returns nothing
	}
	if err != nil {
		if _, answered := rueidis.IsRedisErr(err); answered {
			f.replace(nil) // a replica by now, perhaps: find the primary anew
		}
		return fmt.Errorf("fleet: report: %w", err)
	}
	return nil
}

// leave takes the instance off the list.
func (f *Fleet) leave() {
	client, err := f.current()
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	client.DoMulti(ctx,
		client.B().Del().Key(f.key(f.cfg.Instance)).Build(),
		client.B().Zrem().Key(f.index()).Member(f.cfg.Instance).Build())
}

// connect returns the client and makes it if there is none. Only Run calls it.
func (f *Fleet) connect() (rueidis.Client, error) {
	if client, err := f.current(); err == nil {
		return client, nil
	}
	// The client of a single node comes together with the error of its first dial, and
	// dials again when it is used.
	client, err := rueidis.NewClient(f.cfg.Client)
	if client == nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	f.replace(&client)
	return client, nil
}

func (f *Fleet) current() (rueidis.Client, error) {
	if p := f.client.Load(); p != nil {
		return *p, nil
	}
	return nil, ErrNotConnected
}

// replace closes the client that there was.
func (f *Fleet) replace(by *rueidis.Client) {
	if old := f.client.Swap(by); old != nil {
		(*old).Close()
	}
}

func (f *Fleet) index() string             { return "{" + f.cfg.Prefix + "}:instances" }
func (f *Fleet) key(name string) string    { return "{" + f.cfg.Prefix + "}:instance:" + name }
func (f *Fleet) reply(nonce string) string { return "{" + f.cfg.Prefix + "}:reply:" + nonce }
