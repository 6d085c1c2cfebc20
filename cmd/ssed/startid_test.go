package main

import (
	"bufio"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// firstBlock opens a stream, publishes a message when it is there, reads the lines up to
// the first blank one, and leaves.
func firstBlock(t *testing.T, in *instance, publish func(), query string, fields ...string) (lines []string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, in.public+"/sse/connect?channel_id=a"+query, nil)
	require.NoError(t, err)
	for i := 0; i < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	resp, err := httpClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	publish()
	for read := bufio.NewScanner(resp.Body); read.Scan() && read.Text() != ""; {
		lines = append(lines, read.Text())
	}
	return lines
}

// asEventSource is what Chromium sends for a new EventSource, among other fields.
var asEventSource = []string{"Accept", "text/event-stream", "Cache-Control", "no-cache", "Pragma", "no-cache"}

// startOf is the position with which a stream begins.
func startOf(t *testing.T, in *instance, query string, fields ...string) string {
	t.Helper()
	lines := firstBlock(t, in, func() {}, query, fields...)
	require.Len(t, lines, 2)
	id, ok := strings.CutPrefix(lines[1], "id: ")
	require.True(t, ok, "%q", lines)
	return id
}

// Whoever leaves an instance before the first event, and goes to another, misses nothing
// of what was published since the stream was open, however young the fleet is.
func TestNothingIsLostFromOpenOnOverInstances(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	p := newPublisher(t, r)
	one, two := start(t, "--redis-url", r.URL()), start(t, "--redis-url", r.URL())
	for _, in := range []*instance{one, two} {
		in.waitReady()
		id := startOf(t, in, "", asEventSource...)
		p.publish("a", "while away")
		for _, other := range []*instance{one, two} {
			other.waitReady()
			connect(t, other, id, "a").want("while away")
		}
	}
}

// The second instance begins after the ID was given, and may be the one that begins the
// history.
func TestNothingIsLostFromOpenOnWhenTheNextInstanceIsNew(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	p := newPublisher(t, r)
	one := start(t, "--redis-url", r.URL())
	one.waitReady()
	id := startOf(t, one, "", asEventSource...)
	two := start(t, "--redis-url", r.URL())
	p.publish("a", "while away")
	two.waitReady()
	connect(t, two, id, "a").want("while away")
}

// The ID of a client on a quiet channel grows old. A planned end tells a new one to who
// shows nothing for it, so that the next instance need not prove what came in all that time.
func TestPlannedEndRenewsTheIDOfAQuietClient(t *testing.T) {
	in := start(t)
	for query, renewed := range map[string]bool{"": true, "&start=id": true, "&start=none": false} {
		old := startOf(t, in, "", asEventSource...)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, in.public+"/sse/connect?channel_id=a"+query, nil)
		require.NoError(t, err)
		for i := 0; i < len(asEventSource); i += 2 {
			req.Header.Set(asEventSource[i], asEventSource[i+1])
		}
		req.Header.Set("Last-Event-ID", old)
		resp, err := httpClient.Do(req)
		require.NoError(t, err)
		in.publish("noise", "x")
		closeAll(t, in)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		id := regexp.MustCompile(`(?m)^id: (.+)$`).FindStringSubmatch(string(body))
		require.Equal(t, renewed, id != nil, "%s: %q", query, body)
		if renewed {
			require.NotEqual(t, old, id[1])
		}
	}
}

// closeAll lets an operator close the streams of the channel a.
func closeAll(t *testing.T, in *instance) {
	t.Helper()
	in.eventually("one stream", func() bool { return in.metric("ssed_streams") == 1 })
	in.api("DELETE", "/api/connections?channel=a", "", 200, nil)
}

func TestStartIDIsForWhoShowsItNotOrAsks(t *testing.T) {
	plain := []string{"Accept", "text/event-stream"}
	for flag, gets := range map[string]map[string]bool{
		"auto": {"plain": false, "browser": true},
		"on":   {"plain": true, "browser": true},
		"off":  {"plain": false, "browser": false},
	} {
		in := start(t, "--start-id", flag)
		for _, query := range []string{"", "&start=id", "&start=none"} {
			for client, fields := range map[string][]string{"plain": plain, "browser": asEventSource} {
				lines := firstBlock(t, in, func() { in.publish("a", "x") }, query, fields...)
				if query == "&start=id" || query == "" && gets[client] {
					require.Len(t, lines, 2, "%s %s %s: retry and id", flag, query, client)
				} else {
					require.Len(t, lines, 3, "%s %s %s: retry and the message", flag, query, client)
				}
			}
		}
		status, body := in.get(in.public + "/sse/connect?channel_id=a&start=now")
		require.Equal(t, http.StatusBadRequest, status)
		require.Equal(t, "start is neither id nor none\n", body)
	}
}
