package sseproto

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestEnvelopeIsUnwrapped(t *testing.T) {
	f := func(payload string, want Message) {
		t.Helper()
		got, ok := ParseEnvelope(payload)
		require.True(t, ok, payload)
		require.Equal(t, want, got, payload)
	}
	f(`{"data":"Hello"}`, Message{Data: "Hello"})
	f(`{"data":""}`, Message{})
	f("\r\n {\t\"data\" : \"a\" ,\n\"event\":\"b\" } \n", Message{Event: "b", Data: "a"})
	f(`{"event":"order.paid","id":"order-17","retry":5000,"data":"x"}`,
		Message{Event: "order.paid", ID: "order-17", Retry: 5 * time.Second, Data: "x"})
	f(`{"data":"a\r\n\"\\\/\u00e9\ud83d\ude80\u0000"}`, Message{Data: "a\r\n\"\\/é🚀\x00"})
	f(`{"event":"\u0062\\","data":"\\"}`, Message{Event: `b\`, Data: `\`})
	f(`{"data":"\ud83d"}`, Message{Data: "\uFFFD"})
	f(`{"data":{"a": [1,"}\"]",{}], "data":null}}`, Message{Data: `{"a": [1,"}\"]",{}], "data":null}`})
	f("{\"data\":[1,\n2]}", Message{Data: "[1,\n2]"})
	f(`{"data":null}`, Message{Data: "null"})
	f(`{"data":-1.5e3,"id":17}`, Message{ID: "17", Data: "-1.5e3"})
	f(`{"data":true,"event":null,"id":null,"retry":null}`, Message{Data: "true"})
	f(`{"data":"x","event":"","id":"","retry":0}`, Message{Data: "x"})
	f(`{"event":"message","data":"x"}`, Message{Event: "message", Data: "x"})
	// As Laravel's RedisBroadcaster writes it: an event of a class, one with toOthers().
	f(`{"event":"App\\Events\\OrderPaid","data":{"order":{"id":7,"total":"5.00 \u20ac"},"socket":null},"socket":null}`,
		Message{Event: `App\Events\OrderPaid`, Data: `{"order":{"id":7,"total":"5.00 \u20ac"},"socket":null}`})
	f(`{"event":"order.paid","data":[],"socket":"123.456"}`, Message{Event: "order.paid", Data: "[]"})
	f(`{"socket":"","id":1,"data":"x","event":"e"}`, Message{Event: "e", ID: "1", Data: "x"})
}

// What only looks like an envelope is sent as the data of one.
func TestEnvelopeInAnEnvelopeIsItsData(t *testing.T) {
	for _, payload := range []string{
		`{"id":"42","data":{"total":5}}`, `{"event":"a","data":"b","socket":null}`, ` { "data" : 1 } `, `{"data":{"data":{}}}`,
	} {
		m, ok := ParseEnvelope(`{"data":` + payload + `}`)
		require.True(t, ok)
		require.Equal(t, Message{Data: strings.TrimSpace(payload)}, m)
	}
}

func TestEverythingElseStandsForItself(t *testing.T) {
	f := func(payload string) {
		t.Helper()
		m, ok := ParseEnvelope(payload)
		require.False(t, ok, payload)
		require.Equal(t, Message{}, m)
	}
	f("")
	f("Hello")
	f("{}")
	f("{")
	f(`"data"`)
	f(`[{"data":"x"}]`)
	f(`{"text":"Hello"}`)
	f(`{"event":"x"}`)
	f(`{"data":"x","channel":"c"}`)
	f(`{"data":"x","data":"x"}`)
	f(`{"id":"a","data":"x","id":null}`)
	f(`{"Data":"x"}`)
	f(`{"d\u0061ta":"x"}`)
	f(`{"data":"x"} {"data":"x"}`)
	f(`{"data":"x"}x`)
	f("\ufeff" + `{"data":"x"}`)
	f("\v" + `{"data":"x"}`)
	f(`{"data":"x",}`)
	f(`{"data":}`)
	f(`{"data" "x"}`)
	f(`{data:"x"}`)
	f(`{"data":'x'}`)
	f(`{"data":01}`)
	f("{\"data\":\"a\nb\"}")
	f(`{"data":"a\"}`)
	f(`{"data":"\x"}`)
	f(`{"data":[}]}`)
	f("{\"data\":\"\xff\"}")
	f("{\"data\":\"\xed\xa0\x80\"}")
	f(`{"data":"x","event":7}`)
	f(`{"data":"x","id":true}`)
	f(`{"data":"x","id":["a"]}`)
	f(`{"data":"x","retry":"5000"}`)
	f(`{"data":"x","socket":null}`)
	f(`{"data":"x","socket":"a"}`)
	f(`{"event":"","data":"x","socket":"a"}`)
	f(`{"event":null,"data":"x","socket":"a"}`)
	f(`{"event":"e","data":"x","socket":1}`)
	f(`{"event":"e","data":"x","socket":{}}`)
	f(`{"event":"e","data":"x","socket":true}`)
	f(`{"event":"e","socket":"a"}`)
	f(`{"data":` + strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001) + `}`)
}

// A marked payload is an envelope for everyone; what is not a marked envelope stands for
// itself.
func TestMarkedEnvelopesAreReadByAll(t *testing.T) {
	f := func(m Message, marked bool) {
		t.Helper()
		payload := string(AppendMarked(nil, m))
		got, ok := ParseMarked(payload)
		require.Equal(t, marked, ok, payload)
		if !marked {
			require.Equal(t, m.Data, payload)
			return
		}
		require.Equal(t, m, got)
	}
	f(Message{Data: "x"}, false)
	f(Message{Event: "message", Data: `{"event":"x","data":"y"}`}, false)
	f(Message{Data: "\x00ssed"}, false)
	f(Message{Data: envelopeMark}, true)
	f(Message{Data: envelopeMark + `{"data":"y"}`}, true)
	f(Message{Event: "order", Data: "x"}, true)
	f(Message{ID: "17", Data: `{"data":"y"}`}, true)
	f(Message{Retry: time.Second}, true)
	for _, payload := range []string{"", envelopeMark, envelopeMark + "x", envelopeMark + `{"event":"gap","data":"x"}`, "x" + envelopeMark + `{"data":"y"}`} {
		_, ok := ParseMarked(payload)
		require.False(t, ok, payload)
	}
}

func TestEnvelopeWithARefusedFieldTellsWhich(t *testing.T) {
	f := func(payload string, want error) {
		t.Helper()
		m, ok := ParseEnvelope(payload)
		require.False(t, ok, payload)
		require.ErrorIs(t, m.Check(), want, payload)
	}
	f(`{"data":"x","event":"gap"}`, ErrBadEventType)
	f(`{"data":"x","event":"a\nb"}`, ErrBadEventType)
	f(`{"data":"x","id":"a b"}`, ErrBadPublisherID)
	f(`{"data":"x","id":"`+strings.Repeat("a", 129)+`"}`, ErrBadPublisherID)
	f(`{"data":"x","retry":-1}`, ErrBadRetry)
	f(`{"data":"x","retry":1.5}`, ErrBadRetry)
	f(`{"data":"x","retry":86400001}`, ErrBadRetry)
	f(`{"data":"x","retry":99999999999999999999}`, ErrBadRetry)
}

func TestEnvelopeOfAMessage(t *testing.T) {
	f := func(m Message, want string) {
		t.Helper()
		require.Equal(t, "kept"+want, string(AppendEnvelope([]byte("kept"), m)))
	}
	f(Message{}, `{"data":""}`)
	f(Message{Data: "{\"data\":1}\n"}, `{"data":"{\"data\":1}\u000a"}`)
	f(Message{Event: "e", ID: "i", Retry: time.Second, Data: "x"}, `{"event":"e","id":"i","retry":1000,"data":"x"}`)
	f(Message{Retry: time.Second}, `{"retry":1000,"data":""}`)
	f(Message{Data: "a\xffb"}, "{\"data\":\"a\uFFFDb\"}")
}

func TestPayloadIsDataAloneWhereThatSaysAll(t *testing.T) {
	f := func(m Message, want string) {
		t.Helper()
		payload := string(AppendPayload([]byte("kept"), m))
		require.Equal(t, "kept"+want, payload)
	}
	f(Message{Data: "Hello \xff"}, "Hello \xff")
	f(Message{Event: "message", Data: `{"text":"x"}`}, `{"text":"x"}`)
	f(Message{Data: `{"data":"x"}`}, `{"data":"{\"data\":\"x\"}"}`)
	f(Message{Data: `{"data":"x","event":"gap"}`}, `{"data":"x","event":"gap"}`)
	f(Message{Event: "e", Data: "x"}, `{"event":"e","data":"x"}`)
	f(Message{ID: "i"}, `{"id":"i","data":""}`)
	f(Message{Retry: time.Second}, `{"retry":1000,"data":""}`)
}

// TestEnvelopesTakeTimeInProportion: each of these would be slow if a part of it was
// looked at again and again.
func TestEnvelopesTakeTimeInProportion(t *testing.T) {
	const n = 1 << 20
	for _, payload := range []string{
		`{"data":"` + strings.Repeat(`\"`, n) + `"}`,
		`{"data":"` + strings.Repeat(`\\`, n) + `"}`,
		`{"data":"` + strings.Repeat(`\\`, n) + `\"}`,
		`{"data":` + strings.Repeat(`[`, n) + `}`,
		`{"data":[` + strings.Repeat(`"",`, n) + `""]}`,
		`{` + strings.Repeat(` `, n) + `}`,
	} {
		_, ok := ParseEnvelope(payload)
		require.Equal(t, json.Valid([]byte(payload)) && strings.HasPrefix(payload, `{"`), ok)
	}
}

// envelopeModel says what ParseEnvelope should, by the tokens of encoding/json.
func envelopeModel(payload string) (values map[string]json.RawMessage, ok bool) {
	d := json.NewDecoder(strings.NewReader(payload))
	if open, err := d.Token(); err != nil || open != json.Delim('{') || !utf8.ValidString(payload) {
		return nil, false
	}
	values = make(map[string]json.RawMessage)
	for d.More() {
		from := d.InputOffset()
		name, err := d.Token()
		if err != nil || strings.Contains(payload[from:d.InputOffset()], `\`) {
			return nil, false
		}
		var value json.RawMessage
		if d.Decode(&value) != nil || values[name.(string)] != nil || !strings.Contains(" "+EnvelopeMembers+" ", " "+name.(string)+" ") || name == "" {
			return nil, false
		}
		values[name.(string)] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, false
	}
	_, err := d.Token()
	return values, err == io.EOF && values["data"] != nil && json.Valid([]byte(payload))
}

// valueFits reports whether a value has one of the types, told by first octets.
func valueFits(value json.RawMessage, firsts string) bool {
	return value == nil || string(value) == "null" || bytes.IndexByte([]byte(firsts), value[0]) >= 0
}

func FuzzParseEnvelope(f *testing.F) {
	for _, s := range []string{
		`{"data":"x"}`, `{"event":"e","id":7,"retry":5,"data":{"a":[1,"}"]}}`, `{"data":"\"\\","data":1}`,
		` { "data" : [ 1 , 2 ] } `, `{"text":"x"}`, `{"data":"x","id":null}x`, `{"event":"gap","data":""}`,
		`{"event":"App\\Events\\X","data":{"a":[]},"socket":null}`, `{"socket":"1.2","data":1}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, payload string) {
		m, ok := ParseEnvelope(payload)
		values, form := envelopeModel(payload)
		form = form && valueFits(values["event"], `"`) && valueFits(values["id"], `"-0123456789`) && valueFits(values["retry"], "-0123456789")
		if socket := values["socket"]; socket != nil {
			var event string
			form = form && valueFits(socket, `"`) && json.Unmarshal(values["event"], &event) == nil && event != ""
		}
		require.Equal(t, form, ok || m.Check() != nil, "%q %+v", payload, m)
		if !ok {
			return
		}
		require.NoError(t, m.Check())
		var text string
		if json.Unmarshal(values["data"], &text) != nil || string(values["data"]) == "null" {
			text = string(values["data"])
		}
		require.Equal(t, text, m.Data)
		again, ok := ParseEnvelope(string(AppendEnvelope(nil, m)))
		require.True(t, ok)
		require.Equal(t, m, again)
	})
}

func FuzzEnvelopeRoundTrip(f *testing.F) {
	f.Add("chat", "order-17", int64(5000), "a\r\nb\x00\u2028\"\\")
	f.Add("", "", int64(0), `{"data":"x"}`)
	f.Fuzz(func(t *testing.T, event, id string, retryMs int64, data string) {
		m := Message{Event: event, ID: id, Retry: time.Duration(retryMs%(2*maxRetryMs)) * time.Millisecond, Data: data}
		envelope := string(AppendEnvelope(nil, m))
		require.True(t, json.Valid([]byte(envelope)))
		require.NotContains(t, envelope, "\n")
		got, ok := ParseEnvelope(envelope)
		if m.Check() == nil && utf8.ValidString(data) {
			require.True(t, ok)
			require.Equal(t, m, got)
		}
	})
}

func BenchmarkParseEnvelope(b *testing.B) {
	for _, size := range []int{128, 4096} {
		text := strings.Repeat("x", size)
		object := `{"a":"` + strings.Repeat("x", size/2) + `","b":[` + strings.Repeat("1,", size/4) + `1]}`
		for name, payload := range map[string]string{
			"text":      text,
			"object":    `{"text":"` + text + `"}`,
			"almost":    `{"data":"` + text + `","text":1}`,
			"string":    `{"event":"order.paid","id":"order-17","data":"` + text + `"}`,
			"escapes":   string(AppendEnvelope(nil, Message{Event: "order.paid", ID: "order-17", Data: object})),
			"as-object": `{"event":"order.paid","id":"order-17","data":` + object + `}`,
		} {
			b.Run(fmt.Sprintf("bytes=%d/payload=%s", size, name), func(b *testing.B) {
				b.SetBytes(int64(len(payload)))
				b.ReportAllocs()
				for b.Loop() {
					ParseEnvelope(payload)
				}
			})
		}
	}
}

func BenchmarkParseFrame(b *testing.B) {
	for name, m := range map[string]Message{
		"plain": {Data: strings.Repeat("x", 128)},
		"typed": {Event: "order.paid", ID: "order-17", Data: strings.Repeat("x", 128)},
		"lines": {Data: strings.Repeat("0123456789abcde\n", 8)},
	} {
		b.Run("message="+name, func(b *testing.B) {
			frame := AppendEvent(nil, testID, m)
			var scratch []byte
			b.ReportAllocs()
			for b.Loop() {
				_, scratch = ParseFrame(frame, nil, scratch)
			}
		})
	}
}
