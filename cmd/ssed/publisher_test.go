package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// listenerAddr is the address of a listener as the log tells it.
func (in *instance) listenerAddr(listener string) string {
	in.t.Helper()
	for line := range strings.Lines(in.Log()) {
		var entry struct{ Listener, Addr string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Listener == listener {
			return entry.Addr
		}
	}
	require.Fail(in.t, "no such listener", listener)
	return ""
}

// Backends publish with a token of their own, on the channels that it lists, and reach
// nothing else.
func TestBackendsPublishWithTokens(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startRedis(t, r, "--publish-listen", "127.0.0.1:0", "--publish-jwt-secret-file", secretFile(t, testSecret))
	in.waitReady()
	base := "http://" + in.listenerAddr("publish")
	token := tokenFor(t, jwt.MapClaims{"sub": "shop", "publish": []string{"orders:*"}, "exp": time.Now().Add(time.Hour).Unix()})
	send := func(want int, path, token, body string) {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, base+path, strings.NewReader(body))
		require.NoError(t, err)
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := httpClient.Do(req)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, want, resp.StatusCode, path)
	}
	c := connect(t, in, "", "orders:1", "news")
	send(200, "/publish?channel_id=orders:1", token, "first")
	send(403, "/publish?channel_id=news", token, "not this")
	send(401, "/publish?channel_id=orders:1", "", "nor this")
	send(401, "/publish?channel_id=orders:1", tokenFor(t, jwt.MapClaims{"publish": "*", "exp": 1}), "nor this")
	send(403, "/publish?channel_id=orders:1", tokenFor(t, jwt.MapClaims{"channels": "*"}), "nor this")
	send(200, "/api/send", token, `{"channel_id": "orders:1", "data": "second"}`)
	c.want("first", "second")
	send(404, "/api/instances", token, "")

	status, _ := in.get(base + "/metrics")
	require.Equal(t, 404, status)
	require.EqualValues(t, 4, in.metric("ssed_publish_denied_total"))
	require.EqualValues(t, 3, in.metric("ssed_publish_granted_total"))
}
