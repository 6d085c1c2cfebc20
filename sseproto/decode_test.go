package sseproto

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The streams are the examples of HTML §9.2.6 and the situations of the web platform
// tests under eventsource/ (format-*), in words of our own.
func TestDecoderDispatchesWhatTheStandardSays(t *testing.T) {
	f := func(stream string, want ...event) {
		t.Helper()
		for size := range 5 {
			events, _ := decodeAll(t, stream, size)
			require.Equal(t, want, events, "%q in pieces of %d", stream, size)
		}
	}
	msg := func(id, data string) event { return event{id, "message", data} }

	f("data: YHOO\ndata: +2\ndata: 10\n\n", msg("", "YHOO\n+2\n10"))
	f(": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
		msg("1", "first event"), msg("", "second event"), msg("", " third event"))
	f("data\n\ndata\ndata\n\ndata:", msg("", ""), msg("", "\n"))
	f("data:test\n\ndata: test\n\n", msg("", "test"), msg("", "test"))
	f("data: a\r\rdata: b\r\n\r\ndata: c\n\n", msg("", "a"), msg("", "b"), msg("", "c"))
	f("data: a\r\n\rdata: b\n\r", msg("", "a"), msg("", "b"))
	f("\xef\xbb\xbfdata: a\n\n", msg("", "a"))
	f("\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n")
	f("data: a\n\n\xef\xbb\xbfdata: b\n\n", msg("", "a"))
	f("Data: a\n data: a\ndata : a\ndata:a\x00\n\n", msg("", "a\x00"))
	f("event: e\ndata: x\n\ndata: y\n\n", event{"", "e", "x"}, msg("", "y"))
	f("event: e\n\ndata: x\n\n", msg("", "x"))
	f("event: a\nevent: b\ndata: x\n\nevent:\ndata: y\n\n", event{"", "b", "x"}, msg("", "y"))
	f("id: 1\n\ndata: x\n\n", msg("1", "x"))
	f("id: 1\ndata: x\n\nid: a\x00b\ndata: y\n\n", msg("1", "x"), msg("1", "y"))
	f("id: 1\ndata: x\n\nid: 2\n", msg("1", "x"))
	f("unknown: x\n:\n:comment\n:data: x\ndata: y\n\n", msg("", "y"))
	f("data: not ended\n")
	f("\n\n\n")
}

func TestLastEventIDIsTheOneOfTheLastWholeBlock(t *testing.T) {
	_, d := decodeAll(t, "id: 1\n\nid: 2\ndata: cut off", 0)
	require.Equal(t, "1", string(d.LastEventID()))
	d.Reconnected()
	_, err := d.Write([]byte("\ndata: x\n\n"))
	require.NoError(t, err)
	require.Equal(t, "1", string(d.LastEventID()), "the id that was not dispatched is dropped")
}

func TestReconnectedLooksForTheByteOrderMarkAgain(t *testing.T) {
	events, d := decodeAll(t, "data: a\n\ndata: lost\r", 0)
	d.OnEvent = func(id, eventType, data []byte) {
		events = append(events, event{string(id), string(eventType), string(data)})
	}
	d.Reconnected()
	_, err := d.Write([]byte("\n\xef\xbb\xbfdata: b\n\n"))
	require.NoError(t, err)
	d.Reconnected()
	_, err = d.Write([]byte("\xef\xbb\xbfdata: c\n\n"))
	require.NoError(t, err)
	require.Equal(t, []event{{"", "message", "a"}, {"", "message", "c"}}, events)
}

func TestRetryTakesDigitsOnly(t *testing.T) {
	f := func(stream string, want time.Duration, ok bool) {
		t.Helper()
		_, d := decodeAll(t, stream, 1)
		got, gotOK := d.Retry()
		require.Equal(t, ok, gotOK, stream)
		require.Equal(t, want, got, stream)
	}
	f("retry: 3000\n", 3*time.Second, true)
	f("retry:0\n", 0, true)
	f("retry: 3000", 0, false)
	f("retry\n", 0, false)
	f("retry: 3000x\n", 0, false)
	f("retry: -1\n", 0, false)
	f("retry: 1e3\n", 0, false)
	f("retry: 5\nretry: x\n", 5*time.Millisecond, true)
	f("retry: 99999999999999999999999999\n", 24*time.Hour, true)
}

func TestDecoderRefusesWhatIsBeyondItsBound(t *testing.T) {
	f := func(stream string, size int, want error) {
		t.Helper()
		events := 0
		d := &Decoder{MaxBytes: 20, OnEvent: func(_, _, _ []byte) { events++ }}
		var err error
		for rest := stream; rest != "" && err == nil; {
			n := min(size, len(rest))
			_, err = d.Write([]byte(rest[:n]))
			rest = rest[n:]
		}
		require.ErrorIs(t, err, want, stream)
		if want != nil {
			_, err = d.Write([]byte("\n"))
			require.ErrorIs(t, err, want, "it stays refused")
			require.Zero(t, events)
		}
	}
	for _, size := range []int{1, 1000} {
		f("data: 0123456789\n\n", size, nil)
		f("data: 0123456789\ndata: 012345678\n\n", size, nil)
		f("data: 0123456789\ndata: 0123456789\n\n", size, ErrEventTooLarge)
		f("data: 01234567890123456789x\n\n", size, ErrEventTooLarge)
	}
	f(":"+strings.Repeat("x", 100), 1, ErrEventTooLarge)
}

func FuzzDecoderChunking(f *testing.F) {
	f.Add("data: a\r\rdata: b\r\n\r\n:\nid: 1\nevent: x\ndata\n\n", uint8(1))
	f.Add("\xef\xbb\xbfdata: a\nretry: 5\n\nid: \x00\n\r", uint8(2))
	f.Fuzz(func(t *testing.T, stream string, size uint8) {
		whole, a := decodeAll(t, stream, 0)
		pieces, b := decodeAll(t, stream, int(size))
		require.Equal(t, whole, pieces)
		require.Equal(t, string(a.LastEventID()), string(b.LastEventID()))
		require.Equal(t, a.Comments(), b.Comments())
		require.Equal(t, a.retry, b.retry)
	})
}
