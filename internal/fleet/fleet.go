package fleet

import (
	"cmp"
	"context"
	"crypto/rand"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"ssed/internal/redisconn"
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
	// Close closes streams of this instance by an order that Fleet.Close was given on some
	// instance, and counts them. Nil: none.
	Close func(ctx context.Context, order []byte) (int64, error)
	// Revoked is told of each bearer that Fleet.Revoke keeps out, and for how long still,
	// one after the other. After an error it is told of that bearer again, with the next
	// report. Nil: nobody is.
	Revoked func(ctx context.Context, bearer string, left time.Duration) error
	// Notify sends words to all instances, where they come to Notice.
	Notify func(ctx context.Context, words ...string) error
	// Settings are what all instances should have alike.
	Settings []Setting
	// Keep is how long keys of the prefix may be there after the last instance has gone. 0
	// is 1 h.
	Keep time.Duration
	// Interval is the time between two reports. 0 is 2 s.
	Interval time.Duration
	// Logger gets what an operator should know. nil is slog.Default.
	Logger *slog.Logger
}

const (
	defaultInterval = 2 * time.Second
	defaultKeep     = time.Hour
	// missed is how many intervals an instance may be silent: one beat may be late
	// and one lost before it is taken for gone.
	missed = 3
	// maxListed bounds a list of instances.
	maxListed = 1000
	// commandTimeout bounds one command; the client gives up after a second as well.
	commandTimeout = time.Second
	// holdIntervals is for how many intervals an instance that cannot be told of the others
	// holds back, while it could do its work all the same: Redis takes writes, or other nodes of a
	// cluster may.
	holdIntervals = 2
	// looksPerInterval is how often an instance that holds back tries again.
	looksPerInterval = 8
	// leaveTimeout bounds the farewell, which only spares the others some seconds.
	leaveTimeout = 500 * time.Millisecond
)

var (
	//go:embed beat.lua
	beatLua    string
	beatScript = redisconn.NewScript(redisconn.AllowOOM, beatLua)
)

// Fleet is one instance's view of all. Make it with New, run it once.
type Fleet struct {
	// Fixed after construction.
	cfg      Config
	keys     redisconn.Keys
	asks     *kind
	closes   *kind
	kinds    []*kind       // both
	asking   chan struct{} // one element per question under way
	versions chan string   // of the list of revoked bearers, as reports meet it: the last one
	cleared  chan struct{} // see Cleared

	client   *redisconn.Client // made by Run
	nonces   nonces
	counters counters
	outage   throttle.Outage // for the log

	// Owned by the goroutine of Run.
	process      string    // of all processes this one
	identity     string    // as others read it
	listed       bool      // a beat was taken
	isTheirs     bool      // the last beat found that another process has the name
	isHarmed     bool      // and with settings that do not go with these
	failing      time.Time // since when beats tell nothing, for clear; zero: they do
	told         string    // when this process last said that it is there, as Redis has it
	otherAt      string    // when another one of the name did, as last seen
	sharedLine   throttle.Line
	mismatchLine throttle.Line

	// Owned by the goroutine of learn.
	version string            // of what is known
	revoked map[string]string // until when each bearer is kept out
}

// New does not need Redis yet.
func New(cfg Config) *Fleet {
	if cfg.Interval == 0 {
		cfg.Interval = defaultInterval
	}
	if cfg.Keep == 0 {
		cfg.Keep = defaultKeep
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	option := redisconn.Options(cfg.Client)
	option.WriteBufferEachConn = cmp.Or(option.WriteBufferEachConn, redisconn.SmallBufferBytes)
	option.ReadBufferEachConn = cmp.Or(option.ReadBufferEachConn, redisconn.SmallBufferBytes)
	keys := redisconn.KeysOf(cfg.Client, cfg.Prefix, redisconn.Partition{})
	f := &Fleet{
		cfg: cfg, keys: keys, process: rand.Text(), identity: identify(cfg.Settings), client: redisconn.New(option, keys.Slot),
		asking: make(chan struct{}, maxAsking), versions: make(chan string, 1), cleared: make(chan struct{}),
	}
	f.asks = &kind{
		notice: noticeAsk, maxWord: maxAskWord, timeout: askTimeout, questions: make(chan question, maxQuestions),
		decide: func(ctx context.Context, channel []byte) (int64, error) { return cfg.Subscribers(ctx, string(channel)) },
	}
	f.closes = &kind{
		notice: noticeClose, maxWord: maxCloseWord, timeout: closeTimeout, isOrder: true, questions: make(chan question, maxQuestions),
		decide: cfg.Close,
	}
	f.tellMismatches(nil, false)
	f.kinds = []*kind{f.asks}
	if cfg.Close != nil {
		f.kinds = append(f.kinds, f.closes)
	}
	return f
}

// Run says that the instance is there and answers questions until ctx ends, and then
// says that it leaves. Redis may be absent or go away. The errors are ErrInstanceTaken,
// ErrSettings and ErrNested, before the instance was ever listed: it must not serve then.
func (f *Fleet) Run(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var answers sync.WaitGroup
	for _, k := range f.kinds {
		answers.Go(func() { f.answer(ctx, k) })
	}
	answers.Go(func() { f.learn(ctx) })
	ticker := time.NewTicker(f.cfg.Interval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		failed := f.beat(ctx)
		if isFatal(failed) {
			err = failed
			break
		}
		if ctx.Err() == nil {
			f.noted(failed)
			f.clear(failed)
		}
		var soon <-chan time.Time
		if errors.Is(failed, errWait) || !f.IsCleared() {
			soon = time.After(f.cfg.Interval / looksPerInterval)
		}
		select {
		case <-ticker.C:
		case <-soon:
		case <-ctx.Done():
		}
	}
	cancel()
	answers.Wait()
	if f.listed && !f.isTheirs { // else its keys are those of the other one
		f.leave()
	}
	f.client.Close()
	return err
}

// Cleared is closed when this instance may begin its work: it knows that no other one is
// there whose settings do not go with its own, which ends Run, or it cannot know. Nothing
// that tells of instances holds up delivery: who has no right to those keys begins at once,
// and where their node alone does not answer, an instance begins after some seconds.
func (f *Fleet) Cleared() <-chan struct{} { return f.cleared }

// IsCleared reports whether Cleared is closed.
func (f *Fleet) IsCleared() bool {
	select {
	case <-f.cleared:
		return true
	default:
		return false
	}
}

// clear takes in what a beat came to.
func (f *Fleet) clear(err error) {
	if f.IsCleared() {
		return
	}
	reply, isReply := errors.AsType[*rueidis.RedisError](err)
	isAway := !isReply && !errors.Is(err, errAnswer) || isReply && takesNoWrites(redisconn.Code(reply))
	canKnow := errors.Is(err, errWait) || isAway && !redisconn.IsCluster(f.cfg.Client)
	switch {
	case err == nil, errors.Is(err, errWait) && !f.isHarmed, isReply && redisconn.Code(reply) == redisconn.CodeNoPerm:
		close(f.cleared)
	case canKnow: // the other process may go; the server is away that the feed needs, too
		f.failing = time.Time{}
	case f.failing.IsZero():
		f.failing = time.Now()
	case time.Since(f.failing) >= holdIntervals*f.cfg.Interval:
		close(f.cleared)
	}
}

// takesNoWrites tells of an error answer that the server gives to every script that writes, that
// of the ticks among them.
func takesNoWrites(code string) bool {
	switch code {
	case redisconn.CodeReadOnly, redisconn.CodeMasterDown, redisconn.CodeLoading, redisconn.CodeMisconf, redisconn.CodeNoReplicas, redisconn.CodeBusy:
		return true
	}
	return false
}

// isFatal reports whether the instance must not go on.
func isFatal(err error) bool {
	return !errors.Is(err, errWait) && (errors.Is(err, ErrInstanceTaken) || errors.Is(err, ErrSettings) || errors.Is(err, ErrNested))
}

// noted counts a beat, and tells when Redis begins to fail and when it is there again.
func (f *Fleet) noted(err error) {
	if err == nil {
		f.counters.beats.Add(1)
		if f.outage.Worked() {
			f.cfg.Logger.Info("instances: the others know this one again")
		}
		return
	}
	f.counters.beatErrors.Add(1)
	if failures, tell := f.outage.Failed(); tell {
		f.cfg.Logger.Warn("instances: the others cannot be told of this one", "error", err, "failures", failures)
	}
}

// beat says that the instance is there.
func (f *Fleet) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	client, err := f.client.Get(ctx)
	if err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	answer, err := beatScript.Run(ctx, client,
		[]string{f.keys.Instances, f.keys.Instance(f.cfg.Instance), f.keys.Revoked, f.keys.Owner(f.cfg.Instance)},
		[]string{
			f.cfg.Instance, millis(missed * f.cfg.Interval), rueidis.BinaryString(f.cfg.Report()),
			f.process, f.told, f.identity, f.keys.Owners(), f.cfg.Prefix, f.keys.Prefixes, millis(f.cfg.Keep), wasListed(f.listed),
			harmful(f.cfg.Settings),
		}).AsStrSlice()
	if err != nil {
		if redisconn.Code(err) != "" {
			f.client.Discard(client) // a replica by now, perhaps: find the primary anew
		}
		return fmt.Errorf("fleet: report: %w", err)
	}
	if err := f.judge(answer); err != nil {
		return err
	}
	version := answer[2] // "" while nobody is kept out
	select {
	case <-f.versions: // not looked at yet, and older
	default:
	}
	f.versions <- version
	return nil
}

func wasListed(is bool) string {
	if is {
		return "1"
	}
	return ""
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
		client.B().Del().Key(f.keys.Instance(f.cfg.Instance), f.keys.Owner(f.cfg.Instance)).Build(),
		client.B().Zrem().Key(f.keys.Instances).Member(f.cfg.Instance).Build())
}

// current returns the client if there is one.
func (f *Fleet) current() (rueidis.Client, error) {
	client, err := f.client.Current()
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	return client, nil
}
