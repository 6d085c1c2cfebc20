package follow

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"ssed/internal/outbound"
	"ssed/internal/pipetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve answers the n-th request with the n-th handler, and ends the test's patience
// with the last one.
func serve(t *testing.T, answers ...http.HandlerFunc) (url string, requests *[]*http.Request) {
	t.Helper()
	handler, requests := inTurn(answers...)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL, requests
}

func inTurn(answers ...http.HandlerFunc) (handler http.HandlerFunc, requests *[]*http.Request) {
	requests = new([]*http.Request)
	return func(w http.ResponseWriter, r *http.Request) {
		n := len(*requests)
		*requests = append(*requests, r)
		answers[min(n, len(answers)-1)](w, r)
	}, requests
}

func stream(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		fmt.Fprint(w, text)
	}
}

func status(code int, fields ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(fields); i += 2 {
			w.Header().Set(fields[i], fields[i+1])
		}
		w.WriteHeader(code)
		if code != http.StatusNoContent {
			fmt.Fprint(w, "because\x1b \n of it")
		}
	}
}

// follow runs until the event with data "last".
func follow(t *testing.T, cfg Config) (events, notes []string, last string, err error) {
	t.Helper()
	return followOver(t, outbound.Transport(headTimeout), cfg)
}

func followOver(t *testing.T, transport *http.Transport, cfg Config) (events, notes []string, last string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cfg.OnEvent = func(id, eventType, data string) {
		events = append(events, id+" "+eventType+" "+data)
		if data == "last" {
			cancel()
		}
	}
	cfg.OnNote = func(text string) { notes = append(notes, text) }
	last, err = run(ctx, cfg, transport)
	return events, notes, last, err
}

func TestComesBackWithTheLastIDUntilTold(t *testing.T) {
	url, requests := serve(t,
		stream("retry: 1\n\nid: 1-1\ndata: a\n\n"),
		status(http.StatusServiceUnavailable),
		stream("retry: 1\n\n"), // a server that is full
		stream("id: 1-2\nevent: t\ndata: b\n\nid: 1-3\ndata: cut off"),
		status(http.StatusTooManyRequests),
		stream("id: 1-4\ndata: last\n\n"),
	)
	events, notes, last, err := follow(t, Config{URL: url, Token: "t0ken", Since: "0-1"})
	require.NoError(t, err)
	require.Equal(t, []string{"1-1 message a", "1-2 t b", "1-4 message last"}, events)
	require.Equal(t, "1-4", last)
	require.Len(t, notes, 5)
	var ids []string
	for _, r := range *requests {
		ids = append(ids, r.Header.Get("Last-Event-ID"))
		require.Equal(t, "Bearer t0ken", r.Header.Get("Authorization"))
		require.Equal(t, "text/event-stream", r.Header.Get("Accept"))
	}
	require.Equal(t, []string{"0-1", "1-1", "1-1", "1-1", "1-2", "1-2"}, ids)
}

func TestFollowerGivesUpWhereABrowserWould(t *testing.T) {
	for _, code := range []int{204, 400, 401, 403, 404} {
		url, requests := serve(t, status(code))
		_, _, _, err := follow(t, Config{URL: url})
		refused, ok := errors.AsType[*Refused](err)
		require.True(t, ok, "%v", err)
		require.Contains(t, refused.Status, fmt.Sprint(code))
		require.Len(t, *requests, 1)
		if code != 204 {
			require.Equal(t, "because of it", refused.Text)
		}
	}
	url, _ := serve(t, status(200, "Content-Type", "text/html"))
	_, _, _, err := follow(t, Config{URL: url})
	require.ErrorIs(t, err, errNoStream)
}

func TestFirstConnectionMustSucceedAndErrorsHideTheURL(t *testing.T) {
	server := httptest.NewServer(status(200))
	server.Close()
	_, notes, _, err := follow(t, Config{URL: server.URL + "/?key=s3cret"})
	require.ErrorContains(t, err, "connection refused")
	require.NotContains(t, err.Error(), "s3cret")
	require.Empty(t, notes)
}

func TestRetryAfterIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handler, _ := inTurn(status(503, "Retry-After", "7"), stream("data: last\n\n"))
		transport := outbound.Transport(headTimeout)
		transport.DialContext = pipetest.Serve(t, handler)
		begin := time.Now()
		_, notes, _, err := followOver(t, transport, Config{URL: "http://127.0.0.1/"})
		require.NoError(t, err)
		require.GreaterOrEqual(t, time.Since(begin), 7*time.Second)
		require.LessOrEqual(t, time.Since(begin), 7*time.Second+7*time.Second/5)
		require.Regexp(t, `503 Service Unavailable: because of it; trying again in [78]`, notes[0])
	})
}

func TestDelayGrowsWithFailuresUpToItsBound(t *testing.T) {
	f := func(told time.Duration, failures int, least time.Duration) {
		t.Helper()
		for range 100 {
			d := delay(told, failures)
			require.GreaterOrEqual(t, d, least)
			require.LessOrEqual(t, d, least+least/5)
		}
	}
	f(time.Second, 0, time.Second)
	f(time.Second, 1, time.Second)
	f(time.Second, 2, 2*time.Second)
	f(time.Second, 4, 8*time.Second)
	f(time.Second, 100, maxRetry)
	f(time.Minute, 3, time.Minute)
	f(0, 0, minRetry) // "retry: 0" must not make a busy loop
	f(0, 100, maxRetry)
}
