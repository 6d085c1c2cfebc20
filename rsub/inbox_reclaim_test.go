package rsub

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redisconn"
	"ssed/internal/redistest"
	"ssed/sseproto"
)

// successor is a feed that does not run and leads, on a server that has entries of
// which it does not know that they were published behind the tick after base.
type successor struct {
	*Feed
	t    *testing.T
	s    *redistest.Server
	sub  *instance
	base uint64
	ids  []string
}

func newSuccessor(t *testing.T, entries int) *successor {
	s := redistest.Start(t)
	c := &successor{t: t, s: s}
	c.sub = start(t, s.URL(), "sub", quietTicks)
	waitSynced(t, c.sub)
	c.Feed = manual(t, s, "f")
	do(t, s, "HSET", c.keys.Clock, "leader", "f", "leader_until", inMs(2500))
	c.tickByHand(t, modeLead, true)
	var err error
	c.base, err = strconv.ParseUint(do(t, s, "HGET", c.keys.Clock, "inbox_base").(string), 10, 64)
	require.NoError(t, err)
	for i := range entries {
		c.ids = append(c.ids, add(t, s, "channel", "a", "data", strconv.Itoa(i)))
	}
	return c
}

// quietTicks leaves the lead to somebody else.
func quietTicks(c *Config) { c.TickInterval = time.Minute; c.ProbeTimeout = time.Hour }

func (c *successor) at(n uint64) sseproto.ID { return id(c.base+1, n) }

// reclaim says that another server has published these.
func (c *successor) reclaim(ids ...string) {
	c.ticker.inbox.memory = inboxMemories{}
	c.ticker.inbox.memory.note(tick{t: c.base + 1, node: "other", batch: strings.Join(ids, ",")})
	c.tickByHand(c.t, modeLead, true)
}

// written moves the watermark to the n-th position behind the tick; the history has
// the messages of these.
func (c *successor) written(n uint64, has ...uint64) {
	for _, at := range has {
		do(c.t, c.s, "XADD", testPrefix+"a", c.at(at).String(), "data", strconv.FormatUint(at-1, 10))
	}
	do(c.t, c.s, "HSET", c.keys.Clock, "watermark", c.at(n).String())
}

// moved returns what three more ticks publish: they forget, ask and move.
func (c *successor) moved() []string {
	for range 3 {
		c.tickByHand(c.t, modeLead, true)
	}
	flush(c.t, c.s, "end", c.sub)
	return slices.DeleteFunc(payloads(c.sub.sink.all()), func(text string) bool { return text == "end" })
}

// TestReclaimedEntryThatTheHistoryLacksIsMovedAgain: an instance that did not see what
// was published on the other server has written that stretch of the history.
func TestReclaimedEntryThatTheHistoryLacksIsMovedAgain(t *testing.T) {
	c := newSuccessor(t, 5)
	c.reclaim(c.ids[:4]...)
	require.EqualValues(t, 1, do(t, c.s, "LLEN", testNotes), "the history may still get them")
	require.Empty(t, c.moved(), "what comes behind them waits")
	c.written(4, 1, 3)
	require.Equal(t, []string{"1", "3", "4"}, c.moved())
}

// TestReclaimedEntryThatWasTrimmedIsNotMovedAgain: nor one that was deleted with its
// channel's history; one before which nothing was trimmed is.
func TestReclaimedEntryThatWasTrimmedIsNotMovedAgain(t *testing.T) {
	f := func(name string, remove []string, want ...string) {
		t.Run(name, func(t *testing.T) {
			c := newSuccessor(t, 3)
			c.reclaim(c.ids...)
			c.written(2, 1, 2)
			do(t, c.s, append([]string{remove[0], testPrefix + "a"}, remove[1:]...)...)
			c.written(3)
			require.Equal(t, want, c.moved())
		})
	}
	f("trimmed", []string{"XTRIM", "MAXLEN", "1"}, "2")
	f("all trimmed", []string{"XTRIM", "MAXLEN", "0"}, []string{}...)
	f("expired or deleted as a key", []string{"DEL"}, "0", "1", "2")
}

// TestFailedReclaimIsRepeated, at the pace of the ticks.
func TestFailedReclaimIsRepeated(t *testing.T) {
	c := newSuccessor(t, 2)
	do(t, c.s, "RENAME", testInbox, "elsewhere")
	do(t, c.s, "SET", testInbox, "not a stream")
	c.reclaim(c.ids...)
	require.True(t, c.ticker.inbox.reclaims())
	require.Equal(t, c.cfg.TickInterval, c.ticker.pause())
	do(t, c.s, "RENAME", "elsewhere", testInbox)
	c.tickByHand(t, modeLead, true)
	require.False(t, c.ticker.inbox.reclaims())
	c.written(2, 1, 2)
	require.Empty(t, c.moved())
	require.EqualValues(t, 0, do(t, c.s, "XLEN", testInbox))
}

// TestFailedJoinIsRepeated though the ticks of another instance come in: it may have
// been the only call to a server that wants to be told something.
func TestFailedJoinIsRepeated(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	do(t, s, "ACL", "SETUSER", "b", "on", ">secret", "+@all", "~*", "&*")
	seldom := func(c *Config) { c.TickInterval, c.ProbeTimeout = time.Second, time.Minute } // a busy machine is too late for others
	a := start(t, s.URL(), "a", withInbox, seldom)
	waitSynced(t, a)
	b := start(t, s.URL(), "b", withInbox, seldom, func(c *Config) {
		c.Client.ClientName, c.Client.Username, c.Client.Password = "b", "b", "secret"
	})
	waitSynced(t, b)
	require.True(t, a.Stats().Leading)
	do(t, s, "ACL", "SETUSER", "b", "-evalsha", "-eval")
	killPubSub(t, s, "b")
	eventually(t, func() bool { return b.Stats().TickErrors > 0 && b.isSynced() }, "no call fails, or no ticks")
	was := b.Stats().TickErrors
	eventually(t, func() bool { return b.Stats().TickErrors > was+2 }, "not called again")
	require.True(t, a.Stats().Leading, "nobody else stepped in")
}

// TestMessageThatTheHistoryRefusesIsSetAside: it was published, and the entry must not
// be gone without a trace.
func TestMessageThatTheHistoryRefusesIsSetAside(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	do(t, s, "SET", testPrefix+"spoiled", "not a stream")
	g := startGateway(t, s, "g")
	waitWritten(t, g)
	ids := []string{add(t, s, "channel", "a", "data", "0"), add(t, s, "channel", "spoiled", "data", "1"), add(t, s, "channel", "a", "data", "2")}
	waitEmpty(t, s)
	require.Equal(t, []string{"0", "2"}, payloads(streamOf(t, s, "a")))
	requireAside(t, s, ids[1]+" stream 1")
	eventually(t, func() bool { return g.Stats().Inbox.Refused[refusedStream] == 1 }, "not counted")
	require.Equal(t, uint64(2), g.Stats().Inbox.Acknowledged)

	do(t, s, "DEL", testPrefix+"spoiled")
	add(t, s, "channel", "spoiled", "data", "3")
	waitEmpty(t, s)
	require.Equal(t, []string{"3"}, payloads(streamOf(t, s, "spoiled")))
	requireAside(t, s, ids[1]+" stream 1")
}

// requireAside checks what was set aside: "<id> <reason> <data>" of each.
func requireAside(t *testing.T, s *redistest.Server, want ...string) {
	t.Helper()
	var got []string
	for _, e := range do(t, s, "XRANGE", redisconn.Refused(testInbox), "-", "+").([]any) {
		f := map[string]string{}
		fields := e.([]any)[1].([]any)
		for i := 0; i < len(fields); i += 2 {
			f[fields[i].(string)] = fields[i+1].(string)
		}
		got = append(got, f["inbox_id"]+" "+f["reason"]+" "+f["data"])
	}
	require.Equal(t, want, got)
}

// TestGivenUpMessageThatItsStreamRefusesIsSetAside: the stretch is skipped, and the
// entry cannot be put into the history.
func TestGivenUpMessageThatItsStreamRefusesIsSetAside(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	do(t, s, "SET", testPrefix+"spoiled", "not a stream")
	in := start(t, s.URL(), "in", withInbox) // without a history
	waitSynced(t, in)
	id := add(t, s, "channel", "spoiled", "data", "0")
	add(t, s, "channel", "a", "data", "1")
	eventually(t, func() bool { return len(in.sink.all()) == 2 }, "not moved")
	require.NoError(t, in.stop())
	startGateway(t, s, "g")
	waitEmpty(t, s)
	require.Equal(t, []string{"1"}, payloads(streamOf(t, s, "a")))
	requireAside(t, s, id+" stream 0")
}

// TestRefusedEntriesStayWhenTheyCannotBeSetAside: the others are moved meanwhile.
func TestRefusedEntriesStayWhenTheyCannotBeSetAside(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	do(t, s, "SET", redisconn.Refused(testInbox), "not a stream")
	g := startGateway(t, s, "g")
	waitWritten(t, g)
	id := add(t, s, "data", "without a channel")
	for i := range 3 {
		add(t, s, "channel", "a", "data", strconv.Itoa(i))
		eventually(t, func() bool { return len(streamOf(t, s, "a")) == i+1 }, "not moved")
	}
	require.NotZero(t, g.Stats().Inbox.Failures)
	eventually(t, func() bool { return do(t, s, "XLEN", testInbox) == int64(1) }, "only that one is left")
	do(t, s, "DEL", redisconn.Refused(testInbox))
	waitEmpty(t, s)
	requireAside(t, s, id+" fields without a channel")
	require.Equal(t, numbers("", 0, 3), payloads(streamOf(t, s, "a")))
}
