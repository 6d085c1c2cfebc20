package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/doctor"
	"ssed/internal/redistest"
	"ssed/sseproto"
)

const batchFlag = "--batch-channel=ssed:batch"

// publishCommands is how many PUBLISH Redis has run.
func publishCommands(t *testing.T, r *redistest.Server) (n int) {
	t.Helper()
	reply, err := r.Do("INFO", "commandstats")
	require.NoError(t, err)
	_, rest, found := strings.Cut(reply.(string), "cmdstat_publish:calls=")
	if found {
		_, err = fmt.Sscanf(rest, "%d", &n)
		require.NoError(t, err)
	}
	return n
}

// TestBatchesReachClientsAndHistory: of any instance, by any way of publishing, under one
// ID each.
func TestBatchesReachClientsAndHistory(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	args := []string{batchFlag, "--tick-interval=1s", "--probe-timeout=10s", "--history-max=2000"}
	one, two := startRedis(t, r, args...), startRedis(t, r, args...)
	s := connect(t, two, "", "a", "b")
	s.want()
	first := one.publish("a", "0").ID
	s.want("0")

	before := publishCommands(t, r)
	var lines strings.Builder
	for i := 1; i <= 999; i++ {
		fmt.Fprintf(&lines, `{"channel_id":"%c","data":"%d"}`+"\n", 'a'+i%2, i)
	}
	resp, err := httpClient.Post(one.admin+"/api/batch", "application/x-ndjson", strings.NewReader(lines.String()+`{"channel_id":"ssed:batch","data":"x"}`))
	require.NoError(t, err)
	defer resp.Body.Close()
	answers := json.NewDecoder(resp.Body)
	ids := map[string]string{"0": first}
	type answer struct {
		ID, Error string
		Receivers int
	}
	for i := 1; i <= 999; i++ {
		var a answer
		require.NoError(t, answers.Decode(&a))
		require.NotEmpty(t, a.ID)
		require.Equal(t, 2, a.Receivers)
		ids[fmt.Sprint(i)] = a.ID
	}
	var refused answer
	require.NoError(t, answers.Decode(&refused))
	require.Contains(t, refused.Error, "--batch-channel")
	one.api("POST", "/publish?channel_id=ssed:batch", "\x01a\x01x", 400, &refused)
	require.Contains(t, refused.Error, "--batch-channel")

	// By ssed pub, with and without Redis; what is there already goes at once.
	numbers := func(from, to int) (text string) {
		for i := from; i < to; i++ {
			text += fmt.Sprintln(i)
		}
		return text
	}
	code, stdout, stderr := runInput(t, nil, numbers(1000, 1100), "pub", "--admin-url", one.admin, "--lines", "a")
	require.Equal(t, exitOK, code, stderr)
	require.Len(t, strings.Fields(stdout), 100)
	for i, id := range strings.Fields(stdout) {
		ids[fmt.Sprint(1000+i)] = id
	}
	code, stdout, stderr = runInput(t, nil, numbers(1100, 1200), "pub", "--redis-url", r.URL(), batchFlag, "--lines", "b")
	require.Equal(t, exitOK, code, stderr)
	require.Equal(t, strings.Repeat("receivers: 2\n", 100), stdout)
	// Notices and ticks are published too: some two in a second.
	require.Less(t, publishCommands(t, r)-before, 100)

	for i := 1; i < 1200; i++ {
		s.want(fmt.Sprint(i))
		if id, ok := ids[fmt.Sprint(i)]; ok {
			require.Equal(t, id, s.lastID)
		}
	}
	one.written(r, s.lastID)
	again := connect(t, one, first, "a", "b")
	for i := 1; i < 1200; i++ {
		again.want(fmt.Sprint(i))
	}
	require.Equal(t, s.lastID, again.lastID)
	require.Zero(t, one.metric("ssed_feed_broken_batches_total"))

	_, err = r.Do("PUBLISH", "ssed:batch", string(sseproto.AppendBatched(nil, "a", "last"))+"\xff")
	require.NoError(t, err)
	s.want("last")
	for _, in := range []*instance{one, two} {
		in.eventually("the broken end is counted", func() bool { return in.metric("ssed_feed_broken_batches_total") == 1 })
	}
}

// TestPubPublishesAloneWhatJSONCannotHold: bytes that are no UTF-8 reach Redis as they are.
func TestPubPublishesAloneWhatJSONCannotHold(t *testing.T) {
	r := redistest.Start(t)
	in := startRedis(t, r)
	got := subscribe(t, r, "a")
	code, stdout, stderr := runInput(t, nil, "\xff\nä\r\n\n", "pub", "--admin-url", in.admin, "--lines", "a")
	require.Equal(t, exitOK, code, stderr)
	require.Len(t, strings.Fields(stdout), 3)
	for _, want := range []string{"\xff", "ä", ""} {
		require.Equal(t, want, <-got)
	}
}

// TestPubStopsAtARefusedLine: and prints what became of those before it.
func TestPubStopsAtARefusedLine(t *testing.T) {
	in := start(t, "--max-message-bytes", "10")
	code, stdout, stderr := runInput(t, nil, "one\ntwo\nthis is too long\nthree\n", "pub", "--admin-url", in.admin, "--lines", "a")
	require.Equal(t, exitFailed, code)
	require.Len(t, strings.Fields(stdout), 2)
	require.Contains(t, stderr, "refused a line: the message is larger")
}

// TestBatchesWithoutRedisAreArraysAndLines: there is no channel for them, and none is needed.
func TestBatchesWithoutRedisAreArraysAndLines(t *testing.T) {
	in := start(t, batchFlag)
	s := connect(t, in, "", "a", "ssed:batch")
	resp, err := httpClient.Post(in.admin+"/api/batch", "application/json", strings.NewReader(`[{"channel_id":"a","data":"1"},{"channel_id":"ssed:batch","data":"2"}]`))
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	var answers []struct{ ID string }
	require.NoError(t, json.Unmarshal(text, &answers))
	require.Len(t, answers, 2)
	s.want("1", "2")
	require.Equal(t, s.lastID, answers[1].ID)
}

func TestDoctorTriesTheBatchChannel(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	startRedis(t, r, batchFlag, "--patterns=news:*")
	args := []string{"--redis-url", r.URL(), "--patterns=news:*", "--max-connections=100"}
	code, checks := diagnose(t, append(args, batchFlag)...)
	require.Equal(t, exitOK, code, "%v", checks)
	require.Equal(t, doctor.OK, checks["redis rights for --batch-channel"].Status)
	code, checks = diagnose(t, args...)
	require.Equal(t, exitFailed, code)
	require.Contains(t, checks["fleet"].Text, `batches="ssed:batch"`)

	_, err := r.Do("ACL", "SETUSER", "u", "on", ">x", "~*", "+@all", "&news:*", "&__ssed:*")
	require.NoError(t, err)
	_, checks = diagnose(t, append(args, batchFlag, "--redis-url", strings.Replace(r.URL(), "//", "//u:x@", 1))...)
	require.Equal(t, doctor.Fail, checks["redis rights"].Status)
	require.Contains(t, checks["redis rights"].Fix, "&ssed:batch")
	require.Equal(t, doctor.Warn, checks["redis rights for --batch-channel"].Status)
}

// TestBatchesOnTheShardChannel: of ssed pub, the API and backends.
func TestBatchesOnTheShardChannel(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startRedis(t, r, batchFlag, "--feed=sharded", "--patterns=a,b")
	s := connect(t, in, "", "a", "b")
	s.want()
	code, stdout, stderr := runInput(t, nil, "1\n2\n3\n", "pub", "--redis-url", r.URL(), "--feed=sharded", batchFlag, "--lines", "a")
	require.Equal(t, exitOK, code, stderr)
	require.Equal(t, strings.Repeat("receivers: 1\n", 3), stdout)
	var answers []struct{ ID string }
	in.api("POST", "/api/batch", `[{"channel_id":"a","data":"4"},{"channel_id":"b","data":"5"}]`, 200, &answers)
	_, err := r.Do("SPUBLISH", "sse:{8209}", "ssed:batch\n"+string(sseproto.AppendBatched(sseproto.AppendBatched(nil, "b", "6"), "a", "7")))
	require.NoError(t, err)
	for i := 1; i <= 7; i++ {
		s.want(fmt.Sprint(i))
		if i == 5 {
			require.Equal(t, s.lastID, answers[1].ID)
		}
	}
	require.EqualValues(t, 3, in.metric("ssed_feed_batches_total"))
}
