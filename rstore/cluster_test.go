package rstore

import (
	"io"
	"log/slog"
	"strconv"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed/internal/redisconn"
	"ssed/internal/redistest"
	"ssed/sseproto"
)

// TestReadsFollowWritesToAnotherNode: on a cluster the connection that reads may be idle,
// and would find out that its node is frozen, or has lost the slot, when a reader waits for
// it. The one that writes finds out at once, for both.
func TestReadsFollowWritesToAnotherNode(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, 0)
	keys := redisconn.MakePartitionKeys(testPrefix, redisconn.Partition{})
	base := uint64(time.Now().UnixMilli())
	id := func(ms uint64) sseproto.ID { return sseproto.ID{Ms: base + ms} }
	primary, err := c.AwaitPrimary(keys.Slot)
	require.NoError(t, err)
	_, err = primary.Do("HSET", keys.Clock, "epoch", "a", "t", strconv.FormatUint(base, 10))
	require.NoError(t, err)

	option, err := rueidis.ParseURL(c.URL())
	require.NoError(t, err)
	log := newTestLog(id(0))
	s, err := New(Config{
		Client: option, Prefix: testPrefix, Instance: "one", GapWait: 20 * time.Millisecond, FlushInterval: time.Millisecond,
		MaxLen: 1000, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}, log)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	w := &world{t: t}
	w.start(s)

	// written commits a message, and waits until it can be read.
	written := func(ms uint64) (reading rueidis.Client) {
		t.Helper()
		log.commit(id(ms), message{sseproto.ID{Ms: base + ms - 1, Seq: 1}, "a", "x"})
		require.Eventually(t, func() bool {
			got, err := s.Written(t.Context())
			return err == nil && !got.Less(id(ms))
		}, 20*time.Second, time.Millisecond)
		reading, err := s.read.Current()
		require.NoError(t, err)
		return reading
	}
	isMadeAnew := func(reading rueidis.Client) {
		t.Helper()
		require.Eventually(t, func() bool {
			now, err := s.read.Current()
			return err != nil || now != reading
		}, 20*time.Second, time.Millisecond)
	}

	reading := written(100)
	other := c.Nodes[0]
	require.NotEqual(t, other, primary)
	require.NoError(t, c.Move(keys.Slot, other, nil))
	log.commit(id(200), message{sseproto.ID{Ms: base + 199, Seq: 1}, "a", "x"})
	isMadeAnew(reading)

	reading = written(300)
	require.NoError(t, other.Pause())
	isMadeAnew(reading)
	require.NoError(t, other.Resume())
	written(400)
}
