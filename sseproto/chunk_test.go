package sseproto

import (
	"bytes"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// FuzzChunkedStreamIsTheSameStream: what net/http makes of a stream in chunks is the
// stream without them.
func FuzzChunkedStreamIsTheSameStream(f *testing.F) {
	f.Add("", "", "x", "channel", "y\n\nz")
	f.Add("own", "id", "x\r\ny", "a\nb", strings.Repeat("l", 5000))
	f.Add("gap", "", "", "gap", "0\r\n\r\n")
	f.Fuzz(func(t *testing.T, eventType, id, data, channel, other string) {
		var plain, chunked []byte
		add := func(b []byte) {
			plain = append(plain, b...)
			start := len(chunked)
			wrapped := WrapChunk(append(chunked, b...), start)
			if len(b) > 0 {
				byHand := append(AppendChunkHead(bytes.Clone(chunked[:start]), len(b)), b...)
				require.Equal(t, append(byHand, ChunkEnd...), wrapped)
			}
			chunked = wrapped
		}
		add(AppendRetry(nil, time.Second))
		add(AppendEvent(nil, testID, Message{Event: eventType, ID: id, Data: data}))
		add(AppendEvent(nil, testID, Message{Event: Told(channel), Data: other}))
		add([]byte(data))
		add([]byte(Heartbeat))
		add(AppendGap(nil, Gap{Reason: data, Channel: channel}))
		head := StreamHead{Chunked: true}
		_, body := readAnswer(t, append(append(head.AppendTo(nil), chunked...), LastChunk...), "GET")
		require.Equal(t, string(plain), body)
	})
}

// FuzzToldFrameIsTheFrameOfTheType: the line that is put into a frame makes it the frame
// of a message of that type.
func FuzzToldFrameIsTheFrameOfTheType(f *testing.F) {
	f.Add("", "", int64(0), "x", "channel")
	f.Add("own", "id", int64(5), "x\r\ny", "a\nb")
	f.Add("message", "", int64(0), "\n", "message")
	f.Add("", "/", int64(7), "event: x", "%")
	f.Fuzz(func(t *testing.T, eventType, id string, retry int64, data, channel string) {
		m := Message{Event: eventType, ID: id, Retry: time.Duration(retry), Data: data}
		frame := AppendEvent(nil, testID, m)
		at, ok := TellAt(frame)
		require.Equal(t, eventType == "" || eventType == EventMessage, ok)
		if !ok || channel == "" {
			return
		}
		told := bytes.Clone(frame[:at])
		told = AppendTellLine(told, channel)
		told = append(told, frame[at:]...)
		m.Event = Told(channel)
		require.Equal(t, string(AppendEvent(nil, testID, m)), string(told))
	})
}

func FuzzToldNamesAreNamesOfOneChannel(f *testing.F) {
	f.Add("a\nb")
	f.Add("gap")
	f.Add("%67ap")
	f.Fuzz(func(t *testing.T, channel string) {
		told := Told(channel)
		require.False(t, strings.ContainsAny(told, "\r\n"))
		require.NotContains(t, []string{"gap", "open", "error"}, told)
		back, err := url.PathUnescape(told)
		require.NoError(t, err)
		require.Equal(t, channel, back)
		if channel == "" || !utf8.ValidString(channel) || strings.IndexByte(channel, 0) >= 0 {
			return
		}
		var seen string
		d := Decoder{OnEvent: func(_, kind, _ []byte) { seen = string(kind) }}
		_, _ = d.Write(AppendEvent(nil, testID, Message{Event: told, Data: "x"}))
		require.Equal(t, told, seen)
	})
}

func TestToldNames(t *testing.T) {
	for channel, want := range map[string]string{
		"user:1": "user:1", " a ": " a ", "ä€": "ä€", "message": "message", "gaps": "gaps", "Gap": "Gap",
		"50%": "50%25", "a\nb\rc": "a%0Ab%0Dc", "gap": "%67ap", "open": "%6Fpen", "error": "%65rror",
	} {
		require.Equal(t, want, Told(channel))
	}
}

func TestTellAtKeepsTypes(t *testing.T) {
	f := func(frame []byte, want bool) {
		t.Helper()
		_, ok := TellAt(frame)
		require.Equal(t, want, ok, "%q", frame)
	}
	f(AppendEvent(nil, testID, Message{Data: "event: x"}), true)
	f(AppendEvent(nil, testID, Message{ID: "event: ", Retry: time.Second}), true)
	f(AppendEvent(nil, testID, Message{Event: "own"}), false)
	f(AppendGap(nil, Gap{ID: testID, Reason: ReasonOutage}), false)
	f(AppendGap(nil, Gap{Reason: ReasonOutage}), false)
}

func TestTellIsReadFromTheQuery(t *testing.T) {
	f := func(query string, want bool, wantErr error) {
		t.Helper()
		o, err := ParseOptions([]byte(query), 1)
		got := o.Told
		require.Equal(t, wantErr, err)
		require.Equal(t, want, got)
	}
	f("channel_id=a", false, nil)
	f("channel_id=a&tell=channel", true, nil)
	f("t%65ll=ch%61nnel&tell=x", true, nil)
	for _, query := range []string{"tell", "tell=", "tell=Channel", "tell=channels", "tell=1"} {
		f(query, false, ErrBadTell)
	}
}

func TestFramingAllocatesNothing(t *testing.T) {
	buf, frame := make([]byte, 0, 4096), AppendEvent(nil, testID, Message{Data: "x"})
	require.Zero(t, testing.AllocsPerRun(100, func() {
		b := AppendChunkHead(buf, len(frame))
		at, _ := TellAt(frame)
		b = AppendTellLine(append(b, frame[:at]...), "channel")
		WrapChunk(append(b, frame[at:]...), 0)
	}))
}
