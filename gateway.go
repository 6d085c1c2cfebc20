package ssed

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"ssed/engine"
	"ssed/internal/fleet"
	"ssed/internal/redisconn"
	"ssed/internal/wording"
	"ssed/rstore"
	"ssed/rsub"
)

// Gateway delivers messages to clients as event streams. Make it with New, run it once.
// Its methods may be called by several goroutines at once.
type Gateway struct {
	// fixed after construction
	cfg     Config
	engine  *engine.Engine
	feeds   []*rsub.Feed    // by partition; none: embedded
	stores  []*rstore.Store // by partition; none: embedded, or no history
	fleet   *fleet.Fleet    // nil: embedded
	started time.Time

	report   atomic.Pointer[func() []byte] // what other instances are told; nil: status
	ran      atomic.Bool
	draining atomic.Bool
}

var (
	// ErrLinux: the gateway waits for its sockets by epoll and sends by calls that other
	// systems do not have.
	ErrLinux = errors.New("ssed runs on Linux only, and this is " + runtime.GOOS)
	errRan   = errors.New("ssed: Run or Close was called before")
)

// New checks cfg, names everything that is wrong with it at once, and opens the listeners.
// Redis may be absent. If you do not call Run, call Close.
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

// open makes the parts. The engine's log is the sink of the feeds and the source of the
// stores, and the stores are the engine's history: hence the late ones.
func (g *Gateway) open() (err error) {
	cfg := g.cfg.engine()
	cfg.Ready, cfg.Takes = g.readyForClients, g.takesClients
	cfg.Partitions = g.cfg.partitions()
	histories := make([]lateHistory, cfg.Partitions)
	switch {
	case g.cfg.Redis == nil || g.cfg.History == nil:
	case len(histories) == 1:
		cfg.History = &histories[0]
	default:
		for q := range histories {
			cfg.Histories = append(cfg.Histories, &histories[q])
		}
	}
	if g.engine, err = engine.New(cfg); err != nil {
		return err
	}
	if g.cfg.Redis == nil {
		g.engine.Log().OpenLocal()
		return nil
	}
	return g.openRedis(histories)
}

// openRedis makes the histories and the feeds around the engine's log, and the fleet.
func (g *Gateway) openRedis(histories []lateHistory) error {
	var shared redisconn.Shared
	for q := range histories {
		if g.cfg.History == nil {
			break
		}
		cfg := g.cfg.history()
		cfg.Shared = &shared
		cfg.Partition, cfg.Elsewhere = g.cfg.partition(q), others(&g.stores, q, (*rstore.Store).Writes)
		cfg.ServerOf = func(after ID) string { return g.feeds[q].ServerOf(after) }
		cfg.OnOtherServer = func() { g.feeds[q].Recheck() }
		store, err := rstore.New(cfg, g.lineage(q))
		if err != nil {
			return err
		}
		histories[q].Store, g.stores = store, append(g.stores, store)
	}
	g.fleet = fleet.New(fleet.Config{
		Client: *g.cfg.Redis, Prefix: g.cfg.Feed.Prefix, Instance: g.cfg.Feed.Instance, Logger: g.cfg.Logger,
		Settings: g.settings(), Keep: g.keep(),
		Report: g.status, Subscribers: g.subscribers, Close: g.closeByOrder, Revoked: g.keepOut,
		Notify: func(ctx context.Context, words ...string) error { return g.feeds[0].Notify(ctx, words...) },
	})
	for q := range histories {
		cfg := g.cfg.feed()
		cfg.Shared = &shared
		cfg.Cleared = g.fleet.Cleared()
		cfg.Partition, cfg.Elsewhere = g.cfg.partition(q), others(&g.feeds, q, (*rsub.Feed).Leads)
		if g.stores != nil {
			cfg.OnLeaseReleased = g.stores[q].TryLease
		}
		if q == 0 {
			cfg.OnNotice = g.fleet.Notice
		}
		feed, err := rsub.New(cfg, g.lineage(q))
		if err != nil {
			return err
		}
		g.feeds = append(g.feeds, feed)
	}
	return nil
}

// lineage is what a feed fills and a history is written from.
type lineage interface {
	rsub.Sink
	rstore.Source
}

// lineage is that of a partition. A log of one is that itself.
func (g *Gateway) lineage(q int) lineage {
	if g.cfg.partitions() == 1 {
		return g.engine.Log()
	}
	return g.engine.Log().Partition(q)
}

// lateHistory is the store, which is there before the engine runs.
type lateHistory struct{ *rstore.Store }

var (
	_ engine.History = (*lateHistory)(nil)
	_ lineage        = (*engine.Log)(nil)
	_ lineage        = (*engine.Lineage)(nil)
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
// not. If ok, reason is what else fails: the history cannot be written, or the inbox is not
// moved. It may hold the address of Redis; /ready of the public addresses tells less.
func (g *Gateway) Ready() (ok bool, reason string) {
	switch {
	case g.draining.Load():
		return false, "draining"
	case g.feeds == nil:
		return true, ""
	}
	ok, list := g.feedState()
	if ok {
		for q := range g.feeds {
			list = append(list, g.troubles(q)...)
		}
	}
	return ok, wording.Plain(joinReasons(list))
}

// readyForClients is Ready with what everybody may know of the reason.
func (g *Gateway) readyForClients() (ok bool, reason string) {
	if ok, reason = g.Ready(); !ok && !g.draining.Load() {
		reason = "not linked to Redis"
	}
	return ok, reason
}

// takesClients is readyForClients, but that with several partitions one that messages come of
// is enough: the engine lets streams of others wait.
func (g *Gateway) takesClients() (ok bool, reason string) {
	if ok, reason = g.readyForClients(); ok || g.draining.Load() || g.cfg.partitions() == 1 || !g.fleet.IsCleared() {
		return ok, reason
	}
	for _, feed := range g.feeds {
		if up, _ := feed.State(); up {
			return true, ""
		}
	}
	return false, reason
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

	var feeds, stores, ready sync.WaitGroup
	readyCtx, stopReady := context.WithCancel(ctx)
	ready.Go(func() { g.logReadiness(readyCtx) })
	defer ready.Wait()
	defer stopReady()
	var fatal firstError // read after the wait
	run := func(part func(context.Context) error) {
		feeds.Go(func() {
			if err := part(feedCtx); err != nil {
				fatal.note(err)
				stopEngine(err)
			}
		})
	}
	for _, feed := range g.feeds {
		run(feed.Run)
	}
	if g.fleet != nil {
		run(g.fleet.Run)
	}
	for _, store := range g.stores {
		stores.Go(func() {
			select {
			case <-g.fleet.Cleared(): // before, it would count as one that can write
				_ = store.Run(storeCtx) // always the cause of storeCtx
			case <-storeCtx.Done():
			}
		})
	}
	if len(g.feeds) > 1 {
		ready.Go(func() { g.balance(readyCtx) })
	}
	err := g.engine.Run(engineCtx)
	g.commitLast()
	stopStore()
	stores.Wait()
	stopFeed()
	feeds.Wait()
	return errors.Join(err, fatal.err)
}

// firstError is the first error of several goroutines: with several partitions all of
// their feeds find that the settings are not those of the others.
type firstError struct {
	once sync.Once
	err  error
}

func (f *firstError) note(err error) { f.once.Do(func() { f.err = err }) }

// commitLastTimeout bounds the wait for the last tick, which takes a round trip.
const commitLastTimeout = 500 * time.Millisecond

// commitLast commits what has come in since the last tick, so that the history gets it.
func (g *Gateway) commitLast() {
	if g.stores == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), commitLastTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, feed := range g.feeds {
		if synced, _ := feed.State(); !synced {
			continue
		}
		wg.Go(func() {
			if err := feed.CommitNow(ctx); err != nil {
				g.cfg.Logger.Warn("ssed: the last messages may be missing in the history", "error", err)
			}
		})
	}
	wg.Wait()
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
	for _, store := range g.stores {
		store.Close()
	}
}
