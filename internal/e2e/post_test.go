//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// browserAsksForAThousandChannels: by the POST of libraries, from another origin. A cut is
// resumed with the same body, and a preflight for the Last-Event-ID.
func browserAsksForAThousandChannels(t *testing.T, b *browser) {
	const count = 1000
	var channels []string
	for i := range count {
		channels = append(channels, fmt.Sprintf("%08x-0000-4000-8000-%012d", i, i))
	}
	require.Len(t, channels[0], 36)
	tested.add("npm sse.js", versionOf(t, "node", "-p", `require("./clients/node_modules/sse.js/package.json").version`)+", in Chromium")
	r := redistest.Start(t)
	in := startReady(t, r, "--max-channels-per-connection", "1000")
	for _, library := range []struct {
		snippet   string
		preflight bool // of its first request
		told      bool // it asks for tell=channel
	}{{"post-fetch-event-source.js", true, true}, {"post-sse.js", false, false}} {
		t.Run(library.snippet, func(t *testing.T) {
			l := newLink(t, in.public)
			p := b.open(t, servePages(t))
			p.run("runSnippet", library.snippet, "http://"+l.host()+"/sse/connect", channels)
			in.waitStreams(1)
			wantEach := func(at ...int) {
				for _, i := range at {
					publish(t, r, channels[i], fmt.Sprint(i))
					e := p.take(t)
					require.Equal(t, fmt.Sprint(i), e.Data)
					if library.told {
						require.Equal(t, channels[i], e.Event)
					}
				}
			}
			wantEach(0, 1, 499, 998, 999)
			l.mu.Lock()
			heads := strings.Join(l.heads, "\n")
			l.mu.Unlock()
			// A form that asks for nothing else is sent without a preflight, as pages always could.
			require.Equal(t, library.preflight, strings.HasPrefix(heads, "OPTIONS /sse/connect HTTP/1.1\r\n"))
			require.Contains(t, heads, "POST /sse/connect HTTP/1.1\r\n")
			require.NotContains(t, heads, "GET ")

			l.cut(false)
			publish(t, r, channels[999], "while away")
			require.Equal(t, "while away", p.take(t).Data)
			wantEach(0, 999)
			p.wantNoMore()
			l.mu.Lock()
			heads = strings.Join(l.heads, "\n")
			l.mu.Unlock()
			require.Regexp(t, "(?i)\naccess-control-request-headers: .*last-event-id", heads)
			require.Regexp(t, "(?i)\nlast-event-id: [0-9]+-[0-9]+\r\n", heads)
		})
	}
}

// TestPostPassesProxies: a body of 48 KB, through the files in deploy/.
func TestPostPassesProxies(t *testing.T) {
	r := redistest.Start(t)
	in := startReady(t, r, "--max-channels-per-connection", "1000")
	form := url.Values{}
	for i := range 1000 {
		form.Add("channel_id", fmt.Sprintf("%08x-0000-4000-8000-%012d", i, i))
	}
	require.Greater(t, len(form.Encode()), 47_000)
	for name, host := range map[string]string{
		"nginx":   startNginx(t, in.public, in.public),
		"haproxy": startHAProxy(t, in.public, in.public),
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+host+"/sse/connect", strings.NewReader(form.Encode()))
		require.NoError(t, err, name)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp, err := httpClient.Do(req)
		require.NoError(t, err, name)
		require.Equal(t, http.StatusOK, resp.StatusCode, name)
		publish(t, r, form["channel_id"][999], "through "+name)
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() && !strings.HasPrefix(lines.Text(), "data: ") {
		}
		require.Equal(t, "data: through "+name, lines.Text())
		require.NoError(t, resp.Body.Close())
	}
}
