package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/admin"
	"ssed/internal/redistest"
	"ssed/sseproto"
)

// api calls the admin listener and decodes the answer into out, unless that is nil.
func (in *instance) api(method, path, body string, wantStatus int, out any) {
	in.t.Helper()
	req, err := http.NewRequest(method, in.admin+path, strings.NewReader(body))
	require.NoError(in.t, err)
	resp, err := httpClient.Do(req)
	require.NoError(in.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(in.t, err)
	require.Equal(in.t, wantStatus, resp.StatusCode, "%s %s: %s", method, path, text)
	if out != nil {
		require.NoError(in.t, json.Unmarshal(text, out), "%s", text)
	}
}

func TestStatsTellWhatHappened(t *testing.T) {
	in := start(t, "--ring-bytes", "1MiB", "--max-connections", "50")
	s := connect(t, in, "", "a")
	var sent struct{ ID string }
	in.api("POST", "/api/send", `{"channel_id":"a","data":"hello"}`, 200, &sent)
	s.want("hello")
	require.Equal(t, sent.ID, s.lastID)
	var stats admin.Stats
	in.eventually("counted", func() bool {
		in.api("GET", "/api/stats", "", 200, &stats)
		return stats.Totals.Deliveries == 1
	})
	require.Equal(t, admin.ModeEmbedded, stats.Mode)
	require.Nil(t, stats.Redis)
	require.True(t, stats.Ready)
	require.EqualValues(t, 1, stats.Streams)
	require.Equal(t, 50, stats.MaxConnections)
	require.EqualValues(t, 1, stats.Totals.Messages)
	require.EqualValues(t, 1, stats.Totals.Attached)
	require.EqualValues(t, 1, stats.Ring.Messages)
	require.EqualValues(t, 1<<20, stats.Ring.LimitBytes)
	require.Positive(t, stats.Process.CPU)
	require.Positive(t, stats.Process.RSS)
	require.Positive(t, stats.Process.Heap)
	require.Positive(t, stats.Process.Goroutines)
	require.InDelta(t, in.openFiles(), stats.Process.OpenFiles, 8)
	require.WithinDuration(t, time.Now(), stats.Now, time.Minute)
	require.InDelta(t, stats.Now.Sub(stats.Started).Seconds(), stats.Uptime, 0.1)

	s.close()
	in.eventually("closed", func() bool {
		in.api("GET", "/api/stats", "", 200, &stats)
		return stats.Closed["client"] == 1
	})
	var fleet struct{ Instances []admin.Instance }
	in.api("GET", "/api/instances", "", 200, &fleet)
	require.Len(t, fleet.Instances, 1)
	require.True(t, fleet.Instances[0].Self)
}

// TestInstanceWithAReportOfAnotherFormIsListed: that of a version to come, say.
func TestInstanceWithAReportOfAnotherFormIsListed(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startRedis(t, r, "--instance", "one")
	const alive = time.Minute
	for name, report := range map[string]string{"other": `{"streams":5,"started":"no time"}`, "broken": "{"} {
		_, err := r.Do("SET", "{sse:stream:}:instance:"+name, fmt.Sprint(time.Now().UnixMilli())+" "+report, "PX", fmt.Sprint(alive.Milliseconds()))
		require.NoError(t, err)
		_, err = r.Do("ZADD", "{sse:stream:}:instances", fmt.Sprint(time.Now().Add(alive).UnixMilli()), name)
		require.NoError(t, err)
	}
	var fleet struct{ Instances []admin.Instance }
	in.eventually("all three", func() bool {
		in.api("GET", "/api/instances", "", 200, &fleet)
		return len(fleet.Instances) == 3
	})
	for _, i := range fleet.Instances {
		require.Contains(t, []string{"one", "other", "broken"}, i.Instance)
		require.Equal(t, i.Instance == "one", i.Self)
		if i.Instance == "other" {
			require.EqualValues(t, 5, i.Streams)
		}
	}
}

// TestPublishingTellsTheIDThatTheClientsGet: with Redis too, from any instance.
func TestPublishingTellsTheIDThatTheClientsGet(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	one, two := startRedis(t, r), startRedis(t, r)
	s := connect(t, two, "", "a", "b")
	for _, in := range []*instance{one, two} {
		answer := in.publish("a", "posted")
		s.want("posted")
		require.Equal(t, s.lastID, answer.ID)
		require.EqualValues(t, 2, *answer.Receivers)
		var sent struct{ ID string }
		in.api("POST", "/api/send", `{"channel_id":"b","data":{"n":1}}`, 200, &sent)
		s.want(`{"n":1}`)
		require.Equal(t, s.lastID, sent.ID)
	}
	var batch strings.Builder
	for range 300 {
		batch.WriteString(`{"channel_id":"a","data":"x"}` + "\n")
	}
	resp, err := httpClient.Post(one.admin+"/api/batch", "application/x-ndjson", strings.NewReader(batch.String()))
	require.NoError(t, err)
	defer resp.Body.Close()
	answers := json.NewDecoder(resp.Body)
	for range 300 {
		var answer struct{ ID string }
		require.NoError(t, answers.Decode(&answer))
		s.want("x")
		require.Equal(t, s.lastID, answer.ID)
	}
}

// TestPublishingWithoutNumber: nobody subscribes to that channel, or Redis is away.
func TestPublishingWithoutNumber(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startRedis(t, r, "--gap-wait", "250ms", "--patterns", "news:*")
	var answer struct {
		ID, Error string
		Receivers *int64
	}
	in.api("POST", "/publish?channel_id=other", "x", 202, &answer)
	require.Empty(t, answer.ID)
	require.Zero(t, *answer.Receivers)
	r.Stop()
	in.api("POST", "/api/send", `{"channel_id":"news:1","data":"x"}`, 503, &answer)
	require.NotEmpty(t, answer.Error)
	in.api("GET", "/api/instances", "", 503, nil)
	in.api("GET", "/api/history/a", "", 503, nil)
	in.api("DELETE", "/api/history/a", "", 503, nil)
	var channel struct {
		Messages int
		Fleet    *admin.Spread
	}
	in.api("GET", "/api/channels/news:1", "", 200, &channel)
	require.Nil(t, channel.Fleet)
	var stats admin.Stats
	in.eventually("it tells", func() bool {
		in.api("GET", "/api/stats", "", 200, &stats)
		return !stats.Ready && !stats.Redis.Up
	})
	require.NotEmpty(t, stats.Reason)
}

// What a publisher says of a message beside its data arrives alike, embedded and with
// Redis, whether or not payloads of others are read as envelopes.
func TestTypedMessagesAreSentInEveryMode(t *testing.T) {
	for name, begin := range map[string]func(t *testing.T) (one, other *instance){
		"embedded": func(t *testing.T) (*instance, *instance) { in := start(t); return in, in },
		"redis": func(t *testing.T) (*instance, *instance) {
			r := redistest.Start(t)
			return startRedis(t, r), startRedis(t, r)
		},
		"redis with batches": func(t *testing.T) (*instance, *instance) {
			r := redistest.Start(t)
			return startRedis(t, r, "--batch-channel", "batches"), startRedis(t, r, "--batch-channel", "batches")
		},
		"redis with envelopes": func(t *testing.T) (*instance, *instance) {
			r := redistest.Start(t)
			return startRedis(t, r, "--envelope", "json"), startRedis(t, r, "--envelope", "json")
		},
	} {
		t.Run(name, func(t *testing.T) {
			in, other := begin(t)
			s := connect(t, other, "", "a")
			var sent struct{ ID string }
			in.api("POST", "/publish?channel_id=a&event=order&id=o-17", "data", 200, &sent)
			m, ok := s.next()
			require.True(t, ok)
			require.Equal(t, message{"order", sent.ID + "/o-17", "data"}, m)
			first := sent.ID
			in.api("POST", "/publish?channel_id=a&retry=1235", "w", 200, &sent)
			s.want("w")
			require.EqualValues(t, 1235, s.retry.Load())
			in.api("POST", "/api/send", `{"channel_id":"a","data":"x","retry":1234}`, 200, &sent)
			s.want("x")
			require.EqualValues(t, 1234, s.retry.Load())
			in.api("POST", "/api/batch", `[{"channel_id":"a","data":"y","event_type":"order"},{"channel_id":"a","data":"z"}]`, 200, nil)
			m, ok = s.next()
			require.True(t, ok)
			require.Equal(t, "order y", m.kind+" "+m.data)
			s.want("z")
			for _, bad := range []string{"event=gap", "event=a%0Ab", "id=a+b", "retry=-1", "retry=soon"} {
				in.api("POST", "/publish?channel_id=a&"+bad, "data", 400, nil)
			}
			// Data of any bytes is data, also what begins as ssed marks its own envelopes.
			for _, data := range []string{`{"event":"x","data":"y"}`, "\x00ssed\x00{\"event\":\"x\",\"data\":\"y\"}", "\x00ssed\x00"} {
				in.api("POST", "/publish?channel_id=a", data, 200, &sent)
				m, ok := s.next()
				require.True(t, ok)
				require.Equal(t, message{"message", sent.ID, data}, m)
			}
			again := connect(t, other, first, "a")
			again.want("w")
			again.want("x")
		})
	}
}

// TestDeletedHistoryIsNotReplayed by an instance that has it not in memory.
func TestDeletedHistoryIsNotReplayed(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startRedis(t, r)
	p := newPublisher(t, r)
	s := connect(t, in, "", "a")
	p.numbers("a", 0, 5)
	s.wantNumbers(0, 1)
	from := s.lastID
	s.wantNumbers(1, 5)
	in.written(r, s.lastID)
	later := startRedis(t, r)

	var page admin.HistoryPage
	later.api("GET", "/api/history/a?limit=3", "", 200, &page)
	require.Len(t, page.Events, 3)
	require.Empty(t, page.Gaps)
	require.Equal(t, page.Events[2].ID, page.Next)
	require.Equal(t, from, page.Events[0].ID)
	later.api("GET", "/api/history/a?after="+page.Next, "", 200, &page)
	require.Len(t, page.Events, 2)
	require.Empty(t, page.Next)

	later.api("DELETE", "/api/history/a", "", 204, nil)
	later.api("GET", "/api/history/a", "", 200, &page)
	require.Empty(t, page.Events)
	later.api("GET", "/api/history/a?after="+from, "", 200, &page)
	require.Equal(t, []admin.HistoryGap{{Reason: sseproto.ReasonTrimmed}}, page.Gaps)
	s = connect(t, later, from, "a")
	s.wantGap(sseproto.ReasonTrimmed)
	p.publish("a", "new")
	s.want("new")
}

// TestConnectionsAreListedAndClosedByHand: the client is told when to come back.
func TestConnectionsAreListedAndClosedByHand(t *testing.T) {
	in := start(t, "--shards", "2")
	for range 5 {
		connect(t, in, "", "a")
	}
	s := connect(t, in, "", "b/c", "a")
	var page struct {
		Connections []admin.Connection
		Next        string
	}
	in.api("GET", "/api/connections?channel_id=b%2Fc", "", 200, &page)
	require.Len(t, page.Connections, 1)
	require.Empty(t, page.Next)
	c := page.Connections[0]
	require.ElementsMatch(t, []string{"a", "b/c"}, c.Channels)
	require.WithinDuration(t, time.Now(), *c.Opened, time.Minute)
	seen := make(map[string]bool)
	for path := "/api/connections?limit=2"; ; path = "/api/connections?limit=2&after=" + page.Next {
		in.api("GET", path, "", 200, &page)
		for _, c := range page.Connections {
			seen[c.ID] = true
		}
		if page.Next == "" {
			break
		}
	}
	require.Len(t, seen, 6)
	in.api("GET", "/api/connections?after=x", "", 400, nil)

	in.publish("b/c", "last words")
	s.want("last words")
	in.api("DELETE", "/api/connections/"+c.ID, "", 204, nil)
	s.wantEnd()
	in.api("DELETE", "/api/connections/"+c.ID, "", 404, nil)
	in.api("DELETE", "/api/connections/nonsense", "", 404, nil)

	var list struct{ Channels []admin.Channel }
	in.api("GET", "/api/channels?limit=1", "", 200, &list)
	require.Equal(t, "a", list.Channels[0].Channel)
	require.EqualValues(t, 5, list.Channels[0].Subscribers)
	var one struct {
		admin.Channel
		Fleet *admin.Spread
	}
	in.api("GET", "/api/channels/b%2Fc", "", 200, &one)
	require.EqualValues(t, 1, one.Messages)
	require.Equal(t, s.lastID, one.Newest)
	require.Nil(t, one.Fleet)
}

// TestGapsAreRecorded.
func TestGapsAreRecorded(t *testing.T) {
	in := start(t)
	connect(t, in, "no-such-id", "a").wantGap(sseproto.ReasonUnknownID)
	var list struct{ Gaps []admin.Gap }
	in.api("GET", "/api/gaps", "", 200, &list)
	require.Len(t, list.Gaps, 1)
	require.Equal(t, sseproto.ReasonUnknownID, list.Gaps[0].Reason)
	require.False(t, list.Gaps[0].Live)
	require.Equal(t, 1, list.Gaps[0].Streams)
}

// TestFleetIsSeenFromEveryInstance: also by instances that began later, without those
// that were killed, and with one that is frozen.
func TestFleetIsSeenFromEveryInstance(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	one, two, three := startRedis(t, r, "--instance", "one"), startRedis(t, r, "--instance", "two"), startRedis(t, r, "--instance", "three")
	// Reports are of different moments: that of the start says that it is not ready.
	sees := func(in *instance, names ...string) (list []admin.Instance) {
		t.Helper()
		in.eventually(strings.Join(names, " "), func() bool {
			var fleet struct{ Instances []admin.Instance }
			in.api("GET", "/api/instances", "", 200, &fleet)
			list = fleet.Instances
			return slices.EqualFunc(list, names, func(m admin.Instance, name string) bool { return m.Instance == name && m.Ready })
		})
		return list
	}
	for _, in := range []*instance{one, two, three} {
		list := sees(in, "one", "three", "two")
		writers, leaders := 0, 0
		for _, m := range list {
			require.Positive(t, m.RSS)
			require.Equal(t, "v0.0.0-test", m.Version)
			require.WithinDuration(t, time.Now(), m.Seen, time.Minute)
			writers, leaders = writers+int(oneIf(m.Writer)), leaders+int(oneIf(m.Leading))
		}
		require.LessOrEqual(t, writers, 2)
		require.LessOrEqual(t, leaders, 2)
	}

	connect(t, one, "", "a b")
	connect(t, two, "", "a b")
	connect(t, two, "", "a b")
	subscribers := func(in *instance) admin.Spread {
		t.Helper()
		var answer struct{ Fleet admin.Spread }
		in.api("GET", "/api/channels/a%20b", "", 200, &answer)
		return answer.Fleet
	}
	all := admin.Spread{Subscribers: 3, Asked: 3, Answered: 3, Instances: []admin.InstanceShare{{Instance: "one", Subscribers: 1}, {Instance: "three"}, {Instance: "two", Subscribers: 2}}}
	three.eventually("the answers of all", func() bool { return reflect.DeepEqual(all, subscribers(three)) })

	two.freeze()
	partial := admin.Spread{Subscribers: 1, Asked: 3, Answered: 2, Instances: []admin.InstanceShare{{Instance: "one", Subscribers: 1}, {Instance: "three"}}}
	three.eventually("the answers of two", func() bool { return reflect.DeepEqual(partial, subscribers(three)) })
	one.kill()
	sees(three, "three") // the keys of both have expired
	two.Signal(syscall.SIGCONT)
	sees(three, "three", "two")
	two.Signal(syscall.SIGTERM)
	require.Equal(t, exitOK, two.wait())
	var fleet struct{ Instances []admin.Instance }
	three.api("GET", "/api/instances", "", 200, &fleet)
	require.Len(t, fleet.Instances, 1, "who leaves is gone at once")
	require.True(t, fleet.Instances[0].Self)
}

// TestShutdownDoesNotWaitForLiveStreams.
func TestShutdownDoesNotWaitForLiveStreams(t *testing.T) {
	in := start(t)
	resp, err := httpClient.Get(in.admin + "/api/live")
	require.NoError(t, err)
	defer resp.Body.Close()
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "event: stats\n", line)
	in.Signal(syscall.SIGTERM)
	require.Equal(t, exitOK, in.wait())
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err, "it ended as it should")
}
