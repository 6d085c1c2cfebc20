package engine

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

func TestAStormOfGapsIsOneRecord(t *testing.T) {
	g := newGapLedger()
	now := time.Now()
	for i := range 20_000 {
		at := now.Add(time.Duration(i) * gapMerge / 20_001)
		g.noteStart(at, sseproto.ReasonOutage, fmt.Sprint("c", i))
		g.noteStart(at, sseproto.ReasonTrimmed, "same")
	}
	require.Equal(t, []GapRecord{
		{At: now, Channel: "same", Reason: sseproto.ReasonTrimmed, Streams: 20_000},
		{At: now, Channel: "", Reason: sseproto.ReasonOutage, Streams: 20_000},
	}, g.list())
	require.EqualValues(t, 20_000, g.counts(false)[sseproto.ReasonTrimmed])
	require.EqualValues(t, 40_000, g.counts(false).Total())
	for i := range 200 {
		g.noteStart(now.Add(time.Duration(i+2)*time.Minute), sseproto.ReasonOutage, fmt.Sprint(i))
	}
	list := g.list()
	require.Len(t, list, maxGapRecords)
	require.Equal(t, "199", list[0].Channel)
	require.Equal(t, "136", list[63].Channel)
}

func TestGapsOfLiveStreamsAreRecorded(t *testing.T) {
	e := startEngine(t, nil)
	f := startFeed(e, 1000)
	var all []*testClient
	for i := range 10 {
		all = append(all, joined(t, e, resumePoint{}, "shared", fmt.Sprint("own", i)))
	}
	e.log.CloseSpan(f.publish("shared", "m1"))
	startFeed(e, 2000)
	for _, c := range all {
		require.Equal(t, []string{"message", "gap", "gap"}, kinds(c.next(3)))
	}
	list := e.RecentGaps()
	require.Len(t, list, 1)
	require.WithinDuration(t, time.Now(), list[0].At, waitLong)
	list[0].At = time.Time{}
	require.Equal(t, []GapRecord{{Reason: sseproto.ReasonOutage, Live: true, Streams: 10}}, list)
	requireGaps(t, GapCounts{sseproto.ReasonOutage: 11}, e.Stats().Log.Gaps) // one for each channel
	requireGaps(t, nil, e.Stats().Gaps)
}

func TestGapsAtAResumeAreRecorded(t *testing.T) {
	h := newMemoryHistory()
	h.lost["a"] = sseproto.ReasonTrimmed
	e := startEngine(t, withHistory(h, minRingBytes))
	f := startFeed(e, 1000)
	f.tick(sseproto.ID{Ms: 1000})
	for range 3 {
		c := join(t, e, after(sseproto.ID{Ms: 800}), "a", "b")
		require.Equal(t, []string{"gap"}, kinds(c.next(1)))
	}
	c := join(t, e, resumePoint{kind: resumeUnknown, raw: "x"}, "b")
	require.Equal(t, []string{"gap"}, kinds(c.next(1)))
	list := e.RecentGaps()
	for k := range list {
		list[k].At = time.Time{}
	}
	require.Equal(t, []GapRecord{
		{Reason: sseproto.ReasonUnknownID, Streams: 1},
		{Channel: "a", Reason: sseproto.ReasonTrimmed, Streams: 3},
	}, list)
	requireGaps(t, GapCounts{sseproto.ReasonUnknownID: 1, sseproto.ReasonTrimmed: 3}, e.Stats().Gaps)
	requireGaps(t, nil, e.Stats().Log.Gaps)
}

// requireGaps compares counts, and sees that every reason is there.
func requireGaps(t *testing.T, want, got GapCounts) {
	t.Helper()
	require.Len(t, got, len(sseproto.Reasons()))
	for reason, n := range got {
		require.Equal(t, want[reason], n, reason)
	}
}

func kinds(events []event) []string {
	all := make([]string, len(events))
	for i, e := range events {
		all[i] = e.kind
	}
	return all
}
