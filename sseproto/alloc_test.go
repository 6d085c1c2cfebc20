//go:build !sseproto_safe

package sseproto

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestEncodingAllocatesNothing(t *testing.T) {
	buf := make([]byte, 0, 64<<10)
	oneLine := strings.Repeat("x", 1000)
	lines := "a\r\nb\rc\n\xff" + oneLine
	typed := Message{Event: "chat", ID: "order-17", Retry: time.Second, Data: oneLine}
	frame, oneLineFrame := AppendEvent(nil, testID, Message{Event: "chat", Data: lines}), AppendEvent(nil, testID, typed)
	envelope := string(AppendEnvelope(nil, typed))
	gap := Gap{ID: testID, Reason: ReasonOutage, Channel: "c", Requested: "1-1", Oldest: MaxID}
	for name, f := range map[string]func(){
		"one line":      func() { AppendEvent(buf, testID, Message{Data: oneLine}) },
		"typed":         func() { AppendEvent(buf, testID, typed) },
		"lines":         func() { AppendEvent(buf, testID, Message{Event: "a\nb", Data: lines}) },
		"parse":         func() { ParseFrame(oneLineFrame, nil, nil) },
		"parse lines":   func() { ParseFrame(frame, nil, buf) },
		"lossless":      func() { Lossless(oneLine) },
		"wrap":          func() { AppendEnvelope(buf, typed) },
		"unwrap":        func() { ParseEnvelope(envelope) },
		"not to unwrap": func() { ParseEnvelope(`{"text":"Hello"}`) },
		"retry":         func() { AppendRetry(buf, time.Second) },
		"position":      func() { AppendPosition(buf, testID) },
		"gap":           func() { AppendGap(buf, gap) },
	} {
		require.Zero(t, testing.AllocsPerRun(100, f), name)
	}
}

func TestDecodingAllocatesNothing(t *testing.T) {
	stream := AppendEvent([]byte(Heartbeat), testID, Message{Event: "chat", Data: "a\nb"})
	stream = AppendEvent(stream, testID, Message{Data: strings.Repeat("x", 1000)})
	events := 0
	d := &Decoder{OnEvent: func(_, _, _ []byte) { events++ }}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		_, err := d.Write(stream[:50])
		if err == nil {
			_, err = d.Write(stream[50:])
		}
		if err != nil {
			t.Fatal(err)
		}
	}))
	require.Equal(t, 2*101, events)
}

func TestParsingAllocatesNothing(t *testing.T) {
	head := []byte("GET http://[::1]:80/sse/connect?channel_id=a HTTP/1.1\r\nHost: example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101\r\n" +
		"Accept: text/event-stream\r\nConnection: keep-alive, x\r\nContent-Length: 0\r\nExpect: 100-continue\r\nLast-Event-ID: 5-1\r\n\r\n")
	id := make([]byte, 0, 64)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		req, n, err := ParseRequest(head, Limits{})
		if n != len(head) || err != nil {
			t.Fatal(n, err)
		}
		if len(req.Header("accept")) == 0 || req.Header("origin") != nil {
			t.Fatal("fields")
		}
		if _, ok := req.LastEventID(id); !ok {
			t.Fatal("id")
		}
		for name, value := range req.Fields() {
			if len(name) == 0 || len(value) == 0 {
				t.Fatal("field")
			}
		}
	}))
	bad := []byte("GET / HTTP/1.1\r\nHost : h\r\n\r\n")
	require.Zero(t, testing.AllocsPerRun(100, func() {
		var scan HeadScan
		if _, _, err := ParseRequest(bad, Limits{}); !scan.Ready(bad, Limits{}) || err == nil {
			t.Fatal("accepted")
		}
	}))
}

func TestQueryAllocatesOnlyTheNames(t *testing.T) {
	query := []byte("x=1&channel_id=a%41&last_event_id=5-1")
	buf := make([]byte, 0, 64)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if _, ok := QueryParam(buf, query, "last_event_id"); !ok {
			t.Fatal("not found")
		}
	}))
	names := make([]string, 0, 1)
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() {
		if _, err := ChannelIDs(names, query, 1); err != nil {
			t.Fatal(err)
		}
	}), 1.0)
}

func TestAnsweringAllocatesNothing(t *testing.T) {
	buf := make([]byte, 0, 4096)
	h := StreamHead{Date: testDate, CORS: CORS{AllowOrigin: "https://app.example", VaryOrigin: true}}
	r := Response{Status: 503, Body: "busy\n", RetryAfter: time.Second, Date: testDate, CORS: h.CORS}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		h.AppendTo(buf)
		r.AppendTo(buf)
	}))
}

func TestPartitionOfAChannelAllocatesNothing(t *testing.T) {
	for _, name := range []string{"user:1", strings.Repeat("x", MaxChannelBytes)} {
		require.Zero(t, testing.AllocsPerRun(100, func() { PartitionOf(name, 3) }))
	}
}
