package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
	"ssed/sseproto"
)

// sighting is an event as a page gets it.
type sighting struct{ kind, id, data string }

// postFor opens a stream by a POST of JSON and returns what it brings.
func postFor(t *testing.T, in *instance, params map[string]any) <-chan sighting {
	t.Helper()
	body, err := json.Marshal(params)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, in.public+"/sse/connect", bytes.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := httpClient.Do(req)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	events := make(chan sighting, 100)
	decoder := sseproto.Decoder{OnEvent: func(id, kind, data []byte) {
		events <- sighting{string(kind), string(id), string(data)}
	}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(&decoder, resp.Body)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = resp.Body.Close()
	})
	return events
}

// A stream that is asked for by POST, embedded and with Redis: it is told the channels, and
// goes on from where its body says.
func TestStreamByPostIsToldTheChannelsAndResumes(t *testing.T) {
	for name, begin := range map[string]func(t *testing.T) *instance{
		"embedded": func(t *testing.T) *instance { return start(t) },
		"redis":    func(t *testing.T) *instance { return startRedis(t, redistest.Start(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			in := begin(t)
			post := func(query, data string) string {
				t.Helper()
				var sent struct{ ID string }
				in.api("POST", "/publish?"+query, data, 200, &sent)
				return sent.ID
			}
			next := func(events <-chan sighting, want sighting) {
				t.Helper()
				select {
				case got := <-events:
					require.Equal(t, want, got)
				case <-time.After(patience):
					t.Fatal("nothing came")
				}
			}
			live := postFor(t, in, map[string]any{"channels": []string{"news", "user:7", "gap", "message"}, "tell": "channel"})
			first := post("channel_id=news", "1")
			second := post("channel_id=user:7", "2")
			third := post("channel_id=gap", "3")
			typed := post("channel_id=news&event=order.paid", "4")
			plain := post("channel_id=message", "5")
			rest := []sighting{{"user:7", second, "2"}, {"%67ap", third, "3"}, {"order.paid", typed, "4"}, {"message", plain, "5"}}
			next(live, sighting{"news", first, "1"})
			for _, want := range rest {
				next(live, want)
			}
			again := postFor(t, in, map[string]any{"channels": []string{"news", "user:7", "gap", "message"}, "tell": "channel", "last_event_id": first})
			for _, want := range rest {
				next(again, want)
			}
			untold := postFor(t, in, map[string]any{"channel_id": "user:7", "last": 1})
			next(untold, sighting{"message", second, "2"})
		})
	}
}
