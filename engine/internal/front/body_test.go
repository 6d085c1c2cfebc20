package front

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/wiretest"
	"ssed/sseproto"
)

const (
	asForm = "Content-Type: application/x-www-form-urlencoded"
	asJSON = "Content-Type: application/json"
)

// postStream is a request for a stream with its parameters in the body.
func postStream(body string, fields ...string) string {
	fields = append(fields, fmt.Sprintf("Content-Length: %d", len(body)))
	return "POST /sse/connect HTTP/1.1\r\nHost: a\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\n" + body
}

// chunked is postStream with the body in two chunks.
func chunked(body string, fields ...string) string {
	half := len(body) / 2
	head := strings.TrimSuffix(postStream("", append(fields, "Transfer-Encoding: chunked")...), "Content-Length: 0\r\n\r\n")
	return fmt.Sprintf("%s\r\n%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", head, half, body[:half], len(body)-half, body[half:])
}

func TestStreamIsAskedForByPost(t *testing.T) {
	s := serve(t, Config{})
	for _, request := range []string{
		postStream("channel_id=a", asForm),
		postStream(`{"channels":["a","b"]}`, asJSON+"; charset=utf-8"),
		chunked("channel_id=a&channel_id=b", asForm),
		chunked(`{"channel_id":"a"}`, asJSON),
		strings.Replace(postStream(""), "/connect", "/connect?channel_id=a", 1), // no body, no type
		strings.Replace(postStream("channel_id=a", asForm), "HTTP/1.1", "HTTP/1.0", 1),
	} {
		for _, piece := range []int{len(request), 100, 1} {
			w := s.dialFrom("")
			for rest := request; rest != ""; {
				n := min(piece, len(rest))
				w.Send(rest[:n])
				rest = rest[n:]
			}
			resp := w.Answer(http.MethodPost)
			require.Equal(t, 200, resp.StatusCode, "%q in pieces of %d", request, piece)
			require.Equal(t, "text/event-stream; charset=utf-8", resp.Header.Get("Content-Type"))
			require.NoError(t, w.Close())
		}
	}
	require.EqualValues(t, 18, s.front.Stats().Streams)
}

// The front gives its host what a body says as it gives what a query says.
func TestBodySaysWhatAQuerySays(t *testing.T) {
	streams := make(chan *Stream, 1)
	s := listenOnly(t, Config{})
	attach := s.front.host.Attach
	s.front.host.Attach = func(next *Stream) { streams <- next; attach(next) }
	require.NoError(t, s.front.Serve())
	ask := func(request string) *Stream {
		s.dialFrom("").Send(request)
		next := *<-streams
		next.FD, next.Expires, next.Since, next.Head = 0, time.Time{}, Standing{}, nil
		return &next
	}
	query := "channel_id=a&channel_id=b%20c&last_event_id=5-7/x&tell=channel&start=id"
	want := ask(strings.Replace(getStream("x"), "channel_id=x", query, 1))
	require.Equal(t, []string{"a", "b c"}, want.Channels)
	require.Equal(t, "5-7/x", want.LastEventID)
	require.True(t, want.Told)
	require.True(t, want.TakesID)
	require.Equal(t, want, ask(postStream(query, asForm)))
	require.Equal(t, want, ask(postStream(`{"channels":["a","b c"],"last_event_id":"5-7/x","tell":"channel","start":"id"}`, asJSON)))
	split := postStream(`{"channels":"b c","lastEventId":"5-7/x"}`, asJSON)
	require.Equal(t, want, ask(strings.Replace(split, "/connect", "/connect?channel_id=a&tell=channel&start=id", 1)))
	since := ask(strings.Replace(getStream("x"), "channel_id=x", "channel_id=a&since=1795431293042", 1))
	require.NotNil(t, since.Start)
	require.Equal(t, since, ask(postStream(`{"channels":["a"],"since":1795431293042}`, asJSON)))
	field := postStream(`{"channels":["a","b c"],"last_event_id":"1-1","tell":"channel","start":"id"}`, asJSON, "Last-Event-ID: 5-7/x")
	require.Equal(t, want, ask(field), "the field wins, as a client sends it that comes back")
}

func TestBodiesAreRefusedWithTheirStatus(t *testing.T) {
	s := serve(t, Config{})
	large := strings.Repeat("x", sseproto.MaxBodyBytes)
	f := func(want int, request string) {
		t.Helper()
		w := s.dialFrom("")
		_, _ = w.Write([]byte(request)) // a refusal may come before the end
		status, header, body := w.Whole()
		require.Equal(t, want, status, "%.300q", request)
		require.Equal(t, "*", header.Get("Access-Control-Allow-Origin"), "a page can see why")
		require.NotEmpty(t, body)
		w.RequireEnd()
		require.NoError(t, w.Close())
	}
	f(413, postStream("a="+large, asForm))
	f(413, chunked("a="+large, asForm))
	f(413, strings.Replace(postStream("", asForm), "Content-Length: 0", "Content-Length: 9223372036854775807", 1))
	f(400, postStream("channel_id=a"))
	f(415, postStream("channel_id=a", "Content-Type: text/plain"))
	f(415, postStream("channel_id=a", asForm, "Content-Encoding: gzip"))
	f(400, postStream("{", asJSON))
	f(400, postStream("channel_id=a\r\n", asForm))
	f(400, strings.Replace(postStream("", asForm), "Content-Length: 0\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nx\r\n", 1))

	// Whether a body follows is to be said. Without it there is none, and the next request follows.
	w := s.dialFrom("").Send("POST /sse/connect?channel_id=a HTTP/1.1\r\nHost: a\r\n\r\n" + getHealth)
	status, _, _ := w.Whole()
	require.Equal(t, 411, status)
	status, _, _ = w.Whole()
	require.Equal(t, 200, status)

	// What is wrong with the parameters is told as for a query. The connection stays.
	for body, want := range map[string]string{
		"x=1": "channel_id is missing", "channel_id=%zz": "malformed percent escape", "channel_id=": "channel_id is empty",
		"channel_id=a&start=now": "start is neither", "channel_id=a&tell=all": "tell is not",
	} {
		w := s.dialFrom("").Send(postStream(body, asForm) + getHealth)
		status, _, text := w.Whole()
		require.Equal(t, 400, status, body)
		require.Contains(t, text, want)
		status, _, _ = w.Whole()
		require.Equal(t, 200, status, "the body was read, and the next request is one")
	}
	require.Zero(t, s.front.Stats().Streams)
}

// Other paths and methods do not take a body, and what is in it is no request.
func TestBodiesElsewhereAreNotRead(t *testing.T) {
	s := serve(t, Config{})
	for request, want := range map[string]int{
		strings.Replace(postStream(getHealth, asForm), "/sse/connect", "/health", 1): 405,
		strings.Replace(postStream(getHealth, asForm), "/sse/connect", "/other", 1):  404,
		strings.Replace(postStream(getHealth, asForm), "POST", "GET", 1):             413,
		strings.Replace(postStream(getHealth, asForm), "POST", "PUT", 1):             405,
	} {
		w := s.dialFrom("").Send(request)
		status, header, _ := w.Whole()
		require.Equal(t, want, status, request)
		if want == 405 {
			require.Equal(t, strings.Contains(request, "/sse/"), strings.Contains(header.Get("Allow"), "POST"))
		}
		w.RequireEnd()
	}
}

func TestContinueIsSentToWhoWaitsForIt(t *testing.T) {
	const expect = "Expect: 100-continue"
	s := serve(t, Config{})
	request := postStream("channel_id=a", asForm, expect)
	head, body, _ := strings.Cut(request, "\r\n\r\n")
	w := s.dialFrom("").Send(head + "\r\n\r\n")
	line, err := w.R.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 100 Continue\r\n", line)
	line, err = w.R.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "\r\n", line)
	require.Equal(t, 200, w.Send(body).Answer(http.MethodPost).StatusCode)

	// Who sends without waiting is not told to.
	require.Equal(t, 200, s.dialFrom("").Send(request).Answer(http.MethodPost).StatusCode)
	// A body that is refused by its head is not asked for.
	for head, want := range map[string]int{
		strings.Replace(head, "Content-Length: 12", "Content-Length: 70000", 1): 413,
		strings.Replace(head, asForm, "Content-Type: text/plain", 1):            415,
	} {
		require.Equal(t, want, s.dialFrom("").Send(head+"\r\n\r\n").Answer(http.MethodPost).StatusCode)
	}
	status, _, _ := s.dialFrom("").Send(strings.Replace(getHealth, "\r\n\r\n", "\r\n"+expect+"\r\n\r\n", 1)).Whole()
	require.Equal(t, 200, status, "there is no body to wait for")
}

// A body has no more time than a head, however many of its bytes come, and whether or not
// its client was told to send it.
func TestSlowBodiesAreClosed(t *testing.T) {
	s := serve(t, Config{HandshakeTimeout: 300 * time.Millisecond})
	head, _, _ := strings.Cut(postStream(strings.Repeat("a", 1000), asForm, "Expect: 100-continue"), "\r\n\r\n")
	chunks := strings.Replace(postStream("", asForm), "Content-Length: 0", "Transfer-Encoding: chunked", 1)
	for _, start := range []string{head + "\r\n\r\n", chunks, chunks + "1\r\na\r\n", chunks + "0\r\n"} {
		w := s.dialFrom("").Send(start)
		go func() {
			for {
				if _, err := w.Write([]byte("a")); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond) // the client's pace, nothing that the test waits for
			}
		}()
		for {
			if _, err := w.R.ReadByte(); err != nil { // 100 Continue may come first
				break
			}
		}
	}
	eventually(t, func() bool { return s.front.Stats().Handshakes == 0 }, "all are closed")
	st := s.front.Stats()
	require.Zero(t, st.Streams)
	require.EqualValues(t, 4, st.Refused[RefuseTimeout]+st.Refused[RefuseProtocol]+st.Answered[4])
	require.NotZero(t, st.Refused[RefuseTimeout])
}

// Memory of bodies counts as that of heads.
func TestMemoryOfUnfinishedBodiesIsBounded(t *testing.T) {
	s := listenOnly(t, Config{HandshakeTimeout: time.Minute})
	s.front.large.most = 256 << 10
	require.NoError(t, s.front.Serve())
	request := postStream("channel_id=a&x="+strings.Repeat("x", 60<<10), asForm)
	started := request[:50<<10]
	for range 20 {
		s.dialFrom("").Send(started)
	}
	// Of 64 KiB each. The next one is safe when all are read: nobody is large after it.
	eventually(t, func() bool {
		st := s.front.Stats()
		return st.Refused[RefuseMemory] == 16 && st.LargeBytes == s.front.large.most
	}, "the oldest are closed")
	require.Equal(t, 200, s.dialFrom("").Send(request).Answer(http.MethodPost).StatusCode)
}

// The largest request that may be is taken in one go, with what a client sends behind it.
func TestLargestRequestIsTaken(t *testing.T) {
	s := serve(t, Config{MaxHeadBytes: 64 << 10})
	body := "channel_id=a&x=" + strings.Repeat("x", sseproto.MaxBodyBytes-len("channel_id=a&x="))
	request := postStream(body, asForm, "Cookie: c="+strings.Repeat("c", 65_000))
	for _, behind := range []string{"", "garbage", getHealth} {
		w := s.dialFrom("").Send(request + behind)
		require.Equal(t, 200, w.Answer(http.MethodPost).StatusCode, behind)
	}
	require.EqualValues(t, 3, s.front.Stats().Streams)
}

func TestPreflightAllowsPost(t *testing.T) {
	s := serve(t, Config{})
	w := s.dialFrom("").Send("OPTIONS /sse/connect HTTP/1.1\r\nHost: a\r\nOrigin: https://app.example.com\r\n" +
		"Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,content-type,last-event-id\r\n\r\n")
	status, header, _ := w.Whole()
	require.Equal(t, 204, status)
	require.Contains(t, header.Get("Access-Control-Allow-Methods"), "POST")
	require.Equal(t, "authorization,content-type,last-event-id", header.Get("Access-Control-Allow-Headers"))
	require.Contains(t, header.Get("Allow"), "POST")
	w.Send("OPTIONS /sse/connect HTTP/1.1\r\nHost: a\r\nOrigin: https://app.example.com\r\nAccess-Control-Request-Method: POST\r\n\r\n")
	_, header, _ = w.Whole()
	for _, field := range []string{"Content-Type", "Last-Event-ID", "Authorization"} {
		require.Contains(t, header.Get("Access-Control-Allow-Headers"), field)
	}
}

// The Authorizer sees the channels of the body, and a token that is in it.
func TestAuthorizerSeesTheBody(t *testing.T) {
	decide := authorizerFunc(func(r *AuthRequest) (Grant, error) {
		token, _ := sseproto.QueryParam(nil, r.Request.Params, "token")
		if string(token) != "t&t" || strings.Join(r.Channels, ",") != "a,b" || r.Request.Query != nil {
			return Grant{}, &Denial{Status: 403, Body: fmt.Sprintf("%q %q", token, r.Channels)}
		}
		return Grant{Channels: r.Channels[1:]}, nil
	})
	s := serve(t, Config{Authorizer: decide})
	for _, request := range []string{
		postStream("channel_id=a&channel_id=b&token=t%26t", asForm),
		chunked(`{"channels":["a","b"],"token":"t&t"}`, asJSON),
	} {
		w := s.dialFrom("").Send(request)
		require.Equal(t, 200, w.Answer(http.MethodPost).StatusCode)
	}
	status, _, _ := s.dialFrom("").Send(postStream("channel_id=a&channel_id=c&token=t%26t", asForm)).Whole()
	require.Equal(t, 403, status)
}

// At every limit a POST gets what a GET gets.
func TestPostIsRefusedAsGetIs(t *testing.T) {
	for _, fields := range [][]string{{asForm}, {asForm, asEventSource}} {
		s := serve(t, Config{limitsLoopback: true, MaxPerAddress: 1})
		require.Equal(t, 200, s.dialFrom("127.0.0.2").Send(postStream("channel_id=a", fields...)).Answer(http.MethodPost).StatusCode)
		w := s.dialFrom("127.0.0.2").Send(postStream("channel_id=a", fields...))
		if len(fields) == 1 {
			w.RequireTooMany("too many connections from this address")
			continue
		}
		require.Equal(t, 200, w.Answer(http.MethodPost).StatusCode)
		w.RequireRetry(8*time.Second, 20*time.Second)
		w.RequireEnd()
	}
	s := serve(t, Config{})
	s.notReady.Store(true)
	status, header, _ := s.dialFrom("").Send(postStream("channel_id=a", asForm)).Whole()
	require.Equal(t, 503, status)
	require.NotEmpty(t, header.Get("Retry-After"))
}

func BenchmarkConnect(b *testing.B) {
	for name, request := range map[string]string{
		"get": getStream("a"), "post-form": postStream("channel_id=a", asForm), "post-json": postStream(`{"channels":["a"]}`, asJSON),
	} {
		b.Run(name, func(b *testing.B) {
			s := serve(b, Config{})
			for b.Loop() {
				w := wiretest.Dial(b, s.network, s.addr, "").Send(request)
				if w.Answer(http.MethodPost).StatusCode != 200 {
					b.Fatal("no stream")
				}
				_ = w.Close()
			}
		})
	}
}
