package sseproto

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

var testID = ID{Ms: 1795431293042, Seq: 7}

func dataOf(frame []byte) string {
	m, _ := ParseFrame(frame, nil, nil)
	return m.Data
}

// event is one that a Decoder reported, copied.
type event struct{ id, eventType, data string }

// decodeAll feeds the stream in pieces of the given size; zero means at once.
func decodeAll(t testing.TB, stream string, size int) (events []event, d *Decoder) {
	t.Helper()
	d = &Decoder{OnEvent: func(id, eventType, data []byte) {
		events = append(events, event{string(id), string(eventType), string(data)})
	}}
	if size == 0 {
		size = max(len(stream), 1)
	}
	for rest := stream; rest != ""; {
		n := min(size, len(rest))
		written, err := d.Write([]byte(rest[:n]))
		require.NoError(t, err)
		require.Equal(t, n, written)
		rest = rest[n:]
	}
	return events, d
}

func TestAppendEventWritesTheFieldsOfAnEvent(t *testing.T) {
	f := func(eventType, data, want string) {
		t.Helper()
		require.Equal(t, "kept"+want, string(AppendEvent([]byte("kept"), testID, Message{Event: eventType, Data: data})))
	}
	const id = "id: 1795431293042-7\n"
	f("", "Hello", id+"data: Hello\n\n")
	f("message", "Hello", id+"data: Hello\n\n")
	f("chat", "Hello", id+"event: chat\ndata: Hello\n\n")
	f("", "", id+"data: \n\n")
	f("", "  two", id+"data:   two\n\n")
	f("", "a\nb", id+"data: a\ndata: b\n\n")
	f("", "a\rb\r\nc", id+"data: a\ndata: b\ndata: c\n\n")
	f("", "a\n", id+"data: a\ndata: \n\n")
	f("", "\r\r\n", id+"data: \ndata: \ndata: \n\n")
	f("", "a\x00b", id+"data: a\x00b\n\n")
	f("", "\n\nid: 1\n\n", id+"data: \ndata: \ndata: id: 1\ndata: \ndata: \n\n")
	f(" x", "", id+"event:  x\ndata: \n\n")
}

func TestEventTypeCannotStartAnotherField(t *testing.T) {
	f := func(eventType, want string) {
		t.Helper()
		events, _ := decodeAll(t, string(AppendEvent(nil, testID, Message{Event: eventType, Data: "x"})), 0)
		require.Equal(t, []event{{testID.String(), want, "x"}}, events)
	}
	f("a\ndata: evil", "a\uFFFDdata: evil")
	f("a\r\rid: 1", "a\uFFFD\uFFFDid: 1")
	f("\x00", "\uFFFD")
	f("\xff\n", "\uFFFD\uFFFD")
	f("ok ✓", "ok ✓")
}

// The substitutions are those of the UTF-8 decoder in the Encoding standard; the
// examples are the ones of Unicode §3.9, tables 3-8 to 3-11.
func TestIllFormedSequencesBecomeWhatABrowserMakesOfThem(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		require.Equal(t, want, dataOf(AppendEvent(nil, testID, Message{Data: in})), "%q", in)
		require.False(t, Lossless(in))
	}
	const r = replacement
	f("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", strings.Repeat(r, 8)+"A")
	f("\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", strings.Repeat(r, 8)+"A")
	f("\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", strings.Repeat(r, 5)+"A"+r+r+"B")
	f("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", strings.Repeat(r, 4)+"A")
	f("abc\xe2\x82", "abc"+r)
	f("caf\xe9 fo\ny\xf0\x9f\x92", "caf"+r+" fo\ny"+r)
	f("\xf0\x9f\x92\xf0\x9f\x92\xa9", r+"💩")
}

func TestLosslessTellsWhetherDataComesBack(t *testing.T) {
	f := func(data string, want bool) {
		t.Helper()
		require.Equal(t, want, Lossless(data), "%q", data)
		require.Equal(t, want, Lossless([]byte(data)), "%q", data)
		back := dataOf(AppendEvent(nil, testID, Message{Event: "x", Data: data}))
		require.Equal(t, want, back == data, "%q", data)
	}
	f("", true)
	f("\n", true)
	f("\n\n  a: b\x00\n", true)
	f("data: x\nid: y\n", true)
	f("€豆腐\ufeff\u0085\u2028", true)
	f("\r", false)
	f("a\r\n", false)
	f("\xff", false)
	f("\xed\xa0\x80", false)
}

func TestPayloadVectorsArriveAsClientsExpect(t *testing.T) {
	runs := regexp.MustCompile(replacement + "+")
	for _, c := range loadPayloads(t) {
		t.Run(c.ID, func(t *testing.T) {
			payload := c.payload(t)
			frame := AppendEvent(nil, testID, Message{Data: payload})
			require.True(t, utf8.Valid(frame))
			for _, size := range []int{0, 1, 7, 4096} {
				if size > 0 && size < 4096 && len(frame) > 1<<18 {
					continue
				}
				events, _ := decodeAll(t, string(frame), size)
				require.Len(t, events, 1)
				require.Equal(t, event{testID.String(), EventMessage, ""}, event{events[0].id, events[0].eventType, ""})
				got, want := events[0].data, c.want(payload)
				if c.Invalid {
					got, want = runs.ReplaceAllString(got, replacement), runs.ReplaceAllString(want, replacement)
				}
				require.True(t, want == got, "data of %d bytes differs from the expected %d", len(got), len(want))
			}
		})
	}
}

func TestRetryIsOneLineInMilliseconds(t *testing.T) {
	f := func(d time.Duration, want string) {
		t.Helper()
		require.Equal(t, want, string(AppendRetry(nil, d)))
	}
	f(3*time.Second, "retry: 3000\n")
	f(1500*time.Microsecond, "retry: 1\n")
	f(0, "retry: 0\n")
	f(-time.Hour, "retry: 0\n")
}

func TestRetryAndHeartbeatShowNothingToTheClient(t *testing.T) {
	stream := AppendRetry(nil, 2*time.Second)
	stream = append(stream, Heartbeat...)
	stream = AppendEvent(stream, testID, Message{Data: "x"})
	stream = append(stream, Heartbeat...)
	events, d := decodeAll(t, string(stream), 0)
	require.Equal(t, []event{{testID.String(), EventMessage, "x"}}, events)
	wait, ok := d.Retry()
	require.True(t, ok)
	require.Equal(t, 2*time.Second, wait)
	require.Equal(t, uint64(2), d.Comments())
}

func TestPositionMovesTheClientAndShowsNothing(t *testing.T) {
	events, d := decodeAll(t, string(AppendPosition(AppendRetry(nil, time.Second), testID)), 0)
	require.Empty(t, events)
	require.Equal(t, testID.String(), string(d.LastEventID()))
}

func TestGapIsOneLineOfJSON(t *testing.T) {
	f := func(g Gap, want map[string]string) {
		t.Helper()
		events, _ := decodeAll(t, string(AppendGap(nil, g)), 0)
		require.Len(t, events, 1)
		if g.ID.IsZero() { // a client keeps the ID that it has
			require.Empty(t, events[0].id)
		} else {
			require.Equal(t, g.ID.String(), events[0].id)
		}
		require.Equal(t, EventGap, events[0].eventType)
		require.NotContains(t, events[0].data, "\n")
		var got map[string]string
		require.NoError(t, json.Unmarshal([]byte(events[0].data), &got), events[0].data)
		require.Equal(t, want, got)
	}
	f(Gap{}, map[string]string{})
	f(Gap{ID: testID, Reason: ReasonTrimmed, Channel: "user:1", Requested: "5-0", Oldest: ID{9, 1}},
		map[string]string{"reason": "trimmed", "channel": "user:1", "requested": "5-0", "oldest": "9-1"})
	f(Gap{ID: testID, Reason: ReasonUnknownID, Requested: "\"\\\r\n\n\x00\x7f\u2028\u2029é"},
		map[string]string{"reason": "unknown-id", "requested": "\"\\\r\n\n\x00\x7f\u2028\u2029é"})
	f(Gap{Channel: "a\xff\xfeb"}, map[string]string{"channel": "a\uFFFD\uFFFDb"})
	f(Gap{Channel: "a", Channels: []string{"b", "c"}}, map[string]string{"channel": "a"})
	events, _ := decodeAll(t, string(AppendGap(nil, Gap{Reason: ReasonTrimmed, Channels: []string{"a\n", "b"}})), 0)
	require.JSONEq(t, `{"reason":"trimmed","channels":["a\n","b"]}`, events[0].data)
}

// A message that is too large leaves a gap event that no publisher can make.
func TestOversizeIsAGapEvent(t *testing.T) {
	for _, channel := range []string{"a", `b"\`, "c\xff\r\n"} {
		m := Oversize(channel)
		require.Error(t, m.Check())
		want := AppendGap(nil, Gap{ID: testID, Reason: ReasonOversize, Channel: channel})
		require.Equal(t, string(want), string(AppendEvent(nil, testID, m)))
		back, _ := ParseFrame(want, nil, nil)
		require.Equal(t, m, back)
	}
}

func FuzzEncode(f *testing.F) {
	for _, c := range []string{"Hello", "", "a\r\nb\n\rc", "\xe2\x82\n\xf0\x9f", "data: x\n\n\x00"} {
		f.Add("", c, uint8(3))
		f.Add(c, c, uint8(1))
	}
	f.Fuzz(func(t *testing.T, eventType, data string, size uint8) {
		frame := AppendEvent(nil, testID, Message{Event: eventType, Data: data})
		require.True(t, utf8.Valid(frame))
		head := len(AppendEvent(nil, testID, Message{Event: eventType})) - len("data: \n\n")
		require.LessOrEqual(t, len(frame)-head, 7*(len(data)+1)+1)

		events, _ := decodeAll(t, string(frame), int(size))
		require.Len(t, events, 1)
		require.Equal(t, testID.String(), events[0].id)
		require.Equal(t, dataOf(frame), events[0].data)
		if Lossless(data) {
			require.Equal(t, data, events[0].data)
		} else {
			require.NotEqual(t, data, events[0].data)
		}
		want := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(data)
		require.Equal(t, strings.ToValidUTF8(want, ""), strings.ReplaceAll(events[0].data, replacement, ""),
			"what was valid and not itself U+FFFD is unchanged")
		if eventType != "" && utf8.ValidString(eventType) && !strings.ContainsAny(eventType, "\r\n\x00") {
			require.Equal(t, eventType, events[0].eventType)
		}

		var got struct{ Channel, Requested string }
		events, _ = decodeAll(t, string(AppendGap(nil, Gap{Channel: eventType, Requested: data})), int(size))
		require.Len(t, events, 1)
		require.NoError(t, json.Unmarshal([]byte(events[0].data), &got))
		if utf8.ValidString(data) {
			require.Equal(t, data, got.Requested)
		}
	})
}

func BenchmarkAppendEvent(b *testing.B) {
	for _, bytes := range []int{16, 256, 4096, 65536} {
		line := strings.Repeat("0123456789abcde\n", bytes/16)
		for name, data := range map[string]string{"one": strings.ReplaceAll(line, "\n", " "), "16-byte": line} {
			b.Run(fmt.Sprintf("bytes=%d/lines=%s", bytes, name), func(b *testing.B) {
				var frame []byte
				b.SetBytes(int64(bytes))
				b.ReportAllocs()
				for b.Loop() {
					frame = AppendEvent(frame[:0], testID, Message{Data: data})
				}
			})
		}
	}
}

// BenchmarkAppendEventOfLineEnds is a message of 1 MiB of what takes the most work: each
// line end becomes a line, each byte that is no UTF-8 a character of three bytes.
func BenchmarkAppendEventOfLineEnds(b *testing.B) {
	for _, piece := range []string{"\n", "\r", "\r\n", "a\n", "\xff", "\xe2\x82", "é\n", "plain text\n"} {
		b.Run(fmt.Sprintf("piece=%q", piece), func(b *testing.B) {
			m := Message{Data: strings.Repeat(piece, 1<<20/len(piece))}
			dst := AppendEvent(nil, testID, m)
			b.SetBytes(int64(len(m.Data)))
			for b.Loop() {
				dst = AppendEvent(dst[:0], testID, m)
			}
		})
	}
}
