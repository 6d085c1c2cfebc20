package front

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/wiretest"
	"ssed/sseproto"
)

// What a request gets does not depend on whether it is whole when its connection is
// accepted, or comes in parts.
func TestRequestIsJudgedAlikeHoweverItComes(t *testing.T) {
	type outcome struct {
		status            int
		kind, text, allow string
		stays             bool
	}
	ask := func(w *wiretest.Conn, method string) outcome {
		resp := w.Answer(method)
		o := outcome{status: resp.StatusCode, kind: resp.Header.Get("Content-Type"), allow: resp.Header.Get("Allow"), stays: !resp.Close}
		if resp.ContentLength > 0 && method != http.MethodHead {
			text := make([]byte, resp.ContentLength)
			_, err := io.ReadFull(resp.Body, text)
			require.NoError(t, err)
			o.text = string(text)
		}
		return o
	}
	states := map[string]func(*host){
		"ready":     func(*host) {},
		"not ready": func(h *host) { h.notReady.Store(true) },
		"full":      func(h *host) { h.conns.Add(10); t.Cleanup(func() { h.conns.Add(-10) }) },
		"draining":  func(h *host) { h.front.draining.Store(true) },
	}
	for state, enter := range states {
		for _, request := range []string{
			getStream("a"), getStream("a", asEventSource), getStream("a", "Last-Event-ID: 1-1"),
			getStream(""), getStream("%zz"), getStream("a" + strings.Repeat("&channel_id=b", 40)),
			strings.Replace(getStream("a"), "GET", "HEAD", 1), strings.Replace(getStream("a"), "GET", "POST", 1),
			postStream("channel_id=a", asForm), postStream("channel_id=a", asForm, asEventSource), chunked(`{"channels":"a"}`, asJSON),
			postStream("channel_id=a", "Content-Type: text/plain"), postStream("{}x", asJSON), chunked("x=1", asForm),
			getStream("a", "Content-Length: 1"), strings.Replace(getStream("a"), "connect", "nowhere", 1), getHealth,
		} {
			h := listenOnly(t, Config{MaxConnections: 10})
			enter(h)
			method, _, _ := strings.Cut(request, " ")
			early := h.dialFrom("").Send(request) // it waits in the queue with its request
			require.NoError(t, h.front.Serve())
			whole := ask(early, method)
			inParts := h.dialFrom("")
			for _, c := range []byte(request) {
				inParts.Send(string([]byte{c}))
			}
			require.Equal(t, whole, ask(inParts, method), "%s: %q", state, request)
			if state == "ready" && request == getStream("a") {
				require.Equal(t, outcome{status: 200, kind: "text/event-stream; charset=utf-8"}, whole)
				require.EqualValues(t, 2, h.front.Stats().Streams)
			}
		}
	}
}

// BenchmarkJudge is the decision about a request for a stream, without system calls.
func BenchmarkJudge(b *testing.B) {
	h := listenOnly(b, Config{})
	request := []byte(getStream("a&channel_id=b", "User-Agent: Mozilla/5.0", asEventSource))
	b.ReportAllocs()
	for b.Loop() {
		req, _, err := sseproto.ParseRequest(request, h.front.limits)
		if err != nil || !isForStream(&req) {
			b.Fatal(err)
		}
		from := caller{over: notRefused}
		if v := h.front.judge(&req, &from, from.addr); v.stream == nil {
			b.Fatal(v.why)
		}
	}
}
