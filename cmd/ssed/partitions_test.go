package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redisconn"
	"ssed/internal/redistest"
	"ssed/sseproto"
)

// TestPartitionsThatCannotBe are named by the flag, and where the value comes from.
func TestPartitionsThatCannotBe(t *testing.T) {
	const url = "--redis-url=redis://127.0.0.1:1"
	f := func(env []string, flags []string, want string) {
		t.Helper()
		code, _, stderr := readFlags(t, env, append([]string{"config"}, flags...)...)
		require.Equal(t, exitUsage, code)
		require.Contains(t, stderr, "ssed: --partitions: "+want)
	}
	f(nil, []string{url, "--feed=sharded", "--partitions=many"}, `"many" is not a whole number of at least 1`)
	f(nil, []string{url, "--feed=sharded", "--partitions=0"}, `"0" is not a whole number of at least 1`)
	f(nil, []string{url, "--feed=sharded", "--partitions=65"}, "65 is not 1 to 64")
	f(nil, []string{url, "--partitions=3"}, "3 of them take --feed=sharded: with patterns each would get the messages of all")
	f(nil, []string{"--feed=sharded", "--partitions=3"}, "3 of them take Redis: an embedded gateway has one")
	f([]string{"SSED_PARTITIONS=3"}, []string{url}, "3 of them take --feed=sharded: with patterns each would get the messages of all ($SSED_PARTITIONS)")
	file := filepath.Join(t.TempDir(), "ssed.yaml")
	require.NoError(t, os.WriteFile(file, []byte("feed: sharded\npartitions: 100\n"), 0o600))
	f(nil, []string{url, "--config", file}, "100 is not 1 to 64 (")
}

// TestPrefixesThatCannotBe: the partitions make names of them with hash tags.
func TestPrefixesThatCannotBe(t *testing.T) {
	f := func(prefix, want string) {
		t.Helper()
		code, _, stderr := runProgram(t, nil, "config", "--redis-url=redis://127.0.0.1:1", "--feed=sharded", "--partitions=3", "--stream-prefix="+prefix)
		require.Equal(t, exitUsage, code)
		require.Contains(t, stderr, "ssed: --stream-prefix: "+want)
	}
	f("{1}sse:stream:", `"{1}sse:stream:" is not 1 to 200 printable ASCII characters without spaces or braces`)
	f("messages:chat:stream:", `"messages:chat:stream:" has the shard channels of the prefix "chat:": choose another one`)
	code, _, stderr := runProgram(t, nil, "config", "--redis-url=redis://127.0.0.1:1", "--feed=sharded", "--stream-prefix=messages:stream:")
	require.Zero(t, code, stderr)
}

// TestPartitionsAreShownByConfig, whoever gave them.
func TestPartitionsAreShownByConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ssed.yaml")
	require.NoError(t, os.WriteFile(file, []byte("redis-url: redis://127.0.0.1:1\nfeed: sharded\npartitions: 3\n"), 0o600))
	f := func(env, flags []string, want string) {
		t.Helper()
		code, stdout, stderr := readFlags(t, env, append([]string{"config", "--config", file}, flags...)...)
		require.Equal(t, exitOK, code, stderr)
		require.Contains(t, stdout, "\npartitions: "+want)
	}
	f(nil, nil, "3  # ssed.yaml line 3")
	f([]string{"SSED_PARTITIONS=4"}, nil, "4  # $SSED_PARTITIONS")
	f([]string{"SSED_PARTITIONS=4"}, []string{"--partitions=5"}, "5  # flag")
}

// TestPartitionsOfACluster, with a user that has no more rights than the docs give it: every
// way to publish, the same IDs on two instances for single channels, a stream over all, its
// resume from a position, the routes of the admin API by channel, and the doctor.
func TestPartitionsOfACluster(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	url := userOfDocs(t, c, "partitions")
	flags := []string{"--redis-url", url, "--feed", "sharded", "--partitions", "3"}
	one, two := start(t, flags...), start(t, flags...)
	one.waitReady()
	two.waitReady()
	var names []string
	for q := range 3 {
		for i := 0; len(names) == q; i++ {
			if name := fmt.Sprint("user", i); sseproto.PartitionOf(name, 3) == q {
				names = append(names, name)
			}
		}
	}
	all := connect(t, one, "", names...)
	status, body := one.get(one.admin + "/api/position")
	require.Equal(t, http.StatusOK, status, body)
	var position struct{ ID string }
	require.NoError(t, json.Unmarshal([]byte(body), &position))
	require.Contains(t, position.ID, "~")

	var sent []string
	for q, name := range names {
		keys := redisconn.MakePartitionKeys("sse:stream:", redisconn.Partition{Number: q, Of: 3})
		primary, err := c.AwaitPrimary(keys.Slot)
		require.NoError(t, err)
		a, b := connect(t, one, "", name), connect(t, two, "", name)
		want := func(text string) (id string) {
			t.Helper()
			all.want(text)
			a.want(text)
			b.want(text)
			own := func(id string) string { own, _, _ := strings.Cut(id, "~"); return own }
			require.Equal(t, own(a.lastID), own(b.lastID))
			require.Equal(t, own(a.lastID), own(all.lastID))
			sent = append(sent, text)
			return own(a.lastID)
		}
		answer := one.publish(name, name+" by POST")
		require.Equal(t, want(name+" by POST"), answer.ID)
		_, err = primary.Do("XADD", keys.Inbox("sse:inbox"), "*", "channel", name, "data", name+" by the inbox")
		require.NoError(t, err)
		want(name + " by the inbox")
		_, err = primary.Do("SPUBLISH", keys.Messages, name+"\n"+name+" by a backend")
		require.NoError(t, err)
		want(name + " by a backend")
		one.eventually("the history", func() bool {
			_, body := one.get(one.admin + "/api/history/" + name)
			return strings.Count(body, `"data":"`+name+" by") == 3
		})
		s := connect(t, two, answer.ID, name)
		s.want(name+" by the inbox", name+" by a backend")
	}
	s := connect(t, two, position.ID, names...)
	var got []string
	for range sent {
		m, ok := s.next()
		require.True(t, ok)
		got = append(got, m.data)
	}
	require.ElementsMatch(t, sent, got)

	code, stdout, _ := runProgram(t, nil, append([]string{"doctor"}, flags...)...)
	require.Contains(t, stdout, "redis partitions: 3 of them on 3 of 3 primaries", code)
	require.Contains(t, stdout, "fleet partitions: 2 instances run on sse:stream:, none with another number")

	request, err := http.NewRequest(http.MethodDelete, one.admin+"/api/history/"+names[2], nil)
	require.NoError(t, err)
	answer, err := httpClient.Do(request)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, http.StatusNoContent, answer.StatusCode)
	_, body = one.get(one.admin + "/api/history/" + names[2])
	require.NotContains(t, body, "by POST")
	one.end()
	two.end()
}
