package admin

import (
	"context"
	"errors"
	"io"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// world stands for an instance: it keeps what it was asked and answers from its fields.
type world struct {
	channel, after string
	order          ChannelOrder
	limit          int
	isBack         bool
	closed         []string
	who            Clients
	keepOut        time.Duration
	deleted        []string

	err      error
	fleetErr error
	page     HistoryPage
	from     sseproto.ID
}

func (w *world) Connections(_ context.Context, who Clients, after string, limit int) ([]Connection, string, error) {
	w.channel, w.who, w.after, w.limit = who.Channel, who, after, limit
	if who.Channel == "empty" {
		return nil, "", w.err
	}
	opened := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return []Connection{{ID: "0-7", Client: "192.0.2.1", Channels: []string{"a"}, Position: "5-1", Opened: &opened}}, "0-7", w.err
}

func (w *world) CloseConnection(_ context.Context, id string) (bool, error) {
	w.closed = append(w.closed, id)
	return id == "0-7", w.err
}

func (w *world) CloseConnections(_ context.Context, who Clients, keepOut time.Duration) (Closed, error) {
	w.who, w.keepOut = who, keepOut
	return Closed{Connections: 3, Asked: 2, Answered: 1, Instances: []ClosedShare{{"one", 3}}}, w.err
}

func (w *world) TopChannels(_ context.Context, order ChannelOrder, limit int) ([]Channel, error) {
	w.order, w.limit = order, limit
	return nil, w.err
}

func (w *world) Channel(_ context.Context, name string) (Channel, error) {
	return Channel{Channel: name, Subscribers: 3}, w.err
}

func (w *world) Instances(context.Context) ([]Instance, error) {
	return []Instance{{Instance: "one", Self: true}, {Instance: "two"}}, w.fleetErr
}

func (w *world) Subscribers(context.Context, string) (Spread, error) {
	return Spread{Subscribers: 5, Asked: 2, Answered: 1}, w.fleetErr
}

func (w *world) Page(_ context.Context, channel string, after sseproto.ID, limit int) (HistoryPage, error) {
	w.channel, w.from, w.limit = channel, after, limit
	return w.page, w.err
}

func (w *world) PageBack(_ context.Context, channel string, before sseproto.ID, limit int) (HistoryPage, error) {
	w.channel, w.from, w.limit, w.isBack = channel, before, limit, true
	return w.page, w.err
}

func (w *world) Delete(_ context.Context, channel string) error {
	w.deleted = append(w.deleted, channel)
	return w.err
}

func newWorld(t *testing.T, change func(*Config)) (*world, func(method, target string) (status int, body string)) {
	t.Helper()
	w := new(world)
	h, _ := handler(t, func(cfg *Config) {
		cfg.Connections, cfg.Channels, cfg.Fleet, cfg.History = w, w, w, w
		cfg.Stats = func() Stats {
			return Stats{Instance: "one", Lag: Histogram{Bounds: []float64{1}, Counts: []uint64{0, 0}}}
		}
		cfg.Gaps = func() []Gap { return nil }
		cfg.Partitions = func() []Partition { return nil }
		if change != nil {
			change(cfg)
		}
	})
	return w, func(method, target string) (int, string) {
		t.Helper()
		r := do(h, method, target, "")
		require.True(t, r.StatusCode == 204 || r.Header.Get("Content-Type") == "application/json")
		require.True(t, r.StatusCode == 204 || r.Header.Get("Cache-Control") == "no-store")
		return r.StatusCode, bodyOf(t, r)
	}
}

func TestListsAreNeverNull(t *testing.T) {
	_, ask := newWorld(t, nil)
	f := func(target, want string) {
		t.Helper()
		status, body := ask("GET", target)
		require.Equal(t, 200, status)
		require.JSONEq(t, want, body)
	}
	f("/api/gaps", `{"gaps":[]}`)
	f("/api/partitions", `{"partitions":[]}`)
	f("/api/channels", `{"channels":[]}`)
	f("/api/connections?channel_id=empty", `{"connections":[],"next":""}`)
	f("/api/history/a", `{"channel":"a","events":[],"gaps":[],"next":""}`)
}

func TestLimitsAreCheckedAndUnknownParametersIgnored(t *testing.T) {
	w, ask := newWorld(t, nil)
	for _, path := range []string{"/api/connections", "/api/channels", "/api/history/a"} {
		for _, bad := range []string{"0", "-1", "1001", "x", "1.5", "", "99999999999999999999"} {
			status, body := ask("GET", path+"?limit="+bad)
			require.Equal(t, 400, status, "%s %q", path, bad)
			require.Contains(t, body, "limit must be")
		}
		status, _ := ask("GET", path+"?limit=1000&foo=bar&limit=x")
		require.Equal(t, 200, status)
		require.Equal(t, 1000, w.limit)
		status, _ = ask("GET", path+"?limit=%zz")
		require.Equal(t, 400, status)
	}
	f := func(path string, want int) {
		t.Helper()
		ask("GET", path)
		require.Equal(t, want, w.limit)
	}
	f("/api/connections", 100)
	f("/api/channels", 50)
	f("/api/history/a", 100)
}

func TestConnectionsAreListedAndClosed(t *testing.T) {
	w, ask := newWorld(t, nil)
	status, body := ask("GET", "/api/connections?channel_id=a%2Fb&after=0-3&limit=5")
	require.Equal(t, 200, status)
	require.Equal(t, world{channel: "a/b", after: "0-3", who: Clients{Channel: "a/b"}, limit: 5}, *w)
	require.JSONEq(t, `{"connections":[{"id":"0-7","client":"192.0.2.1","channels":["a"],"position":"5-1","blocked":false,
		"opened":"2026-01-02T03:04:05Z"}],"next":"0-7"}`, body)
	status, _ = ask("GET", "/api/connections?channel_id=")
	require.Equal(t, 400, status)
	status, _ = ask("GET", "/api/connections?after="+strings.Repeat("1", 100))
	require.Equal(t, 400, status)

	status, body = ask("DELETE", "/api/connections/0-7")
	require.Equal(t, 204, status)
	require.Empty(t, body)
	status, _ = ask("DELETE", "/api/connections/0-8")
	require.Equal(t, 404, status)
	require.Equal(t, []string{"0-7", "0-8"}, w.closed)
	w.err = errors.New("draining")
	status, body = ask("DELETE", "/api/connections/0-7")
	require.Equal(t, 503, status)
	require.JSONEq(t, `{"error":"draining"}`, body)
}

func TestChannelsAreOrderedAsAsked(t *testing.T) {
	w, ask := newWorld(t, nil)
	f := func(query string, status int, want ChannelOrder) {
		t.Helper()
		w.order = ""
		got, _ := ask("GET", "/api/channels"+query)
		require.Equal(t, status, got)
		require.Equal(t, want, w.order)
	}
	f("", 200, BySubscribers)
	f("?sort=rate", 200, ByRate)
	f("?sort=subscribers", 200, BySubscribers)
	f("?sort=name", 400, "")
	f("?sort=", 400, "")
}

func TestChannelTellsOfTheFleetWhereThereIsOne(t *testing.T) {
	w, ask := newWorld(t, nil)
	status, body := ask("GET", "/api/channels/a%2Fb%20c")
	require.Equal(t, 200, status)
	require.JSONEq(t, `{"channel":"a/b c","subscribers":3,"messages":0,"rate":0,"newest":"","policy":"",
		"fleet":{"subscribers":5,"instances":[],"asked":2,"answered":1}}`, body)
	w.fleetErr = errors.New("no Redis")
	status, body = ask("GET", "/api/channels/a")
	require.Equal(t, 200, status, "what is known here is told")
	require.Contains(t, body, `"fleet":null`)
	status, _ = ask("GET", "/api/channels/"+strings.Repeat("x", 256))
	require.Equal(t, 400, status)
	status, _ = ask("GET", "/api/channels/a%00")
	require.Equal(t, 400, status)
}

func TestInstancesAreTheFleetOrThisOne(t *testing.T) {
	w, ask := newWorld(t, nil)
	_, body := ask("GET", "/api/instances")
	require.Equal(t, 2, strings.Count(body, `"instance":`))
	w.fleetErr = errors.New("no Redis")
	status, _ := ask("GET", "/api/instances")
	require.Equal(t, 503, status)
	_, ask = newWorld(t, func(cfg *Config) {
		cfg.Fleet, cfg.Self = nil, func() Instance { return Instance{Instance: "alone", Self: true} }
	})
	_, body = ask("GET", "/api/instances")
	require.Contains(t, body, `{"instances":[{"instance":"alone",`)
}

func TestPartitionsAreThoseOfTheFleet(t *testing.T) {
	list := []Partition{
		{Slot: 4096, ShardChannel: "sse:{4129}", Node: "10.0.0.1:6379", Up: true, Problem: "x", Leader: "one", TickLag: 0.001, Writer: "two", WatermarkLag: 0.1},
		{Partition: 1, Slot: 12288, ShardChannel: "sse:{356}", Reason: "no primary", Foreign: 2},
	}
	_, ask := newWorld(t, func(cfg *Config) {
		cfg.Partitions = func() []Partition { return list }
	})
	status, body := ask("GET", "/api/partitions")
	require.Equal(t, 200, status)
	require.JSONEq(t, `{"partitions":[
		{"partition":0,"slot":4096,"shard_channel":"sse:{4129}","node":"10.0.0.1:6379","up":true,"reason":"","problem":"x",
		 "leader":"one","tick_lag_seconds":0.001,"writer":"two","watermark_lag_seconds":0.1,"foreign":0},
		{"partition":1,"slot":12288,"shard_channel":"sse:{356}","node":"","up":false,"reason":"no primary","problem":"",
		 "leader":"","tick_lag_seconds":0,"writer":"","watermark_lag_seconds":0,"foreign":2}]}`, body)
}

func TestHistoryIsReadAndDeleted(t *testing.T) {
	w, ask := newWorld(t, nil)
	w.page = HistoryPage{
		Events: []HistoryEvent{{ID: "5-1", Event: "message", Data: "<x>"}},
		Gaps:   []HistoryGap{{Reason: "trimmed", Oldest: "5-1"}}, Next: "5-1",
	}
	status, body := ask("GET", "/api/history/a%2Fb?after=4-2&limit=1")
	require.Equal(t, 200, status)
	require.Equal(t, "a/b", w.channel)
	require.Equal(t, sseproto.ID{Ms: 4, Seq: 2}, w.from)
	require.JSONEq(t, `{"channel":"a/b","events":[{"id":"5-1","event":"message","data":"<x>"}],
		"gaps":[{"reason":"trimmed","oldest":"5-1"}],"next":"5-1"}`, body)
	require.False(t, w.isBack)
	status, _ = ask("GET", "/api/history/a?after=4-3.1~bEAG1A")
	require.Equal(t, 200, status)
	require.Equal(t, sseproto.ID{Ms: 4, Seq: 3}, w.from)
	status, _ = ask("GET", "/api/history/a?after=4-2&order=newest")
	require.Equal(t, 200, status)
	require.True(t, w.isBack)
	status, _ = ask("GET", "/api/history/a?order=up")
	require.Equal(t, 400, status)
	status, _ = ask("GET", "/api/history/a?after=x")
	require.Equal(t, 400, status)
	status, _ = ask("DELETE", "/api/history/a%2Fb")
	require.Equal(t, 204, status)
	require.Equal(t, []string{"a/b"}, w.deleted)
	w.err = errors.New("no Redis")
	for _, method := range []string{"GET", "DELETE"} {
		status, _ = ask(method, "/api/history/a")
		require.Equal(t, 503, status)
	}
	_, ask = newWorld(t, func(cfg *Config) { cfg.History = nil })
	for _, method := range []string{"GET", "DELETE"} {
		status, body = ask(method, "/api/history/a")
		require.Equal(t, 404, status)
		require.Contains(t, body, "no history")
	}
}

func TestForeignPagesCannotChangeAnything(t *testing.T) {
	w := new(world)
	h, last := handler(t, func(cfg *Config) { cfg.Connections, cfg.History = w, w })
	for method, paths := range map[string][]string{
		"POST":   {"/publish?channel_id=a", "/api/send", "/api/batch"},
		"DELETE": {"/api/connections/0-7", "/api/connections?sub=a", "/api/history/a"},
	} {
		for _, path := range paths {
			require.Equal(t, 403, do(h, method, path, "{}", "Origin", "https://evil.example").StatusCode, path)
			require.Equal(t, 403, do(h, method, path, "{}", "Sec-Fetch-Site", "cross-site").StatusCode, path)
		}
	}
	require.Zero(t, *last)
	require.Empty(t, w.closed)
	require.Empty(t, w.deleted)
}

// TestMessagesAndClientsAreShownToTheOperatorAlone: who reads and deletes them has a token,
// or is on this machine and no web page.
func TestMessagesAndClientsAreShownToTheOperatorAlone(t *testing.T) {
	const token = "0123456789abcdef"
	paths := map[string][]string{
		"GET": {
			"/api/history/a", "/api/connections",
			"/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/symbol", "/debug/pprof/goroutine", "/debug/pprof/profile", "/debug/pprof/trace?seconds=0.001",
		},
		"DELETE": {"/api/history/a", "/api/connections/0-7", "/api/connections?sub=a"},
	}
	require.NoError(t, pprof.StartCPUProfile(io.Discard)) // there is one at a time: others end at once
	defer pprof.StopCPUProfile()
	f := func(allowed bool, change func(*Config), headers ...string) {
		t.Helper()
		w := new(world)
		h, _ := handler(t, func(cfg *Config) {
			cfg.Connections, cfg.History, cfg.Pprof = w, w, true
			cfg.Stats = func() Stats { return Stats{} }
			change(cfg)
		})
		for method, list := range paths {
			for _, path := range list {
				status := do(h, method, path, "", headers...).StatusCode
				require.Equal(t, !allowed, status == 403, "%s %s %v: %d", method, path, headers, status)
			}
		}
		require.Equal(t, allowed, len(w.closed)+len(w.deleted) == 2)
	}
	none := func(*Config) {}
	f(true, none)
	f(true, none, "Host", "localhost:9090")
	f(false, none, "Host", "evil.example:9090")
	f(true, func(cfg *Config) { cfg.Host = "admin.corp" }, "Host", "admin.corp:9090")
	f(false, func(cfg *Config) { cfg.Exposed = true })
	f(false, func(cfg *Config) { cfg.Exposed = true }, "Host", "localhost:9090")
	withToken := func(cfg *Config) { cfg.Exposed, cfg.Tokens = true, oneToken(token) }
	f(true, withToken, "Authorization", "Bearer "+token, "Host", "ssed.corp:9090")
}

func TestHeadAsksForTheHeadAlone(t *testing.T) {
	_, ask := newWorld(t, nil)
	for _, path := range []string{"/api/stats", "/api/gaps", "/api/instances", "/api/partitions", "/api/connections", "/api/channels", "/api/channels/a", "/api/history/a"} {
		status, _ := ask("HEAD", path)
		require.Equal(t, 200, status, path)
	}
	h, _ := handler(t, nil)
	r := do(h, "HEAD", "/api/live", "")
	require.Equal(t, 200, r.StatusCode)
	require.Equal(t, "text/event-stream", r.Header.Get("Content-Type"))
}

func TestConnectionsAreClosedByWhoTheyBelongTo(t *testing.T) {
	w, ask := newWorld(t, nil)
	f := func(query string, who Clients, keepOut time.Duration) {
		t.Helper()
		status, body := ask("DELETE", "/api/connections?"+query)
		require.Equal(t, 200, status, body)
		require.JSONEq(t, `{"closed":3,"asked":2,"answered":1,"instances":[{"instance":"one","closed":3}]}`, body)
		require.Equal(t, who, w.who)
		require.Equal(t, keepOut, w.keepOut)
	}
	f("sub=J%C3%B6rg+%26+Co", Clients{Subject: "Jörg & Co"}, 0)
	f("token=9f3a&for=10m", Clients{Token: "9f3a"}, 10*time.Minute)
	f("sub=a&for=720h", Clients{Subject: "a"}, 720*time.Hour)
	f("channel=%FF&sub=a&token=b", Clients{Subject: "a", Token: "b", Channel: "\xff"}, 0)

	w.who = Clients{}
	for _, query := range []string{
		"", "for=10m", "sub=", "sub=%00", "sub=" + strings.Repeat("a", 256), "sub=a&sub=b", "token=a&token=",
		"sub=a&for=", "sub=a&for=10", "sub=a&for=-1m", "sub=a&for=1ms", "sub=a&for=721h", "sub=a&token=b&for=10m", "channel=a&for=10m",
		// A slip of the pen must not close more than was meant.
		"sub=a&channel_id=b", "sub=a&Channel=b", "sub=a&s%75b=b", "sub=a&x", "subject=a",
	} {
		status, body := ask("DELETE", "/api/connections?"+query)
		require.Equal(t, 400, status, "%s: %s", query, body)
	}
	require.Zero(t, w.who)
	w.err = errors.New("no Redis")
	status, body := ask("DELETE", "/api/connections?sub=a")
	require.Equal(t, 503, status)
	require.JSONEq(t, `{"error":"no Redis"}`, body)

	w.err = nil
	status, _ = ask("GET", "/api/connections?sub=anna&token=9&channel_id=c")
	require.Equal(t, 200, status)
	require.Equal(t, Clients{Subject: "anna", Token: "9", Channel: "c"}, w.who)
}
