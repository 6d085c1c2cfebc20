package rstore

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// TestTypedEventsAreStoredAndReadBack: an entry has the fields that the publisher gave
// and no others, and makes the same frame as the message did.
func TestTypedEventsAreStoredAndReadBack(t *testing.T) {
	w := newWorld(t)
	w.clock("e1")
	typed := []struct {
		m    sseproto.Message
		want []string
	}{
		{sseproto.Message{Data: "plain"}, []string{"event_type", "message", "data", "plain"}},
		{sseproto.Message{Event: "message"}, []string{"event_type", "message", "data", ""}},
		{sseproto.Message{Event: "order", Data: "x"}, []string{"event_type", "order", "data", "x"}},
		{sseproto.Message{ID: "a/b-(%s+)", Data: "x"}, []string{"event_type", "message", "data", "x", "id", "a/b-(%s+)"}},
		{sseproto.Message{Retry: time.Millisecond, Data: "\xff\r\n"}, []string{"event_type", "message", "data", "\xff\r\n", "retry", "1"}},
		{sseproto.Message{Event: " a  b ", Retry: 24 * time.Hour}, []string{"event_type", " a  b ", "data", "", "retry", "86400000"}},
		{sseproto.Message{Event: "7", ID: "8", Retry: 9 * time.Millisecond, Data: "10"}, []string{"event_type", "7", "data", "10", "id", "8", "retry", "9"}},
		{
			sseproto.Message{Event: strings.Repeat("é", 64), ID: strings.Repeat("~", 128), Data: "x"},
			[]string{"event_type", strings.Repeat("é", 64), "data", "x", "id", strings.Repeat("~", 128)},
		},
	}
	log := newTestLog(w.id(0, 0))
	log.typed = make(map[sseproto.ID]sseproto.Message)
	var messages []message
	for i, c := range typed {
		require.NoError(t, c.m.Check())
		id := w.id(1, i+1)
		log.typed[id] = c.m
		messages = append(messages, message{id, "a", ""}, message{w.id(2, i+1), "spoiled", ""})
	}
	log.typed[w.id(2, 1)] = typed[6].m
	require.NoError(t, w.do("SET", testPrefix+"spoiled", "a string").Error())
	s := w.store(w.config("a"), log)
	w.start(s)
	log.commit(w.id(3, 0), messages...)
	w.waitMark(s, w.id(3, 0))

	entries, err := w.do("XRANGE", testPrefix+"a", "-", "+").AsXRangeSlices()
	require.NoError(t, err)
	r := newRecorder()
	require.NoError(t, s.Range(t.Context(), []string{"a", "spoiled"}, w.id(1, 0), w.id(3, 0), r))
	require.Equal(t, []string{sseproto.ReasonUnavailable}, r.lost[1])
	require.Empty(t, r.lost[0])
	for i, c := range typed {
		var fields []string
		for _, f := range entries[i].FieldValues {
			fields = append(fields, f.Field, f.Value)
		}
		prev := "0" // in the same tick
		if i == 0 {
			prev = "-1"
		}
		require.Equal(t, append(c.want, "prev", prev), fields)
		id := w.id(1, i+1)
		require.Equal(t, id, r.events[0][i].id)
		require.Equal(t, string(sseproto.AppendEvent(nil, id, c.m)), string(sseproto.AppendEvent(nil, id, r.whole[i])))
	}
}

// TestPlainMessagesSendNothingMore: what few messages have costs the others no byte on
// the way to Redis.
func TestPlainMessagesSendNothingMore(t *testing.T) {
	f := func(m sseproto.Message, want string) {
		t.Helper()
		require.Equal(t, want, string(appendHead(nil, sseproto.ID{Ms: 5, Seq: 7}, &m)))
	}
	f(sseproto.Message{Data: "x"}, "5-7")
	f(sseproto.Message{Event: "message", Data: "x"}, "5-7")
	f(sseproto.Message{Event: "a b"}, "5-7   a b")
	f(sseproto.Message{ID: "i"}, "5-7  i message")
	f(sseproto.Message{Event: "e", ID: "i", Retry: time.Second}, "5-7 1000 i e")
}

// TestEntriesOfOthersMakeOneFrame: whoever may write to the streams can put anything
// there, and clients must not take it for what only ssed says.
func TestEntriesOfOthersMakeOneFrame(t *testing.T) {
	w := newWorld(t)
	s := w.written(w.config("a"), w.id(5, 0), message{w.id(1, 1), "a", "ours"})
	n := 0
	f := func(want string, fields ...string) {
		t.Helper()
		n++
		id := w.id(2, n)
		require.NoError(t, w.do(append([]string{"XADD", testPrefix + "a", id.String()}, fields...)...).Error())
		r := newRecorder()
		require.NoError(t, s.Range(t.Context(), []string{"a"}, w.id(2, n-1), w.id(5, 0), r))
		require.Len(t, r.whole, 1)
		require.Equal(t, "id: "+id.String()+want, string(sseproto.AppendEvent(nil, id, r.whole[0])))
	}
	f("/42\nevent: price\nretry: 5\ndata: x\n\n", "retry", "5", "id", "42", "event_type", "price", "data", "x")
	f("\ndata: x\n\n", "id", "4\ndata: evil", "data", "x")
	f("\ndata: x\n\n", "id", strings.Repeat("a", 129), "data", "x")
	f("\ndata: x\n\n", "event_type", "gap", "data", "x")
	f("\nevent: a\uFFFDdata: evil\ndata: x\n\n", "event_type", "a\ndata: evil", "data", "x")
	f("\ndata: x\n\n", "retry", "-1", "data", "x")
	f("\ndata: x\n\n", "retry", "1\ndata: evil", "data", "x")
	f("\ndata: x\n\n", "retry", "99999999999999999999", "data", "x")
	f("\nretry: 86400000\ndata: x\n\n", "retry", "2147483647", "data", "x")
}
