package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed/internal/admin"
	"ssed/internal/redistest"
)

// add XADDs from, from+1, …, to-1 to the inbox, a thousand in a pipeline.
func (p *publisher) add(channel string, from, to int) {
	p.t.Helper()
	for from < to {
		var cmds rueidis.Commands
		for ; from < to && len(cmds) < 1000; from++ {
			cmds = append(cmds, p.client.B().Xadd().Key("sse:inbox").Id("*").FieldValue().
				FieldValue("channel", channel).FieldValue("data", strconv.Itoa(from)).Build())
		}
		for _, result := range p.client.DoMulti(context.Background(), cmds...) {
			require.NoError(p.t, result.Error())
		}
	}
}

// inboxEmpty waits until the history has all of the inbox.
func (in *instance) inboxEmpty(r *redistest.Server) {
	in.t.Helper()
	in.eventually("an empty inbox", func() bool {
		length, err := r.Do("XLEN", "sse:inbox")
		return err == nil && length == int64(0)
	})
}

// historyData returns what the stream of a channel holds.
func historyData(t testing.TB, r *redistest.Server, channel string) (data []string) {
	t.Helper()
	reply, err := r.Do("XRANGE", "sse:stream:"+channel, "-", "+")
	require.NoError(t, err)
	for _, entry := range reply.([]any) {
		fields := entry.([]any)[1].([]any)
		for i := 0; i < len(fields); i += 2 {
			if fields[i] == "data" {
				data = append(data, fields[i+1].(string))
			}
		}
	}
	return data
}

func numbered(n int) (texts []string) {
	for i := range n {
		texts = append(texts, strconv.Itoa(i))
	}
	return texts
}

func TestInboxWaitsForTheFirstInstance(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	p := newPublisher(t, r)
	p.add("a", 0, 500)
	in := startRedis(t, r, "--history-max", "1000")
	in.inboxEmpty(r)
	require.Equal(t, numbered(500), historyData(t, r, "a"))
	s := connect(t, in, "", "a")
	p.add("a", 500, 505)
	s.wantNumbers(500, 505)
	in.eventually("all counted", func() bool { return in.metric("ssed_inbox_moved_total") == 505 })
	connect(t, in, "1-0", "a").wantAfterGap("0")
}

// TestInboxOutlivesWhoMovesIt: the instance that leads is killed, again and again,
// while entries come in; streams of another one get each once, in order.
func TestInboxOutlivesWhoMovesIt(t *testing.T) {
	t.Parallel()
	const n = 12_000
	r := redistest.Start(t)
	stays := startRedis(t, r, "--history-max", "100000")
	s := connect(t, stays, "", "a")
	p := newPublisher(t, r)
	for next := 0; next < n; next += n / 4 {
		name := fmt.Sprint("goes", next)
		goes := startRedis(t, r, "--history-max", "100000", "--instance", name)
		lead := func() { // again and again: on a busy machine the other one takes it back
			until := strconv.FormatInt(time.Now().Add(2*time.Second).UnixMilli(), 10)
			_, err := r.Do("HSET", "{sse:stream:}:clock", "leader", name, "inbox_leader", name, "leader_until", until)
			require.NoError(t, err)
		}
		goes.eventually("the lead", func() bool { lead(); return goes.metric("ssed_feed_leading") == 1 })
		var work sync.WaitGroup
		work.Go(func() {
			for i := next; i < next+n/4; i += 20 {
				p.add("a", i, i+20)
			}
		})
		goes.eventually("entries moved", func() bool { lead(); return goes.metric("ssed_inbox_moved_total") > 0 })
		goes.kill()
		s.wantNumbers(next, next+n/4)
		work.Wait()
	}
	stays.inboxEmpty(r)
	require.Equal(t, numbered(n), historyData(t, r, "a"))
}

// TestInboxOutlivesRedis: a Redis that keeps its data is killed while entries are
// under way. The history has each once, in order; streams get them, or a gap event.
// With everysec Redis would put off writing to its log while an fsync runs, and
// answer nevertheless: a kill then loses what it has answered.
func TestInboxOutlivesRedis(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	in := startRedis(t, r, "--history-max", "100000", "--gap-wait", "250ms")
	sent := 0
	for round := range 4 {
		p := newPublisher(t, r)
		p.add("a", sent, sent+3000)
		sent += 3000
		if round%2 == 0 {
			in.eventually("something moved", func() bool { return in.metric("ssed_inbox_moved_total") > float64(sent-3000) })
		}
		r.Kill()
		require.NoError(t, r.Restart())
	}
	in.eventually("ready", in.isReady)
	in.inboxEmpty(r)
	require.Equal(t, numbered(sent), historyData(t, r, "a"))
}

// TestLinksLostUnderTheInbox: what is moved while nobody is subscribed is read back
// from the history by the streams.
func TestLinksLostUnderTheInbox(t *testing.T) {
	t.Parallel()
	const n = 10_000
	r := redistest.Start(t)
	in := startRedis(t, r, "--history-max", "100000", "--gap-wait", "250ms")
	s := connect(t, in, "", "a")
	p := newPublisher(t, r)
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() {
		for i := range n / 10 {
			p.add("a", 10*i, 10*i+10)
		}
	})
	for cuts := range 5 {
		killFirstSubscriber(t, r)
		in.eventually("linked again", func() bool {
			return in.metric("ssed_log_spans_total") >= float64(2+cuts) && in.metric("ssed_feed_links") == 1
		})
	}
	for i := range n {
		s.wantAfterGap(fmt.Sprint(i))
	}
}

func TestInboxNeedsAHistory(t *testing.T) {
	t.Parallel()
	code, _, stderr := readFlags(t, nil, "--history=off", "--inbox=other")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "ssed: --inbox: ")
	code, _, stderr = readFlags(t, nil, "--inbox=sse:stream:a")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "ssed: --inbox: ")
	r := redistest.Start(t)
	p := newPublisher(t, r)
	p.add("a", 0, 1)
	for _, args := range [][]string{{"--history", "off"}, {"--inbox", "off"}} {
		in := start(t, append([]string{"--redis-url", r.URL()}, args...)...)
		in.waitReady()
		ticks := in.metric("ssed_feed_ticks_total")
		in.eventually("ticks", func() bool { return in.metric("ssed_feed_ticks_total") > ticks+3 })
		require.Zero(t, in.metric("ssed_inbox_moved_total"))
		in.end()
	}
	reply, err := r.Do("XLEN", "sse:inbox")
	require.NoError(t, err)
	require.EqualValues(t, 1, reply, "it is left alone")
}

// TestRightsInTheDocumentsSuffice: what docs/OPERATIONS.md tells an operator to type
// lets an instance do all its work, and a backend fill the inbox.
func TestRightsInTheDocumentsSuffice(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/OPERATIONS.md")
	require.NoError(t, err)
	r := redistest.Start(t)
	commands := regexp.MustCompile(`(?m)^ {6}(ACL SETUSER ssed .*(?:\n {8}.*)*)`).FindAllStringSubmatch(string(text), -1)
	require.Len(t, commands, 5, "two for one server, then one for each feed on a cluster, and for partitions")
	for _, c := range commands[:2] {
		_, err := r.Do(strings.Fields(c[1])...)
		require.NoError(t, err, c[1])
	}
	backend := regexp.MustCompile("needs no more than `([^`]*)`").FindSubmatch(text)
	_, err = r.Do(append([]string{"ACL", "SETUSER", "backend", "on", "nopass"}, strings.Fields(string(backend[1]))...)...)
	require.NoError(t, err)
	url := strings.Replace(r.URL(), "redis://", "redis://ssed:PASSWORD@", 1)
	in := start(t, "--redis-url", url, "--gap-wait", "250ms")
	in.waitReady()
	s := connect(t, in, "", "a")
	in.publish("a", "published")
	s.want("published")
	add, err := redistest.Dial(r.Addr(), patience)
	require.NoError(t, err)
	defer add.Close()
	_, err = add.Do("AUTH", "backend", "any")
	require.NoError(t, err)
	_, err = add.Do("XADD", "sse:inbox", "*", "channel", "a", "data", "kept")
	require.NoError(t, err)
	_, err = add.Do("XADD", "sse:inbox", "*", "channel", "__a", "data", "refused")
	require.NoError(t, err)
	s.want("kept")
	in.inboxEmpty(r)
	require.Equal(t, []string{"published", "kept"}, historyData(t, r, "a"))
	require.EqualValues(t, 1, in.metric("ssed_inbox_refused_total"))
	require.Zero(t, in.metric("ssed_inbox_failures_total"))
	require.Zero(t, in.metric("ssed_history_errors_total"))

	var fleet struct{ Instances []admin.Instance }
	in.eventually("listed", func() bool {
		in.api("GET", "/api/instances", "", 200, &fleet)
		return len(fleet.Instances) == 1 && in.metric("ssed_fleet_reports_total") > 0
	})
	require.Zero(t, in.metric("ssed_fleet_report_errors_total"))
	other := start(t, "--redis-url", url, "--instance", "other")
	other.waitReady()
	var channel struct{ Fleet admin.Spread }
	in.eventually("answered by both", func() bool {
		in.api("GET", "/api/channels/a", "", 200, &channel)
		return channel.Fleet.Answered == 2
	})
	in.api("DELETE", "/api/history/a", "", 204, nil)
	require.Empty(t, historyData(t, r, "a"))
}

// TestTypedEntriesOfTheInbox: live and from the history.
func TestTypedEntriesOfTheInbox(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startRedis(t, r, "--envelope", "json", "--ring-bytes", "256KiB")
	s := connect(t, in, "", "a")
	p := newPublisher(t, r)
	p.publish("a", "first")
	s.want("first")
	from := s.lastID
	_, err := r.Do("XADD", "sse:inbox", "*", "channel", "a", "data", `{"data":"as it is"}`, "event_type", "greeting", "id", "order-17")
	require.NoError(t, err)
	live, ok := s.next()
	require.True(t, ok)
	require.Equal(t, []string{"greeting", `{"data":"as it is"}`}, []string{live.kind, live.data})
	require.True(t, strings.HasSuffix(s.lastID, "/order-17"), s.lastID)
	in.inboxEmpty(r)
	back := connect(t, in, from, "a")
	again, ok := back.next()
	require.True(t, ok)
	require.Equal(t, live, again)
}
