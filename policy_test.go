package ssed_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed"
	"ssed/internal/redistest"
)

// published is the ID of a message that the history has, or has passed by.
func published(t *testing.T, gateway *ssed.Gateway, channel, data string) string {
	t.Helper()
	id, err := gateway.Publish(t.Context(), channel, ssed.Message{Data: data})
	require.NoError(t, err)
	return id.String()
}

// A channel without history resumes from memory, and tells what memory does not have. A
// channel beside it on the same instances loses nothing.
func TestChannelWithoutHistory(t *testing.T) {
	server := redistest.Start(t)
	cfg := onRedis(t, server)
	cfg.Policies = []ssed.Policy{{Match: "live:*", NoHistory: true}, {Match: "chat:*", MaxLen: 10_000, TTL: 10 * time.Minute}}
	first, _ := serve(t, cfg)
	awaitReady(first)
	last := map[string]string{}
	for i := range 3 {
		for _, channel := range []string{"live:1", "chat:1"} {
			id := published(t, first, channel, fmt.Sprint(channel, " ", i))
			if i == 0 {
				last[channel] = id
			}
		}
	}
	for channel, id := range last { // memory has them
		stream := open(first, channel, id)
		for i := 1; i < 3; i++ {
			_, data := stream.event()
			require.Equal(t, fmt.Sprint(channel, " ", i), data)
		}
		stream.close()
	}

	second, _ := serve(t, cfg) // has nothing in memory
	awaitReady(second)
	stream := open(second, "chat:1", last["chat:1"])
	for i := 1; i < 3; i++ {
		_, data := stream.event()
		require.Equal(t, fmt.Sprint("chat:1 ", i), data)
	}
	stream.close()
	stream = open(second, "live:1", last["live:1"])
	defer stream.close()
	id, data := stream.event()
	require.Contains(t, data, `"reason":"not-kept"`)
	require.Contains(t, data, `"requested":"`+last["live:1"]+`"`)
	published(t, first, "live:1", "after the gap")
	_, data = stream.event()
	require.Equal(t, "after the gap", data)

	// Who has the gap behind him does not get it again.
	again := open(second, "live:1", id)
	defer again.close()
	_, data = again.event()
	require.Equal(t, "after the gap", data)

	option, err := rueidis.ParseURL(server.URL())
	require.NoError(t, err)
	client, err := rueidis.NewClient(option)
	require.NoError(t, err)
	defer client.Close()
	keys, err := client.Do(t.Context(), client.B().Keys().Pattern("sse:stream:*").Build()).AsStrSlice()
	require.NoError(t, err)
	require.Equal(t, []string{"sse:stream:chat:1"}, keys)
}

func TestPolicyOfAChannel(t *testing.T) {
	cfg := onRedis(t, redistest.Start(t))
	cfg.Policies = []ssed.Policy{{Match: "a:x", NoHistory: true}, {Match: "a:*", MaxLen: 7, Window: -1, Slow: ssed.SlowLatest}, {Match: "*", TTL: time.Minute}}
	window := cfg.HistoryWindow()
	require.Equal(t, ssed.Policy{Match: "a:x", NoHistory: true}, cfg.PolicyOf("a:x"))
	require.Equal(t, ssed.Policy{Match: "a:*", MaxLen: 7, TTL: time.Hour, Slow: ssed.SlowLatest}, cfg.PolicyOf("a:y"))
	require.Equal(t, ssed.Policy{Match: "*", MaxLen: 100, TTL: time.Minute, Window: window}, cfg.PolicyOf("b"))
	cfg.Policies = nil
	require.Equal(t, ssed.Policy{MaxLen: 100, TTL: time.Hour, Window: window}, cfg.PolicyOf("b"))
	cfg.History = nil
	require.True(t, cfg.PolicyOf("b").NoHistory)

	cfg.Policies = []ssed.Policy{{Match: ""}, {Match: "x", TTL: time.Millisecond}}
	cfg.History = &ssed.HistoryConfig{}
	err := cfg.Validate()
	require.ErrorContains(t, err, "ssed: Policies: \"\": the pattern")
	require.ErrorContains(t, err, "ssed: Policies: \"x\": history-ttl: 1ms is less than 1s")
	require.Equal(t, "chat:*=history-max:5,history-ttl:1m0s,history-window:0s,slow:latest", ssed.Policy{Match: "chat:*", MaxLen: 5, TTL: time.Minute, Window: -1, Slow: ssed.SlowLatest}.String())
}
