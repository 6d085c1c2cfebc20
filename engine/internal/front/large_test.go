package front

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/wiretest"
)

// withCookie is a request for a stream with a cookie of that many bytes.
func withCookie(bytes int) string {
	return getStream("a", "Cookie: session="+strings.Repeat("c", bytes))
}

func TestCookiesAreTakenUpToMaxHead(t *testing.T) {
	f := func(maxHead, cookie, want int) {
		t.Helper()
		s := serve(t, Config{MaxHeadBytes: maxHead})
		request := withCookie(cookie)
		for _, piece := range []int{len(request), 16 << 10, 1000} {
			w := s.dialFrom("")
			for rest := request; rest != ""; {
				n := min(piece, len(rest))
				if _, err := w.Write([]byte(rest[:n])); err != nil {
					require.NotEqual(t, 200, want, "a refusal may come before the end")
					break
				}
				rest = rest[n:]
			}
			require.Equal(t, want, w.Answer(http.MethodGet).StatusCode, "in pieces of %d", piece)
		}
		eventually(t, func() bool { return s.front.Stats().LargeBytes == 0 }, "no memory is held")
	}
	f(0, 15<<10, 200)
	f(0, 17_000, 431)
	f(32<<10, 17_000, 200)
	f(32<<10, 31<<10, 200)
	f(32<<10, 33<<10, 431)
	f(64<<10, 63<<10, 200)
	f(64<<10, 65<<10, 431)
}

func TestLongTargetsAreTakenUpToMaxHead(t *testing.T) {
	s := serve(t, Config{MaxHeadBytes: 64 << 10})
	require.Equal(t, 200, s.dialFrom("").Send(getStream("a&x="+strings.Repeat("x", 60<<10))).Answer(http.MethodGet).StatusCode)
	require.Equal(t, 414, s.dialFrom("").Send(getStream("a&x="+strings.Repeat("x", 66<<10))).Answer(http.MethodGet).StatusCode)
}

// The memory of a request depends on its length alone. In pieces it took a quarter more,
// and others were closed for it or not, as the reads happened to fall.
func TestMemoryOfARequestDoesNotDependOnItsPieces(t *testing.T) {
	f := func(length, want int) {
		t.Helper()
		for _, piece := range []int{1, 100, 1000, 13 << 10, chunkBytes - 1, chunkBytes} {
			var head []byte
			for len(head) < length {
				more := make([]byte, min(piece, length-len(head)))
				head = append(makeRoom(head, len(more)), more...)
			}
			require.Len(t, head, length)
			if length <= smallBytes {
				require.LessOrEqual(t, cap(head), want, "in pieces of %d", piece)
				continue
			}
			require.Equal(t, want, cap(head), "in pieces of %d", piece)
		}
	}
	f(600, 1200)
	f(14<<10, smallBytes)
	f(smallBytes, smallBytes)
	f(smallBytes+1, 2*smallBytes)
	f(50<<10, 64<<10)
	f(64<<10, 64<<10)
	f(64<<10+1, 80<<10)
	f(128<<10, 128<<10)
}

// Requests that never end may take maxLargeBytes, however many they are. Who is through
// within the time that they need for it gets its stream.
func TestMemoryOfUnfinishedRequestsIsBounded(t *testing.T) {
	s := listenOnly(t, Config{MaxHeadBytes: 64 << 10, HandshakeTimeout: time.Minute})
	const room = 4 // requests that take 64 KiB each, before and behind their 50th
	s.front.large.most = room * 64 << 10
	require.NoError(t, s.front.Serve())
	started := withCookie(60 << 10)[:50<<10]
	var slow []*wiretest.Conn
	for range 20 {
		slow = append(slow, s.dialFrom("").Send(started))
		eventually(t, func() bool {
			l := s.front.large
			l.mu.Lock()
			defer l.mu.Unlock()
			newest := l.waiting.Back()
			return newest != nil && newest.Value.(*handshake).largeBytes == 64<<10 &&
				int(s.front.counters.refused[RefuseMemory].Load())+l.waiting.Len() == len(slow)
		}, "request %d is read", len(slow))
		require.LessOrEqual(t, s.front.Stats().LargeBytes, s.front.large.most)
	}
	closed := int(s.front.Stats().Refused[RefuseMemory])
	require.Equal(t, 20-room, closed)
	for _, w := range slow[:closed] {
		w.RequireEnd()
	}
	for _, w := range slow[closed:] {
		w.Send(withCookie(60 << 10)[50<<10:])
		require.Equal(t, 200, w.Answer(http.MethodGet).StatusCode, "the newest are still there")
	}
	require.Equal(t, 200, s.dialFrom("").Send(withCookie(60<<10)).Answer(http.MethodGet).StatusCode)
	eventually(t, func() bool { return s.front.Stats().LargeBytes == 0 }, "all is given back")
}

// A small request has its place, whatever large ones take.
func TestSmallRequestsAreNotClosedForLargeOnes(t *testing.T) {
	s := listenOnly(t, Config{MaxHeadBytes: 64 << 10, HandshakeTimeout: time.Minute})
	s.front.large.most = 100 << 10
	require.NoError(t, s.front.Serve())
	request := withCookie(15 << 10)
	small := s.dialFrom("")
	for at := 0; at < 14<<10; at += 1 << 10 {
		small.Send(request[at : at+1<<10]) // what has to grow in small steps
	}
	var slow []*wiretest.Conn
	for range 10 {
		slow = append(slow, s.dialFrom("").Send(withCookie(60 << 10)[:40<<10]))
	}
	eventually(t, func() bool { return s.front.Stats().Refused[RefuseMemory] >= 8 }, "large ones make room for each other")
	require.Len(t, slow, 10)
	require.Equal(t, 200, small.Send(request[14<<10:]).Answer(http.MethodGet).StatusCode)
}

// Large requests wait for a decision within the same bound. What is not whole makes room for
// them; when they have all of it, the next one is asked to come again.
func TestMemoryOfLargeRequestsThatWaitForADecisionIsBounded(t *testing.T) {
	decide := make(chan struct{})
	s := listenOnly(t, Config{MaxHeadBytes: 64 << 10, HandshakeTimeout: time.Minute, AuthTimeout: time.Minute, Authorizer: authorizerFunc(func(r *AuthRequest) (Grant, error) {
		<-decide
		return Grant{Channels: r.Channels}, nil
	})})
	s.front.large.most = 200 << 10
	require.NoError(t, s.front.Serve())
	unfinished := s.dialFrom("").Send(withCookie(60 << 10)[:50<<10])
	eventually(t, func() bool { return s.front.Stats().LargeBytes >= 50<<10 }, "it is read")
	var asked []*wiretest.Conn
	awaitDeciding := func(n int64) {
		eventually(t, func() bool { return s.front.Stats().Deciding == n }, "%d are being decided", n)
	}
	for i := range 3 {
		asked = append(asked, s.dialFrom("").Send(withCookie(60<<10)))
		awaitDeciding(int64(i) + 1)
	}
	unfinished.RequireEnd()
	status, header, _ := s.dialFrom("").Send(withCookie(60 << 10)).Whole()
	require.Equal(t, 503, status)
	require.NotEmpty(t, header.Get("Retry-After"))
	w := s.dialFrom("").Send(getStream("a", asEventSource, "Cookie: c="+strings.Repeat("c", 60<<10)))
	require.Equal(t, 200, w.Answer(http.MethodGet).StatusCode)
	w.RequireRetry(2*time.Second, 5*time.Second)
	w.RequireEnd()
	require.EqualValues(t, 3, s.front.Stats().Refused[RefuseMemory], "and the one that was not whole")
	require.LessOrEqual(t, s.front.Stats().LargeBytes, s.front.large.most)
	small := s.dialFrom("").Send(getStream("a"))
	awaitDeciding(4)
	close(decide)
	for _, w := range append(asked, small) {
		require.Equal(t, 200, w.Answer(http.MethodGet).StatusCode)
	}
	eventually(t, func() bool { return s.front.Stats().LargeBytes == 0 }, "all is given back")
}
