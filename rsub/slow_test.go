package rsub

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// slowLink is a way to the server that carries so many kilobytes per second downstream.
func slowLink(t *testing.T, s *redistest.Server, kilobytes int) string {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := toxiproxy.NewProxy(server, "redis", "127.0.0.1:0", s.Addr())
	require.NoError(t, p.Start())
	t.Cleanup(p.Stop)
	toxic := fmt.Sprintf(`{"name":"slow","type":"bandwidth","stream":"downstream","attributes":{"rate":%d}}`, kilobytes)
	_, err := p.Toxics.AddToxicJson(bytes.NewBufferString(toxic))
	require.NoError(t, err)
	return "redis://" + p.Listen
}

// TestSlowLinkThatMovesIsNotCut: a burst takes longer than any answer may on a quick link,
// and one message longer than the probe timeout.
func TestSlowLinkThatMovesIsNotCut(t *testing.T) {
	t.Parallel()
	f := func(name string, messages, size, feeds int) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t)
			in := start(t, slowLink(t, s, 50), "in", withFeeds(feeds))
			near := start(t, s.URL(), "near") // makes the ticks, whatever becomes of the other
			waitSynced(t, in, near)
			for i := range messages {
				do(t, s, "PUBLISH", "c", fmt.Sprint(i)+strings.Repeat("x", size))
			}
			eventually(t, func() bool { return len(in.sink.all()) >= messages }, "they do not come")
			require.Len(t, in.sink.spans, 1)
			require.Empty(t, in.Stats().Resyncs)
			require.Equal(t, tail(near.sink.all(), in.sink.spans[0].low), in.sink.all())
		})
	}
	f("a burst", 8, 10_000, 1)
	f("a burst, two feeds", 8, 10_000, 2)
	f("one large message", 1, 250_000, 1)
}
