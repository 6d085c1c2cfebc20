package sseproto

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestAppendEventWritesWhatThePublisherGave(t *testing.T) {
	f := func(m Message, want string) {
		t.Helper()
		require.NoError(t, m.Check())
		require.Equal(t, want, string(AppendEvent(nil, testID, m)))
	}
	const id = "id: 1795431293042-7"
	f(Message{}, id+"\ndata: \n\n")
	f(Message{ID: "order-17", Data: "x"}, id+"/order-17\ndata: x\n\n")
	f(Message{ID: "a/b", Data: "x"}, id+"/a/b\ndata: x\n\n")
	f(Message{Retry: 5 * time.Second, Data: "x"}, id+"\nretry: 5000\ndata: x\n\n")
	f(Message{Event: "message", ID: "7"}, id+"/7\ndata: \n\n")
	f(Message{Event: "order paid", ID: "7", Retry: time.Millisecond, Data: "a\nb"},
		id+"/7\nevent: order paid\nretry: 1\ndata: a\ndata: b\n\n")
}

// TestWhatCheckRefusesMakesOneFrameToo: an entry that somebody put into the history by
// hand comes this way without a check.
func TestWhatCheckRefusesMakesOneFrameToo(t *testing.T) {
	f := func(m Message, refusal error, want string) {
		t.Helper()
		require.ErrorIs(t, m.Check(), refusal)
		require.Equal(t, "id: 1795431293042-7"+want+"data: x\n\n", string(AppendEvent(nil, testID, m)))
	}
	f(Message{ID: "a b", Data: "x"}, ErrBadPublisherID, "\n")
	f(Message{ID: "a\ndata: evil", Data: "x"}, ErrBadPublisherID, "\n")
	f(Message{ID: "é", Data: "x"}, ErrBadPublisherID, "\n")
	f(Message{ID: strings.Repeat("a", 129), Data: "x"}, ErrBadPublisherID, "\n")
	f(Message{Retry: -time.Second, Data: "x"}, ErrBadRetry, "\n")
	f(Message{Retry: time.Microsecond, Data: "x"}, ErrBadRetry, "\n")
	f(Message{Retry: 25 * time.Hour, Data: "x"}, ErrBadRetry, "\nretry: 86400000\n")
	f(Message{Event: "a\nb", Data: "x"}, ErrBadEventType, "\nevent: a\uFFFDb\n")
	f(Message{Event: "\xff", Data: "x"}, ErrBadEventType, "\nevent: \uFFFD\n")
	require.ErrorIs(t, Message{Event: EventGap}.Check(), ErrBadEventType)
	require.ErrorIs(t, Message{Event: strings.Repeat("a", 129)}.Check(), ErrBadEventType)
	require.NoError(t, Message{Event: strings.Repeat("a", 128), ID: strings.Repeat("~", 128), Retry: 24 * time.Hour}.Check())
}

func TestEventIDIsCutAtTheFirstSlash(t *testing.T) {
	f := func(text string, want ID, publisher string) {
		t.Helper()
		id, got, err := ParseEventID(text)
		require.NoError(t, err, text)
		require.Equal(t, want, id)
		require.Equal(t, publisher, got)
		fromBytes, gotBytes, err := ParseEventID([]byte(text))
		require.NoError(t, err)
		require.Equal(t, want, fromBytes)
		require.Equal(t, publisher, string(gotBytes))
	}
	f("5-7", ID{5, 7}, "")
	f("5-7/", ID{5, 7}, "")
	f("5/x", ID{5, 0}, "x")
	f("5-7/order-17", ID{5, 7}, "order-17")
	f("5-7/a/b/", ID{5, 7}, "a/b/")
	for _, text := range []string{"", "/", "/5-7", "x/5-7", "5-7 /a", "5-7\\a"} {
		_, _, err := ParseEventID(text)
		require.ErrorIs(t, err, ErrBadID, text)
	}
	_, err := ParseID("5-7/x")
	require.ErrorIs(t, err, ErrBadID)
}

func TestFrameTellsTheMessage(t *testing.T) {
	f := func(m, want Message) {
		t.Helper()
		got, _ := ParseFrame(AppendEvent(nil, testID, m), nil, []byte("used before"))
		require.Equal(t, want, got)
	}
	for _, m := range []Message{
		{},
		{Data: "data: x\n\nevent: y\n"},
		{Event: " data: not data", Data: "a\n\nb"},
		{ID: "a/b", Data: "\n"},
		{Retry: 3 * time.Second, Data: "retry: 5"},
		{Event: "e", ID: "i", Retry: time.Hour, Data: strings.Repeat("line\n", 1000)},
	} {
		f(m, m)
	}
	f(Message{Event: EventMessage, Data: "x"}, Message{Data: "x"})
	lossy := Message{Event: "e", Data: "a\r\nb\rc\xff"}
	f(lossy, Message{Event: "e", Data: "a\nb\nc\uFFFD"})
	got, _ := ParseFrame(AppendEvent(nil, testID, lossy), []byte(lossy.Data), nil)
	require.Equal(t, lossy, got)
}

// FuzzFrame: what a frame tells makes the same frame again, and is what was put in.
func FuzzFrame(f *testing.F) {
	f.Add("", "", int64(0), "Hello", uint8(3))
	f.Add("chat", "order-17", int64(5000), "a\r\nb\n", uint8(1))
	f.Add("a\nid: 1", "a\n", int64(-1), "\n\xff\x00data: x\n\n", uint8(7))
	f.Fuzz(func(t *testing.T, event, id string, retryMs int64, data string, size uint8) {
		m := Message{Event: event, ID: id, Retry: time.Duration(retryMs%(2*maxRetryMs)) * time.Millisecond, Data: data}
		frame := AppendEvent(nil, testID, m)
		require.True(t, utf8.Valid(frame))
		events, d := decodeAll(t, string(frame), int(size))
		require.Len(t, events, 1)
		position, publisher, err := ParseEventID(events[0].id)
		require.NoError(t, err)
		require.Equal(t, testID, position)
		wait, told := d.Retry()

		back, _ := ParseFrame(frame, nil, nil)
		require.Equal(t, publisher, back.ID)
		require.Equal(t, events[0].data, back.Data)
		require.Equal(t, told, back.Retry != 0)
		require.Equal(t, wait, back.Retry)
		require.Equal(t, string(frame), string(AppendEvent(nil, testID, back)))
		if m.Check() == nil {
			require.Equal(t, m.ID, back.ID)
			require.Equal(t, m.Retry, back.Retry)
			require.True(t, m.Event == back.Event || m.Event == EventMessage && back.Event == "")
		}
		if Lossless(data) {
			require.Equal(t, data, back.Data)
		}
	})
}
