package engine

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

func namesIn(list []ChannelInfo) []string {
	var names []string
	for _, c := range list {
		names = append(names, c.Channel)
	}
	return names
}

func TestTopChannelsAreOrderedBySubscribersOrRate(t *testing.T) {
	e := startEngine(t, nil)
	f := startFeed(e, 100_000)
	for i := range 6 {
		joined(t, e, resumePoint{}, "large")
		if i%2 == 0 {
			joined(t, e, resumePoint{}, "medium", "silent")
		}
	}
	for range 30 {
		f.publish("early", "x")
	}
	f.t = 112_000
	var newest sseproto.ID
	for i := range 20 {
		newest = f.publish("busy", "x")
		if i < 5 {
			f.publish("medium", "x")
		}
	}
	f.tick(sseproto.ID{})

	top, err := e.TopChannels(t.Context(), BySubscribers, 3)
	require.NoError(t, err)
	require.Equal(t, []string{"large", "medium", "silent"}, namesIn(top))
	require.EqualValues(t, 6, top[0].Subscribers)
	require.EqualValues(t, 3, top[1].Subscribers)
	require.Equal(t, 5, top[1].Messages)

	top, err = e.TopChannels(t.Context(), ByRate, 10)
	require.NoError(t, err)
	require.Equal(t, []string{"busy", "medium", "large", "silent", "early"}, namesIn(top))
	require.Equal(t, 20, top[0].Messages)
	require.InEpsilon(t, 2, top[0].Rate, 0.1, "20 messages in ten seconds")
	require.Equal(t, newest, top[0].Newest)
	require.Zero(t, top[4].Rate, "it is longer ago")
	require.Equal(t, 30, top[4].Messages)

	one, err := e.Channel(t.Context(), "busy")
	require.NoError(t, err)
	require.InDelta(t, top[0].Rate, one.Rate, 0.1)
	one.Rate = top[0].Rate
	require.Equal(t, top[0], one)
	none, err := e.Channel(t.Context(), "none")
	require.NoError(t, err)
	require.Equal(t, ChannelInfo{Channel: "none"}, none)
}

func TestTopOfManyChannels(t *testing.T) {
	l := newLog(16<<20, maxSegmentBytes, 1, false, func(uint64) {})
	e := &Engine{log: l}
	l.OpenSpan(sseproto.ID{Ms: 1})
	const n = 30_000
	for i := range n {
		l.dir.subscribe(fmt.Sprint("c", i))
		if i%1000 == 7 {
			for range i / 1000 {
				l.dir.subscribe(fmt.Sprint("c", i))
			}
		}
	}
	for i := range uint64(n) {
		l.Append(sseproto.ID{Ms: 1, Seq: i + 1}, fmt.Sprint("c", i%(n/3)), "x")
	}
	top, err := e.TopChannels(t.Context(), BySubscribers, 3)
	require.NoError(t, err)
	require.Equal(t, []string{"c29007", "c28007", "c27007"}, namesIn(top))
	require.EqualValues(t, 30, top[0].Subscribers)
	top, err = e.TopChannels(t.Context(), ByRate, 3)
	require.NoError(t, err)
	require.Equal(t, []string{"c9007", "c8007", "c7007"}, namesIn(top), "the same rate, more subscribers")
	require.Equal(t, 3, top[0].Messages)
}

// A ring that turns, and names that change hands, while somebody looks.
func TestChannelsAreToldWhileTheRingTurns(t *testing.T) {
	e := startEngine(t, func(cfg *Config) { cfg.RingBytes = minRingBytes })
	f := startFeed(e, 1000)
	over := make(chan struct{})
	var feeding sync.WaitGroup
	feeding.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-over:
				return
			default:
				f.publish(fmt.Sprint("c", i/3%5000), strings.Repeat("x", 100))
			}
		}
	})
	for i := range 200 {
		top, err := e.TopChannels(t.Context(), ChannelOrder(i%2), 20)
		require.NoError(t, err)
		for _, c := range top {
			require.LessOrEqual(t, c.Messages, 3, c.Channel)
		}
	}
	close(over)
	feeding.Wait()
}

func TestRatesOfAProcessWithoutRedisAreMeasuredByItsOwnClock(t *testing.T) {
	e := startEngine(t, nil)
	e.log.OpenLocal()
	for range 100 {
		e.log.Publish("a", sseproto.Message{Data: "x"})
	}
	info, err := e.Channel(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, 100, info.Messages)
	require.Greater(t, info.Rate, 5.0)
	require.LessOrEqual(t, info.Rate, 100/leastWindow.Seconds())
	require.WithinDuration(t, time.Now(), time.UnixMilli(int64(info.Newest.Ms)), 5*time.Second)
}

// TestABusyChannelTakesNothingFromTheNextOnes: what is looked at of a large ring is
// enough for the rates of all, and the newest message is told in any case.
func TestABusyChannelTakesNothingFromTheNextOnes(t *testing.T) {
	l := newLog(16<<20, maxSegmentBytes, 1, false, func(uint64) {})
	f := &feed{log: l, t: 1000}
	l.OpenSpan(sseproto.ID{Ms: 1000})
	early := f.publish("early", "x")
	var newest sseproto.ID
	for range 1000 {
		for range 3 {
			f.publish("busy", "x")
		}
		newest = f.publish("other", "x")
	}
	require.NoError(t, l.inspect(t.Context(), func(tl *tally) error {
		tl.limit = 400
		tl.measure()
		for _, order := range []ChannelOrder{BySubscribers, ByRate} {
			top, err := tl.top(t.Context(), order, 3)
			require.NoError(t, err)
			require.ElementsMatch(t, []string{"busy", "other", "early"}, namesIn(top))
			rate := make(map[string]ChannelInfo)
			for _, c := range top {
				rate[c.Channel] = c
			}
			require.Equal(t, 300, rate["busy"].Messages)
			require.Equal(t, 100, rate["other"].Messages)
			require.InEpsilon(t, 100/tl.over.Seconds(), rate["other"].Rate, 0.02)
			require.Equal(t, newest, rate["other"].Newest)
			require.Equal(t, early, rate["early"].Newest)
			require.Zero(t, rate["early"].Rate)
		}
		return nil
	}))
}
