package ssed

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ssed/engine"
	"ssed/internal/fleet"
	"ssed/rstore"
	"ssed/rsub"
)

// Gateway delivers messages to clients as event streams. Make it with New, run it once.
// Its methods may be called by several goroutines at once.
type Gateway struct {
	// fixed after construction
	cfg     Config
	engine  *engine.Engine
	feed    *rsub.Feed    // nil: embedded
	store   *rstore.Store // nil: embedded, or no history
	fleet   *fleet.Fleet  // nil: embedded
	started time.Time

	report   atomic.Pointer[func() []byte] // what other instances are told; nil: status
	ran      atomic.Bool
	draining atomic.Bool
}

var (
	// ErrLinux: the gateway waits for its sockets by epoll and sends by calls that other
	// systems do not have.
	ErrLinux = errors.New("ssed: it runs on Linux only, and this is " + runtime.GOOS)
	errRan   = errors.New("ssed: Run or Close was called before")
)

// New checks cfg, naming everything that is wrong with it at once, and opens the
// listeners. Redis need not be there yet. Who does not call Run calls Close.
func New(cfg Config) (*Gateway, error) {
	if runtime.GOOS != "linux" {
		return nil, ErrLinux
	}
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	g := &Gateway{cfg: cfg, started: time.Now()}
	if err := g.open(); err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

// open makes the parts. The engine's log is the sink of the feed and the source of the
// store, and the store is the engine's history: hence the late one.
func (g *Gateway) open() (err error) {
	cfg := g.cfg.engine()
	cfg.Ready = g.readyForClients
	var history lateHistory
	if g.cfg.Redis != nil && g.cfg.History != nil {
		cfg.History = &history
	}
	if g.engine, err = engine.New(cfg); err != nil {
		return err
	}
	if g.cfg.Redis == nil {
		g.engine.Log().OpenLocal()
		return nil
	}
	return g.openRedis(&history)
}

// openRedis makes the history and the feed around the engine's log, and the fleet.
func (g *Gateway) openRedis(history *lateHistory) (err error) {
	feed := g.cfg.feed()
	if g.cfg.History != nil {
		if g.store, err = rstore.New(g.cfg.history(), g.engine.Log()); err != nil {
			return err
		}
		history.Store = g.store
		feed.OnLeaseReleased = g.store.TryLease
	}
	g.fleet = fleet.New(fleet.Config{
		Client: *g.cfg.Redis, Prefix: g.cfg.Feed.Prefix, Instance: g.cfg.Feed.Instance, Logger: g.cfg.Logger,
		Settings: g.settings(), Keep: g.keep(),
		Report: g.status, Subscribers: g.subscribers, Close: g.closeByOrder, Revoked: g.keepOut,
		Notify: func(ctx context.Context, words ...string) error { return g.feed.Notify(ctx, words...) },
	})
	feed.OnNotice = g.fleet.Notice
	g.feed, err = rsub.New(feed, g.engine.Log())
	return err
}

// lateHistory is the store, which is there before the engine runs.
type lateHistory struct{ *rstore.Store }

var (
	_ engine.History = (*lateHistory)(nil)
	_ rsub.Sink      = (*engine.Log)(nil)
	_ rstore.Source  = (*engine.Log)(nil)
)

// status is what other instances are told of this one: fields of the list of instances
// that the admin API gives.
func (g *Gateway) status() []byte {
	if report := g.report.Load(); report != nil {
		return (*report)()
	}
	ready, _ := g.Ready()
	stats := g.engine.Stats()
	text, err := json.Marshal(struct {
		Instance    string    `json:"instance"`
		Started     time.Time `json:"started"`
		Ready       bool      `json:"ready"`
		Draining    bool      `json:"draining"`
		Streams     int64     `json:"streams"`
		Connections int64     `json:"connections"`
	}{g.cfg.Feed.Instance, g.started, ready, g.draining.Load(), stats.Streams, stats.Connections})
	if err != nil {
		panic(err) // text, numbers and times always have a JSON form
	}
	return text
}

func (g *Gateway) subscribers(ctx context.Context, channel string) (int64, error) {
	info, err := g.engine.Channel(ctx, channel)
	return info.Subscribers, err
}

// Addrs are the addresses that the gateway listens on, in the order of Config.Listen.
func (g *Gateway) Addrs() []net.Addr { return g.engine.Addrs() }

// Ready reports whether the gateway gets messages and takes clients, or in a few words why
// not. Where it does both, the reason is what else fails: that the history is not written,
// or the inbox not moved. The reason may hold the address of Redis; clients, at /ready of the public
// addresses, are told less.
func (g *Gateway) Ready() (ok bool, reason string) {
	switch {
	case g.draining.Load():
		return false, "draining"
	case g.feed != nil:
		if ok, reason = g.feed.State(); !ok {
			return false, reason
		}
		return true, g.trouble()
	}
	return true, ""
}

// trouble tells what does not work beside the streams that are open.
func (g *Gateway) trouble() string {
	var list []string
	if g.store != nil {
		if text := g.store.Trouble(); text != "" {
			list = append(list, "the history is not written: "+text)
		}
	}
	if text := g.feed.InboxTrouble(); text != "" {
		list = append(list, "the inbox stands still: "+text)
	}
	return strings.Join(list, "; ")
}

// readyForClients is Ready with what everybody may know of the reason.
func (g *Gateway) readyForClients() (ok bool, reason string) {
	if ok, reason = g.Ready(); !ok && !g.draining.Load() {
		reason = "not linked to Redis"
	}
	return ok, reason
}

// Run serves until ctx ends and everything is drained, or something fails. When ctx ends
// it closes the streams, spread over StreamConfig.Drain, while messages still come in;
// then the history is written to its end, for at most 2.5 s; then the connections to
// Redis end. The clients come back to other instances and miss nothing.
//
// Run returns nil after that. Redis may be absent or go away: Run keeps trying. The
// errors are those of listening, and that instances with other patterns hold the prefix.
func (g *Gateway) Run(ctx context.Context) error {
	if g.ran.Swap(true) {
		return errRan
	}
	defer g.close()
	engineCtx, stopEngine := context.WithCancelCause(ctx)
	storeCtx, stopStore := context.WithCancel(context.Background())
	feedCtx, stopFeed := context.WithCancel(context.Background())
	defer stopEngine(nil)
	defer stopStore()
	defer stopFeed()
	defer context.AfterFunc(ctx, func() { g.draining.Store(true) })()

	var feed, store, ready sync.WaitGroup
	readyCtx, stopReady := context.WithCancel(ctx)
	ready.Go(func() { g.logReadiness(readyCtx) })
	defer ready.Wait()
	defer stopReady()
	var feedErr, fleetErr error // read after the wait
	if g.feed != nil {
		feed.Go(func() {
			if feedErr = g.feed.Run(feedCtx); feedErr != nil {
				stopEngine(feedErr)
			}
		})
		feed.Go(func() {
			if fleetErr = g.fleet.Run(feedCtx); fleetErr != nil {
				stopEngine(fleetErr)
			}
		})
	}
	if g.store != nil {
		store.Go(func() { _ = g.store.Run(storeCtx) }) // always the cause of storeCtx
	}
	err := g.engine.Run(engineCtx)
	g.settle()
	stopStore()
	store.Wait()
	stopFeed()
	feed.Wait()
	return errors.Join(err, feedErr, fleetErr)
}

// settleTimeout bounds the wait for the last tick, which takes a round trip.
const settleTimeout = 500 * time.Millisecond

// settle commits what has come in since the last tick, so that the history gets it.
func (g *Gateway) settle() {
	if g.store == nil {
		return
	}
	if synced, _ := g.feed.State(); !synced {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	if err := g.feed.CommitNow(ctx); err != nil {
		g.cfg.Logger.Warn("ssed: the last messages are not committed", "error", err)
	}
}

// Close gives back what New has taken when Run is not called. Afterwards Run fails; after
// Run, Close does nothing.
func (g *Gateway) Close() {
	if g.ran.Swap(true) {
		return
	}
	g.engine.Close()
	g.close()
}

// close ends what outlives Run.
func (g *Gateway) close() {
	if g.store != nil {
		g.store.Close()
	}
}
