package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// openBody opens a stream and reads its first line.
func openBody(t testing.TB, in *instance, query string) (*http.Response, *bufio.Reader) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, in.public+"/sse/connect?"+query, nil)
	require.NoError(t, err)
	resp, err := httpClient.Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { _ = resp.Body.Close() })
	r := bufio.NewReader(resp.Body)
	line, err := r.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, "retry: ")
	return resp, r
}

// A client can tell an instance that ends from one that is gone.
func TestStreamInChunksEndsOnPurposeOnly(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	f := func(end func(in *instance), chunked bool, want error, flags ...string) {
		t.Helper()
		in := startRedis(t, r, flags...)
		resp, body := openBody(t, in, "channel_id=a")
		require.Equal(t, chunked, len(resp.TransferEncoding) > 0)
		end(in)
		_, err := io.ReadAll(body)
		require.ErrorIs(t, err, want)
	}
	stop := func(in *instance) { in.Signal(syscall.SIGTERM); in.wait() }
	f(stop, true, nil)
	f((*instance).kill, true, io.ErrUnexpectedEOF)
	f(stop, false, nil, "--chunked=off")
	f((*instance).kill, false, nil, "--chunked=off")
}

// TestTellNamesTheChannelOfEachMessage: live, from the ring, and from the history in Redis.
func TestTellNamesTheChannelOfEachMessage(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	one := startRedis(t, r, "--envelope", "json")
	p := newPublisher(t, r)
	const query = "channel_id=a&channel_id=b%0A&tell=channel"
	_, live := openBody(t, one, query)
	event := func(r *bufio.Reader) (id, text string) {
		for {
			line, err := r.ReadString('\n')
			require.NoError(t, err)
			switch value, isID := strings.CutPrefix(line, "id: "); {
			case line == "\n":
				return id, text
			case isID:
				id = strings.TrimSpace(value)
			case !strings.HasPrefix(line, "retry: "):
				text += line
			}
		}
	}
	sent := func() {
		p.publish("a", "first")
		p.publish("b\n", "second")
		p.publish("a", `{"event":"own","data":"third"}`)
	}
	want := func(r *bufio.Reader, texts ...string) (last string) {
		for _, text := range texts {
			id, got := event(r)
			require.Equal(t, text, got)
			last = id
		}
		return last
	}
	sent()
	first := want(live, "event: a\ndata: first\n")
	rest := []string{"event: b%0A\ndata: second\n", "event: own\ndata: third\n"}
	last := want(live, rest...)
	_, ring := openBody(t, one, query+"&last_event_id="+first)
	want(ring, rest...)
	one.written(r, last)
	two := startRedis(t, r, "--envelope", "json")
	_, history := openBody(t, two, query+"&last_event_id="+first)
	want(history, rest...)

	resp, err := httpClient.Get(one.public + "/sse/connect?channel_id=a&tell=all")
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(http.StatusBadRequest, "tell is not channel\n"), fmt.Sprint(resp.StatusCode, string(text)))
}
