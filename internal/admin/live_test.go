package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// liveServer serves an API over sockets. Gaps may be set at any time.
type liveServer struct {
	*httptest.Server
	api *API

	mu   sync.Mutex
	gaps []Gap // guarded by mu
}

func newLiveServer(t *testing.T) *liveServer {
	t.Helper()
	s := new(liveServer)
	h, _ := handler(t, func(cfg *Config) {
		cfg.Stats = func() Stats { return Stats{Instance: "one", Streams: 7} }
		cfg.Gaps = func() []Gap {
			s.mu.Lock()
			defer s.mu.Unlock()
			return append([]Gap{}, s.gaps...)
		}
	})
	s.api = h.(*API)
	s.Server = httptest.NewServer(h)
	t.Cleanup(func() { s.api.Close(); s.Close() })
	return s
}

func (s *liveServer) happened(g Gap) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gaps = append([]Gap{g}, s.gaps...)
}

// grow makes the newest gap concern one stream more.
func (s *liveServer) grow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gaps[0].Streams++
}

// watch opens GET /api/live.
func (s *liveServer) watch(t *testing.T) (*bufio.Reader, *http.Response) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/api/live", nil)
	require.NoError(t, err)
	resp, err := s.Client().Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { resp.Body.Close() })
	return bufio.NewReader(resp.Body), resp
}

// event reads one event.
func event(t *testing.T, r *bufio.Reader) (name, data string) {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		require.NoError(t, err)
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch field {
		case "event":
			name = value
		case "data":
			data = value
		case "":
			return name, data
		}
	}
}

func TestLiveBeginsAtOnceAndTellsNewGapsOnly(t *testing.T) {
	s := newLiveServer(t)
	before := Gap{At: time.Now().Add(-time.Minute), Channel: "old", Reason: "outage", Streams: 3}
	s.happened(before)
	r, resp := s.watch(t)
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
	name, data := event(t, r)
	require.Equal(t, "stats", name)
	var stats Stats
	require.NoError(t, json.Unmarshal([]byte(data), &stats))
	require.EqualValues(t, 7, stats.Streams)

	s.happened(Gap{At: time.Now(), Channel: "a", Reason: "trimmed", Streams: 1})
	s.happened(Gap{At: time.Now().Add(time.Microsecond), Channel: "b", Reason: "outage", Live: true, Streams: 2})
	var gaps []Gap
	for events := 0; len(gaps) < 2; events++ {
		require.Less(t, events, 20, "the gaps do not come")
		name, data := event(t, r)
		if name == "stats" {
			continue
		}
		require.Equal(t, "gap", name)
		var g Gap
		require.NoError(t, json.Unmarshal([]byte(data), &g))
		gaps = append(gaps, g)
	}
	require.Equal(t, "a", gaps[0].Channel, "oldest first")
	require.Equal(t, "b", gaps[1].Channel)
	name, _ = event(t, r)
	require.Equal(t, "stats", name, "each gap once")

	s.grow()
	for name != "gap" {
		name, data = event(t, r)
	}
	require.Contains(t, data, `"channel":"b"`)
	require.Contains(t, data, `"streams":3`)
}

func TestLiveEndsWithClose(t *testing.T) {
	s := newLiveServer(t)
	r, _ := s.watch(t)
	event(t, r)
	s.api.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, s.Config.Shutdown(ctx))
	_, err := r.ReadString(0)
	require.Error(t, err)
}

func TestLiveStreamsAreBounded(t *testing.T) {
	s := newLiveServer(t)
	for range maxLive {
		r, resp := s.watch(t)
		require.Equal(t, 200, resp.StatusCode)
		event(t, r)
	}
	_, resp := s.watch(t)
	require.Equal(t, 503, resp.StatusCode)
	require.NotEmpty(t, resp.Header.Get("Retry-After"))
	require.Equal(t, "application/json", resp.Header.Get("Content-Type"))

	require.Equal(t, Counts{Live: maxLive, LiveRefused: 1}, s.api.Counts())
	s.CloseClientConnections()
	require.Eventually(t, func() bool { return len(s.api.liveSeats) == 0 }, time.Minute, 5*time.Millisecond, "places are given back")
	_, resp = s.watch(t)
	require.Equal(t, 200, resp.StatusCode)
}

// TestLiveGivesUpClientsThatTakeNothing: a frozen laptop must not hold a place for ever.
func TestLiveGivesUpClientsThatTakeNothing(t *testing.T) {
	h, _ := handler(t, func(cfg *Config) {
		cfg.Gaps = func() []Gap { return nil }
		cfg.Stats = func() Stats { return Stats{Reason: strings.Repeat("x", 8<<20)} } // more than sockets hold
	})
	api := h.(*API)
	api.liveWait = 200 * time.Millisecond
	s := httptest.NewServer(h)
	defer s.Close()
	c, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write([]byte("GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n"))
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.NoError(t, err, "it began")
	require.Eventually(t, func() bool { return len(api.liveSeats) == 0 }, time.Minute, 5*time.Millisecond)
}
