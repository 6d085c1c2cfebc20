package rsub

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redisconn"
	"ssed/internal/redistest"
)

// lockedBuffer is a log that can be read meanwhile.
type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(line)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func withSharded(c *Config) { c.Sharded = true }

var shardChannel = redisconn.MakeKeys(testPrefix).Messages

// spublish is what a backend does for one message.
func spublish(t testing.TB, s *redistest.Server, channel, payload string) {
	t.Helper()
	do(t, s, "SPUBLISH", shardChannel, channel+"\n"+payload)
}

// flushSharded publishes a last message and waits until all have it.
func flushSharded(t testing.TB, s *redistest.Server, mark string, list ...*instance) {
	t.Helper()
	spublish(t, s, "flush", mark)
	for _, in := range list {
		eventually(t, func() bool { return in.has(mark) }, "%s: no %q", in.cfg.Instance, mark)
	}
}

// TestShardChannelCarriesAllMessages on a single server: several patterns bring no copies.
func TestShardChannelCarriesAllMessages(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	both := withPatterns("flush", "user:*", "*:1")
	a := start(t, s.URL(), "a", withSharded, both)
	b := start(t, s.URL(), "b", withSharded, both, withFeeds(2))
	waitSynced(t, a, b)
	require.Equal(t, shardChannel, a.ShardChannel())
	spublish(t, s, "user:1", "one\ntwo\n")
	spublish(t, s, "user:2", "")
	spublish(t, s, "other", "nobody's")
	do(t, s, "PUBLISH", "user:1", "not on the shard channel")
	flushSharded(t, s, "end", a, b)
	var got []string
	for _, m := range a.sink.all() {
		got = append(got, m.channel+" "+m.payload)
	}
	require.Equal(t, []string{"user:1 one\ntwo\n", "user:2 ", "flush end"}, got)
	require.Equal(t, a.sink.all(), tail(b.sink.all(), a.sink.spans[0].low))
	require.EqualValues(t, 1, a.Stats().Unmatched)
	require.EqualValues(t, 4, a.Stats().Numbered)
}

// TestWhatIsNoMessageTakesItsNumber on all instances alike, and is counted.
func TestWhatIsNoMessageTakesItsNumber(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	log := &lockedBuffer{}
	a := start(t, s.URL(), "a", withSharded, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(log, nil)) })
	eventually(t, a.isSynced, "not synced")
	do(t, s, "SPUBLISH", shardChannel, "no line for the channel")
	do(t, s, "SPUBLISH", shardChannel, "")
	do(t, s, "SPUBLISH", shardChannel, "\nno channel")
	do(t, s, "SPUBLISH", shardChannel, "__reserved\nx")
	do(t, s, "SPUBLISH", shardChannel, strings.Repeat("c", 256)+"\ntoo long")
	flushSharded(t, s, "end", a)
	st := a.Stats()
	require.EqualValues(t, []uint64{2, 2, 1, 6}, []uint64{st.Unframed, st.Unmatched, st.Unaskable, st.Numbered})
	a.tell()
	a.tell()
	require.Equal(t, 1, strings.Count(log.String(), "has no first line with its channel"))
	require.Contains(t, log.String(), shardChannel)
}

// TestFeedsOfAnotherKindAreRefused: they would number other messages.
func TestFeedsOfAnotherKindAreRefused(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	waitSynced(t, start(t, s.URL(), "a", withSharded))
	in, err := New(testConfig(t, s.URL(), "b"), discard{})
	require.NoError(t, err)
	require.ErrorIs(t, in.Run(t.Context()), ErrConfigMismatch)
}

// TestPublishAndInboxUseTheShardChannel, and every message has the same ID on all instances.
func TestPublishAndInboxUseTheShardChannel(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	testPublishing(t, s, s.URL(), testInbox)
}

// testPublishing publishes by all ways, to s, where the shard channel is.
func testPublishing(t *testing.T, s *redistest.Server, url, inbox string) {
	a := startGatewayAt(t, url, "a", withSharded)
	b := start(t, url, "b", withSharded, withInbox)
	waitSynced(t, b)
	waitWritten(t, a)
	var wg sync.WaitGroup
	ids := map[string]string{}
	var mu sync.Mutex
	for p := range 3 {
		wg.Go(func() {
			for i := range 40 {
				text := fmt.Sprintf("%d-%d", p, i)
				switch p {
				case 0:
					spublish(t, s, "a", text)
				case 1:
					do(t, s, "XADD", inbox, "*", "channel", "a", "data", text)
				case 2:
					r, err := b.Publish(context.Background(), "a", text)
					require.NoError(t, err)
					require.EqualValues(t, 2, r.Receivers)
					mu.Lock()
					ids[text] = r.ID.String()
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	eventually(t, func() bool { return len(b.sink.all()) == 120 }, "not all")
	eventually(t, func() bool { return do(t, s, "XLEN", inbox) == int64(0) }, "the inbox is not empty")
	seen := map[string]bool{}
	for _, m := range b.sink.all() {
		require.False(t, seen[m.payload], m.payload)
		seen[m.payload] = true
		if id, ok := ids[m.payload]; ok {
			require.Equal(t, id, m.id.String())
		}
	}
	require.Len(t, seen, 120)
}
