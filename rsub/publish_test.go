package rsub

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
	"ssed/sseproto"
)

// published is what publishers were told, by payload.
type published struct {
	mu   sync.Mutex
	list map[string]PublishResult
}

func (p *published) note(payload string, r PublishResult) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.list == nil {
		p.list = map[string]PublishResult{}
	}
	p.list[payload] = r
}

// requireRight checks that each ID is the one under which the witness got the message,
// and returns how many messages have none.
func (p *published) requireRight(t *testing.T, witness *instance) (none int) {
	t.Helper()
	seen := map[string]sseproto.ID{}
	for _, m := range witness.sink.all() {
		seen[m.payload] = m.id
	}
	for payload, r := range p.list {
		id, ok := seen[payload]
		require.True(t, ok, payload)
		require.Positive(t, r.Receivers, payload)
		if r.ID == (sseproto.ID{}) {
			none++
			continue
		}
		require.Equal(t, id, r.ID, payload)
	}
	return none
}

// publishers runs so many at once, each with so many messages.
func (p *published) publishers(t *testing.T, in *instance, publishers, count int) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make(chan error, publishers)
	for k := range publishers {
		wg.Go(func() {
			for i := range count {
				payload := fmt.Sprint(in.cfg.Instance, " ", k, " ", i)
				r, err := in.Publish(context.Background(), fmt.Sprint("ch:", i%3), payload)
				if err != nil {
					errs <- err
					return
				}
				p.note(payload, r)
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
}

func TestPublishTellsTheIDThatEverybodySees(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]option{
		"one feed":             nil,
		"two feeds":            {withFeeds(2)},
		"overlapping patterns": {withPatterns("ch:*", "*", "c?:*", "noise:*"), withFeeds(2)},
	} {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t)
			a, b := start(t, s.URL(), "a", options...), start(t, s.URL(), "b", options...)
			waitSynced(t, a, b)
			eventually(t, func() bool {
				return a.Stats().SubscriptionsSynced == a.cfg.Feeds && b.Stats().SubscriptionsSynced == b.cfg.Feeds
			}, "not subscribedTo")
			stop := noise(t, s, 3, 50, "noise")
			var p published
			var wg sync.WaitGroup
			for _, in := range []*instance{a, b} {
				wg.Go(func() { p.publishers(t, in, 5, 100) })
			}
			wg.Wait()
			stop()
			flush(t, s, "end", a, b)
			require.Len(t, p.list, 1000)
			require.Zero(t, p.requireRight(t, a), "without an ID")
			require.Zero(t, p.requireRight(t, b), "without an ID")
			require.Equal(t, uint64(500), a.Stats().ResultsTold)
			require.Zero(t, a.Stats().ResultsLate)
			require.Empty(t, a.results.batches)
			require.Zero(t, a.results.waiting)
		})
	}
}

func TestPublishBatchKeepsTheOrderAndTellsEachID(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	in := start(t, s.URL(), "a", withPatterns("ch:*"), func(c *Config) { c.MaxMessageBytes = 1 << 20 })
	waitSynced(t, in)
	stop := noise(t, s, 2, 50, "noise")
	var out []OutMessage
	for i := range 3*maxCallCommands + 5 {
		out = append(out, OutMessage{fmt.Sprint("ch:", i%2), fmt.Sprint("m", i)})
	}
	out = append(out, OutMessage{"ch:", strings.Repeat("x", 900<<10)}, OutMessage{"ch:", strings.Repeat("y", 900<<10)},
		OutMessage{"elsewhere", "nobody subscribes"}, OutMessage{"ch:", "last"})
	list, err := in.PublishBatch(context.Background(), out)
	stop()
	require.NoError(t, err)
	require.Len(t, list, len(out))
	flushOn(t, s, "ch:flush", "end", in)
	at := map[string]sseproto.ID{}
	for _, m := range in.sink.all() {
		at[m.payload] = m.id
	}
	var last sseproto.ID
	for i, r := range list {
		if out[i].Channel == "elsewhere" {
			require.Equal(t, PublishResult{}, r)
			continue
		}
		require.Equal(t, PublishResult{at[out[i].Payload], 1}, r)
		require.True(t, last.Less(r.ID), "%v after %v", r.ID, last)
		last = r.ID
	}
	list, err = in.PublishBatch(context.Background(), nil)
	require.NoError(t, err)
	require.Empty(t, list)
}

// flushOn is flush on a channel of choice.
func flushOn(t testing.TB, s *redistest.Server, channel, mark string, in *instance) {
	t.Helper()
	do(t, s, "PUBLISH", channel, mark)
	eventually(t, func() bool { return in.has(mark) }, "no %q", mark)
}

func TestPublishOverKilledSubscriptionsTellsTheRightIDOrNone(t *testing.T) {
	t.Parallel()
	for feeds := 1; feeds <= 2; feeds++ {
		t.Run(fmt.Sprint(feeds, " feeds"), func(t *testing.T) {
			s := redistest.Start(t)
			victim := start(t, s.URL(), "victim", withFeeds(feeds), func(c *Config) {
				c.Client.ClientName = "victim"
				c.NumberWait = 50 * time.Millisecond
			})
			witness := start(t, s.URL(), "witness")
			waitSynced(t, victim, witness)
			stop := noise(t, s, 2, 50, "noise")
			var p published
			done := make(chan struct{})
			go func() { defer close(done); p.publishers(t, victim, 4, 100) }()
			for round, busy := uint64(1), true; busy; round++ {
				told := victim.Stats().ResultsTold
				eventually(t, func() bool {
					busy = !isClosed(done)
					return !busy || victim.Stats().SubscriptionsSynced > 0 && victim.Stats().ResultsTold > told+20
				}, "no numbers")
				if busy {
					killPubSub(t, s, "victim")
					eventually(t, func() bool { return victim.Stats().Resyncs["disconnect"] >= round }, "not noticed")
				}
			}
			stop()
			flush(t, s, "end", witness)
			none := p.requireRight(t, witness)
			t.Logf("%d of %d messages without an ID", none, len(p.list))
			require.Equal(t, uint64(none), victim.Stats().ResultsLate)
			require.Equal(t, uint64(len(p.list)-none), victim.Stats().ResultsTold)
			require.NotZero(t, victim.Stats().ResultsTold)
			require.Zero(t, victim.results.waiting)
		})
	}
}

func TestPublishRefusesWhatWouldNotBeDelivered(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	in := start(t, s.URL(), "a", func(c *Config) { c.MaxMessageBytes = 5 })
	waitSynced(t, in)
	good := OutMessage{"c", "12345"}
	_, err := in.PublishBatch(context.Background(), []OutMessage{good, {"c", "123456"}})
	require.ErrorIs(t, err, ErrTooLarge)
	require.ErrorContains(t, err, "message 2")
	_, err = in.PublishBatch(context.Background(), []OutMessage{good, {"__x", "1"}})
	require.ErrorIs(t, err, ErrReserved)
	flush(t, s, "end", in)
	require.Len(t, in.sink.all(), 1, "nothing was sent")
}

func TestPublishWithoutANumberingFeedTellsNoID(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	in := start(t, s.URL(), "a", func(c *Config) { c.NumberWait = time.Hour })
	waitSynced(t, in)
	ended := false
	for _, l := range in.subscriptions { // as between the loss of a subscription and the next tick
		l.synced.Store(false)
	}
	require.False(t, in.numbers())
	r, err := in.Publish(context.Background(), "c", "x")
	require.NoError(t, err)
	require.Equal(t, int64(1), r.Receivers)
	// A number that comes before the answer is told nevertheless: both are right.
	eventually(t, func() bool { ended = in.has("x"); return ended }, "not delivered")
	if r.ID != (sseproto.ID{}) {
		require.Equal(t, in.sink.all()[0].id, r.ID)
	}
}

func TestPublishGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	p := startProxy(t, s.Addr())
	in := start(t, "redis://"+p.addr(), "a", func(c *Config) {
		c.NumberWait = time.Hour
		c.ProbeTimeout = time.Hour
		c.Client.Dialer.KeepAlive = time.Hour
	})
	waitSynced(t, in)
	p.muteSubscribers()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second) // Redis answers within it
	defer cancel()
	r, err := in.Publish(ctx, "c", "x")
	require.NoError(t, err, "Redis has answered")
	require.Equal(t, PublishResult{Receivers: 1}, r)
	require.Equal(t, uint64(1), in.Stats().ResultsLate)
}

func TestReplicaPublishesNothing(t *testing.T) {
	t.Parallel()
	primary := redistest.Start(t)
	replica := redistest.Start(t, "--replicaof", strings.Replace(primary.Addr(), ":", " ", 1))
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{replica.Addr()}, ForceSingleClient: true, DisableCache: true})
	require.NoError(t, err)
	defer client.Close()
	got := make(chan string, 2)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = client.Receive(ctx, client.B().Psubscribe().Pattern("*").Build(), func(m rueidis.PubSubMessage) { got <- m.Message })
	}()
	eventually(t, func() bool { return do(t, replica, "PUBLISH", "probe", "probe") == int64(1) }, "not subscribed")
	f, err := New(testConfig(t, replica.URL(), "a"), discard{})
	require.NoError(t, err)
	_, err = f.client.Get(ctx)
	require.NoError(t, err)
	_, err = f.Publish(ctx, "c", "x")
	require.ErrorContains(t, err, "READONLY")
	require.Len(t, f.ticker.joins, 1, "the ticker looks for the primary")
	do(t, replica, "PUBLISH", "probe", "after")
	for _, want := range []string{"probe", "after"} {
		require.Equal(t, want, <-got)
	}
	cancel()
	<-done
	f.client.Close()
}

// TestNumberOfADemotedPrimaryIsNotTold: the commands have reached the new primary while
// the subscription still hangs on the old one, where the message arrives by replication and
// gets a number that nobody else gives it.
func TestNumberOfADemotedPrimaryIsNotTold(t *testing.T) {
	t.Parallel()
	old, promoted := redistest.Start(t), redistest.Start(t, "--repl-diskless-sync-delay", "0")
	p := startProxy(t, old.Addr())
	in := start(t, "redis://"+p.addr(), "in", func(c *Config) {
		c.Client.ClientName = "victim"
		c.TickInterval, c.ProbeTimeout = time.Hour, 3*time.Hour // nothing tells it about the other node
		c.NumberWait = time.Hour
	})
	waitSynced(t, in)
	do(t, old, "REPLICAOF", "127.0.0.1", strconv.Itoa(promoted.Port()))
	eventually(t, func() bool {
		return strings.Contains(do(t, old, "INFO", "replication").(string), "master_link_status:up")
	}, "no replication")
	p.lead(promoted.Addr())
	killCommands(t, old, "victim")
	var r PublishResult
	eventually(t, func() bool {
		var err error
		r, err = in.Publish(context.Background(), "c", "x")
		return err == nil
	}, "not published")
	require.Equal(t, PublishResult{}, r, "nobody is subscribed at the new primary")
	eventually(t, func() bool { return in.has("x") }, "it would have had a number")
	require.Len(t, in.sink.spans, 1)
}

// awaiting is a subscription with a tick at 10-0 on node n1, whose feed does not run.
func awaiting(t *testing.T, feeds int) (*Feed, []*subscription) {
	t.Helper()
	f, err := New(testConfig(t, "redis://127.0.0.1:1", "me", withFeeds(feeds)), discard{})
	require.NoError(t, err)
	for _, s := range f.subscriptions {
		s.node, s.ready = "n1", make(chan struct{})
		s.onSubscription(rueidis.PubSubSubscription{Kind: "subscribe"})
		s.onSubscription(rueidis.PubSubSubscription{Kind: "psubscribe"})
		s.tickNow(10)
	}
	return f, f.subscriptions
}

func (s *subscription) tickNow(t uint64) {
	s.onMessage(pubsub("", s.feed.keys.Control, fmt.Sprintf("tick %d e 0-0 %s %s - x", t, s.feed.fingerprint, s.node)))
}

func (s *subscription) sent(caller string, p *publishBatch, node string) {
	s.onMessage(pubsub("", s.feed.keys.Control, fmt.Sprintf("sent %s %s %s", caller, p.name(), node)))
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// TestNoticeAwaitsOnlyMessagesOfThisInstance: each way in which a notice is not followed by our
// message on this node ends with no ID at all.
func TestNoticeAwaitsOnlyMessagesOfThisInstance(t *testing.T) {
	f := func(name string, play func(l *subscription, p *publishBatch), want sseproto.ID, over bool) {
		t.Run(name, func(t *testing.T) {
			feed, subscriptions := awaiting(t, 1)
			p := feed.results.open(feed.patterns, []OutMessage{{"c", "mine"}}, 0)
			play(subscriptions[0], p)
			require.Equal(t, over, isClosed(p.done))
			list := []PublishResult{{}}
			feed.results.resolve(p, list)
			require.Equal(t, want, list[0].ID)
			require.Zero(t, feed.results.waiting)
		})
	}
	mine := pubsub("*", "c", "mine")
	f("ours", func(l *subscription, p *publishBatch) { l.sent("me", p, "n1"); l.onMessage(mine) }, id(10, 1), true)
	f("numbers go on", func(l *subscription, p *publishBatch) { l.onMessage(mine); l.sent("me", p, "n1"); l.onMessage(mine) }, id(10, 2), true)
	f("of another instance", func(l *subscription, p *publishBatch) { l.sent("you", p, "n1"); l.onMessage(mine) }, id(0, 0), false)
	f("of another node", func(l *subscription, p *publishBatch) { l.sent("me", p, "n2"); l.onMessage(mine) }, id(0, 0), true)
	f("of an earlier process", func(l *subscription, p *publishBatch) {
		l.sent("me", &publishBatch{number: 1}, "n1")
		l.onMessage(mine)
	}, id(0, 0), false)
	f("no message before the tick", func(l *subscription, p *publishBatch) { l.sent("me", p, "n1"); l.tickNow(20); l.onMessage(mine) }, id(0, 0), true)
	f("another message", func(l *subscription, p *publishBatch) {
		l.sent("me", p, "n1")
		l.onMessage(pubsub("*", "d", "x"))
		l.onMessage(mine)
	}, id(0, 0), true)
	f("a lost subscription", func(l *subscription, p *publishBatch) {
		l.sent("me", p, "n1")
		l.finish(CauseDisconnect)
		l.onMessage(mine)
	}, id(0, 0), true)
	f("a subscription without a mark", func(l *subscription, p *publishBatch) {
		l.finish(CauseDisconnect)
		l.sent("me", p, "n1")
		l.onMessage(mine)
	}, id(0, 0), true)
	f("a reserved message in between", func(l *subscription, p *publishBatch) {
		l.sent("me", p, "n1")
		l.onMessage(pubsub("*", "__keyspace@0__:c", "set"))
		l.onMessage(mine)
	}, id(10, 1), true)
}

func TestSecondFeedTellsWhatTheFirstCouldNot(t *testing.T) {
	feed, subscriptions := awaiting(t, 2)
	p := feed.results.open(feed.patterns, []OutMessage{{"c", "1"}, {"c", "2"}}, 0)
	subscriptions[0].sent("me", p, "n1")
	subscriptions[0].onMessage(pubsub("*", "c", "1"))
	subscriptions[0].finish(CauseDisconnect)
	require.False(t, isClosed(p.done))
	subscriptions[1].sent("me", p, "n1")
	subscriptions[1].onMessage(pubsub("*", "c", "1"))
	subscriptions[1].onMessage(pubsub("*", "c", "2"))
	require.True(t, isClosed(p.done))
	list := make([]PublishResult, 2)
	feed.results.resolve(p, list)
	require.Equal(t, []PublishResult{{ID: id(10, 1)}, {ID: id(10, 2)}}, list)
}

func TestAwaitedResultsAreBounded(t *testing.T) {
	feed, subscriptions := awaiting(t, 1)
	out := slices.Repeat([]OutMessage{{"c", ""}}, maxAwaited)
	full := feed.results.open(feed.patterns, out, 0)
	require.NotEmpty(t, full.name())
	over := feed.results.open(feed.patterns, out[:1], 0)
	require.Empty(t, over.name(), "no notice")
	require.True(t, isClosed(over.done), "no wait")
	require.Equal(t, uint64(1), feed.Stats().ResultsRefused)
	feed.results.resolve(over, []PublishResult{{}})
	feed.results.drop(full)
	again := feed.results.open(feed.patterns, out[:1], 0)
	subscriptions[0].sent("me", full, "n1")
	require.Nil(t, subscriptions[0].awaited, "dropped")
	require.NotEmpty(t, again.name())
	require.Equal(t, 1, feed.results.waiting)
}

func TestNotifyReachesAllInstances(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	got := make(chan string, 16)
	hear := func(c *Config) {
		name := c.Instance
		c.OnNotice = func(words []string) { got <- name + ": " + strings.Join(words, "|") }
	}
	a, b := start(t, s.URL(), "a", hear), start(t, s.URL(), "b", hear)
	waitSynced(t, a, b)
	require.NoError(t, a.Notify(context.Background(), "ask", "ch:1", "42"))
	require.ElementsMatch(t, []string{"a: ask|ch:1|42", "b: ask|ch:1|42"}, []string{<-got, <-got})
	require.Equal(t, uint64(1), b.Stats().Notices)
	for _, bad := range [][]string{nil, {""}, {"a", ""}, {"a", "b c"}, {"a\r"}, {"tick"}, {"free"}, {"sent", "a"}} {
		require.ErrorIs(t, a.Notify(context.Background(), bad...), ErrNotice, "%q", bad)
	}
	do(t, s, "PUBLISH", a.keys.Control, "  ") // no words
	require.NoError(t, a.Notify(context.Background(), "last"))
	require.ElementsMatch(t, []string{"a: last", "b: last"}, []string{<-got, <-got})
}
