package engine

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// joinsBesideShut is a loop by hand of two partitions, of which the second one is shut, and a
// stream of both that joins.
func joinsBesideShut(t *testing.T, f form) (h byHand, c *testClient, low sseproto.ID) {
	h, feeds, low := twoPartsByHand(t)
	feeds[1].publish("taken back")
	feeds[1].line.CloseSpan(low)
	fd, conn := socketPair(t)
	attachFormed(h.engine, fd, f, resumePoint{}, feeds[0].channel, feeds[1].channel)
	c = newFormedClient(t, conn, f)
	h.pass()
	require.Equal(t, phaseJoining, h.slots.at(1).phase)
	require.NoError(t, c.read())
	return h, c, low
}

// TestStreamThatJoinsIsToldWhereToGoOnWhenItIsSentAway: a partition may be shut for long. Who
// came without an ID, and has had no message yet, would come back without one. Where the
// places are not those of what the client asks for, it asks again.
func TestStreamThatJoinsIsToldWhereToGoOnWhenItIsSentAway(t *testing.T) {
	t.Parallel()
	f := func(form form, prepare func(j *joining), isTold bool) {
		t.Helper()
		h, c, low := joinsBesideShut(t, form)
		prepare(h.joins[1])
		h.engine.cfg.RetryMin, h.engine.cfg.RetryMax = 7*time.Second, 7*time.Second
		h.disconnect(1, h.slots.at(1), CloseDrain)
		require.Empty(t, c.ended())
		require.Equal(t, form != 0, c.wire.ended)
		retry, _ := c.dec.Retry()
		require.Equal(t, 7*time.Second, retry)
		want := ""
		if isTold {
			want = vector(0, low, low)
		}
		require.Equal(t, want, string(c.dec.LastEventID()))
	}
	f(0, func(*joining) {}, true)
	f(formChunked, func(*joining) {}, true)
	f(0, func(j *joining) { j.places[1] = sseproto.ID{} }, false)
	f(0, func(j *joining) { j.parts[0].from = makeStartIDs([]sseproto.ID{{Ms: 2000}}) }, false)
	f(0, func(j *joining) { j.parts[0].isLost = true }, false)
}

// TestLossesForSeveralReasonsAreAllToldHoweverManyChannelsTheyName: each gap event is larger than
// what is put together for one write, and the socket takes a part of it.
func TestLossesForSeveralReasonsAreAllToldHoweverManyChannelsTheyName(t *testing.T) {
	t.Parallel()
	reasons := []string{sseproto.ReasonTrimmed, sseproto.ReasonExpired}
	history := newMemoryHistory()
	e := startTuned(t, func(cfg *Config) {
		cfg.Partitions, cfg.Histories, cfg.Shards = 2, []History{history, newMemoryHistory()}, 1
	}, func(e *Engine) { e.shards[0].send = takingAtMost(ownBytes / 2) })
	var channels []string
	for n := range 600 {
		name := channelOfPart(fmt.Sprint(strings.Repeat("x", 240), n, "-"), 0, 2)
		channels = append(channels, name)
		history.lost[name] = reasons[n%len(reasons)]
	}
	low := sseproto.ID{Ms: 1000}
	feed := &partFeed{line: e.log.Partition(0), channel: channels[0], t: low.Ms}
	for p := range 2 {
		e.log.Partition(p).OpenSpan(low)
	}
	feed.tick()
	feed.publish("live")
	c := comeBack(t, e, vector(0, sseproto.ID{Ms: 800}, low), channels...)
	var told []string
	for len(c.got) == 0 || c.got[0].kind == "gap" {
		var gap struct{ Reason string }
		got := c.next(1)[0]
		require.NoError(t, json.Unmarshal([]byte(got.data), &gap), got.data)
		told = append(told, gap.Reason)
		for len(c.got) == 0 {
			require.NoError(t, c.read())
		}
	}
	require.Equal(t, "live", c.got[0].data)
	require.ElementsMatch(t, reasons, told)
}

// TestStateOfAStreamThatComesCostsByItsChannelsAndThePartitions: the lists are made at once.
func TestStateOfAStreamThatComesCostsByItsChannelsAndThePartitions(t *testing.T) {
	for _, partitions := range []int{2, 64} {
		for _, channels := range []int{1, 32, 1024} {
			s, slot := shardOfChannels(t, channels, partitions)
			var j *joining
			w := s.counting(func() { j = s.newJoining(s.slots.at(slot)) })
			require.LessOrEqual(t, w.looks, int64(2*channels+partitions))
			require.GreaterOrEqual(t, w.looks, int64(channels))
			n := mallocs(func() { j = s.newJoining(s.slots.at(slot)) })
			t.Logf("%d channels, %d partitions: %d looks, %d allocations", channels, partitions, w.looks, n)
			require.LessOrEqual(t, n, uint64(4))
			var got, want []string
			for k := range j.parts {
				for _, ch := range j.parts[k].channels {
					channel := s.log.dir.at(ch.index)
					require.Equal(t, j.parts[k].line.part, channel.part)
					got = append(got, channel.name)
				}
			}
			for n := s.slots.at(slot).sub; n != 0; n = s.subs.at(n).sibling {
				want = append(want, s.log.dir.at(s.subs.at(n).ch).name)
			}
			slices.SortStableFunc(want, func(a, b string) int {
				return cmp.Compare(s.partOrder(j, a), s.partOrder(j, b))
			})
			require.Equal(t, want, got, "in the order of the subscriptions, as the history is asked for them")
		}
	}
}

// partOrder is the place of a channel's partition among those of a stream.
func (s *nullShard) partOrder(j *joining, channel string) int {
	return slices.IndexFunc(j.parts, func(p joinPart) bool { return p.line.part == s.log.dir.partOf(channel) })
}

// TestTurnsOfStreamsThatWaitCountByTheirPartitions: a pass has as many as its share allows.
func TestTurnsOfStreamsThatWaitCountByTheirPartitions(t *testing.T) {
	t.Parallel()
	const streams = 300
	for _, partitions := range []int{2, 16, 64} {
		s := newWaitingJoins(t, streams, partitions)
		require.Equal(t, streams, s.timedJoins.len())
		s.timedOwed, s.timedAt = streams, s.began
		most := 0
		for s.timedOwed > 0 {
			before := s.timedOwed
			s.shard.pass(s.began)
			most = max(most, before-s.timedOwed)
		}
		t.Logf("%d partitions: at most %d turns in a pass", partitions, most)
		atEach := lookCost * cost(partLooks*partitions)
		require.LessOrEqual(t, most, int(s.shares.ahead/atEach)+1)
		require.Equal(t, streams, s.timedJoins.len(), "they wait again")
	}
}

// TestStreamsWhoseHistoryIsAwayCostLittleUntilItIsAskedAgain: when Redis of a partition is away,
// all streams that come back with a channel of it wait for that.
func TestStreamsWhoseHistoryIsAwayCostLittleUntilItIsAskedAgain(t *testing.T) {
	t.Parallel()
	const streams, polls = 100, 50
	s := newNullShardWith(t, Config{
		Partitions: 2, Histories: []History{newMemoryHistory(), newMemoryHistory()}, HistoryWait: time.Hour,
	})
	low, before := sseproto.ID{Ms: 1000}, sseproto.ID{Ms: 900}
	var all []string
	for p := range 2 {
		s.log.Partition(p).OpenSpan(low)
		all = append(all, channelOfPart("c", p, 2))
	}
	now := time.Now()
	s.began = now
	s.fillWith(streams, all...)
	for i := uint32(1); i <= streams; i++ {
		c := s.slots.at(i)
		j := s.newJoining(c)
		j.client = 1
		j.places[0], j.places[1] = low, before
		s.joins[i], c.pos = j, joiningPos
		s.later(i)
	}
	s.settle()
	for i := uint32(1); i <= streams; i++ {
		r := &replay{err: errors.New("away"), key: replayKey{part: 1, id: before}, taken: make(chan struct{})}
		r.refs.Store(1)
		s.pages.push(command{page: r, to: ref{i, s.slots.at(i).gen}})
	}
	s.settle()
	require.Equal(t, streams, s.timedJoins.len())
	w := s.counting(func() {
		for range polls {
			now = now.Add(aheadPoll)
			s.shard.pass(now)
		}
	})
	t.Logf("%d streams, %d times: %+v", streams, polls, w)
	require.LessOrEqual(t, w.slots, int64(streams*(polls+1)))
	require.LessOrEqual(t, w.looks, int64(polls))
	s.shard.pass(now.Add(time.Hour))
	for i := uint32(1); i <= streams; i++ {
		require.True(t, s.joins[i].partOf(1).isAsked)
	}
}
