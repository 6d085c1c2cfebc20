//go:build linux

package neighbour

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

// host is a server that shows what comes in.
type host struct {
	t      *testing.T
	l      net.Listener
	heads  chan string // request heads, whole ones and what there was of others
	greet  string      // sent after a whole head
	hangUp bool        // close after a whole head
	served sync.WaitGroup
}

func startHost(t *testing.T, greet string, hangUp bool) *host {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h := &host{t: t, l: l, heads: make(chan string, 10_000), greet: greet, hangUp: hangUp}
	h.served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.served.Go(func() { h.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		h.served.Wait()
	})
	return h
}

func (h *host) serve(c net.Conn) {
	defer c.Close()
	var head strings.Builder
	for r := bufio.NewReader(c); ; {
		line, err := r.ReadString('\n')
		head.WriteString(line)
		if err != nil {
			h.heads <- head.String()
			return
		}
		if line != "\r\n" {
			continue
		}
		h.heads <- head.String()
		isLast := strings.Contains(head.String(), "Connection: close")
		head.Reset()
		if h.hangUp {
			return
		}
		if _, err := io.WriteString(c, h.greet); err != nil {
			return
		}
		if isLast { // the client leaves when it has seen the end
			_ = c.(*net.TCPConn).CloseWrite()
		}
	}
}

// play runs a neighbour until enough says so, and returns what it did.
func (h *host) play(spec Spec, enough func()) Result {
	h.t.Helper()
	spec.Addr = h.l.Addr().(*net.TCPAddr).AddrPort()
	spec.Request = []string{"GET /sse?c=", " HTTP/1.1\r\nHost: x\r\n"}
	spec.Key = "&c="
	in, write := io.Pipe()
	read, out := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- Serve(context.Background(), in, out) }()
	require.NoError(h.t, json.NewEncoder(write).Encode(spec))
	dec := json.NewDecoder(read)
	var r Result
	require.NoError(h.t, dec.Decode(&r))
	require.True(h.t, r.Ready)
	enough()
	require.NoError(h.t, write.Close())
	r = Result{}
	require.NoError(h.t, dec.Decode(&r))
	require.NoError(h.t, <-ended)
	require.Empty(h.t, r.Error)
	return r
}

// next returns n heads.
func (h *host) next(n int) (all []string) {
	h.t.Helper()
	late := time.After(patience)
	for range n {
		select {
		case head := <-h.heads:
			all = append(all, head)
		case <-late:
			require.Failf(h.t, "too few requests", "%d of %d", len(all), n)
		}
	}
	return all
}

const answer = "HTTP/1.1 200 OK\r\n\r\n"

func TestStandingClientsComeBackWhenTheServerClosesThem(t *testing.T) {
	for _, kind := range []Kind{NeverReads, DripReads, Reads} {
		h := startHost(t, "", true)
		spec := Spec{Kind: kind, Channels: []string{"a", "b"}, Count: 3, Sources: []netip.Addr{netip.MustParseAddr("127.0.0.9")}}
		r := h.play(spec, func() {
			require.Contains(t, strings.Join(h.next(9), ""), "GET /sse?c=b HTTP/1.1\r\n")
		})
		require.GreaterOrEqual(t, r.Opened, int64(9), kind)
	}
}

func TestHalfHeadsAreNoRequests(t *testing.T) {
	h := startHost(t, answer, false)
	r := h.play(Spec{Kind: HalfHead, Channels: []string{"a"}, Count: 3}, func() {})
	require.EqualValues(t, 3, r.Opened)
	for _, head := range h.next(3) { // of connections that were reset
		require.True(t, strings.HasPrefix(head, "GET /sse?c=a"), head)
		require.NotContains(t, head, "\r\n\r\n")
	}
}

func TestNeverReadsFillsItsSocket(t *testing.T) {
	const flood = 8 << 20 // more than two sockets hold
	h := startHost(t, answer+strings.Repeat("x", flood), false)
	wrote := make(chan struct{})
	go func() {
		h.served.Wait()
		close(wrote)
	}()
	h.play(Spec{Kind: NeverReads, Channels: []string{"a"}, Count: 1}, func() {
		h.next(1)
		select {
		case <-wrote:
			t.Error("all was taken")
		default:
		}
	})
}

func TestComingAndGoingClientsDoWhatTheirKindSays(t *testing.T) {
	f := func(spec Spec, greet string, check func(heads []string)) {
		t.Helper()
		h := startHost(t, greet, false)
		spec.Rate = 500
		if spec.Channels == nil {
			spec.Channels = []string{"a", "b"}
		}
		var heads []string
		r := h.play(spec, func() {
			// On a busy machine many are under way before the first has done what it came for.
			hasLeft := func(head string) bool { return !strings.HasSuffix(head, "\r\n\r\n") }
			for heads = h.next(120); !slices.ContainsFunc(heads, hasLeft); {
				heads = append(heads, h.next(1)...)
			}
		})
		require.Positive(t, r.Done, spec.Kind)
		check(heads)
	}
	f(Spec{Kind: Connects}, answer, func(heads []string) {
		require.Contains(t, heads, "GET /sse?c=a HTTP/1.1\r\nHost: x\r\n\r\n")
		require.Contains(t, heads, "GET /sse?c=b HTTP/1.1\r\nHost: x\r\n\r\n")
	})
	f(Spec{Kind: Connects, Each: 2}, answer, func(heads []string) {
		require.Contains(t, heads, "GET /sse?c=a&c=b HTTP/1.1\r\nHost: x\r\n\r\n")
	})
	f(Spec{Kind: FreshName, Each: 3}, answer, func(heads []string) {
		seen := map[string]bool{}
		for _, head := range heads {
			line, _, _ := strings.Cut(head, " HTTP")
			for name := range strings.SplitSeq(strings.TrimPrefix(line, "GET /sse?"), "&") {
				if head != "" {
					require.False(t, seen[name], name)
				}
				seen[name] = true
			}
		}
	})
	f(Spec{Kind: Resumes, LastID: "7-7", Until: "the end"}, answer+"data: one\n\ndata: the end\n\n", func(heads []string) {
		require.Contains(t, strings.Join(heads, ""), "\r\nLast-Event-ID: 7-7\r\n\r\n")
	})
	f(Spec{Kind: Abandons}, answer, func(heads []string) {
		require.Contains(t, strings.Join(heads, ""), "\r\nLast-Event-ID: 1-1/")
	})
	f(Spec{Kind: Resets}, answer+strings.Repeat("x", 200), func(heads []string) {
		lengths := map[int]bool{}
		for _, head := range heads {
			lengths[len(head)] = true
		}
		require.Greater(t, len(lengths), 3)
	})
	f(Spec{Kind: Pipelines}, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", func(heads []string) {
		require.Contains(t, heads[0], "GET /health")
	})
}

func TestServeRefusesWhatItDoesNotKnow(t *testing.T) {
	require.Error(t, Serve(t.Context(), strings.NewReader("{"), io.Discard))
	var out strings.Builder
	require.ErrorContains(t, Serve(t.Context(), strings.NewReader(`{"kind":"friendly"}`), &out), `no kind "friendly"`)
	require.Contains(t, out.String(), "friendly")
}
