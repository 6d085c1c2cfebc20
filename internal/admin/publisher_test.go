package admin

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

func TestPublisherTakesWhatTheTokenCovers(t *testing.T) {
	var got []Message
	p := NewPublisher(PublisherConfig{
		Authorize: func(_ context.Context, authorization []string) (Scope, error) {
			switch strings.Join(authorization, ",") {
			case "Bearer orders":
				return Scope{Name: "shop", May: func(channel string) bool { return strings.HasPrefix(channel, "orders:") }}, nil
			case "Bearer nothing":
				return Scope{}, &Denial{Status: 403}
			case "Bearer keys":
				return Scope{}, &Denial{Status: 503, Fields: []sseproto.Field{{Name: "Retry-After", Value: "2"}}}
			case "Bearer odd":
				return Scope{}, errors.New("odd")
			}
			return Scope{}, &Denial{Status: 401, Fields: []sseproto.Field{{Name: "WWW-Authenticate", Value: "Bearer"}}}
		},
		Publish: func(_ context.Context, messages []Message) []PublishResult {
			got = append(got, messages...)
			results := make([]PublishResult, len(messages))
			for i := range results {
				results[i] = PublishResult{ID: sseproto.ID{Ms: 1, Seq: uint64(i)}.String(), Embedded: true}
			}
			return results
		},
		Position:        func() (string, bool) { return "7-0", true },
		MaxMessageBytes: 64,
		Ready:           func() (bool, string) { return true, "" },
	})
	send := func(token, method, target, body string) *http.Response {
		r := httptest.NewRequest(method, target, strings.NewReader(body))
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		return w.Result()
	}
	f := func(token, method, target, body string, status int) (http.Header, string) {
		t.Helper()
		r := send(token, method, target, body)
		text := bodyOf(t, r)
		require.Equal(t, status, r.StatusCode, text)
		return r.Header, text
	}
	f("orders", "POST", "/publish?channel_id=orders:1", "a", 200)
	f("orders", "POST", "/api/send", `{"channel_id":"orders:2","data":"b"}`, 200)
	_, answer := f("orders", "POST", "/api/batch", `{"channel_id":"orders:3","data":"c"}`+"\n"+`{"channel_id":"other","data":"d"}`+"\n"+`{"channel_id":"orders:4","data":"e"}`, 200)
	require.Equal(t, `{"id":"1-0"}`+"\n"+`{"error":"the token does not cover this channel"}`+"\n"+`{"id":"1-1"}`+"\n", answer)
	var data []string
	for _, m := range got {
		data = append(data, m.Channel+" "+m.Data)
	}
	require.Equal(t, []string{"orders:1 a", "orders:2 b", "orders:3 c", "orders:4 e"}, data)
	got = nil

	f("orders", "POST", "/publish?channel_id=news", "a", 403)
	f("orders", "POST", "/publish?channel_id=news&channel_id=orders:1", "a", 400)
	f("orders", "POST", "/api/send", `{"channel_id":"news","data":"b"}`, 403)
	header, _ := f("", "POST", "/publish?channel_id=orders:1", "a", 401)
	require.Equal(t, "Bearer", header.Get("WWW-Authenticate"))
	f("wrong", "POST", "/api/send", `{"channel_id":"orders:1","data":"b"}`, 401)
	f("nothing", "POST", "/api/batch", `{"channel_id":"orders:1","data":"b"}`, 403)
	header, _ = f("keys", "POST", "/publish?channel_id=orders:1", "a", 503)
	require.Equal(t, "2", header.Get("Retry-After"))
	f("odd", "POST", "/publish?channel_id=orders:1", "a", 503)
	require.Empty(t, got)
	require.EqualValues(t, 1, p.Counts().Denied[DeniedMissing])
	require.EqualValues(t, 1, p.Counts().Denied[DeniedToken])
	require.EqualValues(t, 4, p.Counts().Denied[DeniedRole])

	_, answer = f("orders", "GET", "/api/position", "", 200)
	require.JSONEq(t, `{"id":"7-0"}`, answer)
	f("", "GET", "/api/position", "", 401)
	f("nothing", "GET", "/api/position", "", 403)

	// Nothing else is there.
	f("", "GET", "/health", "", 200)
	f("", "GET", "/ready", "", 200)
	for _, path := range []string{"/", "/metrics", "/api/stats", "/api/connections", "/api/history/a", "/debug/pprof/", "/api/instances"} {
		f("orders", "GET", path, "", 404)
		f("orders", "DELETE", path, "", 404)
	}
	f("orders", "GET", "/publish", "", 405)
}
