package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// message is what an EventSource dispatches.
type message struct{ kind, id, data string }

// eventStream is a client that reads as a browser does.
type eventStream struct {
	t      testing.TB
	cancel context.CancelFunc

	messages chan message // closed at the end of the stream
	retry    atomic.Int64 // ms; -1: none came
	lastID   string       // of the last message taken by next
	place    string       // from where a browser would go on; set before messages is closed
}

// connect opens a stream for channels that goes on from lastID ("": from now).
func connect(t testing.TB, in *instance, lastID string, channels ...string) *eventStream {
	t.Helper()
	s, resp, err := tryConnect(t, in, lastID, channels...)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, "text/event-stream; charset=utf-8", resp.Header.Get("Content-Type"))
	return s
}

func tryConnect(t testing.TB, in *instance, lastID string, channels ...string) (*eventStream, *http.Response, error) {
	t.Helper()
	return tryConnectAs(t, in, "", lastID, channels...)
}

// tryConnectAs is tryConnect with a token ("": none).
func tryConnectAs(t testing.TB, in *instance, token, lastID string, channels ...string) (*eventStream, *http.Response, error) {
	t.Helper()
	query := url.Values{"channel_id": channels}
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, "GET", in.public+"/sse/connect?"+query.Encode(), nil)
	require.NoError(t, err)
	req.Header.Set("Accept", "text/event-stream")
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	s := &eventStream{t: t, cancel: cancel, messages: make(chan message, 256), lastID: lastID}
	s.retry.Store(-1)
	go s.read(ctx, resp.Body)
	t.Cleanup(s.close)
	return s, resp, nil
}

// close leaves the stream.
func (s *eventStream) close() {
	s.cancel()
	for range s.messages {
	}
}

func (s *eventStream) read(ctx context.Context, body io.ReadCloser) {
	defer close(s.messages)
	defer body.Close()
	var decoder sseproto.Decoder
	storeRetry := func() {
		if wait, ok := decoder.Retry(); ok {
			s.retry.Store(wait.Milliseconds())
		}
	}
	decoder.OnEvent = func(id, kind, data []byte) {
		storeRetry() // before the message, so that who has it sees the retry time of its block
		select {
		case s.messages <- message{string(kind), string(id), string(data)}:
		case <-ctx.Done():
		}
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			_, _ = decoder.Write(buf[:n]) // no bound, so no error
			storeRetry()
		}
		if err != nil {
			s.place = string(decoder.LastEventID())
			return
		}
	}
}

// next returns the next message; false: the stream ended.
func (s *eventStream) next() (message, bool) {
	s.t.Helper()
	select {
	case m, ok := <-s.messages:
		if ok {
			s.lastID = m.id
		}
		return m, ok
	case <-time.After(patience):
		s.t.Fatal("no message came")
		return message{}, false
	}
}

// want takes the next messages, which must be of type message with these data.
func (s *eventStream) want(data ...string) {
	s.t.Helper()
	for _, d := range data {
		m, ok := s.next()
		require.True(s.t, ok, "the stream ended before %.100q", d)
		require.Equal(s.t, sseproto.EventMessage, m.kind, "%+v", m)
		require.Equal(s.t, d, m.data)
	}
}

// wantNumbers takes from, from+1, …, to-1.
func (s *eventStream) wantNumbers(from, to int) {
	s.t.Helper()
	for n := from; n < to; n++ {
		s.want(strconv.Itoa(n))
	}
}

// wantGap takes the next message, which must be a gap event with the reason.
func (s *eventStream) wantGap(reason string) message {
	s.t.Helper()
	m, ok := s.next()
	require.True(s.t, ok)
	require.Equal(s.t, sseproto.EventGap, m.kind, "%+v", m)
	require.Contains(s.t, m.data, fmt.Sprintf("%q:%q", "reason", reason))
	return m
}

// wantEnd waits for the end of the stream, on which nothing more may come.
func (s *eventStream) wantEnd() {
	s.t.Helper()
	m, ok := s.next()
	require.False(s.t, ok, "%+v", m)
}
