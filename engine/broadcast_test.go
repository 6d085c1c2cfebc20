package engine

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/wiretest"
	"ssed/sseproto"
)

// until reads lines of a stream up to one, and returns the data lines.
func until(w *wiretest.Conn, last string) (data []string) {
	w.T.Helper()
	for {
		line, err := w.R.ReadString('\n')
		require.NoError(w.T, err)
		if line, ok := strings.CutPrefix(strings.TrimSpace(line), "data: "); ok {
			if data = append(data, line); line == last {
				return data
			}
		}
	}
}

func TestEveryStreamGetsTheBroadcastChannelOnce(t *testing.T) {
	s := serveEngine(t, Config{BroadcastChannel: "all", MaxChannels: 2})
	s.Log().OpenLocal()
	var all []*wiretest.Conn
	for _, query := range []string{"a", "a&channel_id=b", "a&channel_id=all", "all"} {
		w := s.dial().Send(getStream(query))
		require.Equal(t, 200, w.Answer(http.MethodGet).StatusCode)
		all = append(all, w)
	}
	s.Log().Publish("a", sseproto.Message{Data: "m1"})
	from := s.Log().Publish("all", sseproto.Message{Data: "m2"})
	s.Log().Publish("all", sseproto.Message{Data: "m3"})
	for _, w := range all[:3] {
		require.Equal(t, []string{"m1", "m2", "m3"}, until(w, "m3"))
	}
	require.Equal(t, []string{"m2", "m3"}, until(all[3], "m3"))
	late := s.dial().Send(getStream("b", "Last-Event-ID: "+from.String()))
	require.Equal(t, 200, late.Answer(http.MethodGet).StatusCode)
	require.Equal(t, []string{"m3"}, until(late, "m3"))
	list := connectionsOf(t, s.Engine, "all", 10)
	require.Len(t, list, 5)
	require.EqualValues(t, 3, s.Stats().Channels, "a, b and all")
}

func TestBroadcastChannelNeedsNoGrant(t *testing.T) {
	s := serveEngine(t, Config{BroadcastChannel: "all", Authorizer: authorizer(func(_ context.Context, r *AuthRequest) (Grant, error) {
		if r.Channels[0] == "denied" {
			return Grant{}, &Denial{Status: http.StatusForbidden}
		}
		return Grant{Channels: r.Channels[:1]}, nil
	})})
	s.Log().OpenLocal()
	w := s.dial().Send(getStream("a&channel_id=all"))
	require.Equal(t, 200, w.Answer(http.MethodGet).StatusCode)
	s.Log().Publish("all", sseproto.Message{Data: "for everybody"})
	require.Equal(t, []string{"for everybody"}, until(w, "for everybody"))
	status, _, _ := s.dial().Send(getStream("denied")).Whole()
	require.Equal(t, http.StatusForbidden, status, "who may have no stream gets none")
}

func TestBroadcastChannelComesFromTheHistoryToo(t *testing.T) {
	h := newMemoryHistory()
	h.add(sseproto.ID{Ms: 900, Seq: 1}, "all", "old news")
	h.add(sseproto.ID{Ms: 900, Seq: 2}, "a", "old")
	e := startEngine(t, func(cfg *Config) { cfg.History, cfg.BroadcastChannel = h, "all" })
	f := startFeed(e, 1000)
	f.tick(sseproto.ID{Ms: 1000})
	f.publish("all", "news")
	c := join(t, e, after(sseproto.ID{Ms: 800}), "a")
	require.Equal(t, []string{"old news", "old", "news"}, datas(c.next(3)))
}

// Streams with a channel of their own get what is for everybody at once, unless
// their own comes in between.
func TestBroadcastChannelKeepsTheOrderWithOwnChannels(t *testing.T) {
	e := startEngine(t, func(cfg *Config) { cfg.BroadcastChannel = "all" })
	f := startFeed(e, 1000)
	var all []*testClient
	for i := range 200 {
		all = append(all, joined(t, e, resumePoint{}, fmt.Sprint("own", i)))
	}
	const rounds = 50
	for round := range rounds {
		f.publish("all", fmt.Sprint("all ", round))
		for i := range all {
			if i%(round+1) == 0 {
				f.publish(fmt.Sprint("own", i), fmt.Sprint("own ", round))
			}
		}
	}
	for i, c := range all {
		var want []string
		for round := range rounds {
			want = append(want, fmt.Sprint("all ", round))
			if i%(round+1) == 0 {
				want = append(want, fmt.Sprint("own ", round))
			}
		}
		require.Equal(t, want, datas(c.next(len(want))))
	}
}
