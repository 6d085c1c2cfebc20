//go:build e2e

package e2e

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// call sends a command of the DevTools protocol to a tab.
func call[P, R any](p *tab, command cdp.Command[P, R], params P) {
	p.t.Helper()
	require.NoError(p.t, chromedp.Do(p.ctx, chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, command, params)
		return err
	})))
}

// openShared opens n tabs that share a stream. The first one reads it.
func (b *browser) openShared(t testing.TB, n int, url string, options map[string]any) []*tab {
	t.Helper()
	origin := servePages(t)
	tabs := make([]*tab, n)
	for i := range tabs {
		tabs[i] = b.open(t, origin)
		tabs[i].run("listenByHelper", url, options)
		tabs[i].waitOpen()
	}
	return tabs
}

// wantNumbers: every tab gets the numbers up to n, each once and in order.
func wantNumbers(t testing.TB, tabs []*tab, n int) {
	t.Helper()
	for _, p := range tabs {
		for i := range n {
			p.want(strconv.Itoa(i))
		}
	}
	for _, p := range tabs {
		p.wantNoMore()
	}
}

// browserTabsShareAStream: over HTTP/1.1 a browser opens six connections to a host. Seven
// tabs take one, and a request of the page goes through beside them.
func browserTabsShareAStream(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r)
	tabs := b.openShared(t, 7, streamURL(in.public, "a"), map[string]any{})
	require.EqualValues(t, 1, in.metric("ssed_streams"))
	for i := range 10 {
		publish(t, r, "a", strconv.Itoa(i))
	}
	wantNumbers(t, tabs, 10)
	status, err := chromedp.Run(tabs[6].ctx, chromedp.Evaluate[int](
		`fetch("http://`+in.public+`/health", {mode: "no-cors"}).then(() => 1)`, chromedp.EvalAwaitPromise))
	require.NoError(t, err)
	require.Equal(t, 1, status)
	require.EqualValues(t, 1, in.metric("ssed_streams"))
}

func browserTabsGoOnWhenTheLeaderIsKilled(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r)
	tabs := b.openShared(t, 4, streamURL(in.public, "a"), map[string]any{})
	numbers := startNumbers(t, r, 2*time.Millisecond, "a")
	for len(tabs) > 1 {
		last := tabs[len(tabs)-1]
		target := last.received() + 100
		eventually(t, "numbers under way", func() bool { return last.received() >= target })
		tabs[0].kill()
		tabs = tabs[1:]
		target = last.received() + 200
		eventually(t, "numbers after the kill", func() bool { return last.received() >= target })
	}
	wantNumbers(t, tabs, numbers.stop())
	in.waitStreams(1)
	tested.add("ssed.js in tabs", "the leading tab killed three times, nothing lost or twice")
}

// browserTabsGoOnWhenTheLeaderIsFrozen: a frozen tab keeps the lock. When it goes on, it
// gets what the others got, and follows.
func browserTabsGoOnWhenTheLeaderIsFrozen(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r, "--heartbeat", "1s")
	tabs := b.openShared(t, 3, streamURL(in.public, "a"), map[string]any{"silence": 2000})
	publish(t, r, "a", "0")
	for _, p := range tabs {
		p.want("0")
	}
	call(tabs[0], cdppage.SetWebLifecycleState, cdppage.SetWebLifecycleStateParams{State: cdppage.SetWebLifecycleStateStateFrozen})
	publish(t, r, "a", "1")
	for _, p := range tabs[1:] {
		p.want("1")
	}
	call(tabs[0], cdppage.SetWebLifecycleState, cdppage.SetWebLifecycleStateParams{State: cdppage.SetWebLifecycleStateStateActive})
	publish(t, r, "a", "2")
	tabs[0].want("1", "2")
	for _, p := range tabs[1:] {
		p.want("2")
	}
	in.waitStreams(1)
	for _, p := range tabs {
		p.wantNoMore()
	}
}

// browserReloadedTabsCatchUp: a tab that was reloaded is behind the others. It reads what it
// missed by itself, then shares their stream again.
func browserReloadedTabsCatchUp(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r)
	origin := servePages(t)
	tabs := []*tab{b.open(t, origin), b.open(t, origin)}
	for _, p := range tabs {
		p.run("listenFromLastID", streamURL(in.public, "a"))
		p.waitOpen()
	}
	for i := range 3 {
		publish(t, r, "a", strconv.Itoa(i))
	}
	wantNumbers(t, tabs, 3)
	p := tabs[1]
	p.navigate("about:blank")
	for i := range 3 {
		publish(t, r, "a", "missed "+strconv.Itoa(i))
	}
	tabs[0].want("missed 0", "missed 1", "missed 2")
	p.navigate(origin + "/")
	p.run("listenFromLastID", streamURL(in.public, "a"))
	p.want("missed 0", "missed 1", "missed 2")
	in.waitStreams(1)
	publish(t, r, "a", "to both")
	for _, p := range tabs {
		p.want("to both")
		p.wantNoMore()
	}
}
