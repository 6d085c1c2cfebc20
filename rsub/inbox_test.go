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

	"ssed/engine"
	"ssed/internal/redistest"
	"ssed/rstore"
	"ssed/sseproto"
)

const (
	testInbox = "sse:inbox"
	testNotes = "{" + testPrefix + "}:inbox"
)

func withInbox(c *Config) { c.Inbox = testInbox }

// gateway is all of an instance but its clients: feed, log and history.
type gateway struct {
	*Feed
	store     *rstore.Store
	stop      func()
	stopStore func() // of the history alone
}

func startGateway(t testing.TB, s *redistest.Server, name string, options ...option) *gateway {
	t.Helper()
	return startGatewayAt(t, s.URL(), name, options...)
}

func startGatewayAt(t testing.TB, url, name string, options ...option) *gateway {
	t.Helper()
	e, err := engine.New(engine.Config{Listen: []string{"127.0.0.1:0"}, Shards: 1, Logger: quiet})
	require.NoError(t, err)
	named := func(c *Config) { c.Client.ClientName = "gateway" }
	cfg := testConfig(t, url, name, append([]option{withInbox, named}, options...)...)
	g := &gateway{}
	g.store, err = rstore.New(rstore.Config{
		Client: cfg.Client, Prefix: cfg.Prefix, Partition: cfg.Partition, Instance: name, MaxLen: 10_000_000, Logger: quiet,
		ServerOf: func(after sseproto.ID) string { return g.ServerOf(after) }, OnOtherServer: func() { g.Recheck() },
	}, e.Log())
	require.NoError(t, err)
	g.Feed, err = New(cfg, e.Log())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = e.Run(ctx) })
	wg.Go(func() { _ = g.Run(ctx) })
	storeCtx, stopStore := context.WithCancel(ctx)
	stored := make(chan struct{})
	go func() {
		defer close(stored)
		_ = g.store.Run(storeCtx)
	}()
	g.stopStore = func() {
		stopStore()
		<-stored
	}
	g.stop = sync.OnceFunc(func() {
		cancel()
		g.stopStore()
		wg.Wait()
		g.store.Close()
	})
	t.Cleanup(g.stop)
	return g
}

// waitWritten waits until all are subscribedTo and the history is written.
func waitWritten(t testing.TB, list ...*gateway) {
	t.Helper()
	for _, g := range list {
		eventually(t, func() bool { ok, _ := g.State(); return ok && g.store.Watermark().Ms > 0 }, "%s is not ready", g.cfg.Instance)
	}
}

// add puts an entry into the inbox and returns its ID.
func add(t testing.TB, s *redistest.Server, fields ...string) string {
	t.Helper()
	return do(t, s, append([]string{"XADD", testInbox, "*"}, fields...)...).(string)
}

// addMany puts entries from, from+1, …, to-1 into the inbox, in one pipeline.
func addMany(t testing.TB, s *redistest.Server, channel, tag string, from, to int) {
	t.Helper()
	addManyBy(t, dial(t, s), channel, tag, from, to)
}

func addManyBy(t testing.TB, client rueidis.Client, channel, tag string, from, to int) {
	t.Helper()
	var cmds rueidis.Commands
	for i := from; i < to; i++ {
		cmds = append(cmds, client.B().Xadd().Key(testInbox).Id("*").FieldValue().
			FieldValue("channel", channel).FieldValue("data", tag+strconv.Itoa(i)).Build())
	}
	for _, res := range client.DoMulti(context.Background(), cmds...) {
		require.NoError(t, res.Error())
	}
}

// streamOf returns what the stream of a channel has.
func streamOf(t testing.TB, s *redistest.Server, channel string) (list []message) {
	t.Helper()
	for _, e := range do(t, s, "XRANGE", testPrefix+channel, "-", "+").([]any) {
		entry := e.([]any)
		id, err := sseproto.ParseID(entry[0].(string))
		require.NoError(t, err)
		fields := entry[1].([]any)
		at := slices.Index(fields, any("data"))
		list = append(list, message{id, channel, fields[at+1].(string)})
	}
	return list
}

func payloads(list []message) []string {
	texts := make([]string, len(list))
	for i, m := range list {
		texts[i] = m.payload
	}
	return texts
}

func numbers(tag string, from, to int) (texts []string) {
	for i := from; i < to; i++ {
		texts = append(texts, tag+strconv.Itoa(i))
	}
	return texts
}

// waitEmpty waits until all of the inbox is in the history.
func waitEmpty(t testing.TB, s *redistest.Server) {
	t.Helper()
	eventually(t, func() bool {
		return do(t, s, "XLEN", testInbox) == int64(0) && do(t, s, "LLEN", testNotes) == int64(0)
	}, "entries are left in the inbox")
}

func TestInboxIsKeptWhileNoInstanceRuns(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	addMany(t, s, "a", "", 0, 1234)
	addMany(t, s, "b", "", 0, 10)
	addMany(t, s, "a", "", 1234, 1300)
	g := startGateway(t, s, "g")
	waitEmpty(t, s)
	require.Equal(t, numbers("", 0, 1300), payloads(streamOf(t, s, "a")))
	require.Equal(t, numbers("", 0, 10), payloads(streamOf(t, s, "b")))
	last := streamOf(t, s, "b")
	require.True(t, streamOf(t, s, "a")[1233].id.Less(last[0].id), "the order of the inbox, over all channels")
	st := g.Stats().Inbox
	require.Equal(t, uint64(1310), st.Moved)
	require.Equal(t, uint64(1310), st.Acknowledged)
	require.Zero(t, st.Length)
	require.Zero(t, st.Oldest)
	require.Zero(t, st.Failures)
}

func TestInboxEntryGetsThePositionThatAllInstancesSee(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	g := startGateway(t, s, "g")
	eventually(t, func() bool { return g.Stats().Leading }, "does not lead")
	witness := start(t, s.URL(), "witness")
	waitSynced(t, witness)
	for i := range 20 {
		do(t, s, "PUBLISH", "a", fmt.Sprint("plain", i))
		add(t, s, "channel", "a", "data", fmt.Sprint("kept", i), "trace", "ignored")
	}
	waitEmpty(t, s)
	flush(t, s, "end", witness)
	all := witness.sink.all()
	require.Equal(t, all[:40], streamOf(t, s, "a"))
}

// TestEntriesHaveTheLimitOfTheLeader: nobody sees an entry again that is published and
// not delivered, so instances with another limit (a rolling change) deliver it too.
func TestEntriesHaveTheLimitOfTheLeader(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	g := startGateway(t, s, "g", func(c *Config) { c.MaxMessageBytes = 100 })
	eventually(t, func() bool { return g.Stats().Leading }, "does not lead")
	small := start(t, s.URL(), "small", withInbox, func(c *Config) {
		c.MaxMessageBytes = 10
		c.TickInterval, c.ProbeTimeout = time.Hour, 3*time.Hour // it never leads, however late the other's ticks are
	})
	waitSynced(t, small)
	text := strings.Repeat("x", 50)
	for range 3 {
		add(t, s, "channel", "a", "data", text)
	}
	add(t, s, "channel", "a", "data", strings.Repeat("y", 101))
	waitEmpty(t, s)
	do(t, s, "PUBLISH", "a", text)
	flush(t, s, "end", small)
	require.Equal(t, []string{text, text, text, "end"}, payloads(small.sink.all()))
	require.Equal(t, streamOf(t, s, "a")[:3], small.sink.all()[:3])
	require.Equal(t, uint64(1), small.Stats().Oversize, "what was not published behind a tick")
	eventually(t, func() bool { return g.Stats().Inbox.Refused[refusedSize] == 1 }, "not set aside")
}

// TestUndeliverableEntriesAreSetAside and do not hold up what comes after them.
func TestUndeliverableEntriesAreSetAside(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	add(t, s, "channel", "ok:1", "data", "first")
	want := []string{}
	refuse := func(reason string, fields ...string) {
		want = append(want, add(t, s, fields...)+" "+reason)
	}
	refuse(refusedFields, "channel", "ok:1")
	refuse(refusedFields, "data", "x")
	refuse(refusedFields, "channel", "", "data", "x")
	refuse(refusedChannel, "channel", "other", "data", "x")
	refuse(refusedChannel, "channel", "__ok", "data", "x")
	refuse(refusedChannel, "channel", "ok:"+strings.Repeat("x", 300), "data", "x")
	refuse(refusedSize, "channel", "ok:1", "data", strings.Repeat("x", 101))
	refuse(refusedEnvelope, "channel", "ok:1", "data", "x", "event_type", "greeting")
	add(t, s, "channel", "ok:1", "data", strings.Repeat("y", 100))
	g := startGateway(t, s, "g", withPatterns("ok:*"), func(c *Config) { c.MaxMessageBytes = 100 })
	waitEmpty(t, s)
	require.Equal(t, []string{"first", strings.Repeat("y", 100)}, payloads(streamOf(t, s, "ok:1")))
	var got []string
	for _, e := range do(t, s, "XRANGE", testInbox+":refused", "-", "+").([]any) {
		fields := e.([]any)[1].([]any)
		require.Equal(t, []any{"inbox_id", "reason"}, []any{fields[0], fields[2]})
		got = append(got, fields[1].(string)+" "+fields[3].(string))
	}
	require.Equal(t, want, got)
	refused := g.Stats().Inbox.Refused
	require.Equal(t, uint64(3), refused[refusedFields])
	require.Equal(t, uint64(3), refused[refusedChannel])
	require.Equal(t, uint64(1), refused[refusedSize])
	require.Equal(t, uint64(1), refused[refusedEnvelope])
}

// TestTypedEntriesBecomeEnvelopes: what the fields say arrives as it is, also data
// that looks like an envelope itself.
func TestTypedEntriesBecomeEnvelopes(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	in := start(t, s.URL(), "in", withInbox, func(c *Config) { c.Envelope = true })
	waitSynced(t, in)
	texts := []string{"plain", "", "Grüße \x00\x01\x7f \"/\\ \n €𝄞", `{"data":"x"}`, " \t{", "\xff raw"}
	for _, text := range texts {
		add(t, s, "channel", "a", "data", text)
	}
	typed := []sseproto.Message{
		{Event: "greeting", ID: "order-17", Retry: 86_400 * time.Second, Data: "Grüße \x00 €𝄞 </p>"},
		{ID: "é" /* not allowed */, Data: "x"},
		{Event: "gap", Data: "x"},
		{Event: "é", Data: ""},
	}
	for _, m := range typed {
		fields := []string{"channel", "a", "data", m.Data, "event_type", m.Event, "id", m.ID}
		if m.Retry > 0 {
			fields = append(fields, "retry", strconv.FormatInt(m.Retry.Milliseconds(), 10))
		}
		add(t, s, fields...)
	}
	add(t, s, "channel", "a", "data", "x", "retry", "1e3")
	add(t, s, "channel", "a", "data", "\xff", "event_type", "x")
	add(t, s, "channel", "a", "data", "end")
	eventually(t, func() bool { return in.has("end") }, "not moved")
	var got []sseproto.Message
	for _, m := range in.sink.all() {
		if e, ok := sseproto.ParseEnvelope(m.payload); ok {
			got = append(got, e)
		} else {
			got = append(got, sseproto.Message{Data: m.payload})
		}
	}
	var want []sseproto.Message
	for _, text := range texts {
		want = append(want, sseproto.Message{Data: text})
	}
	want = append(want, typed[0], typed[3], sseproto.Message{Data: "end"})
	require.Equal(t, want, got)
	// The answer to the tick tells of them, and comes behind the messages or before.
	eventually(t, func() bool { return in.Stats().Inbox.Refused[refusedType] == 3 }, "not counted")
	require.Equal(t, uint64(1), in.Stats().Inbox.Refused[refusedUTF8])
}

func TestEntriesOnChannelsThatTheUserMayNotUseAreSetAside(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	do(t, s, "ACL", "SETUSER", "ssed", "on", ">secret", "+@all", "~*", "&__*", "&open:*", "(+psubscribe &*)")
	add(t, s, "channel", "closed", "data", "x")
	add(t, s, "channel", "open:1", "data", "y")
	startGateway(t, s, "g", withPatterns("open:*", "closed"), func(c *Config) {
		c.Client.Username, c.Client.Password = "ssed", "secret"
	})
	waitEmpty(t, s)
	require.Equal(t, []string{"y"}, payloads(streamOf(t, s, "open:1")))
	require.EqualValues(t, 1, do(t, s, "XLEN", testInbox+":refused"))
}

// TestInboxOfAnotherTypeDoesNotStopTicks: whatever is wrong with it.
func TestInboxOfAnotherTypeDoesNotStopTicks(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	do(t, s, "SET", testInbox, "not a stream")
	g := startGateway(t, s, "g")
	eventually(t, func() bool { st := g.Stats(); return st.Inbox.Failures > 2 && st.TicksSeen > 5 }, "no failures, or no ticks")
	do(t, s, "DEL", testInbox)
	add(t, s, "channel", "a", "data", "x")
	waitEmpty(t, s)
	require.Equal(t, []string{"x"}, payloads(streamOf(t, s, "a")))
}

// TestMissingRightsToTheInboxDoNotStopTicks: Redis looks at the keys of a script
// before it runs it, and at the commands when they come.
func TestMissingRightsToTheInboxDoNotStopTicks(t *testing.T) {
	t.Parallel()
	for name, taken := range map[string][]string{
		"keys":     {"resetkeys", "~" + testPrefix + "*", "~{" + testPrefix + "}:*"},
		"commands": {"-pubsub|numsub", "-xdel"},
	} {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t)
			do(t, s, "ACL", "SETUSER", "ssed", "on", ">secret", "+@all", "~*", "&*")
			do(t, s, append([]string{"ACL", "SETUSER", "ssed"}, taken...)...)
			add(t, s, "channel", "a", "data", "x")
			g := startGateway(t, s, "g", func(c *Config) { c.Client.Username, c.Client.Password = "ssed", "secret" })
			failures := func() uint64 { return g.Stats().Inbox.Failures }
			eventually(t, func() bool { return failures() > 2 && g.Stats().TicksSeen > 5 }, "no failures, or no ticks")
			synced, why := g.State()
			require.True(t, synced, why)
			do(t, s, "ACL", "SETUSER", "ssed", "~*", "+@all")
			waitEmpty(t, s)
			require.Equal(t, []string{"x"}, payloads(streamOf(t, s, "a")))
			before := failures()
			require.NoError(t, g.CommitNow(t.Context()))
			require.Equal(t, before, failures())
		})
	}
}

func TestInboxIsMovedWhenMemoryIsFull(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	in := start(t, s.URL(), "in", withInbox)
	waitSynced(t, in)
	add(t, s, "channel", "a", "data", "x")
	do(t, s, "CONFIG", "SET", "maxmemory", "1")
	eventually(t, func() bool { return in.has("x") }, "not moved")
	do(t, s, "CONFIG", "SET", "maxmemory", "0")
	last, _, _ := in.seen.latest()
	do(t, s, "HSET", in.keys.Clock, "watermark", fmt.Sprintf("%d-1000", last)) // the history goes on
	do(t, s, "CONFIG", "SET", "maxmemory", "1")
	waitEmpty(t, s)
}

// manual is a feed that does not run: its script is called by hand, its answers
// are taken or thrown away.
func manual(t *testing.T, s *redistest.Server, name string, options ...option) *Feed {
	t.Helper()
	f, err := New(testConfig(t, s.URL(), name, append([]option{withInbox}, options...)...), discard{})
	require.NoError(t, err)
	t.Cleanup(f.client.Close)
	return f
}

func (f *Feed) tickByHand(t *testing.T, mode string, takeAnswer bool) {
	t.Helper()
	client, err := f.client.Get(context.Background())
	require.NoError(t, err)
	words, err := f.ticker.exec(context.Background(), client, mode)
	require.NoError(t, err)
	if takeAnswer {
		require.NoError(t, f.ticker.take(words, time.Now()))
	}
}

// TestNothingIsMovedTwice: answers are lost, calls are repeated, several instances
// believe that they lead, each with verdicts that are old by then.
func TestNothingIsMovedTwice(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	sub := start(t, s.URL(), "sub", func(c *Config) { c.TickInterval = time.Minute; c.ProbeTimeout = time.Hour })
	waitSynced(t, sub)
	a, b := manual(t, s, "a"), manual(t, s, "b")
	lead := func(name string) { do(t, s, "HSET", a.keys.Clock, "leader", name) }
	written := func() {
		do(t, s, "HSET", a.keys.Clock, "watermark", do(t, s, "HGET", a.keys.Clock, "t").(string)+"-1000")
	}
	addMany(t, s, "a", "", 0, 10)
	for _, f := range []*Feed{a, b} { // both learn what there is
		lead(f.cfg.Instance)
		f.tickByHand(t, modeLead, true)
		require.Len(t, f.ticker.inbox.verdicts, 20)
	}
	b.tickByHand(t, modeLead, false) // moved, the answer is lost
	b.tickByHand(t, modeLead, false) // sent again
	lead("a")
	a.tickByHand(t, modeLead, false) // another leader, with the same verdicts
	addMany(t, s, "a", "", 10, 20)
	a.tickByHand(t, modeLead, true) // learns of the new ones
	require.Len(t, a.ticker.inbox.verdicts, 20)
	written()
	lead("b")
	b.tickByHand(t, modeLead, false) // forgets what is written; has verdicts of that only
	require.EqualValues(t, 10, do(t, s, "XLEN", testInbox))
	lead("a")
	a.tickByHand(t, modeLead, false)
	a.tickByHand(t, modeLead, true)
	written()
	a.tickByHand(t, modeLead, true)
	require.EqualValues(t, 0, do(t, s, "XLEN", testInbox))
	flush(t, s, "end", sub)
	require.Equal(t, append(numbers("", 0, 20), "end"), payloads(sub.sink.all()))
}

func TestNothingIsMovedWhileNobodyIsSubscribed(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	f := manual(t, s, "f")
	addMany(t, s, "a", "", 0, 3)
	for range 3 {
		f.tickByHand(t, modeLead, true)
	}
	require.Zero(t, f.Stats().Inbox.Moved)
	require.EqualValues(t, 0, do(t, s, "LLEN", testNotes))
	require.EqualValues(t, 3, f.Stats().Inbox.Length)
	require.WithinDuration(t, time.Now(), f.Stats().Inbox.Oldest, time.Minute)
	require.Equal(t, f.cfg.TickInterval, f.ticker.inbox.pause(f.cfg.TickInterval), "it does not spin")
}

// TestOnlySoMuchIsUnderWay: without a history nothing is acknowledged, and what is
// moved without that is bounded, in messages and in bytes.
func TestOnlySoMuchIsUnderWay(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	in := start(t, s.URL(), "in", withInbox)
	waitSynced(t, in)
	addMany(t, s, "a", "", 0, inboxBatch*inboxBatches+100)
	eventually(t, func() bool { return in.Stats().Inbox.Batches == inboxBatches }, "not moved")
	_, _, ticks := in.sink.counts()
	eventually(t, func() bool { _, _, n := in.sink.counts(); return n > ticks+5 }, "no ticks")
	require.LessOrEqual(t, in.Stats().Inbox.Moved, uint64(inboxBatch*inboxBatches))
	require.Equal(t, int64(inboxBatch*inboxBatches+100), in.Stats().Inbox.Length)
	_, moved, _ := in.sink.counts()
	require.EqualValues(t, in.Stats().Inbox.Moved, moved)
}

// TestBatchIsBoundedInBytes: an entry of any size goes by itself.
func TestBatchIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	const others = len("channel") + len("a") + len("data")
	sizes := []int{inboxBatchBytes/2 - others, inboxBatchBytes/2 - others, 3 * inboxBatchBytes, 1, inboxBatchBytes}
	for _, size := range sizes {
		add(t, s, "channel", "a", "data", strings.Repeat("x", size))
	}
	in := start(t, s.URL(), "in", withInbox)
	eventually(t, func() bool { return len(in.sink.all()) == len(sizes) }, "not moved")
	var batches []int
	for _, m := range in.sink.all() {
		if m.id.Seq == 1 {
			batches = append(batches, 0)
		}
		batches[len(batches)-1] += len(m.payload)
	}
	require.Equal(t, []int{inboxBatchBytes - 2*others, 3 * inboxBatchBytes, 1, inboxBatchBytes}, batches)
}

// TestFieldsThatAreIgnoredCountToo: they have to be read.
func TestFieldsThatAreIgnoredCountToo(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	f := manual(t, s, "f")
	for range 4 {
		add(t, s, "channel", "a", "data", "x", "trace", strings.Repeat("x", inboxBatchBytes/2))
	}
	f.tickByHand(t, modeLead, true)
	require.Len(t, f.ticker.inbox.verdicts, 2*2, "asked about two of four")
}

// TestNothingIsReadWhileNothingMayBeMoved: the verdicts hold, and so does what was told
// of the oldest entry.
func TestNothingIsReadWhileNothingMayBeMoved(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	in := start(t, s.URL(), "in", withInbox)
	waitSynced(t, in)
	addMany(t, s, "a", "", 0, inboxBatch*inboxBatches+100)
	eventually(t, func() bool { return in.Stats().Inbox.Batches == inboxBatches }, "not moved")
	_, _, ticks := in.sink.counts()
	waitTicks := func(n int) {
		eventually(t, func() bool { _, _, now := in.sink.counts(); return now > ticks+n }, "no ticks")
	}
	waitTicks(2) // asked for the rest
	calls := func() string {
		for line := range strings.Lines(do(t, s, "INFO", "commandstats").(string)) {
			if rest, ok := strings.CutPrefix(line, "cmdstat_xrange:calls="); ok {
				n, _, _ := strings.Cut(rest, ",")
				return n
			}
		}
		return ""
	}
	was := calls()
	oldest := in.Stats().Inbox.Oldest
	require.NotZero(t, oldest)
	waitTicks(10)
	// Whether the first entry was left behind is looked at; the others are not.
	now, before := atoi(t, calls()), atoi(t, was)
	require.LessOrEqual(t, now-before, 20)
	require.Equal(t, oldest, in.Stats().Inbox.Oldest)
	mark := in.sink.all()[inboxBatch*inboxBatches-1].id
	do(t, s, "HSET", in.keys.Clock, "watermark", mark.String()) // the history goes on
	eventually(t, func() bool { return in.Stats().Inbox.Moved == inboxBatch*inboxBatches+100 }, "the rest is not moved")
}

func atoi(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	require.NoError(t, err)
	return n
}

// TestGivenUpStretchComesFromTheInbox: an instance published a batch and is gone
// before it was written. The next one gives that stretch up, and the history has the
// messages nevertheless, in the positions that they had.
func TestGivenUpStretchComesFromTheInbox(t *testing.T) {
	t.Parallel()
	for _, had := range []int{0, 3, 10} { // in the history already
		t.Run(fmt.Sprint(had), func(t *testing.T) {
			s := redistest.Start(t)
			in := start(t, s.URL(), "in", withInbox) // without a history
			waitSynced(t, in)
			addMany(t, s, "a", "", 0, 10)
			eventually(t, func() bool { return len(in.sink.all()) == 10 }, "not moved")
			all := in.sink.all()
			require.NoError(t, in.stop())
			for _, m := range all[:had] {
				do(t, s, "XADD", testPrefix+"a", m.id.String(), "event_type", "message", "data", m.payload)
				do(t, s, "HSET", in.keys.Clock, "watermark", m.id.String())
			}
			addMany(t, s, "a", "", 10, 15)
			g := startGateway(t, s, "g")
			waitEmpty(t, s)
			got := streamOf(t, s, "a")
			require.Equal(t, all, got[:10], "the positions that the others saw")
			require.Equal(t, numbers("", 0, 15), payloads(got))
			require.EqualValues(t, 1, do(t, s, "LLEN", "{"+testPrefix+"}:gaps"))
			require.EqualValues(t, 10-had, g.store.Stats().SavedMessages)
		})
	}
}

// TestWithdrawnEntryLeavesTheOthersInPlace: somebody deletes an entry that is
// published and not yet written.
func TestWithdrawnEntryLeavesTheOthersInPlace(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	in := start(t, s.URL(), "in", withInbox)
	waitSynced(t, in)
	var ids []string
	for i := range 5 {
		ids = append(ids, add(t, s, "channel", "a", "data", strconv.Itoa(i)))
	}
	eventually(t, func() bool { return len(in.sink.all()) == 5 }, "not moved")
	all := in.sink.all()
	require.NoError(t, in.stop())
	do(t, s, "XDEL", testInbox, ids[0], ids[2])
	startGateway(t, s, "g")
	waitEmpty(t, s)
	require.Equal(t, []message{all[1], all[3], all[4]}, streamOf(t, s, "a"))
}

func TestFlushAllTakesTheInboxWithIt(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	g := startGateway(t, s, "g")
	eventually(t, func() bool { return g.Stats().Leading }, "does not lead")
	client := dial(t, s)
	stop := background(t, func(i int) { addManyBy(t, client, "a", "", 100*i, 100*i+100) })
	for range 3 {
		moved := g.Stats().Inbox.Moved
		eventually(t, func() bool { return g.Stats().Inbox.Moved > moved+500 }, "not moved")
		do(t, s, "FLUSHALL")
	}
	stop()
	waitEmpty(t, s)
	requireOrdered(t, streamOf(t, s, "a"))
}

// requireOrdered checks that numbered messages come once and ascending.
func requireOrdered(t *testing.T, list []message) {
	t.Helper()
	last := -1
	for _, m := range list {
		n, err := strconv.Atoi(m.payload)
		require.NoError(t, err)
		require.Greater(t, n, last)
		last = n
	}
}

// TestInboxUnderFaults: several leaders at once, lost subscriptions and commands, instances
// that go and come. The history has every entry once and in order.
func TestInboxUnderFaults(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	gateways := []*gateway{startGateway(t, s, "g0"), startGateway(t, s, "g1"), startGateway(t, s, "g2")}
	const publishers = 3
	sent := make([]int, publishers)
	var stops []func()
	for p := range publishers {
		client := dial(t, s)
		stops = append(stops, background(t, func(i int) {
			addManyBy(t, client, fmt.Sprint("ch", p), "", 40*i, 40*i+40)
			sent[p] = 40*i + 40
		}))
	}
	moved := func() (n uint64) {
		for _, g := range gateways {
			n += g.Stats().Inbox.Moved
		}
		return n
	}
	for round := range 24 {
		was := moved()
		eventually(t, func() bool { return moved() > was }, "nothing is moved")
		switch round % 6 {
		case 0:
			do(t, s, "CLIENT", "KILL", "TYPE", "pubsub") // nobody has what comes now
		case 1:
			killNamed(t, s)
		case 2: // all lead
			for range 20 {
				do(t, s, "HSET", gateways[0].keys.Clock, "leader_until", "0")
			}
		case 3: // the next one steps in while this one goes on
			do(t, s, "HSET", gateways[0].keys.Clock, "leader", gateways[round%3].cfg.Instance)
		case 4:
			g := gateways[0]
			g.stop()
			gateways = append(gateways[1:], startGateway(t, s, fmt.Sprint("h", round)))
		case 5:
			do(t, s, "SCRIPT", "FLUSH")
		}
	}
	for _, stop := range stops {
		stop()
	}
	waitEmpty(t, s)
	for p := range publishers {
		require.Equal(t, numbers("", 0, sent[p]), payloads(streamOf(t, s, fmt.Sprint("ch", p))), "publisher %d", p)
	}
}

// killNamed disconnects the command connections of all instances; publishers keep theirs.
func killNamed(t *testing.T, s *redistest.Server) {
	t.Helper()
	for line := range strings.Lines(do(t, s, "CLIENT", "LIST", "TYPE", "normal").(string)) {
		fields := strings.Fields(line)
		if slices.Contains(fields, "name=gateway") {
			_, _ = s.Do("CLIENT", "KILL", "ID", strings.TrimPrefix(fields[0], "id=")) // it may be gone
		}
	}
}

// TestGivenUpTypedEntryKeepsItsType: the history has it as the writer would have
// written it.
func TestGivenUpTypedEntryKeepsItsType(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	typed := func(c *Config) { c.Envelope = true }
	in := start(t, s.URL(), "in", withInbox, typed)
	waitSynced(t, in)
	add(t, s, "retry", "5000", "data", "x", "id", "order-17", "event_type", "greeting", "channel", "a")
	eventually(t, func() bool { return len(in.sink.all()) == 1 }, "not moved")
	at := in.sink.all()[0].id
	require.NoError(t, in.stop())
	startGateway(t, s, "g", typed)
	waitEmpty(t, s)
	entry := do(t, s, "XRANGE", testPrefix+"a", "-", "+").([]any)[0].([]any)
	require.Equal(t, at.String(), entry[0])
	require.Equal(t, []any{"event_type", "greeting", "data", "x", "id", "order-17", "retry", "5000"}, entry[1])
}

// TestFailoverToAServerThatForgot: the last batches were published, and the server that
// takes over knows nothing of it. It is told: the history has every entry once, in
// the position that it had.
func TestFailoverToAServerThatForgot(t *testing.T) {
	t.Parallel()
	for name, remembered := range map[string]bool{"logs have them": true, "nobody has them": false} {
		t.Run(name, func(t *testing.T) {
			old := redistest.Start(t)
			replica := redistest.Start(t, "--replicaof", strings.Replace(old.Addr(), ":", " ", 1))
			p := startProxy(t, old.Addr())
			a := startGatewayAt(t, "redis://"+p.addr(), "a")
			b := startGatewayAt(t, "redis://"+p.addr(), "b")
			waitWritten(t, a, b)
			addMany(t, old, "ch", "", 0, 10)
			waitEmpty(t, old)

			nobodyLeads := func() { // so that nothing is moved, for 2.5 s
				do(t, old, "HSET", a.keys.Clock, "leader", "nobody", "inbox_leader", "nobody", "leader_until", inMs(2500))
			}
			nobodyLeads()
			addMany(t, old, "ch", "", 10, 30)
			eventually(t, func() bool {
				nobodyLeads() // a busy machine may take longer
				return do(t, replica, "XLEN", testInbox) == int64(20)
			}, "no replication")
			do(t, replica, "REPLICAOF", "NO", "ONE")
			do(t, old, "HSET", a.keys.Clock, "leader_until", "0")
			waitEmpty(t, old) // all is moved, and written: the successor has none of it
			want := streamOf(t, old, "ch")
			require.Equal(t, numbers("", 0, 30), payloads(want))
			if !remembered { // who has the logs writes to nobody: only the ticks go on
				a.stopStore()
				b.stopStore()
			}
			p.lead(replica.Addr())
			do(t, old, "CLIENT", "KILL", "TYPE", "normal")
			do(t, old, "CLIENT", "KILL", "TYPE", "pubsub")
			if !remembered {
				eventually(t, func() bool { return do(t, replica, "LLEN", testNotes) != int64(0) }, "not awaited")
				startGatewayAt(t, "redis://"+p.addr(), "c")
			}
			addMany(t, replica, "ch", "", 30, 40)
			waitEmpty(t, replica)
			got := streamOf(t, replica, "ch")
			require.Equal(t, numbers("", 0, 40), payloads(got))
			require.Equal(t, want, got[:30], "the positions that they had")
		})
	}
}

func inMs(ms int64) string { return strconv.FormatInt(time.Now().UnixMilli()+ms, 10) }

// TestHistoryDecidesWhatAReclaimBecomes: what the history has is deleted, what it will not
// get is published again, and what it may still get is noted and waited for.
func TestHistoryDecidesWhatAReclaimBecomes(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	sub := start(t, s.URL(), "sub", func(c *Config) { c.TickInterval = time.Minute; c.ProbeTimeout = time.Hour })
	waitSynced(t, sub)
	f := manual(t, s, "f")
	do(t, s, "HSET", f.keys.Clock, "leader", "f", "leader_until", inMs(2500))
	f.tickByHand(t, modeLead, true)
	base, err := strconv.ParseUint(do(t, s, "HGET", f.keys.Clock, "inbox_base").(string), 10, 64)
	require.NoError(t, err)
	at := func(n uint64) string { return id(base+1, n).String() }
	var ids []string
	for i := range 6 {
		ids = append(ids, add(t, s, "channel", "a", "data", strconv.Itoa(i)))
	}
	do(t, s, "XADD", testPrefix+"a", at(1), "data", "0")
	do(t, s, "XADD", testPrefix+"a", at(2), "data", "1")
	do(t, s, "HSET", f.keys.Clock, "watermark", at(3))
	reclaim := tick{t: base + 1, node: "other", batch: strings.Join(ids[:4], ",")}
	for range 2 { // the second instance that says so changes nothing
		f.ticker.inbox.memory = inboxMemories{}
		f.ticker.inbox.memory.note(reclaim)
		require.True(t, f.ticker.inbox.reclaims())
		f.tickByHand(t, modeLead, true)
		require.False(t, f.ticker.inbox.reclaims())
	}
	require.Equal(t, []any{strings.Join([]string{strconv.FormatUint(base+1, 10), "?0-0,0-0,0-0," + ids[3], testInbox}, " ")}, do(t, s, "LRANGE", testNotes, "0", "-1"))
	require.EqualValues(t, 4, do(t, s, "XLEN", testInbox), "2, 3, 4 and 5 are left")
	f.tickByHand(t, modeLead, true)
	require.Zero(t, f.Stats().Inbox.Moved, "2 waits for 3, and 4 for 2")
	do(t, s, "XADD", testPrefix+"a", at(4), "data", "3")
	do(t, s, "HSET", f.keys.Clock, "watermark", at(4))
	f.tickByHand(t, modeLead, true) // 3 is in the history
	f.tickByHand(t, modeLead, true)
	flush(t, s, "end", sub)
	require.Equal(t, []string{"2", "4", "5", "end"}, payloads(sub.sink.all()))

	// What this server knows anyway is not looked at.
	reclaim.t, reclaim.batch = base, strings.Join(ids[4:], ",")
	f.ticker.inbox.memory = inboxMemories{}
	f.ticker.inbox.memory.note(reclaim)
	f.tickByHand(t, modeLead, true)
	require.EqualValues(t, 1, do(t, s, "LLEN", testNotes))
}

func TestOnlySoMuchIsRemembered(t *testing.T) {
	var m inboxMemories
	batch := strings.TrimSuffix(strings.Repeat("1-0,", 500), ",")
	for i := range uint64(100) {
		m.note(tick{t: i + 1, node: "n", batch: batch})
		m.note(tick{t: i + 1, node: "n", batch: batch}) // by the second feed
		m.note(tick{t: i + 2, node: "n"})
	}
	const kept = inboxMemory / 500
	for i := range uint64(kept) { // a batch at a time
		words, newest := m.reclaims("other")
		require.Equal(t, []string{strconv.FormatUint(100-kept+1+i, 10), batch}, words)
		require.Equal(t, 100-kept+1+i, newest)
		m.acknowledge("other", newest)
	}
	require.False(t, m.hasReclaims("other"))
	words, _ := m.reclaims("")
	require.Empty(t, words)
}

// TestReclaimsOfOneCallAreBounded at a time, and one of any size goes alone.
func TestReclaimsOfOneCallAreBounded(t *testing.T) {
	var m inboxMemories
	for i, entries := range []int{600, 200, 300, 1} {
		m.note(tick{t: uint64(i + 1), node: "n", batch: strings.TrimSuffix(strings.Repeat("1-0,", entries), ",")})
	}
	var calls []int
	for m.hasReclaims("other") {
		words, newest := m.reclaims("other")
		calls = append(calls, len(words)/2)
		m.acknowledge("other", newest)
	}
	require.Equal(t, []int{1, 2, 1}, calls)
}

// TestIDsOfAnySizeAreMovedOnce: a backend may give its own, of which numbers of Lua
// hold 53 bits.
func TestIDsOfAnySizeAreMovedOnce(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	in := start(t, s.URL(), "in", withInbox)
	waitSynced(t, in)
	for i, id := range []string{"1-1", "18446744073709551000-1", "18446744073709551000-2", "18446744073709551001-0"} {
		do(t, s, "XADD", testInbox, id, "channel", "a", "data", strconv.Itoa(i))
		eventually(t, func() bool { return len(in.sink.all()) == i+1 }, "not moved")
	}
	_, _, ticks := in.sink.counts()
	eventually(t, func() bool { _, _, n := in.sink.counts(); return n > ticks+3 }, "no ticks")
	require.Equal(t, numbers("", 0, 4), payloads(in.sink.all()))
}
