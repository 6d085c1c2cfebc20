//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/heapprofiler"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
	"ssed/sseproto"
)

func TestDashboard(t *testing.T) {
	b := startBrowser(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *browser)
	}{
		{"MovesWithTheTraffic", dashboardMoves},
		{"IsLightAndDark", dashboardLightAndDark},
		{"FitsAPhone", dashboardFitsAPhone},
		{"FillsItsTiles", dashboardFillsItsTiles},
		{"ShowsPartitionsWhereThereAreSeveral", dashboardShowsPartitions},
		{"PublishesAndWatches", dashboardPublishesAndWatches},
		{"ShowsAndDeletesHistory", dashboardHistory},
		{"ClosesAConnection", dashboardClosesConnection},
		{"ShowsTextAsText", dashboardShowsText},
		{"ShowsStoredTextAsText", dashboardShowsStoredText},
		{"TellsThatRedisIsGone", dashboardTellsThatRedisIsGone},
		{"ComesBackAfterARestart", dashboardComesBack},
		{"GoesOnWhereAPlannedEndWas", dashboardGoesOn},
		{"TellsWhyThereAreNoNumbers", dashboardTellsWhy},
		{"AsksForTheToken", dashboardAsksForToken},
		{"AsksForTheTokenOfStreams", dashboardAsksForStreamToken},
		{"BeginsWithWhatTheServerRemembers", dashboardRemembers},
		{"HidesWhatEmbeddedHasNot", dashboardEmbedded},
		{"LeavesOutHeartbeats", dashboardLeavesOutHeartbeats},
		{"TellsWhichPortItReaches", dashboardTellsWhichPort},
		{"HoldsTenThousand", dashboardHoldsTenThousand},
		{"HoldsAnHour", dashboardHoldsAnHour},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, b) })
	}
}

// dashboard is the page of an instance in a tab.
type dashboard struct {
	t   *testing.T
	ctx context.Context

	mu         sync.Mutex
	complaints []string        // guarded by mu: what the browser put on its console
	hosts      map[string]bool // guarded by mu: where the page went
}

// openDashboard opens the page at a place of its own, such as "#/connections".
func (b *browser) openDashboard(t *testing.T, origin, place string) *dashboard {
	t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx)
	t.Cleanup(cancel)
	d := &dashboard{t: t, ctx: ctx, hosts: map[string]bool{}}
	require.NoError(t, chromedp.Listen(ctx, d.note))
	require.NoError(t, chromedp.Do(ctx, chromedp.EmulateViewport(1440, 900), chromedp.Navigate(origin+"/"+place)))
	return d
}

// openLive is openDashboard, when the first numbers have come.
func (b *browser) openLive(t *testing.T, in *instance, place string) *dashboard {
	t.Helper()
	d := b.openDashboard(t, "http://"+in.admin, place)
	d.until("live", `$("live").textContent === "live"`)
	return d
}

func (d *dashboard) note(event any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		d.complaints = append(d.complaints, e.ExceptionDetails.Text+" "+e.ExceptionDetails.Exception.Description)
	case *runtime.EventConsoleAPICalled:
		d.complaints = append(d.complaints, "console: "+string(e.Type))
	case *log.EventEntryAdded:
		if e.Entry.Level != log.EntryLevelVerbose { // advice, such as about forms with passwords
			d.complaints = append(d.complaints, e.Entry.Text+" "+e.Entry.URL)
		}
	case *network.EventRequestWillBeSent:
		if place, err := url.Parse(e.Request.URL); err == nil && place.Host != "" {
			d.hosts[place.Host] = true
		}
	}
}

// wantQuiet checks that the browser had nothing to complain of, a violated policy
// for one, and that the page went nowhere else.
func (d *dashboard) wantQuiet(hosts ...string) {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	require.Empty(d.t, d.complaints[:min(5, len(d.complaints))])
	for host := range d.hosts {
		require.Contains(d.t, hosts, host)
	}
}

// tell sends a command of the DevTools protocol.
func tell[P, R any](d *dashboard, command cdp.Command[P, R], params P) R {
	d.t.Helper()
	answer, err := chromedp.Call(d.ctx, command, params)
	require.NoError(d.t, err)
	return answer
}

// ask evaluates an expression in the page.
func ask[T any](d *dashboard, expression string) T {
	d.t.Helper()
	v, err := chromedp.Run(d.ctx, chromedp.Evaluate[T](expression))
	require.NoError(d.t, err, expression)
	return v
}

// run evaluates statements, and waits for what they await.
func (d *dashboard) run(statements string) {
	d.t.Helper()
	_, err := chromedp.Run(d.ctx, chromedp.Evaluate[bool]("(async () => {"+statements+"; return true})()", chromedp.EvalAwaitPromise))
	require.NoError(d.t, err, statements)
}

func (d *dashboard) until(what, condition string) {
	d.t.Helper()
	deadline := time.Now().Add(patience)
	for !ask[bool](d, condition) {
		if time.Now().After(deadline) {
			d.t.Fatalf("not reached: %s\n%s", what, ask[string](d, "document.body.innerText"))
		}
		<-time.After(pollInterval)
	}
}

// untilText waits until the text of an element, which may come to be, contains a text.
func (d *dashboard) untilText(selector, text string) {
	d.t.Helper()
	d.until(fmt.Sprintf("%q in %s", text, selector),
		fmt.Sprintf(`[...document.querySelectorAll(%s)].some((e) => e.textContent.includes(%s))`, quoted(selector), quoted(text)))
}

func (d *dashboard) click(selector string) {
	d.t.Helper()
	require.NoError(d.t, chromedp.Do(d.ctx, chromedp.Click(chromedp.CSS(selector))), selector)
}

func (d *dashboard) fill(selector, text string) {
	d.t.Helper()
	require.NoError(d.t, chromedp.Do(d.ctx, chromedp.SetValue(chromedp.CSS(selector), text)), selector)
}

// quoted is a text as JavaScript writes it.
func quoted(text string) string {
	b, err := json.Marshal(text)
	if err != nil {
		panic(err) // strings always have a JSON form
	}
	return string(b)
}

func channelPlace(channel string) string { return "#/channel/" + url.PathEscape(channel) }

func dashboardMoves(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in, other := startReady(t, r), startReady(t, r)
	for range 5 {
		openStream(t, streamURL(in.public, "news"))
	}
	openStream(t, streamURL(other.public, "news"))
	in.waitStreams(5)
	startNumbers(t, r, 5*time.Millisecond, "news")
	d := b.openLive(t, in, "")
	d.until("rates", `live.sample.messages > 1 && live.sample.deliveries > 4 * live.sample.messages && live.sample.bytes > 0`)
	d.until("lag", `live.sample.p99 > 0 && live.sample.p99 >= live.sample.p50`)
	d.until("streams", `document.querySelector("#tiles .tile:nth-child(2) .value").textContent === "5"`)
	d.until("lines", `[...document.querySelectorAll(".plot")].every((p) => /^M[\d.]+ [\d.]+L/.test(p.querySelector(".line").getAttribute("d")))`)
	d.untilText("#top tbody tr", "news")
	d.untilText("#top tbody td", "5")
	d.until("the fleet", `document.querySelectorAll("#fleet tbody tr").length === 2`)
	d.untilText("#fleet-sum", "6 streams")
	require.Empty(t, ask[string](d, `$("plots-time").textContent`))
	require.NoError(t, chromedp.Do(d.ctx, chromedp.Focus(chromedp.CSS(".plot:nth-child(3)")), chromedp.KeyEvent(kb.ArrowLeft)))
	d.until("the time under the cursor", `/^\d\d:\d\d:\d\d$/.test($("plots-time").textContent)`)
	d.click("#plots-table")
	d.until("a table", `document.querySelectorAll("#plots-values tbody tr").length > 0 && $("plots").hidden`)
	d.click("#plots-table")
	openStream(t, streamURL(in.public, "news", "last_event_id", "nonsense"))
	d.untilText("#gaps tbody tr", sseproto.ReasonUnknownID)
	d.until("a mark of the gap in every plot", `[...document.querySelectorAll(".plot")].every((p) => p.querySelector(".gap-mark"))`)
	d.wantQuiet(in.admin)
}

func dashboardLightAndDark(t *testing.T, b *browser) {
	in := start(t)
	d := b.openLive(t, in, "")
	scheme := func(name string) {
		tell(d, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}},
		})
	}
	ground := func() string { return ask[string](d, `getComputedStyle(document.body).backgroundColor`) }
	scheme("light")
	light := ground()
	scheme("dark")
	dark := ground()
	require.NotEqual(t, light, dark)
	d.click("#theme")
	require.Equal(t, light, ground(), "chosen, whatever the system says")
	require.NoError(t, chromedp.Do(d.ctx, chromedp.Reload()))
	require.Equal(t, light, ground(), "kept")
	scheme("light")
	d.click("#theme")
	require.Equal(t, dark, ground())
	d.wantQuiet(in.admin)
}

func dashboardFitsAPhone(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r)
	channel := strings.Repeat("long-name:", 20)
	openStream(t, streamURL(in.public, channel))
	in.waitStreams(1)
	publish(t, r, channel, strings.Repeat("x", 500))
	d := b.openLive(t, in, "")
	require.NoError(t, chromedp.Do(d.ctx, chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile)))
	fits := func() {
		t.Helper()
		require.LessOrEqual(t, ask[int](d, `document.documentElement.scrollWidth`), 390)
	}
	d.untilText("#top tbody tr", channel)
	fits()
	d.run(`location.hash = "#/connections"`)
	d.untilText("#all-list tbody tr", channel)
	fits()
	d.run("location.hash = " + quoted(channelPlace(channel)))
	d.untilText("#channel-connections tbody tr", channel)
	d.untilText("#history tbody tr", "xxx")
	fits()
	d.wantQuiet(in.admin, in.public)
}

// dashboardFillsItsTiles: a row that is not full shows the colour of the lines between them.
func dashboardFillsItsTiles(t *testing.T, b *browser) {
	for _, in := range []*instance{startReady(t, redistest.Start(t)), start(t)} {
		d := b.openLive(t, in, "")
		for _, place := range []string{"#/", channelPlace("user123")} {
			d.run("location.hash = " + quoted(place))
			for _, width := range []int64{1280, 1000, 700, 390} {
				require.NoError(t, chromedp.Do(d.ctx, chromedp.EmulateViewport(width, 844)))
				d.until(fmt.Sprintf("tiles that fill their rows at %s, %d wide", place, width), `(() => {
					const grid = [...document.querySelectorAll(".tiles")].find((e) => e.offsetParent !== null);
					const tiles = [...grid.children].filter((e) => e.offsetParent !== null).map((e) => e.getBoundingClientRect());
					const right = grid.getBoundingClientRect().right - 2; // less its border
					return tiles.length >= 5 && tiles.every((tile, i) => tile.right > right || tiles[i + 1]?.top === tile.top);
				})()`)
			}
		}
	}
}

func dashboardShowsPartitions(t *testing.T, b *browser) {
	r := redistest.Start(t)
	one := b.openLive(t, startReady(t, redistest.Start(t)), "")
	in := start(t, "--redis-url", r.URL(), "--feed", "sharded", "--partitions", "3", "--instance", "only")
	in.waitReady()
	d := b.openLive(t, in, "")
	d.untilText("#partitions-sum", "3 of 3 up")
	d.until("who leads and writes each", `(() => {
		const rows = [...document.querySelectorAll("#partitions tbody tr")].map((tr) => [...tr.cells].map((td) => td.textContent));
		return rows.length === 3 && rows.every((cells, q) => cells[0] === String(q) && cells[1] === `+quoted(r.Addr())+` && cells[2] === "up" && cells[4] === "only" && cells[5] === "only");
	})()`)
	require.True(t, ask[bool](d, `document.getElementById("partitions-panel").offsetParent !== null`))
	one.untilText("#partitions-sum", "1 of 1 up")
	require.False(t, ask[bool](one, `document.getElementById("partitions-panel").offsetParent !== null`))
}

func dashboardPublishesAndWatches(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in, other := startReady(t, r), startReady(t, r)
	const channel = "orders/ü 1%"
	s := openStream(t, streamURL(other.public, channel))
	other.waitStreams(1)
	d := b.openLive(t, in, "")
	require.NoError(t, chromedp.Do(d.ctx, chromedp.KeyEvent("/")))
	require.Equal(t, "open-name", ask[string](d, `document.activeElement.id`))
	d.fill("#open-name", channel)
	require.NoError(t, chromedp.Do(d.ctx, chromedp.KeyEvent(kb.Enter)))
	d.untilText("#channel-name", channel)
	d.untilText("#watch-state", "watching")
	d.untilText("#channel-tiles .tile:nth-child(1) .value", "1")
	d.untilText("#channel-tiles .tile:nth-child(2) .value", "2")
	d.untilText("#channel-tiles .tile:nth-child(2) .sub", "on 2 instances")
	d.fill("#publish-data", "from the page")
	d.click("#publish .primary")
	d.untilText("#publish-answer", "published as ")
	s.want("from the page")
	d.untilText("#watch-list pre", "from the page")
	publish(t, r, channel, "from Redis")
	d.untilText("#watch-list li:first-child pre", "from Redis")
	s.want("from Redis")
	d.untilText("#history tbody tr:first-child", "from Redis")
	d.click("#watch-toggle")
	in.waitStreams(0)
	d.wantQuiet(in.admin, in.public)
}

func dashboardHistory(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r)
	const kept = 70 // two pages
	for i := range kept {
		publish(t, r, "a", "message "+strconv.Itoa(i))
	}
	d := b.openLive(t, in, channelPlace("a"))
	rows := func(n int, first string) {
		t.Helper()
		d.until(fmt.Sprintf("%d entries from %s", n, first), fmt.Sprintf(
			`document.querySelectorAll("#history tbody tr").length === %d && document.querySelector("#history tbody tr td:last-child").textContent === %s`, n, quoted(first)))
	}
	rows(50, "message 69")
	d.click("#history-pager button:nth-of-type(2)")
	rows(kept-50, "message 19")
	d.click("#history-pager button:nth-of-type(1)")
	rows(50, "message 69")
	publish(t, r, "a", "one more")
	rows(50, "one more")
	length := func() any {
		n, err := r.Do("XLEN", "sse:stream:a")
		require.NoError(t, err)
		return n
	}
	d.click("#history-delete")
	d.click("#confirm button[value=cancel]")
	d.until("no dialog", `!$("confirm").open`)
	require.EqualValues(t, kept+1, length())
	// The question comes again before the browser has told that the dialog was closed.
	d.run(`$("history-delete").click(); document.querySelector("#confirm button[value=cancel]").click(); $("history-delete").click()`)
	d.click("#confirm-ok")
	d.untilText("#history .empty:not([hidden])", "No history")
	require.EqualValues(t, 0, length())
	d.wantQuiet(in.admin, in.public)
}

func dashboardClosesConnection(t *testing.T, b *browser) {
	r := redistest.Start(t)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-SSE-Subject", "%3Cb%3EJ%C3%B6rg")
	}))
	t.Cleanup(service.Close)
	in := startReady(t, r, "--auth-url", service.URL)
	s := openStreamBy(t, clientFrom(clientAddress), streamURL(in.public, "a"), nil)
	stays := openStream(t, streamURL(in.public, "a"))
	in.waitStreams(2)
	d := b.openLive(t, in, "#/connections")
	button := fmt.Sprintf(`[aria-label^="Close the connection of %s"]`, clientAddress)
	d.until("both", `document.querySelectorAll("#all-list tbody tr").length === 2`)
	d.untilText("#all-list tbody tr .tag", "<b>Jörg")
	d.click(button)
	d.untilText("#confirm-text", clientAddress)
	require.NoError(t, chromedp.Do(d.ctx, chromedp.KeyEvent(kb.Escape)))
	d.until("no dialog", `!$("confirm").open`)
	in.waitStreams(2)
	d.click(button)
	d.click("#confirm-ok")
	_ = s.ended() // however
	in.waitStreams(1)
	d.until("one left", `document.querySelectorAll("#all-list tbody tr").length === 1`)
	publish(t, r, "a", "still here")
	stays.want("still here")
	d.wantQuiet(in.admin)
}

// dashboardShowsText: names, types, IDs and data come from anyone.
func dashboardShowsText(t *testing.T, b *browser) {
	const markup = `<img src=x onerror="hacked=1"><script>hacked=1</script>`
	in := start(t)
	in.waitReady()
	openStream(t, streamURL(in.public, markup))
	d := b.openLive(t, in, channelPlace(markup))
	in.waitStreams(2)
	d.untilText("#channel-name", markup)
	d.fill("#publish-data", markup)
	d.fill("#publish-event", markup)
	d.fill("#publish-id", `<img/src=x/onerror=hacked=1>`)
	d.click("#publish .primary")
	d.untilText("#publish-answer", "published as ")
	d.untilText("#watch-list pre", markup)
	d.untilText("#watch-list .tag", markup)
	d.untilText("#watch-list .id", "<img/src")
	d.untilText("#channel-connections tbody tr", markup)
	d.run(`location.hash = "#/connections"`)
	d.untilText("#all-list tbody tr", markup)
	d.run(`location.hash = "#/"`)
	d.untilText("#top tbody tr", markup)
	d.run(`takeGap({at: live.stats.now, channel: ` + quoted(markup) + `, reason: ` + quoted(markup) + `, live: true, streams: 1})`)
	d.untilText("#gaps tbody tr", markup)
	require.False(t, ask[bool](d, `"hacked" in window || document.querySelector("img") !== null || document.scripts.length !== 1`))
	d.wantQuiet(in.admin, in.public)
}

// dashboardShowsStoredText is dashboardShowsText for what went through Redis.
func dashboardShowsStoredText(t *testing.T, b *browser) {
	const markup = `<img src=x onerror="hacked=1"><script>hacked=1</script>`
	r := redistest.Start(t)
	in := startReady(t, r, "--instance", `<img/src=x/onerror=hacked=1>`)
	publish(t, r, markup, markup)
	d := b.openLive(t, in, channelPlace(markup))
	d.untilText("#history tbody td.data", markup)
	d.run(`location.hash = "#/"`)
	d.untilText("#fleet tbody tr", "<img/src")
	require.False(t, ask[bool](d, `"hacked" in window || document.querySelector("img") !== null || document.scripts.length !== 1`))
	d.wantQuiet(in.admin, in.public)
}

func dashboardTellsThatRedisIsGone(t *testing.T, b *browser) {
	r := redistest.Start(t)
	in := startReady(t, r, "--probe-timeout", "500ms")
	d := b.openLive(t, in, channelPlace("a"))
	d.untilText("#history .empty:not([hidden])", "No history")
	r.Stop()
	d.untilText("#live", "not ready")
	d.until("the reason", `!$("trouble").hidden && $("trouble").textContent.includes("redis")`)
	d.click("#publish .primary")
	d.untilText("#publish-answer.bad", "503: ")
	d.untilText("#history .problem", "503: ")
	require.NoError(t, r.Restart())
	d.until("live again", `$("live").textContent === "live" && $("trouble").hidden`)
	d.untilText("#history .empty:not([hidden])", "No history")
}

func dashboardComesBack(t *testing.T, b *browser) {
	flags := []string{"--admin", freeHost(t), "--listen", freeHost(t)}
	in := start(t, flags...)
	d := b.openLive(t, in, channelPlace("a"))
	d.untilText("#watch-state", "watching")
	d.wantQuiet(in.admin, in.public)
	in.Signal(sigterm)
	require.Zero(t, in.wait(t))
	d.untilText("#live", "disconnected")
	d.until("a banner", `!$("trouble").hidden && $("trouble").textContent.startsWith("Disconnected since ")`)
	d.untilText("#watch-state", "reconnecting")
	start(t, flags...)
	d.until("live again", `$("live").textContent === "live" && $("trouble").hidden`)
	d.untilText("#watch-state", "watching")
	d.until("no rates over the restart", `live.samples.every((s) => s.connects === null || s.connects >= 0)`)
	d.fill("#publish-data", "after the restart")
	d.click("#publish .primary")
	d.untilText("#watch-list pre", "after the restart")
}

// dashboardGoesOn: a watch that has not shown a message yet has its position from the
// end of the stream.
func dashboardGoesOn(t *testing.T, b *browser) {
	r := redistest.Start(t)
	startReady(t, r) // to publish to meanwhile
	flags := []string{"--admin", freeHost(t), "--listen", freeHost(t)}
	in := startReady(t, r, flags...)
	d := b.openLive(t, in, channelPlace("a"))
	d.untilText("#watch-state", "watching")
	in.Signal(sigterm)
	require.Zero(t, in.wait(t))
	d.untilText("#watch-state", "reconnecting")
	publish(t, r, "a", "while it was away")
	startReady(t, r, flags...)
	d.untilText("#watch-list pre", "while it was away")
}

// dashboardTellsWhy: an EventSource hides what the server says when it refuses.
func dashboardTellsWhy(t *testing.T, b *browser) {
	const seats = 32
	in := start(t)
	var watching []*http.Response
	for range seats {
		resp, err := httpClient.Get("http://" + in.admin + "/api/live")
		require.NoError(t, err)
		t.Cleanup(func() { resp.Body.Close() })
		require.Equal(t, http.StatusOK, resp.StatusCode)
		watching = append(watching, resp)
	}
	d := b.openDashboard(t, "http://"+in.admin, "")
	d.untilText("#trouble", "503: 32 live streams are open already")
	require.NoError(t, watching[0].Body.Close())
	d.until("live", `$("live").textContent === "live" && $("trouble").hidden`)
}

func dashboardAsksForToken(t *testing.T, b *browser) {
	const token = "0123456789abcdef"
	in := start(t, "--admin-token", token)
	d := b.openDashboard(t, "http://operator:"+token+"@"+in.admin, channelPlace("a"))
	d.until("live", `$("live").textContent === "live"`)
	d.untilText("#watch-state", "watching")
	d.click("#publish .primary")
	d.untilText("#watch-list pre", "Hello!")
	d.wantQuiet(in.admin, in.public)
}

func dashboardAsksForStreamToken(t *testing.T, b *browser) {
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte(strings.Repeat("s", 32)), 0o600))
	in := start(t, "--auth", "jwt", "--auth-jwt-secret-file", secret)
	d := b.openLive(t, in, channelPlace("a"))
	d.untilText("#watch-list .note", "401")
	d.until("the field has the focus", `document.activeElement === $("watch-token") && $("watch-token").offsetParent !== null`)
}

func dashboardRemembers(t *testing.T, b *browser) {
	in := start(t)
	require.Eventually(t, func() bool {
		resp, err := httpClient.Get("http://" + in.admin + "/api/stats/recent")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		var kept struct{ Stats []json.RawMessage }
		return json.NewDecoder(resp.Body).Decode(&kept) == nil && len(kept.Stats) > 1
	}, time.Minute, 100*time.Millisecond)
	d := b.openLive(t, in, "")
	require.Less(t, ask[int](d, `Math.round(live.samples[0].at - performance.timeOrigin)`), -2000, "before the page was opened")
	d.wantQuiet(in.admin, in.public)
}

func dashboardEmbedded(t *testing.T, b *browser) {
	in := start(t, "--policy=user*=slow:latest")
	d := b.openLive(t, in, "")
	d.untilText("#top .empty:not([hidden])", "No channel")
	d.untilText("#gaps .empty:not([hidden])", "No client")
	shown := func(selector string) int {
		t.Helper()
		return ask[int](d, `[...document.querySelectorAll(`+quoted(selector)+`)].filter((e) => e.offsetParent !== null).length`)
	}
	require.Equal(t, 10, shown("#tiles .tile"))
	require.Equal(t, 1, shown("#top"))
	require.Zero(t, shown("#fleet"))
	d.click("#top .empty a")
	d.untilText("#channel-name", "user123")
	d.untilText("#watch-state", "watching")
	d.untilText("#channel-tiles .sub", "this instance") // set at least once
	require.Equal(t, 5, shown("#channel-tiles .tile"))
	d.untilText("#channel-tiles .tile:nth-child(6) .value", "user*")
	d.untilText("#channel-tiles .tile:nth-child(6) .sub", "slow:latest")
	require.Zero(t, shown("#history"))
	d.click("#publish .primary")
	d.untilText("#watch-list pre", "Hello!")
	d.run(`location.hash = "#/"`)
	resp, err := httpClient.Post("http://"+in.admin+"/publish?channel_id=user123", "text/plain", strings.NewReader("while nobody watched"))
	require.NoError(t, err)
	resp.Body.Close()
	d.run("location.hash = " + quoted(channelPlace("user123")))
	d.untilText("#watch-list pre", "while nobody watched")
	d.wantQuiet(in.admin, in.public)
}

func dashboardLeavesOutHeartbeats(t *testing.T, b *browser) {
	in := start(t, "--heartbeat", "1s", "--heartbeat-event", "ping")
	d := b.openLive(t, in, channelPlace("a"))
	d.untilText("#watch-state", "watching")
	beats := in.metric("ssed_stream_heartbeats_total")
	eventually(t, "heartbeats", func() bool { return in.metric("ssed_stream_heartbeats_total") >= beats+2 })
	d.click("#publish .primary")
	d.untilText("#watch-count", "1 event")
	require.Equal(t, 1, ask[int](d, `document.querySelectorAll("#watch-list li").length`))
}

// dashboardTellsWhichPort: the policy of the page stops requests elsewhere without a word
// to the page.
func dashboardTellsWhichPort(t *testing.T, b *browser) {
	in := start(t)
	d := b.openLive(t, in, channelPlace("a"))
	d.untilText("#watch-state", "watching")
	_, port, err := net.SplitHostPort(in.public)
	require.NoError(t, err)
	d.fill("#watch-address", "http://127.0.0.1:9/sse/connect")
	d.run(`$("watch-options").requestSubmit()`)
	d.untilText("#watch-state", "this page can reach port "+port+" only")
	d.fill("#watch-address", "http://"+in.public+"/sse/connect")
	d.run(`$("watch-options").requestSubmit()`)
	d.untilText("#watch-state", "watching")
	d.wantQuiet(in.admin, in.public)
}

// holdStreams opens streams, each of a channel of its own, that nobody reads.
func holdStreams(t *testing.T, host string, n int) {
	t.Helper()
	const dialers = 50
	connections := make([]net.Conn, n)
	t.Cleanup(func() {
		for _, c := range connections {
			if c != nil {
				c.Close()
			}
		}
	})
	errs := make([]error, dialers)
	var wg sync.WaitGroup
	for d := range dialers {
		wg.Go(func() {
			for i := d; i < n && errs[d] == nil; i += dialers {
				if connections[i], errs[d] = net.Dial("tcp", host); errs[d] == nil {
					_, errs[d] = fmt.Fprintf(connections[i], "GET /sse/connect?channel_id=c%d HTTP/1.1\r\nHost: x\r\n\r\n", i)
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
}

func dashboardHoldsTenThousand(t *testing.T, b *browser) {
	const streams = 10_000
	in := start(t)
	holdStreams(t, in.public, streams)
	in.waitStreams(streams)
	d := b.openLive(t, in, "")
	d.run(`window.longest = 0; new PerformanceObserver((l) => { for (const e of l.getEntries()) longest = Math.max(longest, e.duration) }).observe({type: "longtask"})`)
	var lines strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&lines, "{\"channel_id\":\"c%d\",\"data\":\"x\"}\n", i)
	}
	resp, err := httpClient.Post("http://"+in.admin+"/api/batch", "application/x-ndjson", strings.NewReader(lines.String()))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
	d.until("the tile", `document.querySelector("#tiles .tile:nth-child(2) .value").textContent === "10,000"`)
	d.until("top channels", `document.querySelectorAll("#top tbody tr").length === 50`)
	d.until("some seconds", `live.samples.length > 5`)
	d.run(`location.hash = "#/connections"`)
	seen := map[string]bool{}
	for page := range 5 {
		d.untilText("#all-pager", "page "+strconv.Itoa(page+1))
		d.until("a page of connections", `document.querySelectorAll("#all-list tbody tr").length === 100`)
		for _, channel := range ask[[]string](d, `[...document.querySelectorAll("#all-list tbody td:nth-child(2)")].map((e) => e.textContent)`) {
			seen[channel] = true
		}
		d.click("#all-pager button:last-child")
	}
	require.Len(t, seen, 500, "each connection on one page")
	require.Less(t, ask[float64](d, "longest"), 1000.0, "milliseconds in which the page did not answer")
	d.wantQuiet(in.admin)
}

// dashboardHoldsAnHour puts the numbers of an hour, its gaps and a busy watch through
// the page.
func dashboardHoldsAnHour(t *testing.T, b *browser) {
	in := start(t)
	d := b.openLive(t, in, channelPlace("a"))
	d.untilText("#watch-state", "watching")
	d.run(`
		live.source.close();
		window.now = Date.parse(live.stats.now);
		window.pass = async (seconds) => {
			for (let i = 0; i < seconds; i++) {
				const stats = structuredClone(live.stats);
				stats.now = new Date(now += 1000).toISOString();
				stats.uptime_seconds += 1;
				stats.totals.messages += 100 + i % 7;
				takeStats(stats);
				takeGap({at: stats.now, channel: "c" + i, reason: "trimmed", live: false, streams: 1});
				for (let n = 0; n < 20; n++) noteEvent({id: now + "-" + n, type: "message", data: "x".repeat(n === 0 ? 30_000 : 100)});
				if (i % 60 === 0) {
					drawWatch();
					window.rows = Math.max(window.rows ?? 0, $("watch-list").childElementCount);
					location.hash = i % 120 === 0 ? "#/" : "#/channel/a";
					await new Promise(requestAnimationFrame);
				}
			}
			clearWatch();
			location.hash = "#/";
			await new Promise(requestAnimationFrame);
		}`)
	measure := func() (heap float64, nodes int) {
		tell(d, heapprofiler.CollectGarbage, cdp.Empty{})
		usage := tell(d, runtime.GetHeapUsage, cdp.Empty{})
		return usage.UsedSize, ask[int](d, `document.querySelectorAll("*").length`)
	}
	d.run("await pass(1200)")
	heap, nodes := measure()
	d.run("await pass(2400)")
	after, nodesAfter := measure()
	require.InDelta(t, nodes, nodesAfter, 200, "elements on the page")
	require.Less(t, after-heap, float64(1<<20), "bytes that forty minutes added to %.0f", heap)
	require.LessOrEqual(t, ask[int](d, "live.samples.length"), 700)
	require.Equal(t, 200, ask[int](d, "rows"))
	require.Equal(t, 64, ask[int](d, "live.gaps.length"))
	d.wantQuiet(in.admin, in.public)
}
