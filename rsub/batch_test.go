package rsub

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
	"ssed/sseproto"
)

const testBatches = "ssed:batches"

func withBatches(c *Config) { c.BatchChannel = testBatches }

// batchOf makes a batch of channels and payloads in turns.
func batchOf(texts ...string) string {
	var batch []byte
	for i := 0; i < len(texts); i += 2 {
		batch = sseproto.AppendBatched(batch, texts[i], texts[i+1])
	}
	return string(batch)
}

// TestBatchesAreNumberedMessageByMessage: on every instance alike, with plain messages in
// between, whatever the patterns see of the batch itself.
func TestBatchesAreNumberedMessageByMessage(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]option{
		"one feed":             {withBatches},
		"two feeds":            {withBatches, withFeeds(2)},
		"overlapping patterns": {withBatches, withPatterns("ch:*", "c?:*", "ssed:*", "noise:*", "flush")},
	} {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t)
			a, b := start(t, s.URL(), "a", options...), start(t, s.URL(), "b", options...)
			for _, in := range []*instance{a, b} {
				eventually(t, func() bool { return in.Stats().SubscriptionsSynced == in.cfg.Feeds }, "not all feeds of %s are synced", in.cfg.Instance)
			}
			stop := noise(t, s, 2, 20, "noise")
			for i := range 50 {
				var texts []string
				for k := range 20 {
					texts = append(texts, fmt.Sprint("ch:", k%3), fmt.Sprint("batched ", i, " ", k))
				}
				do(t, s, "PUBLISH", testBatches, batchOf(texts...))
			}
			stop()
			flush(t, s, "end", a, b)
			got := map[string]sseproto.ID{}
			var last message
			n := 0
			for _, m := range b.sink.all() {
				got[m.payload] = m.id
				if strings.HasPrefix(m.payload, "batched ") {
					if n++; !strings.HasSuffix(m.payload, " 0") { // one right behind the other: no tick and no message comes between
						require.Equal(t, sseproto.ID{Ms: last.id.Ms, Seq: last.id.Seq + 1}, m.id, m.payload)
					}
					require.Equal(t, fmt.Sprint("batched ", (n-1)/20, " ", (n-1)%20), m.payload)
					last = m
				}
			}
			require.Equal(t, 1000, n)
			for _, m := range a.sink.all() {
				if id, ok := got[m.payload]; ok {
					require.Equal(t, id, m.id, m.payload)
				}
			}
			eventually(t, func() bool { return a.Stats().Batches == uint64(50*a.cfg.Feeds) }, "not every feed got all batches")
			require.Zero(t, a.Stats().BrokenBatches)
			require.Zero(t, a.Stats().Unmatched)
		})
	}
}

// TestWhatABatchMayNotHaveKeepsItsNumber: what follows is numbered as if it had been
// delivered, and an end that cannot be read has no number.
func TestWhatABatchMayNotHaveKeepsItsNumber(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	wide := start(t, s.URL(), "wide", withBatches, withPatterns("ch:*", "flush"), func(c *Config) { c.MaxMessageBytes = 100 })
	waitSynced(t, wide)
	big := strings.Repeat("x", 101)
	publishAlone := func(batch string) []message {
		t.Helper()
		before := len(wide.sink.all())
		require.EqualValues(t, 1, do(t, s, "PUBLISH", testBatches, batch))
		flush(t, s, fmt.Sprint("end", before), wide)
		list := wide.sink.all()[before:]
		return list[:len(list)-1]
	}
	f := func(batch string, want map[string]uint64) {
		t.Helper()
		list := publishAlone(batch)
		require.Len(t, list, len(want))
		for _, m := range list {
			require.Equal(t, want[m.payload], 1+m.id.Seq-list[0].id.Seq, m.payload)
		}
	}
	f(batchOf("ch:a", "1", "__reserved", "x", "elsewhere", "x", testBatches, "x", "", "x", "ch:a", big, "ch:b", "7"), map[string]uint64{"1": 1, "7": 7})
	f(batchOf("ch:a", "1", "ch:a", "2")+"\x04ch:a\x05cut", map[string]uint64{"1": 1, "2": 2})
	f("", nil)
	f("hello", nil)
	f("\x80\x80\x80\x80\x80", nil)

	// Beyond 1 MiB nothing is read, and no message across the border.
	edge := batchOf("ch:a", "1", "else", strings.Repeat("x", 1<<20-16))
	require.Len(t, edge, 1<<20-1)
	f(edge+batchOf("ch:a", "over"), map[string]uint64{"1": 1})
	f(edge+"\x00", map[string]uint64{"1": 1})
	f(batchOf("ch:a", "1", "else", strings.Repeat("x", 1<<20-22), "ch:a", "2"), map[string]uint64{"1": 1, "2": 3})

	stats := wide.Stats()
	require.Equal(t, uint64(8), stats.Batches)
	require.Equal(t, uint64(5), stats.BrokenBatches)
	require.Equal(t, uint64(7), stats.Unmatched)
	require.Equal(t, uint64(1), stats.Oversize)
	require.Zero(t, stats.Unaskable)
}

// calls returns how many commands Redis has run, by INFO commandstats, those of scripts
// included.
func calls(t testing.TB, s *redistest.Server) (n int) {
	t.Helper()
	for _, m := range regexp.MustCompile(`cmdstat_[^:]+:calls=(\d+)`).FindAllStringSubmatch(do(t, s, "INFO", "commandstats").(string), -1) {
		k, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		n += k
	}
	return n
}

// TestBatchesTakeFewCommands: less than one for twenty messages, whoever publishes them.
func TestBatchesTakeFewCommands(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	rare := func(c *Config) { c.TickInterval, c.ProbeTimeout = 10*time.Second, time.Minute }
	in := start(t, s.URL(), "a", withBatches, rare)
	waitSynced(t, in)
	const messages = 5000
	var out []OutMessage
	for i := range messages {
		out = append(out, OutMessage{fmt.Sprint("ch:", i%7), fmt.Sprint("message ", i)})
	}
	before := calls(t, s)
	list, err := in.PublishBatch(context.Background(), out)
	require.NoError(t, err)
	require.Less(t, calls(t, s)-before, messages/20)
	require.Len(t, list, messages)

	// By hand, a hundred in each.
	before = calls(t, s)
	for i := 0; i < messages; i += 100 {
		var texts []string
		for _, m := range out[i : i+100] {
			texts = append(texts, m.Channel, m.Payload)
		}
		do(t, s, "PUBLISH", testBatches, batchOf(texts...))
	}
	require.Less(t, calls(t, s)-before, messages/20)

	eventually(t, func() bool { return in.Stats().Delivered == 2*messages }, "%d of %d came", in.Stats().Delivered, 2*messages)
	at := map[string]sseproto.ID{}
	for _, m := range in.sink.all()[:messages] {
		at[m.payload] = m.id
	}
	for i, r := range list {
		require.Equal(t, PublishResult{at[out[i].Payload], 1}, r)
	}
}

// TestPublishBatchSendsTheRestAsItIs: what no pattern matches may have subscribers who
// read no batches, and what is too large for a batch goes alone. The order stays.
func TestPublishBatchSendsTheRestAsItIs(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	in := start(t, s.URL(), "a", withBatches, withPatterns("ch:*"))
	waitSynced(t, in)
	other := start(t, s.URL(), "b", withPatterns("elsewhere", "flush"), func(c *Config) { c.Prefix = "other:" })
	waitSynced(t, other)
	huge := strings.Repeat("h", 1<<20)
	out := []OutMessage{{"ch:a", "0"}, {"ch:b", "1"}, {"elsewhere", "2"}, {"ch:a", huge}, {"ch:a", "4"}, {"ch:a", strings.Repeat("x", 900<<10)}, {"ch:a", strings.Repeat("y", 900<<10)}, {"ch:a", "7"}}
	list, err := in.PublishBatch(context.Background(), out)
	require.NoError(t, err)
	eventually(t, func() bool { return other.has("2") }, "who does not read batches got nothing")
	want := []string{"0", "1", huge, "4", out[5].Payload, out[6].Payload, "7"}
	eventually(t, func() bool { return in.has("7") }, "the last one did not come")
	all := in.sink.all()
	require.Len(t, all, len(want))
	for i, m := range all {
		require.Equal(t, want[i], m.payload)
	}
	all = append(all[:2], append([]message{{}}, all[2:]...)...)
	for i, r := range list {
		require.Equal(t, PublishResult{all[i].id, 1}, r, "message %d", i)
	}
	require.Equal(t, uint64(3), in.Stats().Batches) // 0 and 1, 4 and 5, 6 and 7: a call has 1 MiB at most
}

// TestNobodyPublishesOnTheBatchChannelThroughSsed: who may publish on some channels would
// publish on all.
func TestNobodyPublishesOnTheBatchChannelThroughSsed(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	g := startGateway(t, s, "g", withBatches)
	waitWritten(t, g)
	_, err := g.Publish(context.Background(), testBatches, batchOf("victim", "x"))
	require.ErrorIs(t, err, ErrReserved)
	add(t, s, "channel", testBatches, "data", batchOf("victim", "x"))
	eventually(t, func() bool { return g.Stats().Inbox.Refused[refusedChannel] == 1 }, "the entry is not refused")
	require.Zero(t, g.Stats().Batches)
}

// TestInboxMovesEntriesInBatches: their numbers are those that the note tells, for the
// history has each under its own. Without the right to the channel they go one by one.
func TestInboxMovesEntriesInBatches(t *testing.T) {
	t.Parallel()
	for name, limited := range map[string]bool{"batches": false, "no right to the channel": true} {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t)
			may := "(+publish &ch:* &__ssed:*)"
			if limited {
				may = "(+publish &ch:a &ch:b &__ssed:*)"
			}
			do(t, s, "ACL", "SETUSER", "gateway", "on", ">secret", "~*", "+@all", "-publish", "&ch:*", "&__ssed:*", may)
			addMany(t, s, "ch:a", "m", 0, 3000)
			for _, c := range []string{"z", "y", "x"} { // of one batch there is room for the second alone
				add(t, s, "channel", "ch:b", "data", strings.Repeat(c, map[string]int{"z": 1 << 20, "y": 600 << 10, "x": 600 << 10}[c]))
			}
			g := startGateway(t, s, "g", withPatterns("ch:*"), func(c *Config) {
				c.BatchChannel, c.Client.Username, c.Client.Password = "ch:batches", "gateway", "secret"
			})
			waitWritten(t, g)
			eventually(t, func() bool { return len(streamOf(t, s, "ch:b")) == 3 && do(t, s, "XLEN", testInbox) == int64(0) }, "not all in the history")
			list := streamOf(t, s, "ch:a")
			require.Len(t, list, 3000)
			for i, m := range list {
				require.Equal(t, fmt.Sprint("m", i), m.payload)
			}
			for i, c := range []string{"z", "y", "x"} {
				require.Equal(t, c, streamOf(t, s, "ch:b")[i].payload[:1])
			}
			require.Equal(t, limited, g.Stats().Batches == 0)
			require.Zero(t, g.Stats().BrokenBatches)
		})
	}
}

// TestFleetsWithOtherBatchesStayAmongThemselves: without the channel the messages of a
// batch would have no number.
func TestFleetsWithOtherBatchesStayAmongThemselves(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	in := start(t, s.URL(), "a", withBatches)
	waitSynced(t, in)
	for _, channel := range []string{"", "other"} {
		f, err := New(testConfig(t, s.URL(), "b", func(c *Config) { c.BatchChannel = channel }), &recorder{})
		require.NoError(t, err)
		err = f.Run(context.Background())
		require.ErrorIs(t, err, ErrConfigMismatch)
		require.ErrorContains(t, err, `batches="ssed:batches"`)
	}
}

func TestBatchChannelIsChecked(t *testing.T) {
	for _, channel := range []string{"__batches", "two words", strings.Repeat("x", 1025)} {
		cfg := testConfig(t, "redis://127.0.0.1:1", "a", func(c *Config) { c.BatchChannel = channel })
		require.ErrorContains(t, cfg.Validate(), "BatchChannel")
	}
	require.NoError(t, errors.Join(testConfig(t, "redis://127.0.0.1:1", "a", withBatches).Validate()))
}

// TestShardChannelCarriesBatches as it carries any message, from backends, the publish API
// and the inbox.
func TestShardChannelCarriesBatches(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	in := start(t, s.URL(), "a", withSharded, withBatches, withPatterns("ch:*", "flush"))
	g := startGateway(t, s, "g", withSharded, withBatches, withPatterns("ch:*", "flush"))
	waitSynced(t, in)
	waitWritten(t, g)
	spublish(t, s, testBatches, batchOf("ch:a", "0", "elsewhere", "x", "ch:a", "1")+"\xff")
	do(t, s, "PUBLISH", testBatches, batchOf("ch:a", "not on the shard channel"))
	list, err := in.PublishBatch(context.Background(), []OutMessage{{"ch:a", "2"}, {"ch:b", "3"}})
	require.NoError(t, err)
	require.Equal(t, sseproto.ID{Ms: list[0].ID.Ms, Seq: list[0].ID.Seq + 1}, list[1].ID)
	addMany(t, s, "ch:a", "", 4, 100)
	eventually(t, func() bool { return in.has("99") }, "the inbox does not move")
	for i, m := range in.sink.all() {
		require.Equal(t, strconv.Itoa(i), m.payload)
	}
	eventually(t, func() bool { return do(t, s, "XLEN", testInbox) == int64(0) }, "the history does not have them all")
	require.Len(t, streamOf(t, s, "ch:a"), 99)
	require.EqualValues(t, 1, in.Stats().BrokenBatches)
	require.EqualValues(t, 1, in.Stats().Unmatched)
	require.Less(t, in.Stats().Batches, uint64(20))
}

// TestBatchesOverKilledSubscriptionsHaveOneNumbering: what an instance has between two
// losses is exactly what the one that lost nothing has, broken ends and all.
func TestBatchesOverKilledSubscriptionsHaveOneNumbering(t *testing.T) {
	t.Parallel()
	for feeds := 1; feeds <= 2; feeds++ {
		t.Run(fmt.Sprint(feeds, " feeds"), func(t *testing.T) {
			s := redistest.Start(t)
			witness := start(t, s.URL(), "witness", withBatches)
			victim := start(t, s.URL(), "victim", withBatches, withFeeds(feeds), func(c *Config) { c.Client.ClientName = "victim" })
			waitSynced(t, witness, victim)
			client := dial(t, s)
			stop := background(t, func(i int) {
				var texts []string
				for k := range 1 + i%50 {
					texts = append(texts, fmt.Sprint("ch:", k%3), fmt.Sprint(i, " ", k))
				}
				batch := batchOf(texts...)
				if i%7 == 0 {
					batch = batch[:len(batch)-1]
				}
				publishOne(client, testBatches, batch)
				publishOne(client, "ch:0", fmt.Sprint(i, " alone"))
			})
			isBack := func() bool { return len(subscribers(t, s, "victim")) == feeds && victim.isSynced() }
			for i := range 8 { // the pauses between attempts grow
				eventually(t, isBack, "not subscribed again")
				killOnePubSub(t, s, "victim", i)
			}
			eventually(t, isBack, "not subscribed again")
			stop()
			flush(t, s, "end", witness, victim)
			requireSameWhereCovered(t, victim, witness.sink.all())
			require.Positive(t, witness.Stats().BrokenBatches)
		})
	}
}
