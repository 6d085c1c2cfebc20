//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// browserAsksForAThousandChannels: by the POST of libraries, which takes a preflight from
// another origin. A cut is resumed with the same body.
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
		snippet string
		told    bool // it asks for tell=channel
	}{{"post-fetch-event-source.js", true}, {"post-sse.js", false}} {
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
			require.Len(t, l.heads, 2, "a preflight and a POST")
			require.True(t, strings.HasPrefix(l.heads[0], "OPTIONS /sse/connect HTTP/1.1\r\n"), l.heads[0])
			require.True(t, strings.HasPrefix(l.heads[1], "POST /sse/connect HTTP/1.1\r\n"), l.heads[1])
			l.mu.Unlock()

			l.cut(false)
			publish(t, r, channels[999], "while away")
			require.Equal(t, "while away", p.take(t).Data)
			wantEach(0, 999)
			p.wantNoMore()
		})
	}
}
