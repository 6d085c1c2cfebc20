package sseproto

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStartIsIDOrNone(t *testing.T) {
	f := func(query string, want Start, wantErr error) {
		t.Helper()
		o, err := ParseOptions([]byte(query), 1)
		require.Equal(t, want, o.Start, query)
		require.ErrorIs(t, err, wantErr, query)
	}
	f("", StartDefault, nil)
	f("channel_id=a", StartDefault, nil)
	f("channel_id=start&star=id&starts=id", StartDefault, nil)
	f("channel_id=a&start=id", StartID, nil)
	f("start=none&channel_id=a", StartNone, nil)
	f("st%61rt=%69d", StartID, nil)
	f("start=id&start=none", StartID, nil)
	for _, query := range []string{"start", "start=", "start=ID", "start=now", "start=id%20", "start=0123456789012345678901234567890"} {
		f(query, StartDefault, ErrBadStart)
	}
}

func TestBrowsersEventSourceIsKnownByItsFields(t *testing.T) {
	f := func(want bool, fields string) {
		t.Helper()
		req, n, err := ParseRequest([]byte("GET / HTTP/1.1\r\nHost: h\r\n"+fields+"\r\n"), Limits{})
		require.NoError(t, err)
		require.NotZero(t, n)
		require.Equal(t, want, req.IsEventSource(), fields)
	}
	f(true, "Accept: text/event-stream\r\nCache-Control: no-cache\r\nPragma: no-cache\r\n")
	f(true, "pragma:no-cache\r\ncache-control:  no-cache \r\naccept: text/event-stream\r\n") // as a proxy may write it
	f(false, "Accept: text/event-stream\r\n")                                                // fetch, and most libraries
	f(false, "Accept: text/event-stream\r\nCache-Control: no-cache\r\n")                     // sseclient-py
	f(false, "Accept: */*\r\nCache-Control: no-cache\r\nPragma: no-cache\r\n")               // a page that is loaded again
	f(false, "Accept: text/event-stream\r\nCache-Control: no-store\r\nPragma: no-cache\r\n")
	f(false, "")
}
