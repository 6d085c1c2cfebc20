package admin

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience is how long a test waits for what should happen at once.
const patience = time.Minute

// seatServer serves an API over sockets, by its own listener.
func seatServer(t *testing.T, bodyWait time.Duration) (*httptest.Server, *API) {
	t.Helper()
	h, _ := handler(t, func(cfg *Config) { cfg.MaxMessageBytes = 1 << 20 })
	api := h.(*API)
	api.bodyWait = bodyWait
	s := httptest.NewUnstartedServer(h)
	s.Listener = api.Listener(s.Listener)
	s.Start()
	t.Cleanup(func() { api.Close(); s.Close() })
	return s, api
}

// upload is a request whose body does not end yet.
type upload struct {
	body   *io.PipeWriter
	answer chan int // its status, 0 for none
}

// begin sends a request and a byte of its body; length -1 is one that is not told.
func begin(t *testing.T, s *httptest.Server, path string, length int64) *upload {
	t.Helper()
	r, w := io.Pipe()
	req, err := http.NewRequest(http.MethodPost, s.URL+path, r)
	require.NoError(t, err)
	req.ContentLength = length
	u := &upload{w, make(chan int, 1)}
	go func() {
		resp, err := s.Client().Do(req)
		if err != nil {
			u.answer <- 0
			return
		}
		_ = resp.Body.Close()
		u.answer <- resp.StatusCode
	}()
	t.Cleanup(func() { _ = w.CloseWithError(net.ErrClosed) })
	_, err = w.Write([]byte(" "))
	require.NoError(t, err)
	return u
}

func (u *upload) status(t *testing.T) int {
	t.Helper()
	select {
	case status := <-u.answer:
		return status
	case <-time.After(patience):
		t.Fatal("no answer")
		return 0
	}
}

// fill takes all seats for bodies, by every way in.
func fill(t *testing.T, s *httptest.Server, api *API) (held []*upload) {
	t.Helper()
	paths := []string{"/publish?channel_id=a", "/api/send", "/api/batch"}
	for i := range maxBodies {
		length := int64(-1) // not told: it may be large
		if i%2 == 0 {
			length = smallBody + 1
		}
		held = append(held, begin(t, s, paths[i%len(paths)], length))
	}
	require.Eventually(t, func() bool { return api.Counts().Bodies == maxBodies }, patience, 5*time.Millisecond)
	return held
}

func TestLargeBodiesThatAreHeldAreBounded(t *testing.T) {
	s, api := seatServer(t, time.Millisecond)
	held := fill(t, s, api)
	resp, err := s.Client().Post(s.URL+"/api/batch", "", strings.NewReader(strings.Repeat("\n", smallBody+1)))
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 503, resp.StatusCode)
	require.NotEmpty(t, resp.Header.Get("Retry-After"))
	require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
	require.EqualValues(t, 1, api.Counts().BodiesRefused)

	resp, err = s.Client().Post(s.URL+"/publish?channel_id=a", "", strings.NewReader(strings.Repeat("x", smallBody)))
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode, "small ones go on")

	for _, u := range held {
		_ = u.body.CloseWithError(net.ErrClosed)
	}
	require.Eventually(t, func() bool { return api.Counts().Bodies == 0 }, patience, 5*time.Millisecond, "seats are given back")
}

func TestBodyWaitsForASeat(t *testing.T) {
	s, api := seatServer(t, patience)
	held := fill(t, s, api)
	late := begin(t, s, "/publish?channel_id=a", -1)
	require.NoError(t, late.body.Close())
	require.NoError(t, held[3].body.Close()) // POST /publish, of no told length
	require.Equal(t, 200, held[3].status(t))
	require.Equal(t, 200, late.status(t))
	require.Zero(t, api.Counts().BodiesRefused)
}

func TestCloseEndsTheWaitForASeat(t *testing.T) {
	s, api := seatServer(t, time.Hour)
	fill(t, s, api)
	late := begin(t, s, "/api/batch", -1)
	api.Close()
	require.Equal(t, 503, late.status(t))
}

// ready asks on a connection of its own, and tells whether there was an answer.
func ready(c net.Conn) bool {
	_, _ = fmt.Fprint(c, "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n") // the answer tells
	_ = c.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, len("HTTP/1.1 200"))
	_, err := io.ReadFull(c, got)
	return err == nil && string(got) == "HTTP/1.1 200"
}

func TestConnectionsBeyondTheBoundAreClosedAtOnce(t *testing.T) {
	s, api := seatServer(t, time.Millisecond)
	dial := func() net.Conn {
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	var open []net.Conn
	for range maxConnections {
		open = append(open, dial())
	}
	require.True(t, ready(open[maxConnections-1]), "the last one that fits")
	require.False(t, ready(dial()))
	require.Equal(t, Counts{Connections: maxConnections, ConnectionsRefused: 1}, api.Counts())
	require.NoError(t, open[0].Close())
	require.Eventually(t, func() bool { return api.Counts().Connections == maxConnections-1 }, patience, 5*time.Millisecond)
	require.True(t, ready(dial()), "there is room again")
}
