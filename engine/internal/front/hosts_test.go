package front

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStreamsAreAskedForByTheNamesThatAreAllowed(t *testing.T) {
	list := newHostList([]string{"sse.example.com", "SSE.example.net", "192.0.2.1", "2001:db8::1"})
	f := func(want bool, host string) {
		t.Helper()
		require.Equal(t, want, list.allows([]byte(host)), host)
	}
	f(true, "sse.example.com")
	f(true, "SSE.Example.Com:8080")
	f(true, "sse.example.net")
	f(true, "192.0.2.1:80")
	f(true, "[2001:db8::1]:443")
	f(true, "[2001:db8::1]")
	f(false, "evil.example")
	f(false, "xsse.example.com")
	f(false, "sse.example.com.evil.example")
	f(false, "sse.example.com.")
	f(false, "192.0.2.2")
	f(false, "")
	f(false, ":80")
	require.True(t, hostList(nil).allows([]byte("anything")))
}

// TestOtherHostsGetNoStream by either way into a stream, and probes get their answer.
func TestOtherHostsGetNoStream(t *testing.T) {
	s := serve(t, Config{Hosts: []string{"sse.example.com"}})
	request := func(path, host string) string {
		return "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nAccept: text/event-stream\r\n\r\n"
	}
	const path = "/sse/connect?channel_id=a"
	require.Equal(t, 200, s.dialFrom("").Send(request(path, "sse.example.com:8080")).Answer(http.MethodGet).StatusCode)
	for range 3 {
		status, _, body := s.dialFrom("").Send(request(path, "evil.example")).Whole()
		require.Equal(t, http.StatusMisdirectedRequest, status)
		require.Contains(t, body, "not served by this host name")
	}
	for _, path := range []string{"/health", "/ready"} {
		status, _, _ := s.dialFrom("").Send(request(path, "10.0.0.5:8080")).Whole()
		require.Equal(t, 200, status)
	}
}

func TestBadHostsAreRefused(t *testing.T) {
	var wrong []string
	CheckHosts([]string{"a.example", "192.0.2.1", "::1", "", "a.example:80", "https://a.example", "a b", "*"}, func(_, _ string, args ...any) {
		wrong = append(wrong, args[0].(string))
	})
	require.Equal(t, []string{"", "a.example:80", "https://a.example", "a b", "*"}, wrong)
}
