package sseproto

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// readAnswer reads one answer with net/http and checks that nothing is left.
func readAnswer(t testing.TB, raw []byte, method string) (*http.Response, string) {
	t.Helper()
	r := bufio.NewReader(strings.NewReader(string(raw)))
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Zero(t, r.Buffered(), "bytes after the answer: %q", raw)
	return resp, string(body)
}

var testDate = time.Date(2026, time.November, 8, 23, 1, 2, 0, time.FixedZone("", -3600))

func TestStreamHeadIsWhatTheContractSays(t *testing.T) {
	require.Equal(t, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache, no-transform\r\n"+
		"X-Accel-Buffering: no\r\nConnection: close\r\n"+
		"X-Content-Type-Options: nosniff\r\nCross-Origin-Resource-Policy: same-origin\r\n\r\n", string(new(StreamHead).AppendTo(nil)))
	require.Contains(t, string((&StreamHead{Chunked: true}).AppendTo(nil)), "\r\nTransfer-Encoding: chunked\r\n")
	h := StreamHead{Date: testDate, CORS: CORS{AllowOrigin: "https://app.example", Credentials: true, VaryOrigin: true}, Fields: []Field{{"X-A", "b"}}}
	resp, _ := readAnswer(t, h.AppendTo(nil), "GET")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, http.Header{
		"Content-Type":                     {"text/event-stream; charset=utf-8"},
		"Cache-Control":                    {"no-cache, no-transform"},
		"X-Accel-Buffering":                {"no"},
		"Date":                             {"Mon, 09 Nov 2026 00:01:02 GMT"},
		"Access-Control-Allow-Origin":      {"https://app.example"},
		"Access-Control-Allow-Credentials": {"true"},
		"Vary":                             {"Origin"},
		"X-Content-Type-Options":           {"nosniff"},
		"Cross-Origin-Resource-Policy":     {"same-origin"},
		"X-A":                              {"b"},
	}, resp.Header)
	require.True(t, resp.Close)
	require.Equal(t, int64(-1), resp.ContentLength, "the end of the connection ends the body")
}

func TestAnswers(t *testing.T) {
	f := func(r Response, method, body string, want map[string]string) {
		t.Helper()
		resp, got := readAnswer(t, r.AppendTo(nil), method)
		require.Equal(t, r.Status, resp.StatusCode)
		require.Equal(t, body, got)
		require.Equal(t, r.Close, resp.Close)
		flat := map[string]string{}
		for name, values := range resp.Header {
			flat[name] = strings.Join(values, "|")
		}
		want["X-Content-Type-Options"] = "nosniff"
		want["Cross-Origin-Resource-Policy"] = "same-origin"
		if r.CORS.AllowOrigin == "*" {
			want["Cross-Origin-Resource-Policy"] = "cross-origin"
		}
		require.Equal(t, want, flat)
	}
	f(Response{Status: 200, Body: "ok\n"}, "GET", "ok\n", map[string]string{
		"Content-Type": TypeText, "Content-Length": "3", "Cache-Control": "no-store", "Connection": "keep-alive",
	})
	f(Response{Status: 200, Body: "ok\n", NoBody: true}, "HEAD", "", map[string]string{
		"Content-Type": TypeText, "Content-Length": "3", "Cache-Control": "no-store", "Connection": "keep-alive",
	})
	f(Response{Status: 405, Allow: "GET, HEAD", Close: true}, "PUT", "", map[string]string{
		"Content-Length": "0", "Cache-Control": "no-store", "Allow": "GET, HEAD",
	})
	f(Response{Status: 503, Body: "{}", ContentType: "application/json", RetryAfter: 1500 * time.Millisecond, Date: testDate}, "GET", "{}", map[string]string{
		"Content-Type": "application/json", "Content-Length": "2", "Cache-Control": "no-store", "Connection": "keep-alive",
		"Retry-After": "2", "Date": "Mon, 09 Nov 2026 00:01:02 GMT",
	})
	f(Response{Status: 204, Body: "never sent", CORS: CORS{
		AllowOrigin: "*", AllowMethods: "GET", AllowHeaders: "Last-Event-ID", MaxAge: 24 * time.Hour, VaryOrigin: true,
	}}, "OPTIONS", "", map[string]string{
		"Connection": "keep-alive", "Access-Control-Allow-Origin": "*", "Access-Control-Allow-Methods": "GET",
		"Access-Control-Allow-Headers": "Last-Event-ID", "Access-Control-Max-Age": "86400", "Vary": "Origin",
	})
}

func TestNoValueSplitsAnAnswer(t *testing.T) {
	const evil = "a\r\nX-Injected: 1\r\n\r\nHTTP/1.1 200 OK\r\n\r\n\x00\x7f\tb"
	r := Response{
		Status: 401, Body: "x", ContentType: evil, Allow: evil,
		CORS:   CORS{AllowOrigin: evil, AllowMethods: evil, AllowHeaders: evil},
		Fields: []Field{{"WWW-Authenticate", evil}, {evil, "v"}, {"", "v"}, {"X: y", "v"}},
	}
	resp, body := readAnswer(t, r.AppendTo(nil), "GET")
	require.Equal(t, "x", body)
	require.NotContains(t, resp.Header, "X-Injected")
	require.NotContains(t, resp.Header, "X")
	require.Equal(t, "aX-Injected: 1HTTP/1.1 200 OK\tb", resp.Header.Get("WWW-Authenticate"))
	h := StreamHead{CORS: CORS{AllowOrigin: evil}, Fields: []Field{{"X-A", evil}}}
	resp, _ = readAnswer(t, h.AppendTo(nil), "GET")
	require.NotContains(t, resp.Header, "X-Injected")
}
