//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// largeCookies are what an identity provider may set: 17 KB.
var largeCookies = http.Header{"Cookie": {"session=" + strings.Repeat("0123456789abcdef", 17*1024/16)}}

// linesForLargeCookies are the settings that docs/PROXIES.md tells for them, by the name in
// its table.
func linesForLargeCookies(t *testing.T) map[string]string {
	t.Helper()
	raw, err := os.ReadFile("../../docs/PROXIES.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(raw), "\n## Large cookies\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	lines := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| (\\S+) \\|[^|]*\\| `([^`]+)`").FindAllStringSubmatch(section, -1) {
		lines[row[1]] = row[2]
	}
	require.Len(t, lines, 3)
	return lines
}

// refusal is the answer to a request with large cookies. HTTP/2 has none where the proxy
// gives up the connection.
func refusal(t *testing.T, client *http.Client, url string) (status int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	req.Header = largeCookies.Clone()
	req.Header.Set("Accept", "text/event-stream")
	resp, err := client.Do(req)
	if err != nil {
		return 0
	}
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode
}

// TestLargeCookies: what docs/PROXIES.md says of ssed, nginx and HAProxy, one after the other:
// each refuses them by default, and takes them with its line.
func TestLargeCookies(t *testing.T) {
	lines := linesForLargeCookies(t)
	r := redistest.Start(t)
	// HAProxy closes the stream of a client that has left with one of the next heartbeats.
	heartbeat := []string{"--heartbeat", "1s"}
	small, large := startReady(t, r, heartbeat...), startReady(t, r, append(heartbeat, strings.Fields(lines["ssed"])...)...)
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, refusal(t, httpClient, streamURL(small.public, "a")))
	openStreamBy(t, httpClient, streamURL(large.public, "a"), largeCookies).close()
	large.waitStreams(0)

	public := func(in *instance) func(*testing.T) string { return func(*testing.T) string { return in.public } }
	configured := map[string][]string{
		"nginx":   {"client_header_timeout 5s;", lines["nginx"] + " client_header_timeout 5s;"},
		"HAProxy": {"\nglobal\n", "\nglobal\n    " + lines["HAProxy"] + "\n"},
	}
	t.Run("proxies by default", func(t *testing.T) {
		eachProxy(t, public(large), public(large), nil, func(t *testing.T, p *secureProxy) {
			require.Equal(t, http.StatusBadRequest, refusal(t, p.cert.client(t, clientAddress, false), p.url("a")))
			require.Contains(t, []int{0, http.StatusBadRequest}, refusal(t, p.cert.client(t, clientAddress, true), p.url("a")))
		})
	})
	t.Run("ssed by default", func(t *testing.T) {
		eachProxy(t, public(small), public(small), configured, func(t *testing.T, p *secureProxy) {
			for _, http2 := range []bool{true, false} {
				require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, refusal(t, p.cert.client(t, clientAddress, http2), p.url("a")))
			}
		})
	})
	t.Run("all three with their lines", func(t *testing.T) {
		eachProxy(t, public(large), public(large), configured, func(t *testing.T, p *secureProxy) {
			for _, http2 := range []bool{true, false} {
				s := openStreamBy(t, p.cert.client(t, clientAddress, http2), p.url("a"), largeCookies)
				require.Equal(t, http2, s.resp.ProtoMajor == 2)
				large.waitStreams(1)
				publish(t, r, "a", "with cookies")
				s.want("with cookies")
				s.close()
				large.waitStreams(0)
			}
		})
	})
}
