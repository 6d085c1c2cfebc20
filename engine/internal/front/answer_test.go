package front

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMaximumAgeIsJittered(t *testing.T) {
	f := &Front{cfg: Config{MaxAge: time.Hour}}
	least, most := time.Hour, time.Duration(0)
	for range 1000 {
		age := time.Until(f.maxAge())
		least, most = min(least, age), max(most, age)
	}
	require.InDelta(t, 48, least.Minutes(), 1)
	require.InDelta(t, 60, most.Minutes(), 1)
	f.cfg.MaxAge = 0
	require.True(t, f.maxAge().IsZero())
}

func TestWhoComesByABrowserGetsAPage(t *testing.T) {
	s := serve(t, Config{})
	f := func(path, accept, wantType, want string, status int) {
		t.Helper()
		got, head, body := s.dialFrom("").Send("GET " + path + " HTTP/1.1\r\nHost: a\r\nAccept: " + accept + "\r\n\r\n").Whole()
		require.Equal(t, status, got)
		require.Equal(t, wantType, head.Get("Content-Type"))
		require.Contains(t, body, want)
	}
	const browser, page, text = "text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8", "text/plain; charset=utf-8"
	f("/", browser, page, "try /sse/connect?channel_id=NAME</p>", 404)
	f("/sse/connect", browser, page, "channel_id is missing: try ", 400)
	f("/<script>", browser, page, "no such path: try /sse/connect", 404)
	f("/", "*/*", text, "no such path: try /sse/connect?channel_id=NAME\n", 404)
	f("/sse/connect", "text/event-stream", text, "channel_id is missing: try ", 400)
}
