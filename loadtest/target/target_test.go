package target

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"ssed/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTargetsAreParsed(t *testing.T) {
	got, err := Parse("name=a b; url=http://localhost:8080/sse?ch=x-{channel}&v=1;publish=redis://:pw@127.0.0.1/2;pid=12,13;redis_pid=14;depth=1;header=Authorization: Bearer a=b;header=X: y;resume=no")
	require.NoError(t, err)
	require.Equal(t, Target{
		Name: "a b", URL: "http://localhost:8080/sse?ch=x-{channel}&v=1", Publish: "redis://:pw@127.0.0.1/2",
		Depth: 1, PIDs: []int{12, 13}, RedisPIDs: []int{14}, Headers: []string{"Authorization: Bearer a=b", "X: y"},
	}, got)

	f := func(want, text string) {
		t.Helper()
		_, err := Parse(text)
		require.ErrorContains(t, err, want)
	}
	f("not key=value", "")
	f("required", "name=x")
	f("required", "url=http://127.0.0.1/")
	f("unknown key", "name=x;uri=y")
	f("not a process id", "name=x;pid=0")
	f("not a process id", "name=x;pid=1,,2")
	f("not a process id", "name=x;redis_pid=-1")
	f("want yes or no", "name=x;resume=maybe")
	f("want Name: value", "name=x;header=bad")
	f("invalid syntax", "name=x;depth=many")
	f("only http", "name=x;url=https://127.0.0.1/{channel}")
	f("can not be in the host", "name=x;url=http://{channel}.localhost/")
	f("must be escaped", "name=x;url=http://127.0.0.1/a b")
	f("must be escaped", "name=x;url=http://127.0.0.1/#{channel}")
}

func TestRequestIsSplitAtTheChannel(t *testing.T) {
	f := func(url string, want ...string) {
		t.Helper()
		target := Target{URL: url, Headers: []string{"X: y"}}
		got, err := target.Request()
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	const rest = "\r\nAccept: text/event-stream\r\nX: y\r\n"
	f("http://h:1/a?c={channel}", "GET /a?c=", " HTTP/1.1\r\nHost: h:1"+rest)
	f("http://h/{channel}/{channel}?x", "GET /", "/", "?x HTTP/1.1\r\nHost: h"+rest)
	f("http://h?c={channel}", "GET /?c=", " HTTP/1.1\r\nHost: h"+rest)
	f("http://h", "GET / HTTP/1.1\r\nHost: h"+rest)
}

func TestOnlyLoopbackPasses(t *testing.T) {
	f := func(url, publish string, want error) {
		t.Helper()
		target := Target{Name: "x", URL: url, Publish: publish}
		require.ErrorIs(t, target.CheckLoopback(), want)
	}
	f("http://127.0.0.1:80/", "", nil)
	f("http://127.8.9.10/", "redis://127.0.0.1", nil)
	f("http://[::1]:8080/", "http://localhost:9/{channel}", nil)
	f("http://[::ffff:127.0.0.1]/", "", nil)
	f("http://10.0.0.1/", "", ErrNotLoopback)
	f("http://0.0.0.0/", "", ErrNotLoopback)
	f("http://[::ffff:10.0.0.1]/", "", ErrNotLoopback)
	f("http://127.0.0.1/", "redis://10.0.0.1:6379", ErrNotLoopback)
	f("http://127.0.0.1/", "http://user@10.0.0.1/", ErrNotLoopback)
	f("http://127.0.0.1/", "line://[2001:db8::1]:1", ErrNotLoopback)
}

// answering accepts one connection and gives it to f.
func answering(t *testing.T, f func(r *bufio.Reader, w net.Conn)) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		f(bufio.NewReader(c), c)
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().String()
}

func publisher(t *testing.T, template string, depth int) *Publisher {
	p, err := NewPublisher(&Target{Publish: template, Depth: depth})
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

// command reads one RESP command.
func command(r *bufio.Reader) []string {
	line := func() string {
		s, _ := r.ReadString('\n')
		return strings.TrimRight(s, "\r\n")
	}
	n, _ := strconv.Atoi(strings.TrimPrefix(line(), "*"))
	var words []string
	for range n {
		size, _ := strconv.Atoi(strings.TrimPrefix(line(), "$"))
		b := make([]byte, size+2)
		_, _ = io.ReadFull(r, b)
		words = append(words, string(b[:size]))
	}
	return words
}

func TestRedisGetsPublishCommands(t *testing.T) {
	got := make(chan []string, 100)
	address := answering(t, func(r *bufio.Reader, w net.Conn) {
		for {
			words := command(r)
			if len(words) == 0 {
				return
			}
			got <- words
			_, _ = io.WriteString(w, map[bool]string{true: ":1\r\n", false: "+OK\r\n"}[words[0] == "PUBLISH"])
		}
	})
	p := publisher(t, "redis://me:secret@"+address+"/3?channel=sse:{channel}", 2)
	for i := range 5 {
		require.NoError(t, p.Publish("c", fmt.Appendf(nil, "m\r\n%d", i)))
	}
	require.NoError(t, p.Settle())
	require.Equal(t, []string{"AUTH", "me", "secret"}, <-got)
	require.Equal(t, []string{"SELECT", "3"}, <-got)
	for i := range 5 {
		require.Equal(t, []string{"PUBLISH", "sse:c", fmt.Sprintf("m\r\n%d", i)}, <-got)
	}
}

func TestQuietPublisherIsAnsweredOnlyWhenItSettles(t *testing.T) {
	r := redistest.Start(t)
	p := publisher(t, r.URL(), 1) // a second answer under way would have to be waited for
	replies := func() string {
		stats, err := r.Do("INFO", "commandstats")
		require.NoError(t, err)
		_, line, _ := strings.Cut(stats.(string), "cmdstat_publish:calls=")
		calls, _, _ := strings.Cut(line, ",")
		return calls
	}
	for round := range 2 {
		p.Quiet()
		p.Quiet()
		for range 1000 {
			require.NoError(t, p.Publish("c", []byte("x")))
			require.Empty(t, p.slots)
		}
		require.NoError(t, p.Settle())
		require.Equal(t, strconv.Itoa(round*1010+1000), replies(), "it has settled when Redis has taken all")
		for range 10 {
			require.NoError(t, p.Publish("c", []byte("x")))
			require.Len(t, p.slots, 1)
		}
		require.NoError(t, p.Settle())
	}
	line := publisher(t, "line://"+answering(t, func(r *bufio.Reader, _ net.Conn) { _, _ = io.Copy(io.Discard, r) }), 0)
	line.Quiet()
	require.NoError(t, line.Settle())
}

func TestRedisErrorsAreReported(t *testing.T) {
	address := answering(t, func(r *bufio.Reader, w net.Conn) {
		command(r)
		_, _ = io.WriteString(w, "-NOPERM no\r\n")
		_, _ = io.Copy(io.Discard, r)
	})
	p := publisher(t, "redis://"+address, 0)
	require.NoError(t, p.Publish("c", []byte("x")))
	require.ErrorContains(t, p.Settle(), "NOPERM no")
	require.ErrorContains(t, p.Flush(), "NOPERM no")
}

func TestHTTPPublishesArePipelined(t *testing.T) {
	got := make(chan string, 100)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- r.Method + " " + r.URL.String() + " " + string(body)
		if r.URL.Path == "/bad/c" {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = io.WriteString(w, "thanks")
	}))
	defer s.Close()
	p := publisher(t, s.URL+"/p?id={channel}&x=1", 3)
	for i := range 10 {
		require.NoError(t, p.Publish("c", strconv.AppendInt(nil, int64(i), 10)))
	}
	require.NoError(t, p.Settle())
	for i := range 10 {
		require.Equal(t, fmt.Sprintf("POST /p?id=c&x=1 %d", i), <-got)
	}
	bad := publisher(t, s.URL+"/bad/{channel}", 0)
	require.NoError(t, bad.Publish("c", nil))
	require.ErrorContains(t, bad.Settle(), "404")
}

func TestPublisherThatLosesItsServerFails(t *testing.T) {
	p := publisher(t, "redis://"+answering(t, func(*bufio.Reader, net.Conn) {}), 1)
	var err error
	for range 1000 {
		if err = p.Publish("c", []byte("x")); err != nil {
			break
		}
	}
	require.Error(t, err, "a full pipeline must not wait for ever")
}

func TestBadPublishTemplatesAreRefused(t *testing.T) {
	f := func(template string) {
		t.Helper()
		_, err := NewPublisher(&Target{Publish: template})
		require.Error(t, err)
		require.NotContains(t, err.Error(), "secret")
	}
	f("kafka://127.0.0.1")
	f("redis://x:secret@127.0.0.1:nope")
	f("")
	f("http://127.0.0.1:1/")
}

// ownCPU is how long this process ran.
func ownCPU(t *testing.T) time.Duration {
	var ts unix.Timespec
	require.NoError(t, unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts))
	return time.Duration(ts.Nano())
}

func TestFiguresOfThisProcess(t *testing.T) {
	self := []int{os.Getpid()}
	before, err := ReadCPU(self)
	require.NoError(t, err)
	const burnt = 10 * time.Millisecond
	for start := ownCPU(t); ownCPU(t) < start+burnt; { // burns CPU, does not wait
	}
	after, err := ReadCPU(self)
	require.NoError(t, err)
	require.GreaterOrEqual(t, after.Sub(before).Total, burnt)

	threads := ReadThreads(self)
	require.Contains(t, threads, os.Getpid())
	var all time.Duration
	for _, ran := range threads {
		all += ran
	}
	require.InDelta(t, after.Total.Seconds(), all.Seconds(), 0.05, "the threads together are the process, but for those that ended")

	memory, err := ReadMemory(self)
	require.NoError(t, err)
	require.Greater(t, memory.RSS, memory.Anonymous)
	require.Positive(t, memory.Anonymous)

	n, err := CountFDs(self)
	require.NoError(t, err)
	f, err := os.Open(os.DevNull)
	require.NoError(t, err)
	more, err := CountFDs(self)
	require.NoError(t, err)
	require.Equal(t, n+1, more)
	require.NoError(t, f.Close())

	require.Positive(t, FileLimit(self))
	kernel, err := ReadKernel()
	require.NoError(t, err)
	require.Positive(t, kernel.Slab)
	require.Positive(t, kernel.Available)
	_, err = os.ReadFile("/proc/slabinfo")
	require.Equal(t, err == nil, len(ReadSlabs()) > 0, "root may read it")
}

func TestFiguresOfAnotherProcessThatIsGone(t *testing.T) {
	gone := []int{1 << 30}
	_, err := ReadCPU(gone)
	require.Error(t, err)
	_, err = ReadMemory(gone)
	require.Error(t, err)
	_, err = CountFDs(gone)
	require.Error(t, err)
	require.Zero(t, FileLimit(gone))
	require.Empty(t, ReadThreads(gone))
}
