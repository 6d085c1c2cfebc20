package front

import (
	"net/http"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// TestLastEventIDWinsOverAStart: an EventSource comes back with the URL that it had.
func TestLastEventIDWinsOverAStart(t *testing.T) {
	h := listenOnly(t, Config{MaxLast: 7})
	judge := func(target string, fields ...string) verdict {
		t.Helper()
		req, n, err := sseproto.ParseRequest([]byte(getStream("a&"+target, fields...)), sseproto.Limits{})
		require.NoError(t, err)
		require.NotZero(t, n)
		return h.front.judge(&req, &caller{}, caller{}.addr)
	}
	f := func(want sseproto.StartPoint, target string) {
		t.Helper()
		require.Equal(t, &want, judge(target).stream.Start, target)
		v := judge(target, "Last-Event-ID: 5-1")
		require.Nil(t, v.stream.Start, target)
		require.Equal(t, "5-1", v.stream.LastEventID)
		require.Nil(t, judge(target+"&last_event_id=5-1").stream.Start, target)
		require.NotNil(t, judge(target+"&last_event_id=").stream.Start, target)
	}
	f(sseproto.StartPoint{Kind: sseproto.FromEarliest}, "since=earliest")
	f(sseproto.StartPoint{Kind: sseproto.FromLast, Count: 7}, "last=7")
	f(sseproto.StartPoint{Kind: sseproto.FromTime, Time: 1_780_000_000_000}, "since=1780000000")
	f(sseproto.StartPoint{Kind: sseproto.FromTime, Time: 1_790_000_000_000 - 600_000}, "since=10m")
	f(sseproto.StartPoint{Kind: sseproto.FromTime}, "since=2000000h")
	require.Nil(t, judge("x=y").stream.Start)

	for target, err := range map[string]error{
		"since=yesterday": sseproto.ErrBadSince, "last=8": sseproto.ErrBadLast, "last=0": sseproto.ErrBadLast,
		"since=10m&last=1": sseproto.ErrSinceAndLast,
	} {
		for _, fields := range [][]string{nil, {"Last-Event-ID: 5-1"}} { // the URL is wrong either way
			v := judge(target, fields...)
			require.ErrorIs(t, v.err, err)
			require.Equal(t, http.StatusBadRequest, sseproto.StatusOf(v.err))
		}
	}
}

// TestStreamIsNoLargerThanItsSizeClass: one is allocated for each connect.
func TestStreamIsNoLargerThanItsSizeClass(t *testing.T) {
	require.LessOrEqual(t, unsafe.Sizeof(Stream{}), uintptr(208))
}
