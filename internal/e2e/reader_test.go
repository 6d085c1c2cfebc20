//go:build e2e

package e2e

import (
	"context"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

const sigterm = syscall.SIGTERM

// stream is one answer, read in the background until it is closed.
type stream struct {
	t      testing.TB
	resp   *http.Response
	cancel context.CancelFunc
	done   chan struct{}
	end    error // why it ended, io.EOF as nil; read after done is closed
	collector

	lock    sync.Mutex
	decoder sseproto.Decoder // guarded by lock
}

// openStream returns when the head of the answer, a 200, has come.
func openStream(t testing.TB, url string) *stream {
	t.Helper()
	return openStreamBy(t, httpClient, url, nil)
}

func openStreamBy(t testing.TB, client *http.Client, url string, header http.Header) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	maps.Copy(req.Header, header)
	req.Header.Set("Accept", "text/event-stream")
	resp, err := client.Do(req)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	s := &stream{t: t, resp: resp, cancel: cancel, done: make(chan struct{})}
	s.decoder.OnEvent = func(id, eventType, data []byte) {
		s.show(event{Event: string(eventType), ID: string(id), Data: string(data)})
	}
	go func() {
		defer close(s.done)
		s.end = copyBody(s, resp)
	}()
	t.Cleanup(s.close)
	return s
}

// Write takes a piece of the body.
func (s *stream) Write(p []byte) (int, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	return s.decoder.Write(p)
}

func (s *stream) comments() uint64 {
	s.lock.Lock()
	defer s.lock.Unlock()
	return s.decoder.Comments()
}

func (s *stream) want(data ...string) {
	s.t.Helper()
	s.collector.want(s.t, data...)
}

// ended waits for the end of the answer. Nil: it ended as answers do.
func (s *stream) ended() error {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(patience):
		s.t.Fatal("the stream goes on")
	}
	return s.end
}

func (s *stream) hasEnded() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

func (s *stream) close() {
	s.cancel()
	<-s.done
}

// copyBody returns why the body ended, nil for an end as answers have it.
func copyBody(to io.Writer, resp *http.Response) error {
	defer resp.Body.Close()
	_, err := io.Copy(to, resp.Body)
	return err
}

// reader is a client that behaves as browsers do: it comes back after the delay that
// the stream told it, with the last ID. Its channel carries the numbers 0, 1, 2, …
type reader struct {
	url     string
	decoder sseproto.Decoder                 // run's
	onEvent func(id, eventType, data []byte) // nil: take

	mu       sync.Mutex // guards what follows
	numbers  []string
	others   []string    // events that are no message
	statuses map[int]int // answers by status, 0 for none
	attempts []time.Time
}

func newReader(host, channel string) *reader {
	return &reader{url: streamURL(host, channel), statuses: map[int]int{}}
}

func (r *reader) run(ctx context.Context) {
	if r.decoder.OnEvent = r.onEvent; r.onEvent == nil {
		r.decoder.OnEvent = r.take
	}
	for ctx.Err() == nil {
		r.connect(ctx)
		r.decoder.Reconnected()
		wait, _ := r.decoder.Retry()
		select {
		case <-ctx.Done():
		case <-time.After(max(wait, 100*time.Millisecond)):
		}
	}
}

func (r *reader) connect(ctx context.Context) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url, nil)
	if err != nil {
		panic(err) // the test's own URL
	}
	req.Header.Set("Accept", "text/event-stream")
	if id := r.decoder.LastEventID(); len(id) > 0 {
		req.Header.Set("Last-Event-ID", string(id))
	}
	r.noteAttempt()
	resp, err := httpClient.Do(req)
	if ctx.Err() != nil {
		if err == nil {
			resp.Body.Close()
		}
		return
	}
	if err != nil {
		r.noteStatus(0)
		return
	}
	r.noteStatus(resp.StatusCode)
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return
	}
	_ = copyBody(&r.decoder, resp) // it comes back all the same
}

func (r *reader) take(_, eventType, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if string(eventType) == sseproto.EventMessage {
		r.numbers = append(r.numbers, string(data))
	} else {
		r.others = append(r.others, string(eventType)+" "+string(data))
	}
}

func (r *reader) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.numbers)
}

func (r *reader) noteAttempt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempts = append(r.attempts, time.Now())
}

func (r *reader) noteStatus(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.statuses[status]++
}

// follow runs readers until the test ends.
func follow(t testing.TB, readers []*reader) {
	background(t, func(ctx context.Context) {
		var wg sync.WaitGroup
		for _, r := range readers {
			wg.Go(func() { r.run(ctx) })
		}
		wg.Wait()
	})
}

// waitFirst waits until every reader has a message: who has no ID yet starts at now
// when it comes back.
func waitFirst(t testing.TB, readers []*reader) {
	t.Helper()
	eventually(t, "a message at every client", func() bool {
		return !slices.ContainsFunc(readers, func(r *reader) bool { return r.count() == 0 })
	})
}

// wantAll waits until every reader has n messages and checks that they are 0 to n-1,
// each once, in order, with nothing between them, and that every answer was a 200.
func wantAll(t testing.TB, readers []*reader, n int) {
	t.Helper()
	want := make([]string, n)
	for i := range want {
		want[i] = strconv.Itoa(i)
	}
	for i, r := range readers {
		deadline := time.Now().Add(patience)
		for r.count() < n && time.Now().Before(deadline) {
			<-time.After(pollInterval)
		}
		r.mu.Lock()
		require.Equal(t, want, r.numbers, "client %d: other events %q, answers %v, connected at %v", i, r.others, r.statuses, r.attempts)
		require.Empty(t, r.others)
		require.Equal(t, map[int]int{http.StatusOK: len(r.attempts)}, r.statuses)
		r.mu.Unlock()
	}
}
