package engine

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/front"
	"ssed/engine/internal/wiretest"
	"ssed/sseproto"
)

// dialEngine connects to the first address of an engine.
func dialEngine(t testing.TB, e *Engine) *wiretest.Conn {
	return wiretest.Dial(t, "tcp", e.Addrs()[0].String(), "")
}

// TestStreamOfAPartitionThatDoesNotBeginIsTurnedAway: as by an engine that is not ready, and
// counted like that. The others are served.
func TestStreamOfAPartitionThatDoesNotBeginIsTurnedAway(t *testing.T) {
	t.Parallel()
	notReady := func() (bool, string) { return false, "redis is away" }
	want := func(path string, fields ...string) (status int, header http.Header, body string) {
		s := serveEngine(t, Config{Ready: notReady})
		return s.dial().Send(getStream(path, fields...)).Whole()
	}
	e, f := startParts(t, 2, func(cfg *Config) {
		cfg.HistoryWait = 50 * time.Millisecond
		cfg.Ready, cfg.Takes = notReady, func() (bool, string) { return true, "" }
	}, 1)
	here, away := f[0].channel, f[1].channel
	own := comeBack(t, e, "", here)
	own.startID()
	variants := [][]string{
		{away},
		{away + "&channel_id=" + here},
		{away + "&since=earliest"},
		{away + "&last=3"},
		{away, "Last-Event-ID: nonsense"},
		{away, "Last-Event-ID: " + vector(1, sseproto.ID{Ms: 1000}, sseproto.ID{Ms: 1000})},
	}
	for _, v := range variants {
		for _, accept := range []string{asEventSource, "Accept: */*"} {
			fields := append(v[1:len(v):len(v)], accept, "Origin: http://a")
			wantStatus, wantHeader, wantBody := want(v[0], fields...)
			c := dialEngine(t, e).Send(getStream(v[0], fields...))
			resp := c.Answer(http.MethodGet)
			require.Equal(t, wantStatus, resp.StatusCode, v)
			for _, name := range []string{"Retry-After", "Date"} { // drawn, and the time
				require.Equal(t, wantHeader.Get(name) == "", resp.Header.Get(name) == "", name)
				wantHeader.Del(name)
				resp.Header.Del(name)
			}
			wantHeader.Del("Connection") // it may be kept where nobody has waited
			resp.Header.Del("Connection")
			require.Equal(t, wantHeader, resp.Header)
			if accept == asEventSource {
				c.RequireRetry(2*time.Second, 5*time.Second)
			} else {
				body, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.Equal(t, wantBody, string(body))
			}
			c.RequireEnd()
		}
	}
	stats := e.Stats()
	require.EqualValues(t, 2*len(variants), stats.Front.Refused[front.RefuseNotReady])
	require.EqualValues(t, len(variants), stats.Front.Answered[5])
	require.EqualValues(t, 1, stats.Attached)
	require.Equal(t, [numCloseReasons]uint64{}, stats.Closed)
	// A loop counts them at the end of a pass, when a client may have seen its end already.
	require.Eventually(t, func() bool { return e.Stats().Streams == 1 }, waitLong, pollEvery)
	f[0].publish("a1")
	require.Equal(t, "a1", own.next(1)[0].data)
}

// TestStreamThatComesBackIsServedWhatHasBegun: it has a place in the other one.
func TestStreamThatComesBackIsServedWhatHasBegun(t *testing.T) {
	e, f := startParts(t, 2, func(cfg *Config) { cfg.HistoryWait = time.Millisecond }, 1)
	low := sseproto.ID{Ms: 1000}
	a := f[0].publish("a1")
	c := comeBack(t, e, vector(1, low, low), f[0].channel, f[1].channel)
	require.Equal(t, []event{{vector(0, a, low), "message", "a1"}}, c.next(1))
	f[1].line.OpenSpan(low)
	b := f[1].publish("b1")
	require.Equal(t, []event{{vector(1, a, b), "message", "b1"}}, c.next(1))
}

// TestClientsThatLeaveBeforeAPartitionBeginsAreForgotten.
func TestClientsThatLeaveBeforeAPartitionBeginsAreForgotten(t *testing.T) {
	t.Parallel()
	e, f := startParts(t, 2, func(cfg *Config) { cfg.Shards, cfg.HistoryWait = 1, time.Hour }, 1)
	stays := comeBack(t, e, "", f[1].channel)
	comeAndGo(t, e, func() (leave func()) {
		c := comeBack(t, e, "", f[1].channel)
		return func() { require.NoError(t, c.conn.Close()) }
	})
	require.Less(t, awaiting(e.shards[0]), tableChunk+100)
	f[1].line.OpenSpan(f[1].id())
	f[1].publish("open")
	require.Equal(t, "open", stays.next(1)[0].data)
}

// TestWhoWaitsForAPartitionIsServedWhenItBegins: all that came meanwhile. Who has left is
// forgotten, and at a drain nobody waits.
func TestWhoWaitsForAPartitionIsServedWhenItBegins(t *testing.T) {
	e, f := startParts(t, 3, func(cfg *Config) { cfg.HistoryWait, cfg.Shards = time.Hour, 1 }, 1, 2)
	both := f[1].channel + "&channel_id=" + f[2].channel
	var waiting []*wiretest.Conn
	for range 2 * maxNewcomers {
		waiting = append(waiting, dialEngine(t, e).Send(getStream(f[1].channel)))
	}
	further := dialEngine(t, e).Send(getStream(both))
	eventually(t, func() bool { return e.Stats().Streams == int64(len(waiting)+1) }, "all wait")
	left := waiting[len(waiting)/2:]
	for _, c := range left {
		require.NoError(t, c.Close())
	}
	eventually(t, func() bool { return e.Stats().Streams == int64(len(waiting)-len(left)+1) }, "they have left")
	require.Zero(t, e.Stats().Attached)
	own := comeBack(t, e, "", f[0].channel)
	own.startID()
	f[1].line.OpenSpan(sseproto.ID{Ms: 1000})
	f[1].publish("b1")
	for _, c := range waiting[:len(waiting)-len(left)] {
		require.Equal(t, http.StatusOK, c.Answer(http.MethodGet).StatusCode)
		for line := ""; line != "data: b1\n"; {
			var err error
			line, err = c.R.ReadString('\n')
			require.NoError(t, err)
		}
	}
	stats := e.Stats()
	require.EqualValues(t, len(waiting)-len(left)+1, stats.Attached)
	require.Equal(t, [numCloseReasons]uint64{}, stats.Closed)
	require.Zero(t, stats.Front.Refused[front.RefuseNotReady])
	_ = further // until the engine stops
}
