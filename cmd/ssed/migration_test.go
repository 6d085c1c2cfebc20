package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
	"ssed/sseproto"
)

// oldStreams writes entries as sse-gateway does: IDs of the local clock in ms and a
// count over the life of the process, and every instance its own copy of a message. It
// returns the IDs that the first one has given.
func oldStreams(t *testing.T, r *redistest.Server, channel string, newest time.Time, n, instances int) (ids []string) {
	t.Helper()
	key := "sse:stream:" + channel
	for i := range n {
		ms := newest.Add(time.Duration(i+1-n) * time.Second).UnixMilli()
		for instance := range instances {
			id := fmt.Sprintf("%d-%d", ms+int64(instance), 41+i)
			_, err := r.Do("XADD", key, "MAXLEN", "~", "100", id, "event_type", "message", "data", fmt.Sprint("old ", i))
			require.NoError(t, err)
			if instance == 0 {
				ids = append(ids, id)
			}
		}
	}
	_, err := r.Do("EXPIRE", key, "3600")
	require.NoError(t, err)
	return ids
}

// redisTime is the clock by which IDs are made.
func redisTime(t *testing.T, r *redistest.Server) time.Time {
	t.Helper()
	answer, err := r.Do("TIME")
	require.NoError(t, err)
	var s, us int64
	_, err = fmt.Sscan(fmt.Sprintln(answer.([]any)...), &s, &us)
	require.NoError(t, err)
	return time.Unix(s, us*1000)
}

// TestClientsOfAnSSEGatewayGoOnWithSsed: its streams lie under the same keys, so its
// clients get what it had stored, a gap event for the change, and what is new.
func TestClientsOfAnSSEGatewayGoOnWithSsed(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	ids := oldStreams(t, r, "a", redisTime(t, r).Add(-time.Minute), 6, 1)
	in := startRedis(t, r)
	p := newPublisher(t, r)
	p.numbers("a", 0, 2)

	s := connect(t, in, ids[2], "a")
	gap := s.wantGap(sseproto.ReasonOutage)
	require.Contains(t, gap.data, fmt.Sprintf("%q:%q", "requested", ids[2]))
	s.want("old 3")
	require.Equal(t, ids[3], s.lastID)
	from := s.lastID
	s.want("old 4", "old 5", "0", "1")
	require.Less(t, ids[5], s.lastID)
	p.numbers("a", 2, 3)
	s.want("2")

	// One that goes on with an ID of ssed is told of no gap any more.
	last := s.lastID
	s = connect(t, in, last, "a")
	p.numbers("a", 3, 4)
	s.want("3")
	in.written(r, s.lastID)

	// An instance that was not there gets all of it from the same stream.
	other := startRedis(t, r)
	s = connect(t, other, from, "a")
	s.wantGap(sseproto.ReasonOutage)
	s.want("old 4", "old 5", "0", "1", "2", "3")

	// The channel keeps its limit and its time.
	ttl, err := r.Do("TTL", "sse:stream:a")
	require.NoError(t, err)
	require.InDelta(t, 3600, ttl, 60)
}

// TestEveryInstanceOfAnSSEGatewayHasStoredItsCopy: what two of them have left is
// replayed twice, as they would have.
func TestEveryInstanceOfAnSSEGatewayHasStoredItsCopy(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	ids := oldStreams(t, r, "a", redisTime(t, r).Add(-time.Minute), 3, 2)
	in := startRedis(t, r)
	s := connect(t, in, ids[1], "a")
	s.wantGap(sseproto.ReasonOutage)
	s.want("old 1", "old 2", "old 2")
}

// TestStreamOfAnSSEGatewayWithAFastClock: a stream takes no ID below its newest, so
// until the clock of Redis is past it, the channel has no history. Live delivery goes on,
// and who resumes is told.
func TestStreamOfAnSSEGatewayWithAFastClock(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	oldStreams(t, r, "a", redisTime(t, r).Add(time.Hour), 1, 1)
	in := startRedis(t, r)
	p := newPublisher(t, r)
	s := connect(t, in, "", "a")
	p.numbers("a", 0, 2)
	s.want("0")
	from := s.lastID
	s.want("1")
	refused := func(n float64) {
		in.eventually("the refusal", func() bool { return in.metric("ssed_history_refused_messages_total") == n })
	}
	refused(2)

	other := startRedis(t, r)
	s = connect(t, other, from, "a")
	s.wantGap(sseproto.ReasonUnavailable)
	p.numbers("a", 2, 3)
	s.want("2")
	refused(3)

	// Deleting the stream, which loses the old history, ends it.
	_, err := r.Do("DEL", "sse:stream:a")
	require.NoError(t, err)
	p.numbers("a", 3, 4)
	s.want("3")
	in.written(r, s.lastID)
	n, err := r.Do("XLEN", "sse:stream:a")
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
}
