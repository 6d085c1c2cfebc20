package engine

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

func TestSubscriberGetsItsChannelInOrder(t *testing.T) {
	e := startEngine(t, nil)
	f := startFeed(e, 1000)
	f.publish("a", "before")
	c := joined(t, e, resumePoint{}, "a")
	for i := 1; i <= 1000; i++ {
		f.publish("a", fmt.Sprint("m", i))
		f.publish("b", "other")
	}
	require.Equal(t, numbered("m", 1, 1000), datas(c.next(1000)))
}

func TestSeveralChannelsComeInTheOrderOfTheLog(t *testing.T) {
	e := startEngine(t, nil)
	f := startFeed(e, 1000)
	c := joined(t, e, resumePoint{}, "a", "b", "c")
	for i := 1; i <= 3000; i++ {
		f.publish(string(rune('a'+i*7%4)), fmt.Sprint("m", i))
	}
	var want []string
	for i := 1; i <= 3000; i++ {
		if i*7%4 < 3 {
			want = append(want, fmt.Sprint("m", i))
		}
	}
	require.Equal(t, want, datas(c.next(len(want))))
}

func TestResumeInTheRing(t *testing.T) {
	e := startEngine(t, nil)
	f := startFeed(e, 1000)
	var ids []sseproto.ID
	for i := 1; i <= 100; i++ {
		ids = append(ids, f.publish("a", fmt.Sprint("m", i)))
		f.publish("b", fmt.Sprint("n", i))
	}
	c := join(t, e, after(ids[39]), "a")
	require.Equal(t, numbered("m", 41, 100), datas(c.next(60)))
	f.publish("a", "m101")
	require.Equal(t, []string{"m101"}, datas(c.next(1)))
	both := join(t, e, after(ids[97]), "b", "a")
	require.Equal(t, []string{"n98", "m99", "n99", "m100", "n100", "m101"}, datas(both.next(6)))
}

func TestFrozenReaderDoesNotDelayOthersAndResumesFromTheRing(t *testing.T) {
	e := startEngine(t, nil)
	f := startFeed(e, 1000)
	frozen, brisk := joined(t, e, resumePoint{}, "a"), joined(t, e, resumePoint{}, "a")
	pad := strings.Repeat("x", 1000)
	for i := 1; i <= 1500; i++ {
		f.publish("a", fmt.Sprint(i, pad))
		if i%100 == 0 {
			brisk.next(100)
		}
	}
	for i, got := range frozen.next(1500) {
		require.Equal(t, fmt.Sprint(i+1, pad), got.data)
	}
}

func TestReaderThatFallsOffTheRingIsClosed(t *testing.T) {
	e := startEngine(t, func(cfg *Config) { cfg.RingBytes = 512 << 10 })
	f := startFeed(e, 1000)
	frozen, brisk := joined(t, e, resumePoint{}, "a"), joined(t, e, resumePoint{}, "a")
	pad := strings.Repeat("x", 1000)
	for i := 1; i <= 3000; i++ {
		f.publish("a", fmt.Sprint(i, pad))
		brisk.next(1)
	}
	got := frozen.ended()
	require.Less(t, len(got), 3000)
	for i, ev := range got {
		require.Equal(t, fmt.Sprint(i+1, pad), ev.data)
	}
	require.EqualValues(t, 1, e.Stats().Closed[CloseSlow])
}

func TestUnknownIDStartsNowWithAGap(t *testing.T) {
	e := startEngine(t, nil)
	f := startFeed(e, 1000)
	last := f.publish("a", "old")
	c := join(t, e, resumePoint{kind: resumeUnknown, raw: "no\nsense"}, "a")
	gap := c.next(1)[0]
	require.Equal(t, "gap", gap.kind)
	require.Equal(t, last.String(), gap.id)
	require.JSONEq(t, `{"reason":"unknown-id","requested":"no\nsense"}`, gap.data)
	f.publish("a", "new")
	require.Equal(t, []string{"new"}, datas(c.next(1)))
}

func TestIDOfAQuickerInstanceIsWaitedFor(t *testing.T) {
	e := startEngine(t, func(cfg *Config) { cfg.HistoryWait = time.Hour })
	f := startFeed(e, 1000)
	f.publish("a", "one")
	c := joined(t, e, after(sseproto.ID{Ms: 1000, Seq: 3}), "a")
	f.publish("a", "two")
	f.publish("a", "three")
	f.publish("a", "four")
	require.Equal(t, []string{"four"}, datas(c.next(1)))
}

func TestClientsThatLeaveFreeEverything(t *testing.T) {
	e := startEngine(t, nil)
	f := startFeed(e, 1000)
	for round := range 20 {
		var all []*testClient
		for i := range 50 {
			all = append(all, joined(t, e, resumePoint{}, fmt.Sprint("c", round, "-", i%7), "shared"))
		}
		f.publish("shared", fmt.Sprint("r", round))
		for _, c := range all {
			require.Equal(t, fmt.Sprint("r", round), c.next(1)[0].data)
			require.NoError(t, c.conn.Close())
		}
	}
	require.Eventually(t, func() bool { return e.conns.Load() == 0 }, waitLong, pollEvery)
	require.LessOrEqual(t, e.Stats().Channels, int64(1))
}

func TestWhoWaitsForItsIDGetsHeartbeats(t *testing.T) {
	e := startEngine(t, func(cfg *Config) { cfg.Heartbeat, cfg.HistoryWait = 100*time.Millisecond, time.Hour })
	f := startFeed(e, 1000)
	c := joined(t, e, after(sseproto.ID{Ms: 1000, Seq: 1}), "a")
	require.NoError(t, c.conn.SetReadDeadline(time.Now().Add(waitLong)))
	beat := make([]byte, len(sseproto.Heartbeat))
	_, err := io.ReadFull(c.conn, beat)
	require.NoError(t, err)
	require.Equal(t, sseproto.Heartbeat, string(beat))
	f.publish("a", "one")
	f.publish("a", "two")
	require.Equal(t, "two", c.next(1)[0].data)
}
